//! Jobs with real sockets on 127.0.0.1: threads where that is enough, processes where signals count.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::*;
use crate::error::Loss;
use crate::parallel::control::launcher::Launcher;

mod guests;
mod processes;

pub(crate) use processes::say;

fn settings() -> Settings {
    Settings {
        join: Duration::from_secs(10),
        silence: Duration::from_secs(3),
        beat: Duration::from_millis(200),
        hello: Duration::from_secs(1),
        ..Settings::default()
    }
}

/// A port that is free now, below those that the system gives away by itself.
fn free_port() -> u16 {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    loop {
        let candidate = std::process::id() * 16 + TRIED.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + u16::try_from(candidate % 10_000).unwrap();
        if TcpListener::bind((LOOPBACK, port)).is_ok() {
            return port;
        }
    }
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

/// A process whose trainer hangs while its link lives.
#[test]
fn a_rank_that_does_not_get_on_is_named() {
    let port = free_port();
    let meet = |rank: usize| {
        let launch = launch(rank, 3, &[port]);
        let settings = Settings {
            stall: Some(Duration::from_secs(2)),
            ..settings()
        };
        let control = Control::join(&launch, hello(&launch), settings).unwrap();
        for step in 0..3 {
            control.beat(step, "reduce");
            control.barrier("step").unwrap();
        }
        if rank != 1 {
            control.beat(3, "reduce");
        }
        control.await_failure().unwrap()
    };
    std::thread::scope(|scope| {
        for thread in [0, 1, 2].map(|rank| scope.spawn(move || meet(rank))) {
            let lost = thread.join().unwrap();
            assert_eq!((lost.rank, lost.step), (1, 2));
            assert!(matches!(lost.how, Loss::Stalled { .. }), "{lost}");
        }
    });
}

/// Threads may share it.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Control>();
};

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
    let all_here = Barrier::new(3);
    let lost = job(3, free_port(), |rank, control| {
        let control = control.unwrap();
        all_here.wait();
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
    let freeze = |frozen: usize| {
        // Not the link's own barrier: rank 0 would freeze before it has told the others that it is over.
        let all_here = Barrier::new(3);
        let lost = job(3, free_port(), |rank, control| {
            let control = control.unwrap();
            all_here.wait();
            let started = Instant::now();
            if rank == frozen {
                control.command(Command::Freeze(settings().silence * 2));
                return None;
            }
            let lost = control.await_failure().unwrap();
            assert!(started.elapsed() < settings().silence * 2);
            assert!(matches!(lost.how, Loss::Silent { .. }));
            Some(lost.rank)
        });
        let expected: Vec<_> = (0..3).map(|rank| (rank != frozen).then_some(frozen)).collect();
        assert_eq!(lost, expected);
    };
    std::thread::scope(|scope| {
        for thread in [0, 2].map(|frozen| scope.spawn(move || freeze(frozen))) {
            thread.join().unwrap();
        }
    });
}
