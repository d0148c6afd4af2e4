//! Processes that die, stop or do not answer: the others can tell, or can go away, and no file is left.

use std::fs::{self, File};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use super::launcher::{Job, run, start};

/// What rank 0 and rank 2 say when rank 1 comes to grief.
fn survivors(job: Job, killed: &[usize]) -> Vec<String> {
    let ended = job.end(killed);
    assert_eq!(ended.reports, [""; 0]);
    let said = |rank: &str| {
        let prefix = format!("rank {rank}: ");
        let lines = ended
            .results
            .iter()
            .filter_map(move |line| line.strip_prefix(&prefix).map(str::to_owned));
        lines.filter(|line| line != "joined").collect::<Vec<String>>()
    };
    [said("0"), said("2")].concat()
}

/// Rank 1 has this fault.
fn with_fault(fault: &'static str) -> Job {
    start("watched", &[1, 1, 1], |process| match process {
        1 => vec![("CUDASIM_FAIL", fault.into())],
        _ => Vec::new(),
    })
}

#[test]
fn a_process_that_dies_is_an_error_of_the_others() {
    assert_eq!(survivors(with_fault("die:3"), &[1]), ["error 6", "error 6"]);
}

#[test]
fn a_call_that_fails_is_an_error_of_the_others() {
    assert_eq!(survivors(with_fault("collective:3"), &[]), ["error 6", "error 6"]);
}

#[test]
fn a_call_that_never_comes_hangs_the_others_until_they_abort() {
    assert_eq!(survivors(with_fault("hang:3"), &[]), ["hangs", "hangs"]);
}

#[test]
fn a_process_that_is_stopped_hangs_the_others_until_they_abort() {
    let job = with_fault("freeze:3");
    sleep(Duration::from_secs(4));
    job.signal(1, libc::SIGKILL);
    assert_eq!(survivors(job, &[1]), ["hangs", "hangs"]);
}

#[test]
fn a_process_may_be_killed_at_any_time() {
    for moment in 0..10 {
        let job = start("watched", &[1, 1, 1], |_| Vec::new());
        while job.board().exists() || moment == 0 && job.processes.is_empty() {
            sleep(Duration::from_millis(1));
        }
        sleep(Duration::from_millis(200 + 17 * moment));
        job.signal(1, libc::SIGKILL);
        let begun = Instant::now();
        assert_eq!(survivors(job, &[1]), ["error 6", "error 6"], "moment {moment}");
        assert!(begun.elapsed() < Duration::from_secs(20), "moment {moment}");
    }
}

#[test]
fn a_process_that_dies_before_all_have_joined_is_an_error_of_the_others() {
    let job = start("waits to join", &[1, 1, 1], |_| Vec::new());
    sleep(Duration::from_millis(500));
    job.signal(1, libc::SIGKILL);
    assert_eq!(survivors(job, &[1]), ["error 6"]);
}

#[test]
fn what_killed_processes_leave_is_swept_up_later() {
    let job = start("waits to join", &[1, 1], |_| Vec::new());
    let board = job.board();
    let begun = Instant::now();
    while !board.exists() && begun.elapsed() < Duration::from_secs(20) {
        sleep(Duration::from_millis(10));
    }
    sleep(Duration::from_millis(300));
    job.signal(0, libc::SIGKILL);
    for mut process in job.processes {
        process.wait().unwrap();
    }
    assert!(board.exists(), "nobody was there to remove it");
    run("everything", &[1, 1]);
    assert!(board.exists(), "it may be in the making");
    let file = File::options().write(true).open(&board).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(61))
        .unwrap();
    run("everything", &[1, 1]);
    assert!(!board.exists());
    assert!(fs::exists("/dev/shm").unwrap());
}
