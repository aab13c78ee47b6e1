#![doc = include_str!("audit.md")]

mod commit;
mod entry;
mod heads;
mod outbox;
mod record;
mod sink;
mod source;
mod tail;
mod verify;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

pub use entry::{Caller, CallerKind, Context, Entry, Failure, Parameters};
pub use outbox::SinkStatus;
pub use record::{Call, CallerText, Chain, NoRecord, Parameters as RecordParameters, Record, safe_text, timestamp};
pub use sink::{Sink, SinkError};
pub use source::{Source, SourceError};
pub use tail::Tail;
pub(crate) use verify::Link;
pub use verify::{Fault, LogReport, Unendorsed, VerifyError, What, trusted_keys, verify};

use outbox::Outbox;

use crate::server::config;
use crate::server::state::{State, StateError};

/// The name of the call in a signed head.
pub const HEAD: &str = "audit-head";
/// Most entries that wait for the committer; more callers wait to be let in.
const WAITING: usize = 1024;

/// A key that signs records: in production one in the HSM.
pub trait Signer: Send + Sync + 'static {
    /// SHA-256 of the public key's SubjectPublicKeyInfo, in 64 lower-case hexadecimal digits.
    fn key_id(&self) -> &str;

    /// Signs: ECDSA on P-384 with SHA-256, as minimal DER. Blocks; called from several threads at a time.
    ///
    /// # Errors
    /// Anything; nothing is recorded then.
    fn sign(&self, text: &[u8]) -> Result<Vec<u8>, SignError>;

    /// How many signatures can be made side by side.
    fn parallel(&self) -> usize;
}

/// Why nothing was signed.
pub type SignError = Box<dyn std::error::Error + Send + Sync>;

