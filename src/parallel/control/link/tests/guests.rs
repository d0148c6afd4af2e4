//! Who may come in, and who not.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;

use super::*;
use crate::parallel::control::message::Message;

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
    let (sent, over) = (&AtomicUsize::new(0), &AtomicBool::new(false));
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
                        Err(_) if over.load(Ordering::Relaxed) => return open,
                        Err(_) => std::thread::sleep(Duration::from_millis(5)),
                    }
                };
                // Rank 0 may have hung up already.
                let _ = stream.write_all(bytes);
                sent.fetch_add(1, Ordering::Relaxed);
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
                // Half of it comes before the job begins, the rest while it runs.
                while rank == 1 && sent.load(Ordering::Relaxed) < 140 {
                    std::thread::sleep(Duration::from_millis(1));
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
        let ended = ranks.map(|rank| rank.join());
        over.store(true, Ordering::Relaxed);
        ended.into_iter().for_each(|rank| rank.unwrap());
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
