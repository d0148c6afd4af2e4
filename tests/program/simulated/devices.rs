//! Several simulated GPUs, one replica on each: the weights of one, to the bit; no rule of CUDA's or NCCL's broken.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::evaluation::trained;
use crate::images::{shards, write_folder};
use crate::replicas::damage_an_image;
use crate::tool::{command, errors, events, hashes, run_ok, small, with};

fn on_devices(flags: &[&str], seed: &str) -> Command {
    let mut command = command(flags);
    command
        .env("VERYDEEP_SIMULATE_CUDA", "8")
        .env("CUDASIM_SEED", seed);
    command
}

pub(super) fn run(flags: &[&str], seed: &str) -> Output {
    let output = on_devices(flags, seed).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    assert!(!errors(&output).contains("cudasim:"), "{}", errors(&output));
    output
}

/// Two steps with a checkpoint after each.
fn two_steps<'a>(run: &'a Path, net: &[&'a str], device: &'a str) -> Vec<&'a str> {
    let mut flags = small(shards(), run);
    flags.extend(["--iterations", "2", "--checkpoint-every", "1", "--device", device]);
    // After --config.
    let config = flags.iter().position(|flag| *flag == "--config").unwrap();
    flags.splice(config + 1..config + 1, net.iter().copied());
    flags
}

/// The simulated device multiplies with plain loops: here, neither what is computed beside an image nor on which device
/// changes its posteriors.
#[test]
fn posteriors_do_not_depend_on_batches_and_devices() {
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("posteriors");
    let weights = trained().to_str().unwrap();
    let posteriors = |device: &str, batch: &str, replicas: &str| {
        let look = ["--protocol", "dense", "--scales", "64"];
        let place = ["--device", device, "--batch", batch, "--replicas", replicas];
        let mut flags = vec!["eval", "--data", shards(), "--weights", weights];
        flags.extend([&look[..], &place].concat());
        flags.extend(["--save-posteriors", saved.to_str().unwrap()]);
        run(&flags, batch);
        std::fs::read(&saved).unwrap()
    };
    let expected = posteriors("cuda:0", "20", "1");
    for (device, batch, replicas) in [("cuda:0", "3", "1"), ("cuda:0", "7", "3"), ("cuda:1-2", "5", "2")] {
        assert!(
            posteriors(device, batch, replicas) == expected,
            "{device}, batches of {batch}, {replicas} replicas"
        );
    }
}

/// A checkpoint of four replicas, whose momentum lay in slices, is one of any number.
#[test]
fn a_run_goes_on_with_other_devices() {
    let folder = tempfile::tempdir().unwrap();
    let (steady, restless) = (folder.path().join("steady"), folder.path().join("restless"));
    let flags = |run, device, iterations| {
        let flags = with(two_steps(run, &["A"], device), "--schedule", "plateau");
        with(flags, "--iterations", iterations)
    };
    run(&flags(&steady, "cuda:2", "3"), "1");
    run(&flags(&restless, "cuda:0-3", "1"), "2");
    for (device, iterations) in [("cuda:0-1", "2"), ("cuda:5", "3")] {
        let again = restless.to_str().unwrap();
        run(
            &[
                "train",
                "--resume",
                again,
                "--device",
                device,
                "--iterations",
                iterations,
                "--quiet",
            ],
            iterations,
        );
    }
    assert_eq!(hashes(&steady), hashes(&restless));
}

#[test]
fn a_reduction_of_nccls_own_is_another_decision() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let to = at("two");
    let mut flags = two_steps(&to, &["A"], "cuda:0-1");
    flags.extend(["--reduce", "nccl"]);
    run(&flags, "1");
    let end = events(&to, "end").pop().unwrap();
    assert_eq!((&end["exit"], &end["step"]), (&0.into(), &2.into()));
    // Its bits depend on the number of replicas.
    let run = to.to_str().unwrap();
    let output = on_devices(
        &[
            "train",
            "--resume",
            run,
            "--device",
            "cuda:0-3",
            "--iterations",
            "3",
        ],
        "1",
    )
    .output()
    .unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", errors(&output));
    assert!(errors(&output).contains("recipe_sha256"), "{}", errors(&output));

    let one = at("one");
    let mut flags = two_steps(&one, &["A"], "cuda:0");
    flags.extend(["--reduce", "nccl"]);
    let output = on_devices(&flags, "1").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", errors(&output));
    assert!(!one.exists());
}

