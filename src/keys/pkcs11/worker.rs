//! A thread that owns what a foreign library is called with, and callers that wait for it only so long.
//!
//! A PKCS#11 module is foreign code that may block for ever: on its network, its device, its daemon. A call cannot be taken back, so the
//! caller goes on without it; further callers are refused at once until it returns. The thread ends with its [`Worker`]: a daemon that needs
//! no more keys runs none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use parking_lot::Mutex;

type Job<S> = Box<dyn FnOnce(&mut S) + Send>;

/// How long the end of a worker waits for its thread to close sessions.
const FAREWELL: Duration = Duration::from_secs(2);

/// The thread; it starts with the first call.
pub(super) struct Worker<S> {
    thread: Mutex<Thread<S>>,
    /// A call has not returned in time, and still has not.
    stuck: Arc<AtomicBool>,
}

enum Thread<S> {
    Waiting(S),
    Running {
        inbox: Sender<Job<S>>,
        ended: Receiver<()>,
    },
    /// It could not be started.
    None,
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

impl<S: Send + 'static> Worker<S> {
    pub(super) fn new(state: S) -> Self {
        Worker { thread: Mutex::new(Thread::Waiting(state)), stuck: Arc::default() }
    }

    /// Runs `job` on the thread and waits for its result. A job that has not begun when the time is up never will.
    pub(super) fn call<T: Send + 'static>(
        &self,
        timeout: Duration,
        job: impl FnOnce(&mut S) -> T + Send + 'static,
    ) -> Result<T, NoResult> {
        if self.stuck.load(Ordering::SeqCst) {
            return Err(NoResult::Stuck);
        }
        let (answer, result) = mpsc::sync_channel(1);
        // Who comes first, the thread to begin or the caller to give up, takes the flag.
        let taken = Arc::new(AtomicBool::new(false));
        let (begun, stuck) = (taken.clone(), self.stuck.clone());
        let send = move |state: &mut S| {
            if !begun.swap(true, Ordering::SeqCst) {
                let _ = answer.send(job(state));
                stuck.store(false, Ordering::SeqCst);
            }
        };
        self.inbox()?.send(Box::new(send)).map_err(|_| NoResult::Gone)?;
        match result.recv_timeout(timeout) {
            Ok(value) => Ok(value),
            Err(RecvTimeoutError::Disconnected) => Err(NoResult::Gone),
            Err(RecvTimeoutError::Timeout) => {
                if taken.swap(true, Ordering::SeqCst) {
                    self.stuck.store(true, Ordering::SeqCst);
                    // It may have returned between the two: then nobody else would take the flag back.
                    if let Ok(value) = result.try_recv() {
                        self.stuck.store(false, Ordering::SeqCst);
                        return Ok(value);
                    }
                }
                Err(NoResult::Late(timeout))
            }
        }
    }

    fn inbox(&self) -> Result<Sender<Job<S>>, NoResult> {
        let mut thread = self.thread.lock();
        if let Thread::Waiting(_) = &*thread {
            let Thread::Waiting(mut state) = std::mem::replace(&mut *thread, Thread::None) else {
                return Err(NoResult::Gone);
            };
            let (inbox, jobs) = mpsc::channel::<Job<S>>();
            let (farewell, ended) = mpsc::channel();
            let run = move || {
                for job in jobs {
                    job(&mut state);
                }
                drop(state);
                let _ = farewell.send(());
            };
            std::thread::Builder::new().name("pkcs11".into()).spawn(run).map_err(|_| NoResult::Gone)?;
            *thread = Thread::Running { inbox, ended };
        }
        match &*thread {
            Thread::Running { inbox, .. } => Ok(inbox.clone()),
            Thread::Waiting(_) | Thread::None => Err(NoResult::Gone),
        }
    }
}

impl<S> Drop for Worker<S> {
    fn drop(&mut self) {
        let Thread::Running { inbox, ended } = std::mem::replace(&mut *self.thread.lock(), Thread::None) else {
            return;
        };
        drop(inbox);
        if !self.stuck.load(Ordering::SeqCst) {
            let _ = ended.recv_timeout(FAREWELL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::time::Instant;

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
        while matches!(&*worker.thread.lock(), Thread::Waiting(_)) {}
        std::thread::sleep(SOON);
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
        assert!(dropped.load(Ordering::SeqCst), "the thread has ended");
        let worker = Worker::new(());
        assert_eq!(worker.call(LATE, |()| panic!("as meant")), Err::<(), _>(NoResult::Gone));
        assert_eq!(worker.call(LATE, |()| ()), Err(NoResult::Gone));
    }
}
