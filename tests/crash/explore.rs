//! Going through the crashes of a recorded workload: each state is mounted, judged, mounted again; some crash again during recovery.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use parking_lot::Mutex;

use super::image::Image;
use super::judge::{Found, Loss, read_volume, same};
use super::sim::Volume;
use super::states::{Choice, Model, Tracker};
use super::world::{FIRST_BOOT, Run, mount};
use crate::random::Rng;

/// Kernels after that of the workload.
const NEXT_BOOT: [u8; 16] = [2; 16];
const LAST_BOOT: [u8; 16] = [3; 16];
/// Of so many states, one crashes again in its recovery.
const RECOVERY_CRASHES: u64 = 4;
/// Passes over the log after which a workload has no more states to give.
const MAX_PASSES: u64 = 40;
/// Violations after which there is no need for more.
const ENOUGH: usize = 5;

/// A crash: a point in the log and the number of a choice there. With the workload's name, it is all that a replay needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crash {
    pub point: usize,
    pub number: u64,
}

/// What judges the states of a run: the history of a workload, or a program's own notion.
pub trait Judge: Sync {
    fn check(&self, found: &Found, point: usize, loss: Loss) -> Result<(), String>;
}

impl Judge for Run {
    fn check(&self, found: &Found, point: usize, loss: Loss) -> Result<(), String> {
        Run::check(self, found, point, loss)
    }
}

/// What an exploration found.
#[derive(Debug, Default)]
pub struct Outcome {
    /// States of the backing filesystem, each counted once.
    pub states: HashSet<u64>,
    /// Of them, those in which a recovery was interrupted.
    pub interrupted: usize,
    pub violations: Vec<(Crash, String)>,
}

/// Judges crashes until so many distinct states were seen, or there are no more.
pub fn explore(name: &str, run: &Run, judge: &dyn Judge, states: usize, threads: usize) -> Outcome {
    let points = run.log.len() + 1;
    let each = (2 * states / points).clamp(6, 64);
    let stride = (points * each / (2 * states).max(1)).max(1);
    let outcome = Mutex::new(Outcome::default());
    for pass in 0..MAX_PASSES {
        let numbers = pass * each as u64..(pass + 1) * each as u64;
        let offset = pass as usize % stride;
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let (numbers, outcome) = (numbers.clone(), &outcome);
                scope.spawn(move || {
                    let mut tracker = Tracker::new(run.base.clone());
                    for point in 0..points {
                        if point > 0 {
                            tracker.push(&run.log[point - 1]);
                        }
                        if !(point + offset).is_multiple_of(stride) || point / stride % threads != thread {
                            continue;
                        }
                        for number in numbers.clone() {
                            let enough = {
                                let outcome = outcome.lock();
                                outcome.states.len() >= states || outcome.violations.len() >= ENOUGH
                            };
                            if enough {
                                return;
                            }
                            try_crash(name, run, judge, &tracker, Crash { point, number }, outcome);
                        }
                    }
                });
            }
        });
        let outcome = outcome.lock();
        if outcome.states.len() >= states || outcome.violations.len() >= ENOUGH {
            break;
        }
    }
    outcome.into_inner()
}

/// Judges one crash, wherever it stands.
pub fn replay(name: &str, run: &Run, judge: &dyn Judge, crash: Crash) -> Outcome {
    let mut tracker = Tracker::new(run.base.clone());
    run.log.iter().take(crash.point).for_each(|event| tracker.push(event));
    let outcome = Mutex::new(Outcome::default());
    try_crash(name, run, judge, &tracker, crash, &outcome);
    outcome.into_inner()
}

fn seed(name: &str, crash: Crash) -> u64 {
    let mut hasher = DefaultHasher::new();
    (name, crash.point, crash.number).hash(&mut hasher);
    hasher.finish()
}

