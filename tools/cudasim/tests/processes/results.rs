//! Correct programs: however ranks are spread over processes, the same bits, and nothing is reported.

use super::launcher::run;

#[test]
fn the_bits_are_those_of_one_process() {
    let at_home = run("everything", &[4]);
    assert_eq!(at_home.results.len(), 4);
    assert_eq!(at_home.reports, [""; 0]);
    for split in [&[1, 1, 1, 1][..], &[2, 2], &[1, 3]] {
        let abroad = run("everything", split);
        assert_eq!(abroad.reports, [""; 0], "{split:?}");
        assert_eq!(abroad.results, at_home.results, "{split:?}");
    }
}

#[test]
fn two_communicators_do_not_disturb_each_other() {
    let ended = run("two communicators", &[1, 2]);
    assert_eq!(
        (ended.results.len(), ended.reports.len()),
        (3, 0),
        "{:?}",
        ended.reports
    );
}
