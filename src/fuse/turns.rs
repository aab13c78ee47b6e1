//! Whose turn it is to wait for the kernel's next request.
//!
//! If every event thread slept in read(2), the kernel would wake them in turn, each request another one and mostly on another processor; that
//! wake-up takes longer than most requests do. So one thread *listens*, and looks for the next request for a moment before it sleeps, as network
//! drivers do (NAPI busy polling) and hypervisors (KVM's halt polling). The others are *parked*, in the tail of the request that they served last,
//! until one is called:
//!
//! - before a request that may wait for the disk is worked on, if others have come during such requests lately ([`Company`]): where there is but one
//!   who asks, calling somebody to listen takes a fifth of the time of a flush, for nothing,
//! - when requests have queued without a break for [`Limits::backlog`],
//! - when nobody has listened for [`Limits::patience`], whatever the request is waiting for: the watch looks after that.
//!
//! The one who was parked last is called first: what he works with is still in the processor's caches.
//!
//! So nothing that blocks stops anybody else for longer than [`Limits::patience`], and as many threads work as there is work for. Who has not had a request
//! yet, sleeps in read(2) uncounted, and takes part from his first one on.
//!
//! The session's end reaches those who read only. The parked hear of it from the end of such a thread, by the destructor of a value that it
//! keeps ([`Seat`]).

use std::cell::RefCell;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::sys::process::preemptions;

/// The watch rests after so many times its patience without any request.
const ROUNDS: u32 = 50;
/// Bytes from which on reading or writing takes long.
const MANY_BYTES: usize = 64 << 10;
/// Once in so many times that a thread looks, it finds out whether others want its processor.
const LOOKS: u32 = 16;

thread_local! {
    static SEAT: RefCell<Option<Seat>> = const { RefCell::new(None) };
}

/// An event thread that takes part; its end is the session's.
struct Seat {
    turns: Arc<Turns>,
    /// Since when it listens.
    listening: Option<Instant>,
    /// Its preemptions as last counted.
    preemptions: Option<i64>,
    berth: Arc<Berth>,
}

/// Where a thread is parked.
#[derive(Default)]
struct Berth {
    called: AtomicBool,
    wake: Condvar,
}

impl Seat {
    /// Whether it has lost its processor since it was last asked.
    fn is_crowded(&mut self) -> bool {
        let now = preemptions();
        self.preemptions.replace(now).is_some_and(|before| before != now)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.turns.end();
    }
}

/// What calls further threads, and how long one looks for requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// How long the listening thread looks for a request before it sleeps, at most; zero for not at all.
    pub(crate) look: Duration,
    /// Requests that have queued for so long without a break get a further thread.
    pub(crate) backlog: Duration,
    /// So long may a request be worked on while nobody listens.
    pub(crate) patience: Duration,
    /// Threads that heavy work is spread over.
    pub(crate) processors: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            look: Duration::from_micros(100),
            backlog: Duration::from_micros(250),
            patience: Duration::from_millis(1),
            processors: std::thread::available_parallelism().map_or(1, NonZero::get),
        }
    }
}

/// The turns of one session's event threads.
pub(crate) struct Turns {
    /// The connection to the kernel: readable when a request is queued.
    queue: OnceLock<OwnedFd>,
    limits: Limits,
    state: Mutex<State>,
    /// For the watch.
    active: Condvar,
    /// Somebody looks for a request: a second one would only take the processor away.
    polling: AtomicBool,
}

/// Whether looking for requests pays. It does while they come soon. It does not if they come after the looking, and if others want the processor:
/// mostly those who make the requests, whom the kernel has placed on the processor of the thread that woke them.
#[derive(Default)]
struct Gaze {
    /// Nobody looks while there is none.
    credit: u32,
    hits: u32,
    /// How often it has turned out badly, lately.
    failures: u32,
    /// Requests until it is tried again.
    pause: u32,
    looks: u32,
}

impl Gaze {
    const FIRST: u32 = 3;
    const MOST: u32 = 8;
    /// The pause is at most 2 to the power of this.
    const FAILURES: u32 = 12;
    /// Hits that make up for a failure.
    const HITS: u32 = 64;

    /// A request came soon after a thread had gone to sleep.
    fn came_soon(&mut self) {
        if self.credit == 0 && self.pause == 0 {
            self.credit = Gaze::FIRST;
        }
        self.pause = self.pause.saturating_sub(1);
    }

