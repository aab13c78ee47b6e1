//! The way of records from the database to the sinks: for each sink a worker, of which those of one node at a time hold its lease.
//!
//! What a sink needs is everything from a position on, per log; there is no row per record and sink. A new sink so gets the whole log. The
//! position moves on behind what is written without a hole, so a worker that dies repeats the last few, which sinks take.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::AuditError;
use super::sink::{Sink, SinkError};
use crate::server::state::{LogName, State};

/// How long a lease lasts.
const LEASE: u32 = 30;
/// After this time without news a worker looks by itself: another node may have written.
const LOOK: Duration = Duration::from_secs(5);
/// Records of one log, at a time and before the next log has its turn.
const PAGE: u32 = 64;
const TURN: u64 = 1024;
/// Records that are written side by side.
const ABREAST: usize = 8;
/// Records that are known to be written.
const REMEMBERED: usize = 4096;
/// How long to wait after failures: doubled from the first to the last.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// How far a sink is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkStatus {
    /// Which.
    pub name: String,
    /// Records that it has still to get, of all logs.
    pub behind: u64,
    /// What this node's last attempt failed with, if it failed.
    pub error: Option<String>,
    /// It holds other bytes than the database: somebody has to look.
    pub conflict: bool,
}

/// A sink and its worker's news.
pub(super) struct Outbox {
    pub(super) sink: Sink,
    pub(super) before_answer: bool,
    pub(super) news: Notify,
    failed: Mutex<Option<SinkError>>,
    /// What was written before its answer, so that the worker need not try again.
    written: Mutex<HashSet<(LogName, u64)>>,
}

impl Outbox {
    pub(super) fn new(sink: Sink, before_answer: bool) -> Outbox {
        Outbox { sink, before_answer, news: Notify::new(), failed: Mutex::default(), written: Mutex::default() }
    }

    /// Writes a record before its answer.
    ///
    /// # Errors
    /// Those of [`Sink::put`].
    pub(super) async fn put_first(&self, log: &LogName, number: u64, record: &[u8]) -> Result<(), SinkError> {
        self.sink.put(log, number, record).await?;
        let mut written = self.written.lock();
        // While another node's worker is at work nobody takes them out; to write one again does no harm.
        if written.len() >= REMEMBERED {
            written.clear();
        }
        written.insert((log.clone(), number));
        Ok(())
    }

    /// # Errors
    /// Those of the database.
    pub(super) async fn status(&self, state: &State) -> Result<SinkStatus, AuditError> {
        let behind = state.behind(self.sink.name()).await?;
        let failed = self.failed.lock().clone();
        Ok(SinkStatus {
            name: self.sink.name().to_owned(),
            behind: behind.iter().map(|(_, from, next)| next - from).sum(),
            conflict: matches!(failed, Some(SinkError::Differs { .. })),
            error: failed.map(|error| error.to_string()),
        })
    }
}

/// Until `closing` says so; then once more what there is.
pub(super) async fn work(state: State, outbox: Arc<Outbox>, owner: String, mut closing: watch::Receiver<bool>) {
    let lease = format!("sink:{}", outbox.sink.name());
    let mut wait = Duration::ZERO;
    loop {
        let last = *closing.borrow();
        if !last {
            tokio::select! {
                () = tokio::time::sleep(if wait.is_zero() { LOOK } else { wait }) => {}
                () = outbox.news.notified(), if wait.is_zero() => {}
                _ = closing.changed() => {}
            }
        }
        let last = last || *closing.borrow();
        let done = match state.lease(&lease, &owner, LEASE).await {
            // Another node does it.
            Ok(false) => Ok(false),
            Ok(true) => round(&state, &outbox, &lease, &owner).await,
            Err(error) => Err(error.into()),
        };
        wait = match done {
            Ok(true) => {
                // There is more: at once.
                outbox.news.notify_one();
                Duration::ZERO
            }
            Ok(false) => Duration::ZERO,
            Err(ref error) => {
                tracing::warn!(
                    sink = outbox.sink.name(),
                    error = error as &dyn std::error::Error,
                    "audit records wait for a sink"
                );
                (wait * 2).clamp(BACK_OFF.0, BACK_OFF.1)
            }
        };
        if last && (!matches!(done, Ok(true))) {
            // Else it ends by itself.
            _ = state.release(&lease, &owner).await;
            return;
        }
    }
}

/// Gives each log a turn. True if there is more.
async fn round(state: &State, outbox: &Outbox, lease: &str, owner: &str) -> Result<bool, AuditError> {
    let mut failed: Option<SinkError> = None;
    let mut more = false;
    let mut renewed = Instant::now();
    for (log, from, next) in state.behind(outbox.sink.name()).await? {
        let end = next.min(from + TURN);
        let mut at = from;
        while at < end {
            if renewed.elapsed() > Duration::from_secs(u64::from(LEASE) / 3) {
                if !state.lease(lease, owner, LEASE).await? {
                    return Ok(false);
                }
                renewed = Instant::now();
            }
            let (to, error) = page(state, outbox, &log, at).await?;
            if to > at {
                state.set_position(outbox.sink.name(), &log, to).await?;
            }
            if let Some(error) = error {
                if let SinkError::Differs { .. } = error {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "an audit sink does not hold what was recorded"
                    );
                }
                // A conflict in one log is shown before a sink that is away.
                if !matches!(failed, Some(SinkError::Differs { .. })) {
                    failed = Some(error);
                }
                break;
            }
            if to == at {
                break;
            }
            at = to;
        }
        more |= at >= end && end < next;
        // When it is away, each log would wait for its own time-out.
        if matches!(failed, Some(SinkError::Away { .. })) {
            break;
        }
    }
    (*outbox.failed.lock()).clone_from(&failed);
    match failed {
        Some(error) => Err(AuditError::Sink(error)),
        None => Ok(more),
    }
}

/// Writes some records from `at` on. How far it came without a hole, and what stopped it.
async fn page(state: &State, outbox: &Outbox, log: &LogName, at: u64) -> Result<(u64, Option<SinkError>), AuditError> {
    let mut records = state.records(log, at, PAGE).await?.into_iter().peekable();
    // After the restore of a backup the database may lack records for good (Continue::Above): what follows them is copied.
    let at = records.peek().map_or(at, |(number, _)| *number);
    let mut writing = JoinSet::new();
    let mut written = std::collections::BTreeSet::new();
    let mut failed = None;
    loop {
        while failed.is_none() && writing.len() < ABREAST {
            let Some((number, record)) = records.next() else { break };
            if outbox.written.lock().remove(&(log.clone(), number)) {
                written.insert(number);
                continue;
            }
            let (sink, log) = (outbox.sink.clone(), log.clone());
            writing.spawn(async move { sink.put(&log, number, &record).await.map(|()| number) });
        }
        match writing.join_next().await {
            None => break,
            Some(Ok(Ok(number))) => _ = written.insert(number),
            Some(Ok(Err(error))) => failed = failed.or(Some(error)),
            Some(Err(_)) => {
                failed = failed
                    .or(Some(SinkError::Away { sink: outbox.sink.name().to_owned(), cause: "its task ended".into() }))
            }
        }
    }
    let to = (at..).find(|number| !written.contains(number)).unwrap_or(at);
    Ok((to, failed))
}