fn try_crash(name: &str, run: &Run, judge: &dyn Judge, tracker: &Tracker, crash: Crash, outcome: &Mutex<Outcome>) {
    let mut rng = Rng::new(seed(name, crash));
    let choice = tracker.choice(crash.number, &mut rng);
    let attempt = Attempt { run, judge, point: crash.point, outcome };
    let verdict = match crash.number {
        1 => attempt.daemon_dies(tracker, &choice, &mut rng),
        number => attempt.power_fails(tracker, &choice, number, &mut rng),
    };
    if let Err(error) = verdict {
        let before = run.log[..crash.point].iter().rev().take(8).map(|event| shorten(&format!("{event:?}")));
        let error = format!(
            "{error}\n  {}\n  last events, newest first: {:#?}",
            shorten(&format!("{choice:?}")),
            before.collect::<Vec<_>>()
        );
        outcome.lock().violations.push((crash, error));
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(240).collect()
}

struct Attempt<'a> {
    run: &'a Run,
    judge: &'a dyn Judge,
    point: usize,
    outcome: &'a Mutex<Outcome>,
}

impl Attempt<'_> {
    fn is_new(&self, state: &Image) -> bool {
        self.outcome.lock().states.insert(state.fingerprint())
    }

    /// The machine stops and starts again.
    fn power_fails(&self, tracker: &Tracker, choice: &Choice, number: u64, rng: &mut Rng) -> Result<(), String> {
        let state = tracker.state(choice);
        if !self.is_new(&state) {
            return Ok(());
        }
        let loss = Loss::Power(choice.model);
        let volume = Volume::new(state.clone());
        self.judge_mounts(&volume, NEXT_BOOT, loss)?;
        if !number.is_multiple_of(RECOVERY_CRASHES) {
            return Ok(());
        }
        // And once more while it recovers.
        let log = self.recover(state.clone(), NEXT_BOOT)?;
        let mut tracker = Tracker::new(state);
        let upto = rng.below(log.len() as u64 + 1) as usize;
        log[..upto].iter().for_each(|event| tracker.push(event));
        self.interrupted(&tracker, loss, rng)
    }

    /// The daemon is killed, and its volume mounted under the same kernel.
    fn daemon_dies(&self, tracker: &Tracker, choice: &Choice, rng: &mut Rng) -> Result<(), String> {
        let state = tracker.state(choice);
        self.is_new(&state);
        let volume = Volume::new(state.clone());
        self.judge_mounts(&volume, FIRST_BOOT, Loss::Daemon)?;
        // Power fails while that recovers: what was not flushed before is not flushed still.
        let log = self.recover(state, FIRST_BOOT)?;
        let mut tracker = tracker.clone();
        let upto = rng.below(log.len() as u64 + 1) as usize;
        log[..upto].iter().for_each(|event| tracker.push(event));
        self.interrupted(&tracker, Loss::Power(Model::OneJournal), rng)
    }

    /// Power fails during a recovery.
    fn interrupted(&self, tracker: &Tracker, loss: Loss, rng: &mut Rng) -> Result<(), String> {
        let number = 5 + rng.below(1 << 20);
        let choice = tracker.choice(number, rng);
        let state = tracker.state(&choice);
        if self.is_new(&state) {
            self.outcome.lock().interrupted += 1;
        }
        let loss = if choice.model == Model::PerInode { Loss::Power(choice.model) } else { loss };
        let volume = Volume::new(state);
        self.judge_mounts(&volume, LAST_BOOT, loss).map_err(|error| format!("in a recovery: {error}\n  {choice:?}"))
    }

    /// The calls that a recovery makes.
    fn recover(&self, state: Image, boot: [u8; 16]) -> Result<Vec<super::sim::Event>, String> {
        let volume = Volume::new(state);
        let fs = mount(volume.root(), &self.run.ring, boot, self.run.broken_rule);
        fs.map(|_| volume.take_log()).map_err(|error| format!("the mount: {error}"))
    }

    /// Mounts, judges, and mounts again, which must show the same.
    fn judge_mounts(&self, volume: &Arc<Volume>, boot: [u8; 16], loss: Loss) -> Result<(), String> {
        let first = self.mount_and_read(volume, boot)?;
        self.judge.check(&first, self.point, loss)?;
        let second = self.mount_and_read(volume, boot)?;
        if same(&first, &second) { Ok(()) } else { Err("a second mount shows something else".into()) }
    }

    fn mount_and_read(&self, volume: &Arc<Volume>, boot: [u8; 16]) -> Result<Found, String> {
        let fs = mount(volume.root(), &self.run.ring, boot, self.run.broken_rule);
        let fs = fs.map_err(|error| format!("the mount: {error}"))?;
        read_volume(&fs).map_err(|error| format!("the root: {error}"))
    }
}