    fn hit(&mut self) {
        self.credit = (self.credit + 1).min(Gaze::MOST);
        self.hits += 1;
        if self.hits.is_multiple_of(Gaze::HITS) {
            self.failures = self.failures.saturating_sub(1);
        }
    }

    fn miss(&mut self) {
        self.credit = self.credit.saturating_sub(1);
        if self.credit == 0 {
            self.fail();
        }
    }

    fn fail(&mut self) {
        self.credit = 0;
        self.failures = (self.failures + 1).min(Gaze::FAILURES);
        self.pause = 1 << self.failures;
    }

    /// True now and then.
    fn is_time_to_ask(&mut self) -> bool {
        self.looks = self.looks.wrapping_add(1);
        self.looks.is_multiple_of(LOOKS)
    }
}

/// Whether somebody should listen while a request waits for the disk.
#[derive(Default)]
struct Company {
    /// Nobody is called while there is none.
    credit: u32,
}

impl Company {
    const MOST: u32 = 16;

    /// Such a request has ended, and others did come in its time, or did not.
    fn learn(&mut self, others: bool) {
        self.credit = if others { Company::MOST } else { self.credit.saturating_sub(1) };
    }

    fn is_likely(&self) -> bool {
        self.credit > 0
    }
}

#[derive(Default)]
struct State {
    /// Threads that read, or are about to: called ones are counted from the call on.
    listening: usize,
    /// Those that were not called, the last one on top.
    parked: Vec<Arc<Berth>>,
    /// Requests that are being worked on.
    working: usize,
    /// Since when nobody has listened.
    unheard: Option<Instant>,
    /// Since when each request was there before the one before it was answered.
    backlog: Option<Instant>,
    gaze: Gaze,
    company: Company,
    /// Counts requests, for the watch.
    requests: u64,
    /// The watch sleeps until it is told that there is a request.
    resting: bool,
    ended: bool,
}

/// What a request asks of its thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Answered at once, unless something is slow that mostly is not.
    Quick,
    /// Waits for the disk: somebody else listens meanwhile, if anybody is likely to ask.
    Long,
    /// Takes the processor for long: somebody else listens meanwhile, if there is a processor for what he may hear.
    Heavy,
    /// One of several in one request: the thread goes on with the next.
    Part,
}

impl Work {
    /// Of a read or write of so many bytes.
    pub(crate) fn of_bytes(count: usize) -> Work {
        if count >= MANY_BYTES { Work::Heavy } else { Work::Quick }
    }
}

/// A request's time on its thread. Dropped after the answer: the thread then listens or is parked.
pub(crate) struct Turn<'a> {
    turns: &'a Arc<Turns>,
    work: Work,
    /// The number of the request.
    number: u64,
}

impl Turn<'_> {
    /// The request was worked on, and will now be answered. To be said before the answer: whom it wakes may ask again before the turn is over.
    pub(crate) fn worked(&self) {
        if self.work == Work::Long {
            let waits = self.turns.is_there();
            let mut state = self.turns.state.lock();
            let others = waits || state.requests != self.number;
            state.company.learn(others);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.done(self.work);
    }
}

