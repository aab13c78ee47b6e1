//! The simulator bites: with any one ordering rule of the store out of force, it finds a violation.

use envelopefs::store::Rule;

use super::explore::explore;
use super::workloads::ALL;
use super::world::{Run, World};

/// States of each workload within which a broken rule must show itself.
const STATES: usize = 3000;

/// Whether any of the workloads, run and recovered without a rule, shows a violation.
fn finds_violation(workloads: &[&str], rule: Rule) -> bool {
    let named = ALL.iter().filter(|workload| workloads.contains(&workload.name));
    named.into_iter().any(|workload| violates(workload.name, &workload.record(Some(rule))))
}

fn violates(name: &str, run: &Run) -> bool {
    let outcome = explore(name, run, run, STATES, super::threads());
    if let Some((crash, error)) = outcome.violations.first() {
        println!("{name} at {crash:?} after {} states:\n  {error}", outcome.states.len());
    }
    !outcome.violations.is_empty()
}

/// D4: an id in a file of its own can be empty after a power loss, and the directory lost.
#[test]
fn directory_ids_are_in_symlinks() {
    let workload = ALL.iter().find(|workload| workload.name == "directories").expect("a workload of that name");
    assert!(violates(workload.name, &workload.record_in(World::with_ids_in_files())), "nothing was found");
}

macro_rules! bite {
    ($($test:ident: $rule:ident in $($workload:literal)*;)*) => {
        $(#[test]
        fn $test() {
            assert!(finds_violation(&[$($workload),*], Rule::$rule), "nothing was found");
        })*
    };
}

bite! {
    images_before_places: ImageBeforePlace in "random_overwrite" "message_store";
    data_before_marks: DataBeforeMark in "grow_through_levels" "shrink" "many_files";
    a_flush_for_each_fsync: FlushOnSync in "message_store" "random_overwrite";
    no_write_over_a_live_image: DirectOverLive in "shrink" "punch_and_refill";
    no_write_over_what_is_durably_used: DirectOverFreed in "shrink" "punch_and_refill";
    cuts_wait_for_their_commit: CutWhenDurable in "shrink";
    marks_decide: MarksDecide in "shrink" "two_files" "random_overwrite" "many_files";
}
