//! Crashes: what power loss and SIGKILL leave of a volume, shown by going through the states they can leave.
//!
//! A workload runs on a simulated backing directory that records every call ([`sim`]). For points of that log, the states that a
//! power loss there could leave on the disk are made ([`states`]), mounted and judged ([`judge`], [`explore`]).
//!
//! | variable | |
//! |---|---|
//! | `ENVELOPEFS_CRASH_STATES` | distinct states of each workload; 300 |
//! | `ENVELOPEFS_CRASH` | `workload:point:number`, the one crash that the test `replay` judges |

// A test program has no outside that a `pub` could reach.
#![allow(unreachable_pub)]

#[path = "../common/random.rs"]
mod random;

mod explore;
mod image;
mod judge;
mod sim;
mod sqlite;
mod states;
mod teeth;
mod workloads;
mod world;

use explore::{Crash, Outcome};
use random::number_from;
use workloads::{ALL, Workload};
use world::Run;

const STATES: u64 = 300;

fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8)
}

fn report(name: &str, outcome: &Outcome) -> String {
    outcome.violations.iter().fold(String::new(), |text, (crash, error)| {
        let again = format!("ENVELOPEFS_CRASH={name}:{}:{}", crash.point, crash.number);
        text + &format!("\n{again} cargo test --release --test crash replay -- --nocapture\n  {error}\n")
    })
}

/// Distinct states that each workload has to show.
fn wanted_states() -> usize {
    number_from("ENVELOPEFS_CRASH_STATES").unwrap_or(STATES) as usize
}

fn judge_outcome(name: &str, run: &Run, outcome: &Outcome) {
    let (events, states) = (run.log.len(), outcome.states.len());
    println!("{name}: {events} events, {states} states, {} of them after an interrupted recovery", outcome.interrupted);
    assert!(outcome.violations.is_empty(), "{}", report(name, outcome));
    assert!(states >= wanted_states(), "{name}: no more than {states} states");
}

fn survives(workload: &Workload) {
    let run = workload.record(None);
    let outcome = explore::explore(workload.name, &run, &run, wanted_states(), threads());
    judge_outcome(workload.name, &run, &outcome);
}

macro_rules! survive {
    ($($(#[$attribute:meta])* $name:ident)*) => {
        $($(#[$attribute])*
        #[test]
        fn $name() {
            let workload = ALL.iter().find(|workload| workload.name == stringify!($name));
            survives(workload.expect("a workload of that name"));
        })*
    };
}

survive! {
    atomic_replace
    message_store
    random_overwrite
    truncate_and_rewrite
    grow_through_levels
    shrink
    punch_and_refill
    directories
    renamed_then_synced
    long_symlinks
    two_files
    closed_without_fsync
    unlink_and_reuse
    many_files
    rotation
}

/// Judges the crash that `ENVELOPEFS_CRASH` names.
#[test]
fn replay() {
    let Ok(text) = std::env::var("ENVELOPEFS_CRASH") else { return };
    let parts: Vec<&str> = text.split(':').collect();
    let [name, point, number] = parts[..] else { panic!("{text} is not workload:point:number") };
    let crash = Crash { point: point.parse().expect("a number"), number: number.parse().expect("a number") };
    let outcome = match ALL.iter().find(|workload| workload.name == name) {
        Some(workload) => {
            let run = workload.record(None);
            explore::replay(name, &run, &run, crash)
        }
        None => sqlite::replayed(name, crash).expect("a workload of that name"),
    };
    assert!(outcome.violations.is_empty(), "{}", report(name, &outcome));
}