impl Turns {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Turns {
            queue: OnceLock::new(),
            limits,
            state: Mutex::default(),
            active: Condvar::new(),
            polling: AtomicBool::new(false),
        })
    }

    /// The connection to the kernel, known once it is mounted. Until then every thread listens.
    pub(crate) fn set_queue(&self, queue: OwnedFd) {
        let _ = self.queue.set(queue);
    }

    /// A request has been read.
    pub(crate) fn take(self: &Arc<Self>, work: Work) -> Turn<'_> {
        let now = Instant::now();
        let listened = SEAT.with_borrow_mut(|seat| {
            seat.get_or_insert_with(|| Seat {
                turns: self.clone(),
                listening: None,
                preemptions: None,
                berth: Arc::default(),
            })
            .listening
            .take()
        });
        let mut state = self.state.lock();
        state.requests += 1;
        state.working += 1;
        if let Some(since) = listened {
            state.listening -= 1;
            if now.duration_since(since) <= self.limits.look {
                state.gaze.came_soon();
            }
        }
        let calls = match work {
            Work::Long => state.company.is_likely(),
            Work::Heavy => state.working < self.limits.processors,
            Work::Quick | Work::Part => false,
        };
        if state.listening == 0 && !(calls && self.call(&mut state)) {
            state.unheard = Some(now);
            if std::mem::take(&mut state.resting) {
                self.active.notify_one();
            }
        }
        Turn { turns: self, work, number: state.requests }
    }

    /// Has a parked thread listen, if there is one.
    fn call(&self, state: &mut State) -> bool {
        let Some(berth) = state.parked.pop() else { return false };
        berth.called.store(true, Ordering::Relaxed);
        berth.wake.notify_one();
        state.listening += 1;
        state.unheard = None;
        state.backlog = None;
        true
    }

    /// A request was answered.
    fn done(&self, work: Work) {
        let mut state = self.state.lock();
        state.working -= 1;
        if self.queue.get().is_none() || state.ended {
            return;
        }
        let others = match work {
            Work::Quick | Work::Heavy => 1,
            // It is followed by another such, mostly: two then listen, so that nobody needs to be called each time.
            Work::Long if state.company.is_likely() => 2,
            Work::Long => 1,
            Work::Part => usize::MAX,
        };
        if state.listening >= others {
            let berth = SEAT.with_borrow(|seat| seat.as_ref().map(|seat| seat.berth.clone())).unwrap_or_default();
            state.parked.push(berth.clone());
            while !berth.called.swap(false, Ordering::Relaxed) && !state.ended {
                berth.wake.wait(&mut state);
            }
            drop(state);
            return listen();
        }
        state.listening += 1;
        state.unheard = None;
        let looks = state.gaze.credit > 0;
        drop(state);
        listen();
        if work != Work::Part {
            self.look(if looks { self.limits.look } else { Duration::ZERO });
        }
    }

    /// Whether a request is queued. Also true when the session has ended, which read(2) says then.
    fn is_there(&self) -> bool {
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        self.queue.get().is_some_and(|queue| poll(&mut [PollFd::new(queue, PollFlags::IN)], Some(&none)) != Ok(0))
    }

    /// Looks for a request as long as it is likely to come at once.
    fn look(&self, window: Duration) {
        if self.polling.swap(true, Ordering::Relaxed) {
            return;
        }
        let begin = Instant::now();
        let queued = self.is_there();
        let mut found = queued;
        while !found && begin.elapsed() < window {
            found = self.is_there();
        }
        self.polling.store(false, Ordering::Relaxed);

        let mut state = self.state.lock();
        if !window.is_zero() {
            if found {
                state.gaze.hit()
            } else {
                state.gaze.miss()
            }
            if state.gaze.is_time_to_ask() && SEAT.with_borrow_mut(|seat| seat.as_mut().is_some_and(Seat::is_crowded)) {
                state.gaze.fail();
            }
        }
        if !queued {
            state.backlog = None;
        } else if begin.duration_since(*state.backlog.get_or_insert(begin)) > self.limits.backlog {
            self.call(&mut state);
        }
    }

    /// Until the session ends: calls a thread when nobody has listened for too long.
    pub(crate) fn watch(&self) {
        let mut state = self.state.lock();
        let mut rounds = 0;
        while !state.ended {
            let seen = state.requests;
            if rounds >= ROUNDS {
                state.resting = true;
                self.active.wait(&mut state);
                rounds = 0;
                continue;
            }
            self.active.wait_for(&mut state, self.limits.patience);
            if state.unheard.is_some_and(|since| since.elapsed() >= self.limits.patience) {
                self.call(&mut state);
            }
            rounds = if state.requests == seen && state.unheard.is_none() { rounds + 1 } else { 0 };
        }
    }

    /// Everybody goes on, to hear of the end himself.
    pub(crate) fn end(&self) {
        let mut state = self.state.lock();
        state.ended = true;
        for berth in state.parked.drain(..) {
            berth.wake.notify_one();
        }
        drop(state);
        self.active.notify_all();
    }
}

