//! Signed heads: records that say that a log went so far.
//!
//! Each log that has grown gets an `audit-head` of its own, after so many records or so much time; and the server's own log gets one that lists where the
//! other logs end (`LOG`: number and hash). A log whose end was cut off then lacks what the server's log says it had; and a log that
//! ends in anything but a head is either younger than the interval, or cut off.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

use super::{Answer, AuditError, AuditSettings, Caller, CallerKind, Entry, HEAD, Parameters};
use crate::api::hex;
use crate::server::state::{Head, LogName, State};

/// Logs in one head of the server's log.
const LISTED: usize = 64;
/// How often to look.
const LOOK: Duration = Duration::from_secs(10);

/// Until the log is gone or closing.
pub(super) async fn run(
    state: State,
    settings: Arc<AuditSettings>,
    entries: mpsc::WeakSender<(Entry, Answer)>,
    mut closing: watch::Receiver<bool>,
) {
    let look = LOOK.min(settings.head_time).max(Duration::from_millis(10));
    let lease = u32::try_from(look.as_secs()).unwrap_or(u32::MAX).saturating_mul(3).max(3);
    let mut last = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(look) => {}
            _ = closing.changed() => return,
        }
        let Some(entries) = entries.upgrade() else { return };
        let all = last.elapsed() >= settings.head_time;
        let least = if all { 1 } else { u64::from(settings.head_records.max(1)) };
        let done = async {
            if !state.lease("audit-heads", &settings.owner, lease).await? {
                return Ok(());
            }
            write(&state, &settings, &entries, least, all).await
        };
        match done.await {
            Ok(()) if all => last = Instant::now(),
            Ok(()) => {}
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "signed heads were not recorded"),
        }
    }
}

/// Records heads of logs with at least so many records since their last one; and, if asked to, lists them in the server's log.
pub(super) async fn write(
    state: &State,
    settings: &AuditSettings,
    entries: &mpsc::Sender<(Entry, Answer)>,
    least: u64,
    list: bool,
) -> Result<(), AuditError> {
    let server = LogName::server();
    for log in state.logs_without_head(least).await? {
        if log != server {
            record(settings, entries, log, Vec::new()).await?;
        }
    }
    if !list {
        return Ok(());
    }
    let unlisted = state.logs_not_listed().await?;
    for part in unlisted.chunks(LISTED) {
        let ends = part
            .iter()
            .map(|(log, Head { next, previous })| (log.as_str().to_owned(), format!("{} {}", next - 1, hex(previous))));
        record(settings, entries, server.clone(), ends.collect()).await?;
        state.mark_listed(part).await?;
    }
    if state.logs_without_head(1).await?.contains(&server) {
        record(settings, entries, server, Vec::new()).await?;
    }
    Ok(())
}

async fn record(
    settings: &AuditSettings,
    entries: &mpsc::Sender<(Entry, Answer)>,
    log: LogName,
    more: Vec<(String, String)>,
) -> Result<(), AuditError> {
    let now = Timestamp::now();
    let entry = Entry {
        log,
        account_id: "-".into(),
        name: HEAD,
        parameters: Parameters { more, ..Parameters::default() },
        caller: Caller {
            kind: CallerKind::Server,
            id: settings.server_id.clone(),
            ip: "-".into(),
            identity: None,
            attestation_sha256: None,
        },
        op_start: now,
        op_end: now,
        result: Ok(()),
        request_id: "-".into(),
        context: None,
    };
    let (answer, recorded) = oneshot::channel();
    entries.send((entry, answer)).await.map_err(|_| AuditError::Closed)?;
    recorded.await.unwrap_or(Err(AuditError::Closed)).map(|_| ())
}
