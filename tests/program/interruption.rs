//! Kills and signals: nothing is lost, nothing changes.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use verydeep::rng::{Purpose, Stream};

use crate::images::shards;
use crate::tool::{command, events, hashes, run_ok, small};

const NET: [&str; 6] = [
    "A",
    "--batch-norm",
    "--iterations",
    "60",
    "--checkpoint-every",
    "3",
];

fn spawn(flags: &[&str]) -> Child {
    command(flags)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The run that nobody disturbs.
fn undisturbed(folder: &Path) -> (String, String) {
    let run = folder.join("undisturbed");
    let mut flags = small(shards(), &run);
    flags.extend(NET);
    run_ok(flags);
    hashes(&run)
}

fn start_or_resume(run: &Path) -> Child {
    if run.join("recipe.toml").exists() {
        return spawn(&["train", "--resume", run.to_str().unwrap(), "--quiet"]);
    }
    let mut flags = small(shards(), run);
    flags.extend(NET);
    spawn(&flags)
}

fn finished_steps(run: &Path) -> usize {
    let text = std::fs::read_to_string(run.join("log.jsonl")).unwrap_or_default();
    text.lines()
        .filter(|line| line.contains("\"event\":\"step\""))
        .count()
}

/// Waits until the run's log has `steps` steps, or the process has ended.
pub(crate) fn wait_for_step(child: &mut Child, run: &Path, steps: usize) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while finished_steps(run) < steps && child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "no step {steps} within two minutes");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A seed to draw moments from; taken from VERYDEEP_TEST_SEED where that is set, and in every message.
pub(crate) fn fresh_seed() -> u64 {
    let said = std::env::var("VERYDEEP_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    said.unwrap_or_else(|| std::process::id().into())
}

#[test]
fn a_run_killed_at_random_moments_ends_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let expected = undisturbed(folder.path());
    let seed = fresh_seed();
    let mut draws = Stream::new(seed, 0, Purpose::Synthetic, 0);
    let run: PathBuf = folder.path().join("killed");
    let mut kills = 0;
    for target in (0..12).map(|kill| 1 + kill * 5) {
        let mut child = start_or_resume(&run);
        wait_for_step(&mut child, &run, target);
        std::thread::sleep(Duration::from_micros(draws.below(20_000)));
        child.kill().unwrap();
        kills += usize::from(child.wait().unwrap().signal() == Some(9));
    }
    assert!(
        kills >= 10,
        "only {kills} kills hit a running process, VERYDEEP_TEST_SEED={seed}"
    );
    assert!(start_or_resume(&run).wait().unwrap().success());
    assert_eq!(hashes(&run), expected, "VERYDEEP_TEST_SEED={seed}");
    let steps: Vec<_> = events(&run, "step")
        .iter()
        .map(|event| event["step"].as_u64().unwrap())
        .collect();
    assert_eq!(
        steps,
        (1..=60).collect::<Vec<_>>(),
        "every step stands in the log once"
    );
}

#[test]
fn a_signal_leaves_a_checkpoint_and_exit_75() {
    let folder = tempfile::tempdir().unwrap();
    let expected = undisturbed(folder.path());
    let run = folder.path().join("stopped");
    for (signal, name, step) in [
        (libc::SIGTERM, "SIGTERM", 5),
        (libc::SIGUSR1, "SIGUSR1", 20),
        (libc::SIGINT, "SIGINT", 30),
    ] {
        let mut child = start_or_resume(&run);
        wait_for_step(&mut child, &run, step);
        // SAFETY: sends a signal to a child that has not been waited for, so its id is still its own.
        unsafe { libc::kill(child.id() as i32, signal) };
        assert_eq!(child.wait().unwrap().code(), Some(75), "{name}");
        let end = events(&run, "end").pop().unwrap();
        assert_eq!(
            (end["reason"].as_str(), end["exit"].as_u64()),
            (Some(name), Some(75))
        );
        let saved = events(&run, "checkpoint").pop().unwrap();
        assert_eq!(
            saved["step"], end["step"],
            "nothing but the step under way is lost"
        );
        assert_eq!(saved["state_sha256"], end["state_sha256"]);
    }
    assert!(start_or_resume(&run).wait().unwrap().success());
    assert_eq!(hashes(&run), expected);
}

#[test]
fn a_torn_checkpoint_is_passed_over_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut flags = small(shards(), &run);
    flags.extend(["A", "--iterations", "6", "--checkpoint-every", "2"]);
    run_ok(flags);
    let expected = hashes(&run);
    let newest = run.join("checkpoints/step-000000006.safetensors");
    let whole = std::fs::read(&newest).unwrap();
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for damaged in [&whole[..whole.len() / 2], &whole[..3], &flipped[..]] {
        std::fs::write(&newest, damaged).unwrap();
        let output = command(["train", "--resume", run.to_str().unwrap()])
            .output()
            .unwrap();
        assert!(output.status.success());
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("step-000000006"),
            "the damaged file is named"
        );
        assert_eq!(
            hashes(&run),
            expected,
            "the steps since the checkpoint before are done again"
        );
        assert_eq!(
            std::fs::read(&newest).unwrap().len(),
            whole.len(),
            "and saved again"
        );
    }
    for entry in std::fs::read_dir(run.join("checkpoints")).unwrap() {
        std::fs::write(entry.unwrap().path(), b"torn").unwrap();
    }
    let said = crate::tool::run_fails(3, ["train", "--resume", run.to_str().unwrap()]);
    assert!(said.contains("safetensors"), "{said}");
}
