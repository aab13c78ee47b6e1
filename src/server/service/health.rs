//! Whether this node can work, found out in the background: each token signs, derives, wraps and unwraps, and the database is read.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Time between two probes.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);
/// Longest time that a probe may take, and its outcome counts for longer than that by two intervals.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// The outcome of the last probe.
pub struct Health {
    last: Mutex<Option<(Instant, Result<(), String>)>>,
    changed: AtomicBool,
    pub(super) wanted: Notify,
}

impl Health {
    pub(super) fn new() -> Health {
        Health { last: Mutex::new(None), changed: AtomicBool::new(true), wanted: Notify::new() }
    }

    pub(super) fn set(&self, outcome: Result<(), String>) {
        let mut last = self.last.lock();
        let changed = last.as_ref().is_none_or(|(_, before)| *before != outcome);
        *last = Some((Instant::now(), outcome));
        self.changed.store(changed, Ordering::Relaxed);
    }

    /// Whether the last probe said something else than the one before.
    pub(super) fn changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    /// Why this node cannot work, if it cannot; for operators.
    ///
    /// # Errors
    /// In a sentence.
    pub fn state(&self) -> Result<(), String> {
        match &*self.last.lock() {
            None => Err("nothing has been probed yet".into()),
            Some((at, _)) if at.elapsed() > LIMIT + 2 * INTERVAL => Err("the probe does not come back".into()),
            Some((_, outcome)) => outcome.clone(),
        }
    }

    /// Whether calls are taken.
    pub fn is_healthy(&self) -> bool {
        self.state().is_ok()
    }

    /// Asks for a probe now.
    pub fn probe_soon(&self) {
        self.wanted.notify_one();
    }
}
