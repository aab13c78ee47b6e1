//! Threads for calls that may hang.
//!
//! A PKCS#11 module is foreign code that may block for ever, and a call cannot be taken back. So each runs on a thread from here, and whoever
//! waits for it goes on without it when the time is up. A thread that comes back is used again; how many can be away at once is bounded by
//! whoever hands out the calls ([`pool`](super::pool)).

use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use parking_lot::Mutex;

use crate::sys::process::ForeignCall;

/// Most threads that wait for work.
const MAX_IDLE: usize = 64;

/// What a thread does; its result is given away when the thread is free again.
type Job = Box<dyn FnOnce() -> Box<dyn FnOnce() + Send> + Send>;

/// Threads, idle ones kept.
#[derive(Default, Clone)]
pub(super) struct Threads(Arc<Mutex<Vec<Sender<Job>>>>);

/// Why there is no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoResult {
    /// Time is up; the call goes on.
    #[error("the token has not answered within {0:?}")]
    Late(Duration),
    /// The thread could not be started, or has panicked.
    #[error("the thread for the token has ended")]
    Gone,
}

impl Threads {
    /// Runs a job and waits for its result.
    pub(super) fn run<T: Send + 'static>(
        &self,
        timeout: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoResult> {
        let (answer, result) = mpsc::sync_channel(1);
        self.start(Box::new(move || {
            let value = job();
            Box::new(move || _ = answer.send(value))
        }))?;
        result.recv_timeout(timeout).map_err(|error| match error {
            mpsc::RecvTimeoutError::Timeout => NoResult::Late(timeout),
            mpsc::RecvTimeoutError::Disconnected => NoResult::Gone,
        })
    }

    fn start(&self, mut job: Job) -> Result<(), NoResult> {
        loop {
            let Some(thread) = self.0.lock().pop() else { break };
            match thread.send(job) {
                Ok(()) => return Ok(()),
                Err(back) => job = back.0,
            }
        }
        let list = Arc::downgrade(&self.0);
        let run = move || {
            loop {
                let call = ForeignCall::new();
                let finish = job();
                drop(call);
                let (sender, next) = mpsc::channel();
                // In the list before the result is out, so that who has it finds this thread. Without the list nobody would ever send.
                let listed = list.upgrade().is_some_and(|list| {
                    let mut list = list.lock();
                    let room = list.len() < MAX_IDLE;
                    if room {
                        list.push(sender);
                    }
                    room
                });
                finish();
                match next.recv() {
                    Ok(more) if listed => job = more,
                    _ => return,
                }
            }
        };
        std::thread::Builder::new().name("hsm".into()).spawn(run).map(drop).map_err(|_| NoResult::Gone)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread::ThreadId;
    use std::time::Instant;

    use super::*;

    const LATE: Duration = Duration::from_secs(60);

    #[test]
    fn a_thread_that_is_free_is_used_again() {
        let threads = Threads::default();
        let first: ThreadId = threads.run(LATE, || std::thread::current().id()).unwrap();
        for _ in 0..100 {
            assert_eq!(threads.run(LATE, || std::thread::current().id()), Ok(first));
        }
    }

    #[test]
    fn a_call_that_hangs_is_left_behind_and_hinders_nobody() {
        let (threads, gate) = (Threads::default(), Arc::new(Barrier::new(4)));
        let (start, soon) = (Instant::now(), Duration::from_millis(30));
        for _ in 0..3 {
            let gate = gate.clone();
            assert_eq!(threads.run(soon, move || _ = gate.wait()), Err(NoResult::Late(soon)));
        }
        assert_eq!(threads.run(LATE, || 7), Ok(7));
        gate.wait();
        while threads.0.lock().len() < 4 {
            assert!(start.elapsed() < LATE, "they come back");
        }
    }

    #[test]
    fn a_panic_is_no_result_and_the_end_ends_the_threads() {
        let threads = Threads::default();
        assert_eq!(threads.run(LATE, || panic!("as meant")), Err::<(), _>(NoResult::Gone));
        let alive = Arc::new(());
        let held = alive.clone();
        assert_eq!(threads.run(LATE, move || drop(held)), Ok(()));
        drop(threads);
        assert_eq!(Arc::strong_count(&alive), 1);
    }
}