fn wait(mut child: Child) -> Output {
    let deadline = Instant::now() + Duration::from_secs(60);
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it hangs");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

/// On the way of gradients to their owners, of the flag, of weights back, and of momentum before a checkpoint: all replicas
/// end, with the reason, and nothing hangs or leaks.
#[test]
fn a_collective_that_fails_ends_all_replicas() {
    let folder = tempfile::tempdir().unwrap();
    for number in [1, 40, 266, 400, 700] {
        let to = folder.path().join(number.to_string());
        let flags = two_steps(&to, &["A"], "cuda:0-3");
        let child = on_devices(&flags, "1")
            .env("CUDASIM_FAIL", format!("collective:{number}"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = wait(child);
        let message = errors(&output);
        assert_eq!(output.status.code(), Some(4), "collective {number}: {message}");
        assert!(message.contains("NCCL"), "collective {number}: {message}");
    }
}

/// What one replica alone cannot read ends all of them, though they wait for what it would have sent.
#[test]
fn an_image_that_one_replica_cannot_read_ends_all_replicas() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (images, data, to) = (at("images"), at("shards"), at("run"));
    write_folder(&images);
    let [from, shards] = [&images, &data].map(|path| path.to_str().unwrap());
    run_ok(["pack", "--images", from, "--out", shards, "--json"]);
    let key = damage_an_image(&data);
    let mut flags = with(two_steps(&to, &["A"], "cuda:0-3"), "--iterations", "8");
    flags = with(flags, "--data", shards);
    flags.extend(["--on-bad", "fail"]);
    let child = on_devices(&flags, "1")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let output = wait(child);
    let message = errors(&output);
    assert!(message.contains(&key), "{message}");
    let end = events(&to, "end").pop().unwrap();
    assert_eq!(
        end["exit"].as_i64(),
        output.status.code().map(i64::from),
        "{message}"
    );
    assert_ne!(end["exit"], 0);
}

#[test]
fn a_signal_stops_all_replicas_after_the_same_step() {
    let folder = tempfile::tempdir().unwrap();
    let (stopped, whole) = (folder.path().join("stopped"), folder.path().join("whole"));
    let flags = |run, device| with(two_steps(run, &["A"], device), "--iterations", "4");
    let child = on_devices(&flags(&stopped, "cuda:0-1"), "1")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let steps = || std::fs::read_to_string(stopped.join("log.jsonl")).unwrap_or_default();
    while !steps().contains("\"event\":\"step\"") {
        assert!(Instant::now() < deadline, "no step");
        std::thread::sleep(Duration::from_millis(5));
    }
    // SAFETY: the child has not been waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    let output = wait(child);
    assert_eq!(output.status.code(), Some(75), "{}", errors(&output));
    let again = stopped.to_str().unwrap();
    run(&["train", "--resume", again, "--quiet"], "2");
    run(&flags(&whole, "cuda:0"), "3");
    assert_eq!(hashes(&whole), hashes(&stopped));
}

#[test]
fn devices_are_named_once_and_all_of_them_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("run");
    for (device, code, says) in [
        ("cuda:0,0", 2, "each device once"),
        ("cuda:3-1", 2, "cuda:N-M"),
        ("cuda:0-2", 3, "expected 1, 2, 4 for 4 micro-batches"),
        ("cuda:7-8", 4, "there are 8 devices"),
    ] {
        let output = on_devices(&two_steps(&to, &["A"], device), "1").output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{device}: {}", errors(&output));
        assert!(errors(&output).contains(says), "{device}: {}", errors(&output));
        assert!(!to.exists());
    }
}