/// This thread reads from now on.
fn listen() {
    SEAT.with_borrow_mut(|seat| {
        if let Some(seat) = seat {
            seat.listening = Some(Instant::now());
        }
    });
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::io::{PipeReader, PipeWriter, Read, Write};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread::{JoinHandle, ThreadId};

    use super::*;

    const LATE: Duration = Duration::from_secs(60);
    const NEVER: Limits = Limits { look: Duration::ZERO, backlog: LATE, patience: LATE, processors: 2 };

    type Job = Box<dyn FnOnce() + Send>;
    type Queued = (Work, Job);

    /// A session over a pipe: a byte for each request.
    struct Session {
        turns: Arc<Turns>,
        queue: Option<PipeWriter>,
        requests: Sender<Queued>,
        answers: Receiver<ThreadId>,
        threads: Vec<JoinHandle<()>>,
        watch: Option<JoinHandle<()>>,
    }

    fn serve(
        mut queue: PipeReader,
        turns: &Arc<Turns>,
        requests: &Mutex<Receiver<Queued>>,
        answers: &Sender<ThreadId>,
    ) {
        while queue.read(&mut [0]).is_ok_and(|got| got == 1) {
            let (work, job) = requests.lock().recv().unwrap();
            let turn = turns.take(work);
            job();
            turn.worked();
            let _ = answers.send(std::thread::current().id());
        }
    }

    impl Session {
        fn new(limits: Limits) -> Session {
            let (turns, (reader, queue)) = (Turns::new(limits), std::io::pipe().unwrap());
            turns.set_queue(reader.try_clone().unwrap().into());
            let ((requests, taken), (answered, answers)) = (channel(), channel());
            let taken = Arc::new(Mutex::new(taken));
            let mut threads = Vec::new();
            for _ in 0..4 {
                let (reader, turns) = (reader.try_clone().unwrap(), turns.clone());
                let (taken, answered) = (taken.clone(), answered.clone());
                threads.push(std::thread::spawn(move || serve(reader, &turns, &taken, &answered)));
            }
            let watched = turns.clone();
            let watch = Some(std::thread::spawn(move || watched.watch()));
            Session { turns, queue: Some(queue), requests, answers, threads, watch }
        }

        fn ask(&self, work: Work, job: impl FnOnce() + Send + 'static) {
            self.requests.send((work, Box::new(job))).unwrap();
            self.queue.as_ref().unwrap().write_all(&[0]).unwrap();
        }

        fn answer(&self) -> ThreadId {
            self.answers.recv_timeout(LATE).expect("an answer")
        }

        /// One request after the other.
        fn serially(&self, count: usize) -> HashSet<ThreadId> {
            let one = |_| {
                self.ask(Work::Quick, || {});
                let answer = self.answer();
                // It waits for its turn by now, or will in a moment.
                while self.turns.state.lock().listening == 0 {
                    std::thread::yield_now();
                }
                answer
            };
            (0..count).map(one).collect()
        }

        /// Has [hanging] requests answered.
        fn release(&self, ends: impl IntoIterator<Item = Sender<()>>) {
            for end in ends {
                end.send(()).unwrap();
                self.answer();
            }
        }

        /// Until all but one of the threads are parked.
        fn settle(&self) {
            let begin = Instant::now();
            while self.turns.state.lock().parked.len() < 3 {
                assert!(begin.elapsed() < LATE);
                self.serially(1);
            }
        }
    }

    impl Drop for Session {
        fn drop(&mut self) {
            drop(self.queue.take());
            if !std::thread::panicking() {
                self.threads.drain(..).for_each(|thread| thread.join().unwrap());
                self.turns.end();
                self.watch.take().unwrap().join().unwrap();
            }
        }
    }

    /// A request that is answered when told to.
    fn hanging(session: &Session, work: Work) -> Sender<()> {
        let (end, ended) = channel::<()>();
        let (begin, begun) = channel();
        session.ask(work, move || {
            begin.send(()).unwrap();
            ended.recv().unwrap();
        });
        begun.recv_timeout(LATE).expect("it is begun");
        end
    }

    #[test]
    fn quick_requests_are_served_by_one_thread() {
        for look in [Duration::ZERO, Duration::from_micros(100)] {
            let session = Session::new(Limits { look, ..NEVER });
            session.settle();
            assert_eq!(session.serially(200).len(), 1);
        }
    }

    #[test]
    fn while_a_request_waits_for_the_disk_others_are_served() {
        let session = Session::new(Limits { patience: Duration::from_millis(1), ..NEVER });
        session.settle();
        let first = hanging(&session, Work::Long);
        session.serially(10);
        let second = hanging(&session, Work::Long);
        let third = hanging(&session, Work::Long);
        session.serially(10);
        session.release([first, second, third]);
        session.settle();
        assert_eq!(session.serially(20).len(), 1);
    }

    #[test]
    fn who_waits_for_the_disk_calls_others_at_once_if_they_came_last_time() {
        let session = Session::new(NEVER);
        session.settle();
        // Nobody listens, nobody comes.
        let alone = hanging(&session, Work::Long);
        assert_eq!(session.turns.state.lock().listening, 0);
        session.release([alone]);
        // Somebody waits in vain, this once.
        let end = hanging(&session, Work::Long);
        session.ask(Work::Quick, || {});
        session.release([end]);
        session.answer();
        for _ in 0..3 {
            let end = hanging(&session, Work::Long);
            session.serially(10);
            session.release([end]);
        }
        // And when they stay away, that is noticed.
        for _ in 0..Company::MOST {
            session.release([hanging(&session, Work::Long)]);
        }
        session.settle();
        session.release([hanging(&session, Work::Long)]);
        assert_eq!(session.turns.state.lock().company.credit, 0);
    }

    #[test]
    fn the_one_who_was_parked_last_is_called_first() {
        let session = Session::new(NEVER);
        session.settle();
        session.turns.state.lock().company.learn(true);
        let mut served = session.serially(1);
        for _ in 0..10 {
            let end = hanging(&session, Work::Long);
            served.extend(session.serially(3));
            session.release([end]);
        }
        assert_eq!(served.len(), 2);
    }

    #[test]
    fn heavy_work_has_others_listen_as_long_as_there_are_processors() {
        let session = Session::new(NEVER);
        session.settle();
        let first = hanging(&session, Work::Heavy);
        session.serially(10);
        let second = hanging(&session, Work::Heavy);
        let (working, listening) = {
            let state = session.turns.state.lock();
            (state.working, state.listening)
        };
        assert_eq!((working, listening), (2, 0));
        session.release([first, second]);
        assert_eq!(session.serially(1).len(), 1);
    }

    #[test]
    fn the_watch_notices_a_request_that_takes_too_long() {
        let session = Session::new(Limits { patience: Duration::from_millis(1), ..NEVER });
        for rest in [Duration::ZERO, Duration::from_millis(150)] {
            session.serially(20);
            // It rests after that.
            std::thread::sleep(rest);
            let ends = [hanging(&session, Work::Quick), hanging(&session, Work::Quick), hanging(&session, Work::Part)];
            session.serially(10);
            session.release(ends);
        }
    }

    #[test]
    fn requests_that_queue_get_further_threads() {
        let session = Session::new(Limits { backlog: Duration::ZERO, ..NEVER });
        session.settle();
        let end = hanging(&session, Work::Quick);
        for _ in 0..300 {
            session.ask(Work::Quick, || std::thread::sleep(Duration::from_micros(200)));
        }
        end.send(()).unwrap();
        let served: HashSet<_> = (0..301).map(|_| session.answer()).collect();
        assert!(served.len() > 1);
    }

    #[test]
    fn the_end_reaches_threads_in_every_state() {
        // None has had a request; some have; all but one are parked.
        drop(Session::new(NEVER));
        for count in [1, 2, 3, 100] {
            Session::new(NEVER).serially(count);
        }
        let session = Session::new(NEVER);
        session.settle();
        let end = hanging(&session, Work::Long);
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            end.send(()).unwrap();
        });
    }

    #[test]
    fn looking_is_given_up_where_it_does_not_pay_and_tried_again() {
        let mut gaze = Gaze::default();
        gaze.came_soon();
        assert_eq!(gaze.credit, Gaze::FIRST);
        (0..20).for_each(|_| gaze.hit());
        (1..Gaze::MOST).for_each(|_| gaze.miss());
        assert_eq!(gaze.credit, 1, "not for a few misses");
        gaze.miss();
        let mut pauses = Vec::new();
        for _ in 0..3 {
            assert_eq!(gaze.credit, 0);
            let soon = (0..).take_while(|_| (gaze.came_soon(), gaze.credit).1 == 0).count();
            pauses.push(soon);
            gaze.fail();
        }
        assert_eq!(pauses, [2, 4, 8], "ever longer");
        (0..100).for_each(|_| gaze.fail());
        assert_eq!(gaze.pause, 1 << Gaze::FAILURES);
        (0..Gaze::HITS * Gaze::FAILURES).for_each(|_| gaze.hit());
        assert_eq!(gaze.failures, 0);
    }
}
