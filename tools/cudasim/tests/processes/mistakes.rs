//! Mistakes that processes make together, each of which breaks one rule.

use std::collections::BTreeSet;

use cudasim::Rule;

use super::launcher::start;

/// Defines a test for each program with a mistake, run by two processes.
macro_rules! mistakes {
    ($($name:ident: $program:literal breaks $rule:ident;)+) => {
        $(
            #[test]
            fn $name() {
                breaks($program, 2, Rule::$rule);
            }
        )+
    };
}

fn breaks(program: &str, processes: usize, rule: Rule) {
    // Who waits for ever is told soon.
    let ended = start(program, &vec![1; processes], |_| {
        vec![("CUDASIM_PATIENCE_MS", "1500".into())]
    })
    .end(&[]);
    assert_eq!(ended.rules(), BTreeSet::from([rule.id()]), "{:?}", ended.reports);
}

mistakes! {
    different_counts: "different counts" breaks CollectiveMismatch;
    different_functions: "different functions" breaks CollectiveMismatch;
    different_operators: "different operators" breaks CollectiveMismatch;
    a_receive_that_is_shorter_than_its_send: "short receive" breaks CollectiveMismatch;
    a_process_that_makes_no_call: "no call" breaks CollectiveMissing;
    a_process_that_never_joins: "absent" breaks CollectiveMissing;
    processes_that_send_before_they_receive: "sends first" breaks Deadlock;
    two_processes_of_one_rank: "same rank" breaks CollectiveMismatch;
    two_processes_on_one_device: "same device" breaks DuplicateDevice;
    a_process_that_thinks_that_there_are_more: "other size" breaks CollectiveMismatch;
    a_source_that_is_overwritten_meanwhile: "overwritten" breaks StreamRace;
    a_source_that_nobody_has_written: "unwritten" breaks Uninitialised;
}

#[test]
fn who_is_refused_does_not_disturb_the_others() {
    breaks("one too many", 3, Rule::CollectiveMismatch);
}
