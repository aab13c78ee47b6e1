#![doc = include_str!("audit.md")]

mod commit;
mod entry;
mod record;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

pub use entry::{Caller, CallerKind, Context, Entry, Failure, Parameters};
pub use record::{NoRecord, Record, safe_text, timestamp};

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

/// Why an entry is not recorded. Whoever gets one gives no secret away.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AuditError {
    /// The key could not sign.
    #[error("audit records cannot be signed")]
    Sign(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The database did not take it. If the connection broke during the commit, the record may be there all the same.
    #[error("audit records cannot be stored")]
    State(#[source] Arc<StateError>),
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
}

impl AuditSettings {
    /// Default limits.
    pub fn new(server_id: &str) -> AuditSettings {
        AuditSettings { server_id: server_id.to_owned(), timeout: Duration::from_secs(20) }
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

/// The audit log of a node. Clones share it; when the last is dropped, the committer ends.
#[derive(Clone)]
pub struct Audit {
    entries: mpsc::Sender<(Entry, Answer)>,
    signer: Arc<ArcSwap<SignerBox>>,
    settings: Arc<AuditSettings>,
}

/// [`ArcSwap`] holds sized things.
pub(super) struct SignerBox(Arc<dyn Signer>);

impl Audit {
    /// Starts the committer on the current runtime.
    pub fn start(state: State, signer: Arc<dyn Signer>, settings: AuditSettings) -> Audit {
        let (entries, waiting) = mpsc::channel(WAITING);
        let signer = Arc::new(ArcSwap::from_pointee(SignerBox(signer)));
        let settings = Arc::new(settings);
        tokio::spawn(commit::run(state, Arc::clone(&signer), Arc::clone(&settings), waiting));
        Audit { entries, signer, settings }
    }

    /// Signs with another key from the next batch on.
    pub fn set_signer(&self, signer: Arc<dyn Signer>) {
        self.signer.store(Arc::new(SignerBox(signer)));
    }

    /// The name of the node.
    pub fn server_id(&self) -> &str {
        &self.settings.server_id
    }

    /// Numbers, chains, signs and stores an entry; returns when that is durable. Only then may an answer leave.
    ///
    /// A caller that stops waiting may leave a record behind of a call that was never answered.
    ///
    /// # Errors
    /// [`AuditError`].
    pub async fn record(&self, entry: Entry) -> Result<Recorded, AuditError> {
        let (answer, recorded) = oneshot::channel();
        let limit = self.settings.timeout;
        match tokio::time::timeout(limit, self.entries.send((entry, answer))).await {
            Ok(Ok(())) => recorded.await.unwrap_or(Err(AuditError::Closed)),
            Ok(Err(_)) => Err(AuditError::Closed),
            Err(_) => Err(AuditError::Slow(limit)),
        }
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
