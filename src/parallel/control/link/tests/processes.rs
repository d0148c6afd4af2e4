//! Ranks that are processes: signals reach them.

use std::io::{Read, Write};
use std::process::{Child, Command as Program, Stdio};

use super::*;

/// Writes a line to standard error, past the test harness.
pub(crate) fn say(line: &str) {
    let path = "/proc/self/fd/2";
    let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// What a step of the processes takes.
const WORK: Duration = Duration::from_millis(20);

/// Steps after which the processes count as running: five heartbeats, of which each tells the others about steps.
fn enough_steps() -> u64 {
    (5 * settings().beat.as_millis() / WORK.as_millis()) as u64
}

/// The program of the tests below: a rank that works until it is stopped or somebody is lost. It exits as the trainer
/// does, and writes the error to standard error.
#[test]
#[ignore = "started by other tests"]
fn process_of_a_job() {
    let launch = Launch::from_env().unwrap();
    if launch.launcher == Launcher::Solo {
        return; // a run of all ignored tests
    }
    let outcome = Control::join(&launch, hello(&launch), settings()).and_then(|control| {
        let mut step = 0;
        while control.stop_wanted(step, None)?.is_none() {
            control.beat(step, "reduce");
            std::thread::sleep(WORK);
            control.barrier("step")?;
            step += 1;
            if launch.rank == 0 && step == enough_steps() {
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

/// Processes that do not outlive the test.
struct Processes(Vec<Child>);

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Those that have ended have no need of it.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Four processes of [`process_of_a_job`], once they work.
fn processes() -> Processes {
    let meeting = format!("{LOOPBACK}:{}", free_port());
    let children = (0..4)
        .map(|rank| {
            Program::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "parallel::control::link::tests::processes::process_of_a_job",
                ])
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
    let mut processes = Processes(children);
    let mut seen = Vec::new();
    let errors = processes.0[0].stderr.as_mut().unwrap();
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
    processes
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
        let mut processes = processes();
        let children = &mut processes.0;
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
    }
}
