//! Jobs with real sockets on 127.0.0.1: threads where that is enough, processes where signals count.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command as Program, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::error::Loss;
use crate::parallel::control::launcher::Launcher;
use crate::parallel::control::message::Message;

fn settings() -> Settings {
    Settings {
        join: Duration::from_secs(10),
        silence: Duration::from_secs(3),
        beat: Duration::from_millis(200),
        hello: Duration::from_secs(1),
        ..Settings::default()
    }
}

/// A port that is free now.
fn free_port() -> u16 {
    let listener = TcpListener::bind((LOOPBACK, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn launch(rank: usize, size: usize, ports: &[u16]) -> Launch {
    Launch {
        rank,
        size,
        local_rank: rank,
        local_size: size,
        coordinator: Meeting {
            host: LOOPBACK.into(),
            ports: ports.to_vec(),
        },
        launcher: Launcher::ByHand,
        job: "test".into(),
    }
}

fn hello(launch: &Launch) -> Hello {
    let devices = vec![format!("GPU-{}", launch.rank)];
    let mut hello = Hello::new(launch, json!({"version": "1", "backend": {"cudnn": 9}}), devices);
    hello.pid += launch.rank as u32;
    if launch.rank == 0 {
        hello.blob = Bytes(vec![1, 2, 3]);
    }
    hello
}

fn join(rank: usize, size: usize, port: u16) -> Result<Control> {
    let launch = launch(rank, size, &[port]);
    Control::join(&launch, hello(&launch), settings())
}

/// What each of `size` threads makes of its place in a job.
fn job<T: Send>(size: usize, port: u16, each: impl Fn(usize, Result<Control>) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let each = &each;
        let threads: Vec<_> = (0..size)
            .map(|rank| scope.spawn(move || each(rank, join(rank, size, port))))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn four_ranks_meet_and_work_together() {
    let exits = job(4, free_port(), |rank, control| {
        let control = control.unwrap();
        assert_eq!((control.rank(), control.size()), (rank, 4));
        assert_eq!(control.membership().blob.0, [1, 2, 3]);
        for step in 0..50_u64 {
            let signal = (step == 20 && rank == 2).then_some("SIGTERM");
            if let Some(halt) = control.stop_wanted(step, signal).unwrap() {
                assert!((20..=21).contains(&step));
                assert_eq!((halt.step, halt.rank, halt.signal.as_str()), (step, 2, "SIGTERM"));
                break;
            }
            assert!(step <= 20, "nobody stopped");
            control.beat(step, "exchange");
            let parts = control.all_gather("losses", vec![rank as u8; rank]).unwrap();
            assert_eq!(
                parts,
                (0..4).map(|rank| vec![rank as u8; rank]).collect::<Vec<_>>()
            );
        }
        assert_eq!(control.broadcast("plans", vec![rank as u8]).unwrap(), [0]);
        if rank == 0 {
            control.commit(21);
        }
        control.await_commit(21).unwrap();
        assert_eq!(control.committed(), Some(21));
        control.barrier("end").unwrap();
        assert_eq!(control.failure(), None);
        control.leave(75).unwrap()
    });
    assert_eq!(exits, [75; 4]);
}

#[test]
fn one_process_is_a_job() {
    let launch = Launch::solo();
    let control = Control::join(&launch, hello(&launch), settings()).unwrap();
    assert_eq!(control.all_gather("losses", vec![5]).unwrap(), [[5]]);
    assert_eq!(control.stop_wanted(0, None).unwrap(), None);
    assert_eq!(control.stop_wanted(1, Some("SIGINT")).unwrap().unwrap().step, 1);
    assert_eq!(control.leave(0).unwrap(), 0);
}

#[test]
fn the_first_free_port_is_found() {
    let taken = TcpListener::bind((LOOPBACK, 0)).unwrap();
    let ports = [taken.local_addr().unwrap().port(), free_port()];
    std::thread::scope(|scope| {
        for rank in 0..2 {
            scope.spawn(move || {
                let launch = launch(rank, 2, &ports);
                let control = Control::join(&launch, hello(&launch), settings()).unwrap();
                control.leave(0).unwrap();
            });
        }
    });
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind((LOOPBACK, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = join(0, 2, port).map(drop).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    let text = error.to_string();
    assert!(
        text.contains(&format!("port {port}: Address already in use")),
        "{text}"
    );
}

#[test]
fn the_absent_are_named() {
    let port = free_port();
    let meet = |rank: usize| {
        let launch = launch(rank, 4, &[port]);
        let settings = Settings {
            join: Duration::from_secs(1),
            ..settings()
        };
        Control::join(&launch, hello(&launch), settings)
            .map(drop)
            .unwrap_err()
    };
    std::thread::scope(|scope| {
        for thread in [0, 2].map(|rank| scope.spawn(move || meet(rank))) {
            let error = thread.join().unwrap();
            assert_eq!(error.exit_code(), 8);
            let text = error.to_string();
            assert!(
                text.contains("expected 4 processes") && text.contains("ranks 1, 3 did not come"),
                "{text}"
            );
        }
    });
}

/// Errors of two ranks of which the second is changed by `change`.
fn misfits(change: impl Fn(&mut Launch, &mut Hello) + Sync) -> [Error; 2] {
    let port = free_port();
    std::thread::scope(|scope| {
        let change = &change;
        let meet = move |rank: usize| {
            let mut launch = launch(rank, 2, &[port]);
            let mut hello = hello(&launch);
            if rank == 1 {
                change(&mut launch, &mut hello);
            }
            Control::join(&launch, hello, settings()).map(drop).unwrap_err()
        };
        [0, 1]
            .map(|rank| scope.spawn(move || meet(rank)))
            .map(|thread| thread.join().unwrap())
    })
}

#[test]
fn who_does_not_fit_is_refused_and_told_why() {
    type Change = fn(&mut Launch, &mut Hello);
    let cases: [(Change, &str); 5] = [
        (
            |_, hello| hello.class["backend"]["cudnn"] = Value::from(8),
            "field backend.cudnn: expected 9 as rank 0 has, found 8; the weights would not be the same",
        ),
        (
            |_, hello| hello.devices = vec!["GPU-0".into()],
            "device GPU-0 on host",
        ),
        (
            |_, hello| hello.version = "0.0.9".into(),
            "the program's version of rank 1",
        ),
        (|_, hello| hello.size = 3, "the number of processes of rank 1"),
        (|_, hello| hello.rank = 0, "rank 0: expected one process"),
    ];
    for (change, expected) in cases {
        for error in misfits(change) {
            let text = error.to_string();
            assert_eq!(error.exit_code(), 3, "{text}");
            assert!(text.contains(expected), "{text}");
        }
    }
}

#[test]
fn drift_that_rank_0_allows_is_reported() {
    let port = free_port();
    std::thread::scope(|scope| {
        for rank in 0..2 {
            scope.spawn(move || {
                let launch = launch(rank, 2, &[port]);
                let mut hello = hello(&launch);
                hello.allow_drift = rank == 0;
                hello.class["version"] = Value::from(rank);
                let control = Control::join(&launch, hello, settings()).unwrap();
                let drift = control.membership().drift.clone().unwrap();
                assert!(drift.what.ends_with("field version"), "{drift}");
                control.leave(0).unwrap();
            });
        }
    });
}

/// Rubbish of every kind at rank 0's port, before and while a job runs.
#[test]
fn rubbish_neither_stops_nor_slows_a_job() {
    let port = free_port();
    let rubbish = move || {
        let header = &wire::encode(&Message::Heard, launch(0, 2, &[]).token()).unwrap()[..12];
        let oversized = [header, &u32::MAX.to_le_bytes()].concat();
        let stranger = wire::encode(&Message::Heard, 1).unwrap();
        let mut early = wire::encode(&Message::Leave { exit: 0 }, launch(0, 2, &[]).token()).unwrap();
        let half = early[..9].to_vec();
        let mut open = Vec::new();
        for _ in 0..40 {
            for bytes in [
                &b"GET / HTTP/1.1\r\n\r\n"[..],
                &oversized,
                &stranger,
                &early,
                &half,
                &[],
                &[0; 100_000],
            ] {
                let mut stream = loop {
                    match TcpStream::connect((LOOPBACK, port)) {
                        Ok(stream) => break stream,
                        Err(_) => std::thread::sleep(Duration::from_millis(5)),
                    }
                };
                // Rank 0 may have hung up already.
                let _ = stream.write_all(bytes);
                open.push(stream);
            }
            early.rotate_left(1);
        }
        open
    };
    std::thread::scope(|scope| {
        let rubbish = scope.spawn(rubbish);
        let ranks = [0, 1].map(|rank| {
            scope.spawn(move || {
                if rank == 1 {
                    std::thread::sleep(Duration::from_millis(500));
                }
                let control = join(rank, 2, port).unwrap();
                let started = Instant::now();
                for _ in 0..200 {
                    control.barrier("step").unwrap();
                }
                assert!(started.elapsed() < Duration::from_secs(5));
                control.leave(0).unwrap();
            })
        });
        for rank in ranks {
            rank.join().unwrap();
        }
        for mut stream in rubbish.join().unwrap() {
            // Rank 0 has closed them all, one way or the other.
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let end = stream.read(&mut [0; 1]).map_err(|error| error.kind());
            assert!(
                matches!(end, Ok(0) | Err(std::io::ErrorKind::ConnectionReset)),
                "{end:?}"
            );
        }
    });
}

#[test]
fn a_rank_that_dies_is_named_at_once() {
    let lost = job(4, free_port(), |rank, control| {
        let control = control.unwrap();
        control.barrier("start").unwrap();
        control.beat(7, "reduce bucket 3");
        std::thread::sleep(Duration::from_millis(500));
        if rank == 2 {
            drop(control);
            return None;
        }
        let started = Instant::now();
        let lost = control.await_failure().unwrap();
        assert!(started.elapsed() < Duration::from_secs(2));
        let error = control.all_gather("losses", Vec::new()).unwrap_err();
        assert_eq!(error.exit_code(), 8);
        assert_eq!(control.leave(8).unwrap(), 8);
        Some((
            lost.rank,
            lost.step,
            lost.collective,
            matches!(lost.how, Loss::Closed { .. }),
        ))
    });
    let expected = Some((2, 7, "reduce bucket 3".to_string(), true));
    assert_eq!(lost, [expected.clone(), expected.clone(), None, expected]);
}

#[test]
fn rank_0_that_dies_is_named_by_all() {
    let lost = job(3, free_port(), |rank, control| {
        let control = control.unwrap();
        control.barrier("start").unwrap();
        (rank != 0).then(|| control.await_failure().unwrap().rank)
    });
    assert_eq!(lost, [None, Some(0), Some(0)]);
}

#[test]
fn an_error_of_one_is_known_to_all_with_its_exit_code() {
    let lost = job(3, free_port(), |rank, control| {
        let control = control.unwrap();
        if rank == 1 {
            assert_eq!(control.leave(5).unwrap(), 5);
            return None;
        }
        Some(control.barrier("step").unwrap_err().to_string())
    });
    for text in [&lost[0], &lost[2]] {
        let text = text.as_deref().unwrap();
        assert!(
            text.contains("rank 1 (host") && text.contains("it ended with exit code 5"),
            "{text}"
        );
    }
}

#[test]
fn who_leaves_while_others_need_it_is_named() {
    let errors = job(3, free_port(), |rank, control| {
        let control = control.unwrap();
        if rank == 1 {
            std::thread::sleep(Duration::from_millis(300));
            return control.leave(0).unwrap_err().to_string();
        }
        control.barrier("step").unwrap_err().to_string()
    });
    for text in errors {
        assert!(
            text.contains("rank 1 (host") && text.contains("it ended with exit code 0"),
            "{text}"
        );
    }
}

#[test]
fn ranks_that_do_different_things_are_told() {
    let errors = job(2, free_port(), |rank, control| {
        let what = ["losses", "folds"][rank];
        control
            .unwrap()
            .all_gather(what, Vec::new())
            .unwrap_err()
            .to_string()
    });
    for text in errors {
        assert!(
            text.contains("it is out of step: expected operation 0, "),
            "{text}"
        );
    }
}

#[test]
fn a_frozen_thread_is_named_in_time() {
    for frozen in [0, 2] {
        let lost = job(3, free_port(), |rank, control| {
            let control = control.unwrap();
            control.barrier("start").unwrap();
            let started = Instant::now();
            if rank == frozen {
                control.command(Command::Freeze(settings().silence * 3));
                return None;
            }
            let lost = control.await_failure().unwrap();
            assert!(started.elapsed() < settings().silence * 2);
            assert!(matches!(lost.how, Loss::Silent { .. }));
            Some(lost.rank)
        });
        let expected: Vec<_> = (0..3).map(|rank| (rank != frozen).then_some(frozen)).collect();
        assert_eq!(lost, expected);
    }
}

/// Writes a line to standard error, past the test harness.
pub(crate) fn say(line: &str) {
    let path = "/proc/self/fd/2";
    let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// The program of the tests below: a rank that works until it is stopped or somebody is lost. It exits as the trainer
/// does, and writes the error to standard error.
#[test]
#[ignore = "started by other tests"]
fn process_of_a_job() {
    let launch = Launch::from_env().unwrap();
    let outcome = Control::join(&launch, hello(&launch), settings()).and_then(|control| {
        let mut step = 0;
        while control.stop_wanted(step, None)?.is_none() {
            control.beat(step, "reduce");
            std::thread::sleep(Duration::from_millis(20));
            control.barrier("step")?;
            step += 1;
            if launch.rank == 0 && step == 10 {
                say("running");
            }
        }
        control.leave(75)
    });
    let exit = match outcome {
        Ok(exit) => exit,
        Err(error) => {
            say(&error.to_string());
            error.exit_code()
        }
    };
    std::process::exit(exit.into());
}

/// Four processes of [`process_of_a_job`], once they work.
fn processes() -> Vec<Child> {
    let meeting = format!("{LOOPBACK}:{}", free_port());
    let mut children: Vec<Child> = (0..4)
        .map(|rank| {
            Program::new(std::env::current_exe().unwrap())
                .args(["--exact", "parallel::control::link::tests::process_of_a_job"])
                .args(["--ignored", "--nocapture", "--test-threads=1"])
                .env("VERYDEEP_RANK", rank.to_string())
                .env("VERYDEEP_SIZE", "4")
                .env("VERYDEEP_COORDINATOR", &meeting)
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut seen = Vec::new();
    let errors = children[0].stderr.as_mut().unwrap();
    while !seen.ends_with(b"running\n") {
        let mut byte = [0];
        assert_eq!(
            errors.read(&mut byte).unwrap(),
            1,
            "{}",
            String::from_utf8_lossy(&seen)
        );
        seen.extend(byte);
    }
    children
}

fn send(child: &Child, signal: i32) {
    // SAFETY: the process is a child of ours that has not been waited for, so its number is still its own.
    let sent = unsafe { libc::kill(child.id() as i32, signal) };
    assert_eq!(sent, 0);
}

#[test]
fn a_process_that_is_killed_or_stopped_is_named_by_all_others() {
    for (victim, signal, how) in [
        (2, libc::SIGKILL, "its connection closed"),
        (0, libc::SIGKILL, "its connection closed"),
        (3, libc::SIGSTOP, "it has been silent"),
        (0, libc::SIGSTOP, "it has been silent"),
    ] {
        let mut children = processes();
        let started = Instant::now();
        send(&children[victim], signal);
        for (rank, child) in children.iter_mut().enumerate() {
            if rank == victim {
                continue;
            }
            let exit = child.wait().unwrap();
            let mut text = String::new();
            child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(exit.code(), Some(8), "rank {rank}: {text}");
            assert!(
                text.contains(&format!("rank {victim} (host")) && text.contains(how),
                "rank {rank}: {text}"
            );
            assert!(text.contains("last collective step"), "{text}");
        }
        assert!(started.elapsed() < Duration::from_secs(10));
        children[victim].kill().unwrap();
        children[victim].wait().unwrap();
    }
}
