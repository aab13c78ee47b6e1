//! What a foreign library is called with, lent to one thread at a time, and callers that wait for it only so long.
//!
//! A PKCS#11 module is foreign code that may block for ever: on its network, its device, its daemon. A call cannot be taken back, so the
//! caller goes on without it; further callers are refused at once until it returns. Each call has a thread of its own: none is left that
//! would keep privileges which the daemon gives up later.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::sys::process::ForeignCall;

/// How long the end of a worker waits for sessions to be closed.
const FAREWELL: Duration = Duration::from_secs(2);

/// A state, at home or lent.
pub(super) struct Worker<S: Send + 'static>(Arc<Shared<S>>);

struct Shared<S> {
    place: Mutex<Place<S>>,
    /// The state has come back, or will not.
    changed: Condvar,
}

enum Place<S> {
    Home(S),
    /// On the thread of the call with this number, counted from 0.
    Lent {
        call: u64,
        /// Its caller has gone.
        late: bool,
    },
    /// Lost with a thread that panicked, or could not be started.
    Lost,
}

/// Why there is no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoResult {
    /// Time is up.
    #[error("the PKCS#11 module has not answered within {0:?}")]
    Late(Duration),
    /// An earlier call is still going on.
    #[error("an earlier call of the PKCS#11 module has not returned yet")]
    Stuck,
    /// The thread could not be started, or has panicked.
    #[error("the thread for the PKCS#11 module has ended")]
    Gone,
}

/// Brings a state home at the end of its thread; without one, the thread has panicked.
struct Return<S> {
    to: Arc<Shared<S>>,
    state: Option<S>,
}

impl<S> Drop for Return<S> {
    fn drop(&mut self) {
        *self.to.place.lock() = self.state.take().map_or(Place::Lost, Place::Home);
        self.to.changed.notify_all();
    }
}

impl<S: Send + 'static> Worker<S> {
    pub(super) fn new(state: S) -> Self {
        Worker(Arc::new(Shared { place: Mutex::new(Place::Home(state)), changed: Condvar::new() }))
    }

    /// Runs `job` on a thread and waits for its result; first, for the calls before it. A job that has not begun when the time is up
    /// never will.
    pub(super) fn call<T: Send + 'static>(
        &self,
        timeout: Duration,
        job: impl FnOnce(&mut S) -> T + Send + 'static,
    ) -> Result<T, NoResult> {
        let deadline = Instant::now() + timeout;
        let (state, call) = self.borrow(deadline).map_err(|no_result| match no_result {
            NoResult::Late(_) => NoResult::Late(timeout),
            other => other,
        })?;
        let (answer, result) = mpsc::sync_channel(1);
        let mut back = Return { to: self.0.clone(), state: None };
        let run = move || {
            let call = ForeignCall::new();
            let mut state = state;
            let value = job(&mut state);
            back.state = Some(state);
            drop(back);
            drop(call);
            let _ = answer.send(value);
        };
        // Where none can be started, the closure is dropped, and with it the state.
        std::thread::Builder::new().name("pkcs11".into()).spawn(run).map_err(|_| NoResult::Gone)?;
        match result.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(value) => Ok(value),
            Err(RecvTimeoutError::Disconnected) => Err(NoResult::Gone),
            Err(RecvTimeoutError::Timeout) => {
                if let Place::Lent { call: lent, late } = &mut *self.0.place.lock()
                    && *lent == call
                {
                    *late = true;
                    self.0.changed.notify_all();
                }
                Err(NoResult::Late(timeout))
            }
        }
    }

    fn borrow(&self, deadline: Instant) -> Result<(S, u64), NoResult> {
        // Numbers the calls of all workers.
        static CALLS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let mut place = self.0.place.lock();
        loop {
            match &*place {
                Place::Home(_) => {
                    let call = CALLS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let state = std::mem::replace(&mut *place, Place::Lent { call, late: false });
                    return if let Place::Home(state) = state { Ok((state, call)) } else { Err(NoResult::Gone) };
                }
                Place::Lent { late: true, .. } => return Err(NoResult::Stuck),
                Place::Lost => return Err(NoResult::Gone),
                Place::Lent { late: false, .. } => {
                    if self.0.changed.wait_until(&mut place, deadline).timed_out() {
                        return Err(NoResult::Late(Duration::ZERO));
                    }
                }
            }
        }
    }
}

impl<S: Send + 'static> Drop for Worker<S> {
    /// Sessions are closed by the module, so not here, where that could hang.
    fn drop(&mut self) {
        let Place::Home(state) = std::mem::replace(&mut *self.0.place.lock(), Place::Lost) else { return };
        let (done, ended) = mpsc::sync_channel(1);
        let run = move || {
            let call = ForeignCall::new();
            drop(state);
            drop(call);
            let _ = done.send(());
        };
        if std::thread::Builder::new().name("pkcs11".into()).spawn(run).is_ok() {
            let _ = ended.recv_timeout(FAREWELL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const SOON: Duration = Duration::from_millis(50);
    const LATE: Duration = Duration::from_secs(60);

    #[test]
    fn calls_run_one_after_the_other_on_one_state() {
        let worker = Worker::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..100).for_each(|_| worker.call(LATE, |count| *count += 1).unwrap()));
            }
        });
        assert_eq!(worker.call(LATE, |count| *count), Ok(800));
    }

    #[test]
    fn a_call_that_hangs_is_left_behind_and_others_are_refused_until_it_returns() {
        let worker = Worker::new(());
        let gate = Arc::new(Barrier::new(2));
        let hanging = gate.clone();
        let start = Instant::now();
        assert_eq!(worker.call(SOON, move |()| _ = hanging.wait()), Err(NoResult::Late(SOON)));
        assert_eq!(worker.call(LATE, |()| ()), Err(NoResult::Stuck));
        assert!(start.elapsed() < LATE / 2);
        gate.wait();
        while worker.call(LATE, |()| ()) == Err(NoResult::Stuck) {
            assert!(start.elapsed() < LATE);
        }
        assert_eq!(worker.call(LATE, |()| 7), Ok(7));
    }

    #[test]
    fn a_call_that_has_not_begun_in_time_never_runs() {
        let worker = Arc::new(Worker::new(Vec::new()));
        let (gate, busy) = (Arc::new(Barrier::new(2)), worker.clone());
        let hanging = gate.clone();
        let first = std::thread::spawn(move || busy.call(LATE, move |log| (hanging.wait(), log.push("first")).1));
        while matches!(&*worker.0.place.lock(), Place::Home(_)) {}
        assert_eq!(worker.call(SOON, |log| log.push("late")), Err(NoResult::Late(SOON)));
        gate.wait();
        first.join().unwrap().unwrap();
        assert_eq!(worker.call(LATE, |log| log.clone()), Ok(vec!["first"]));
    }

    #[test]
    fn a_panic_is_no_result_and_the_state_goes_with_the_worker() {
        struct Flag(Arc<AtomicBool>);
        impl Drop for Flag {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let dropped = Arc::new(AtomicBool::new(false));
        let worker = Worker::new(Flag(dropped.clone()));
        worker.call(LATE, |_| ()).unwrap();
        drop(worker);
        assert!(dropped.load(Ordering::SeqCst), "and its end is waited for");
        let worker = Worker::new(());
        assert_eq!(worker.call(LATE, |()| panic!("as meant")), Err::<(), _>(NoResult::Gone));
        assert_eq!(worker.call(LATE, |()| ()), Err(NoResult::Gone));
    }
}