/// Why an entry is not recorded, or not where it has to be. Whoever gets one gives no secret away.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AuditError {
    /// The key could not sign.
    #[error("audit records cannot be signed")]
    Sign(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The database did not take it. If the connection broke during the commit, the record may be there all the same.
    #[error("audit records cannot be stored")]
    State(#[source] Arc<StateError>),
    /// It is in the database, and not in a sink that has to have it before the answer.
    #[error("audit records cannot be copied")]
    Sink(#[source] SinkError),
    /// It took too long.
    #[error("audit records were not stored within {} s", .0.as_secs())]
    Slow(Duration),
    /// The server is shutting down.
    #[error("the audit log is closed")]
    Closed,
}

/// How records are written.
#[derive(Debug, Clone)]
pub struct AuditSettings {
    /// Names the node in `chain.server_id`: 1 to 64 of letters, digits, `.`, `_` and `-`.
    pub server_id: String,
    /// How long one batch may take, signing included.
    pub timeout: Duration,
    /// Where copies go.
    pub sinks: Vec<Sink>,
    /// Names of the sinks that must have a record before its answer leaves.
    pub before_answer: Vec<String>,
    /// A signed head after so many records of a log.
    pub head_records: u32,
    /// And after so long, if there are new records.
    pub head_time: Duration,
    /// Who holds leases: this process.
    pub(crate) owner: String,
}

impl AuditSettings {
    /// Default limits, no sinks.
    pub fn new(server_id: &str) -> AuditSettings {
        AuditSettings {
            server_id: server_id.to_owned(),
            timeout: Duration::from_secs(20),
            sinks: Vec::new(),
            before_answer: Vec::new(),
            head_records: 1000,
            head_time: Duration::from_secs(3600),
            // Two nodes may have been given one name by mistake.
            owner: format!("{server_id}/{}", uuid::Uuid::new_v4()),
        }
    }

    /// As configured; opens the sinks.
    ///
    /// # Errors
    /// [`SinkError::Setup`].
    pub fn from_config(settings: &config::AuditSettings) -> Result<AuditSettings, SinkError> {
        Ok(AuditSettings {
            sinks: settings.sinks.iter().map(Sink::open).collect::<Result<_, _>>()?,
            before_answer: settings.before_answer.clone(),
            head_records: settings.head_records,
            head_time: settings.head_time,
            ..AuditSettings::new(&settings.server_id)
        })
    }
}

/// What became of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The number of its record.
    pub seq: u64,
    /// When it was signed, RFC 3339: of the context signature.
    pub signed_at: String,
    /// The context signature, DER, if one was asked for.
    pub context_signature: Option<Vec<u8>>,
    /// The key: SHA-256 of its SubjectPublicKeyInfo, hexadecimal.
    pub key_id: String,
}

type Answer = oneshot::Sender<Result<Recorded, AuditError>>;

/// The audit log of a node. Clones share it.
#[derive(Clone)]
pub struct Audit(Arc<Inner>);

struct Inner {
    entries: mpsc::Sender<(Entry, Answer)>,
    signer: Arc<ArcSwap<SignerBox>>,
    settings: Arc<AuditSettings>,
    state: State,
    outboxes: Arc<[Arc<Outbox>]>,
    closed: AtomicBool,
    /// Tells heads and workers to come to an end.
    closing: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// [`ArcSwap`] holds sized things.
pub(super) struct SignerBox(Arc<dyn Signer>);

impl Audit {
    /// Starts the committer, the heads and the sinks' workers on the current runtime.
    pub fn start(state: State, signer: Arc<dyn Signer>, settings: AuditSettings) -> Audit {
        let (entries, waiting) = mpsc::channel(WAITING);
        let (closing, close) = watch::channel(false);
        let signer = Arc::new(ArcSwap::from_pointee(SignerBox(signer)));
        let settings = Arc::new(settings);
        let outboxes: Arc<[_]> = settings
            .sinks
            .iter()
            .map(|sink| {
                let before_answer = settings.before_answer.iter().any(|name| name == sink.name());
                Arc::new(Outbox::new(sink.clone(), before_answer))
            })
            .collect();
        let commit = commit::Committer {
            state: state.clone(),
            signer: Arc::clone(&signer),
            settings: Arc::clone(&settings),
            outboxes: Arc::clone(&outboxes),
        };
        tokio::spawn(commit.run(waiting));
        let mut tasks = Vec::new();
        let weak = entries.downgrade();
        tasks.push(tokio::spawn(heads::run(state.clone(), Arc::clone(&settings), weak, close.clone())));
        for outbox in &*outboxes {
            let (state, outbox) = (state.clone(), Arc::clone(outbox));
            tasks.push(tokio::spawn(outbox::work(state, outbox, settings.owner.clone(), close.clone())));
        }
        let (closed, tasks) = (AtomicBool::new(false), Mutex::new(tasks));
        Audit(Arc::new(Inner { entries, signer, settings, state, outboxes, closed, closing, tasks }))
    }

    /// Signs with another key from the next batch on.
    pub fn set_signer(&self, signer: Arc<dyn Signer>) {
        self.0.signer.store(Arc::new(SignerBox(signer)));
    }

    /// The name of the node.
    pub fn server_id(&self) -> &str {
        &self.0.settings.server_id
    }

    /// Numbers, chains, signs and stores an entry; returns when that is durable. Only then may an answer leave.
    ///
    /// A caller that stops waiting may leave a record behind of a call that was never answered.
    ///
    /// # Errors
    /// [`AuditError`].
    pub async fn record(&self, entry: Entry) -> Result<Recorded, AuditError> {
        if self.0.closed.load(Ordering::Acquire) {
            return Err(AuditError::Closed);
        }
        let (answer, recorded) = oneshot::channel();
        let limit = self.0.settings.timeout;
        match tokio::time::timeout(limit, self.0.entries.send((entry, answer))).await {
            Ok(Ok(())) => recorded.await.unwrap_or(Err(AuditError::Closed)),
            Ok(Err(_)) => Err(AuditError::Closed),
            Err(_) => Err(AuditError::Slow(limit)),
        }
    }

    /// How far each sink is.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn sinks(&self) -> Result<Vec<SinkStatus>, AuditError> {
        let mut all = Vec::new();
        for outbox in &*self.0.outboxes {
            all.push(outbox.status(&self.0.state).await?);
        }
        Ok(all)
    }

    /// Ends it: takes no more entries, signs heads of all logs, lets the workers copy what is left. What is not done after `patience` is done after
    /// the next start.
    pub async fn close(&self, patience: Duration) {
        let inner = &self.0;
        if inner.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let tasks = std::mem::take(&mut *inner.tasks.lock());
        let all = async {
            if let Err(error) = heads::write(&inner.state, &inner.settings, &inner.entries, 1, true).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "the last signed heads were not recorded");
            }
            inner.closing.send_replace(true);
            for task in &tasks {
                while !task.is_finished() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        };
        if tokio::time::timeout(patience, all).await.is_err() {
            tracing::warn!("audit records were not all copied to their sinks: that goes on after the next start");
        }
        tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Without close(), as after a crash: what is left is done after the next start.
        self.tasks.lock().iter().for_each(JoinHandle::abort);
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
