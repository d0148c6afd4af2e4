//! Kills and signals: nothing is lost, nothing changes.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use verydeep::rng::{Purpose, Stream};
use verydeep::train::Recipe;
use verydeep::train::event::Event;
use verydeep::train::log::{Line, read_log};
use verydeep::weights::{RunFolder, load};

use crate::images::{CLASSES, shards};
use crate::tool::{command, events, hashes, note, run_ok, said, small, test_seed};

const NET: [&str; 6] = [
    "A",
    "--batch-norm",
    "--iterations",
    "24",
    "--checkpoint-every",
    "3",
];

/// Steps of NET, and from one checkpoint to the next.
const STEPS: u64 = 24;
const INTERVAL: u64 = 3;

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

/// What kills have done so far.
#[derive(Debug, Default)]
struct Kills {
    /// Of processes that were running.
    kills: usize,
    /// Those before the run had a recipe, a log with a step, a checkpoint.
    before: [usize; 3],
    checkpoints_read: usize,
    steps_done_again: u64,
    runs_finished: usize,
}

impl Kills {
    /// Looks at a run whose process has been killed: every checkpoint is whole, every finished step stands in the log once,
    /// and no more of them are lost than those since the newest checkpoint. Gives its step.
    fn look(&mut self, run: &Path) -> u64 {
        let folder = RunFolder::new(run);
        if !folder.recipe().exists() {
            self.before[0] += 1;
            return 0;
        }
        let recipe = Recipe::read(&folder.recipe()).unwrap();
        let network = recipe.spec(CLASSES).build().unwrap();
        let mut state = [0; 2].map(|_| vec![0.0; network.flat_len()]);
        let checkpoints = folder.list_checkpoints().unwrap();
        for (step, path) in &checkpoints {
            let [weights, momentum] = &mut state;
            let read = load(path).and_then(|file| file.state(&network.parameters, weights, momentum));
            read.unwrap_or_else(|error| panic!("step {step}: {error}"));
            self.checkpoints_read += 1;
        }
        let newest = checkpoints.first().map_or(0, |(step, _)| *step);
        let steps: Vec<u64> = match folder.log().exists() {
            true => read_log(&folder.log())
                .unwrap()
                .iter()
                .filter_map(finished_step)
                .collect(),
            false => Vec::new(),
        };
        let finished = steps.len() as u64;
        assert_eq!(
            steps,
            (1..=finished).collect::<Vec<_>>(),
            "every step stands in the log once"
        );
        // A step begins after the checkpoint before it.
        assert!(
            newest + INTERVAL >= finished,
            "{finished} steps, newest checkpoint {newest}"
        );
        self.before[1] += usize::from(finished == 0);
        self.before[2] += usize::from(newest == 0);
        self.steps_done_again += finished.saturating_sub(newest);
        newest
    }
}

fn finished_step(line: &Line) -> Option<u64> {
    match line.event {
        Event::Step { step, .. } => Some(step),
        _ => None,
    }
}

/// Where the last process of a run began, if it has said so since `time`.
fn began_at(run: &Path, time: f64) -> Option<u64> {
    let lines = read_log(&RunFolder::new(run).log()).ok()?;
    lines.iter().rev().find_map(|line| match line.event {
        Event::Start { step, .. } => (line.time > time).then_some(step),
        _ => None,
    })
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs_f64()
}

/// At moments that are spread evenly over the life of a process, from its first instruction on; how long that is follows the
/// load of the machine. VERYDEEP_TEST_KILLS says how many.
#[test]
fn kills_at_random_moments_lose_no_checkpoint_and_change_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let expected = undisturbed(folder.path());
    let mut life = start.elapsed().as_micros() as u64;
    let mut draws = Stream::new(test_seed(), 0, Purpose::Synthetic, 0);
    let wanted = said("VERYDEEP_TEST_KILLS", 30);
    let run = folder.path().join("killed");
    let mut seen = Kills::default();
    let (mut newest, mut killed) = (0, 0.0);
    while seen.kills < wanted {
        let mut child = start_or_resume(&run);
        std::thread::sleep(Duration::from_micros(draws.below(life)));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        if let Some(step) = began_at(&run, killed) {
            assert_eq!(step, newest, "it goes on from the newest checkpoint");
        }
        if status.success() {
            seen.ends_alike(&run, &expected);
            (newest, killed) = (0, now());
            life -= life / 4;
            continue;
        }
        assert_eq!(status.signal(), Some(9));
        seen.kills += 1;
        life += life / 16;
        let before = newest;
        (newest, killed) = (seen.look(&run), now());
        assert!(newest >= before, "a checkpoint is lost");
    }
    assert!(start_or_resume(&run).wait().unwrap().success());
    seen.ends_alike(&run, &expected);
    note(&format!("{seen:?}"));
}

impl Kills {
    /// A run that has finished has the bits of the undisturbed one; makes room for the next.
    fn ends_alike(&mut self, run: &Path, expected: &(String, String)) {
        assert_eq!(hashes(run), *expected);
        let steps = events(run, "step").len() as u64;
        assert_eq!(steps, STEPS, "every step stands in the log once");
        self.runs_finished += 1;
        std::fs::remove_dir_all(run).unwrap();
    }
}

#[test]
fn a_signal_leaves_a_checkpoint_and_exit_75() {
    let folder = tempfile::tempdir().unwrap();
    let expected = undisturbed(folder.path());
    let run = folder.path().join("stopped");
    for (signal, name, step) in [
        (libc::SIGTERM, "SIGTERM", 5),
        (libc::SIGUSR1, "SIGUSR1", 10),
        (libc::SIGINT, "SIGINT", 16),
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
