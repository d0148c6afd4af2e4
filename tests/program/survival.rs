//! Disks that fail: every operation of every file that a run, or `pack`, must not lose, one at a time. What was saved
//! before is still there, the program says what it could not do, and goes on where it stopped once the disk is well.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Output, Stdio};

use verydeep::durable::Lock;

use crate::images::{folder as images, shards};
use crate::tool::{command, copy_folder, errors, events, hashes, run_fails, run_ok, said, small};

const FAULT: &str = "VERYDEEP_FAULT";

/// Runs the program with faults.
fn faulty(flags: &[&str], faults: &str) -> Output {
    command(flags).env(FAULT, faults).output().unwrap()
}

/// Every operation of the program on paths that contain `part`, in order.
fn operations(flags: &[&str], part: &str) -> Vec<String> {
    let list = tempfile::NamedTempFile::new().unwrap();
    let output = faulty(flags, &format!("list={}", list.path().display()));
    assert!(output.status.success(), "{}", errors(&output));
    let text = fs::read_to_string(list.path()).unwrap();
    let own = text.lines().filter(|line| line.contains(part));
    own.map(String::from).collect()
}

/// Ways in which operation `at` of those on `part` goes wrong: the system refuses once, the disk stays full, a write is cut
/// short before the disk is full, the process dies before it or in the middle of it. Two of the six, in turn, unless
/// VERYDEEP_TEST_WAYS says more.
fn ways(at: usize, part: &str) -> impl Iterator<Item = String> {
    let all = [
        format!("ENOSPC@{at}:{part}"),
        format!("die@{at}:{part}"),
        format!("ENOSPC@{at}+:{part}"),
        format!("tear@{at}:{part}"),
        format!("short@{at}:{part},ENOSPC@{}+:{part}", at + 1),
        format!("EIO@{at}:{part}"),
    ];
    let turns = all.into_iter().cycle().skip(2 * at % 6);
    turns.take(said("VERYDEEP_TEST_WAYS", 2))
}

fn died(output: &Output) -> bool {
    output.status.signal() == Some(libc::SIGABRT)
}

fn resume(run: &Path) -> Vec<&str> {
    vec!["train", "--resume", run.to_str().unwrap(), "--quiet"]
}

/// A run that is interrupted after step 2, where it has a checkpoint, and one of the same recipe that goes to its end.
struct Runs {
    folder: tempfile::TempDir,
    expected: (String, String),
}

const NET: [&str; 5] = ["A", "--checkpoint-every", "2", "--iterations", "4"];

impl Runs {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (whole, begun) = (folder.path().join("whole"), folder.path().join("begun"));
        let mut flags = small(shards(), &whole);
        flags.extend(NET);
        run_ok(flags);
        let mut flags = small(shards(), &begun);
        flags.extend(NET);
        // The second checkpoint is never begun.
        let output = faulty(&flags, "die@1:step-000000004");
        assert!(died(&output), "{}", errors(&output));
        let expected = hashes(&whole);
        Self { folder, expected }
    }

    /// A copy of the interrupted run.
    fn begun(&self, name: &str) -> std::path::PathBuf {
        let run = self.folder.path().join(name);
        copy_folder(&self.folder.path().join("begun"), &run);
        run
    }

    /// Goes on without faults: the run is what it would have been.
    fn ends_well(&self, run: &Path, why: &str) {
        let output = command(resume(run)).output().unwrap();
        assert!(output.status.success(), "{why}: {}", errors(&output));
        assert_eq!(hashes(run), self.expected, "{why}");
        let steps: Vec<_> = events(run, "step")
            .iter()
            .map(|e| e["step"].as_u64().unwrap())
            .collect();
        assert_eq!(steps, [1, 2, 3, 4], "{why}");
        let left: Vec<_> = [run, &run.join("checkpoints")]
            .into_iter()
            .flat_map(|folder| fs::read_dir(folder).unwrap())
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains("partial"))
            .collect();
        assert!(left.is_empty(), "{why}: {left:?}");
    }
}

/// Every operation of saving the checkpoint of step 4 in each way: whatever happens, that of step 2 loads.
#[test]
fn every_operation_of_a_checkpoint_may_fail() {
    let runs = Runs::new();
    let part = "checkpoints";
    let operations = operations(&resume(&runs.begun("listed")), part);
    let kinds: Vec<&str> = operations
        .iter()
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    assert_eq!(kinds[..2], ["create", "write"]);
    assert_eq!(kinds[kinds.len() - 3..], ["sync", "rename", "sync-folder"]);
    assert!(kinds.len() > 5, "{operations:?}");
    for at in 1..=operations.len() {
        for (way, faults) in ways(at, part).enumerate() {
            let why = format!("{faults}, at {}", operations[at - 1]);
            let run = runs.begun(&format!("run-{at}-{way}"));
            let output = faulty(&resume(&run), &faults);
            let said = errors(&output);
            let last = fs::read_dir(run.join("checkpoints")).unwrap().count();
            if died(&output) {
                assert!(
                    faults.starts_with("die") || faults.starts_with("tear"),
                    "{why}: {said}"
                );
            } else if output.status.code() == Some(0) {
                // A write that was cut short where none follows.
                assert!(faults.starts_with("short") && at == operations.len(), "{why}");
            } else {
                assert_eq!(output.status.code(), Some(9), "{why}: {said}");
                assert!(
                    said.contains("os error") && said.contains("checkpoints"),
                    "{why}: {said}"
                );
                assert!(said.contains("--resume"), "{why}: {said}");
                assert!(last <= 2, "{why}: nothing unfinished stays");
            }
            run_ok([
                "inspect",
                run.join("checkpoints/step-000000002.safetensors")
                    .to_str()
                    .unwrap(),
            ]);
            runs.ends_well(&run, &why);
            fs::remove_dir_all(&run).unwrap();
        }
    }
}

/// The same for the log. Its lines are whole or not there, and the state of the last step is saved if that can be done.
#[test]
fn every_operation_of_the_log_may_fail() {
    let runs = Runs::new();
    let part = "log.jsonl";
    let operations = operations(&resume(&runs.begun("listed")), part);
    assert!(operations.len() >= 8, "{operations:?}");
    for at in 1..=operations.len() {
        for (way, faults) in ways(at, part).enumerate() {
            let why = format!("{faults}, at {}", operations[at - 1]);
            let run = runs.begun(&format!("run-{at}-{way}"));
            let output = faulty(&resume(&run), &faults);
            let said = errors(&output);
            match output.status.code() {
                Some(9) => assert!(
                    said.contains("log.jsonl") && said.contains("os error"),
                    "{why}: {said}"
                ),
                Some(0) => assert!(faults.starts_with("short") && at == operations.len(), "{why}"),
                _ => assert!(died(&output), "{why}: {said}"),
            }
            let text = fs::read_to_string(run.join("log.jsonl")).unwrap();
            let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            for line in whole {
                serde_json::from_str::<serde_json::Value>(line)
                    .unwrap_or_else(|e| panic!("{why}: {line}: {e}"));
            }
            runs.ends_well(&run, &why);
            fs::remove_dir_all(&run).unwrap();
        }
    }
}

/// The same for everything that a run does from its folder to its end. Before it has a recipe the command can be given again.
#[test]
fn every_operation_of_a_whole_run_may_fail() {
    let folder = tempfile::tempdir().unwrap();
    fn flags(run: &Path) -> Vec<&str> {
        let mut flags = small(shards(), run);
        flags.extend(["A", "--iterations", "1"]);
        flags
    }
    let listed = folder.path().join("listed");
    let all = operations(&flags(&listed), "listed");
    let expected = hashes(&listed);
    let begun = [
        "create-folder",
        "open",
        "lock",
        "truncate",
        "write",
        "create",
        "write",
        "sync",
        "rename",
        "sync-folder",
    ];
    let kinds: Vec<&str> = all.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(kinds[..begun.len()], begun, "the folder, its lock, the recipe");
    assert!(all.len() > 25, "{all:?}");
    for at in 1..=all.len() {
        for (way, faults) in ways(at, "run-").enumerate() {
            let why = format!("{faults}, at {}", all[at - 1]);
            let run = folder.path().join(format!("run-{at}-{way}"));
            let output = faulty(&flags(&run), &faults);
            let said = errors(&output);
            let what_to_do = if run.join("recipe.toml").exists() {
                "--resume"
            } else {
                "again"
            };
            match output.status.code() {
                Some(9) => assert!(
                    said.contains("os error") && said.contains(what_to_do),
                    "{why}: {said}"
                ),
                _ => assert!(died(&output), "{why}: {said}"),
            }
            if run.join("recipe.toml").exists() {
                run_ok(resume(&run));
            } else {
                run_ok(flags(&run));
            }
            assert_eq!(hashes(&run), expected, "{why}");
            fs::remove_dir_all(&run).unwrap();
        }
    }
}

/// What cannot be removed costs room and nothing else.
#[test]
fn an_old_checkpoint_that_cannot_be_removed_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut flags = small(shards(), &run);
    flags.extend(["A", "--iterations", "3", "--checkpoint-every", "1"]);
    // The sixth operation on it, after create, write, write, sync and rename.
    let listed = folder.path().join("listed");
    let mut same = small(shards(), &listed);
    same.extend(["A", "--iterations", "3", "--checkpoint-every", "1"]);
    let first = operations(&same, "step-000000001");
    assert!(first.last().unwrap().starts_with("remove "), "{first:?}");
    let output = faulty(&flags, &format!("EIO@{}:step-000000001", first.len()));
    assert!(output.status.success(), "{}", errors(&output));
    let warnings = events(&run, "warning");
    let message = warnings[0]["message"].as_str().unwrap();
    assert!(
        message.contains("step-000000001") && message.contains("os error"),
        "{message}"
    );
    assert_eq!(hashes(&run), hashes(&listed));
    assert_eq!(fs::read_dir(run.join("checkpoints")).unwrap().count(), 3);
    assert_eq!(fs::read_dir(listed.join("checkpoints")).unwrap().count(), 2);
}

/// Shards: every operation of packing. The folder has its name when it is whole, and never before; a second attempt gives
/// the bytes of an undisturbed one.
#[test]
fn every_operation_of_pack_may_fail() {
    each_operation_of_pack_fails(None);
}

/// The same where a `pack` before has died after its first shard, and where that one is of other options.
#[test]
fn every_operation_of_a_pack_that_goes_on_may_fail() {
    each_operation_of_pack_fails(Some("40"));
    each_operation_of_pack_fails(Some("39"));
}

/// `begun` is the shard size of a `pack` before.
fn each_operation_of_pack_fails(begun: Option<&str>) {
    let temporary = tempfile::tempdir().unwrap();
    let out = |name: &str| temporary.path().join(name);
    let unfinished = |name: &str| temporary.path().join(format!(".{name}.unfinished"));
    fn flags<'a>(out: &'a Path, size: &'a str) -> Vec<&'a str> {
        let images = images().to_str().unwrap();
        let out = out.to_str().unwrap();
        vec!["pack", "--images", images, "--out", out, "--shard-size", size]
    }
    // Where a pack finds what one before has left.
    let start = |name: &str| {
        if let Some(size) = begun {
            let output = faulty(&flags(&out(name), size), "die@1:train-0001.tar");
            assert!(died(&output), "{}", errors(&output));
        }
        out(name)
    };
    let whole = start("whole");
    let operations = operations(&flags(&whole, "40"), "whole");
    let expected = crate::tool::contents(&whole);
    assert!(operations.len() > 25, "{operations:?}");
    let renamed = operations
        .iter()
        .position(|line| line == &format!("rename {}", whole.display()))
        .unwrap();
    for at in 1..=operations.len() {
        for (way, faults) in ways(at, "out-").enumerate() {
            let why = format!("{faults}, at {}", operations[at - 1]);
            let name = format!("out-{at}-{way}");
            let out = start(&name);
            let output = faulty(&flags(&out, "40"), &faults);
            let said = errors(&output);
            // What is cut short fails at the next operation, if there is one.
            let fails_at = at + usize::from(faults.starts_with("short"));
            match output.status.code() {
                Some(3) => assert!(said.contains("os error"), "{why}: {said}"),
                Some(0) => assert!(fails_at > operations.len(), "{why}"),
                _ => assert!(died(&output), "{why}: {said}"),
            }
            let is_named = fails_at > renamed + 1;
            assert_eq!(out.exists(), is_named, "{why}");
            if !is_named {
                let is_said = said.contains("goes on after them");
                assert!(!is_said || unfinished(&name).exists(), "{why}: {said}");
                run_ok(flags(&out, "40"));
            }
            let mut found = crate::tool::contents(&out);
            // Only what comes after the name is missing: the removal of the lock's file and the journal.
            for name in [".lock", ".journal"] {
                found.remove(name);
            }
            assert!(found == expected, "{why}");
            fs::remove_dir_all(&out).unwrap();
        }
    }
    let names: Vec<_> = fs::read_dir(temporary.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with('.'))
        .collect();
    assert!(names.is_empty(), "{names:?}");
}

/// A run folder and a folder of shards have one writer at a time; whoever is killed holds nothing.
#[test]
fn a_second_process_is_refused_by_name_until_the_first_has_died() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut flags = small(shards(), &run);
    flags.extend(["A", "--iterations", "100000", "--checkpoint-every", "1"]);
    let mut first = command(&flags)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !run.join("log.jsonl").exists() {
        assert!(first.try_wait().unwrap().is_none());
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let said = run_fails(3, resume(&run));
    assert!(said.contains(&format!("process {}", first.id())), "{said}");
    first.kill().unwrap();
    first.wait().unwrap();
    // The length is a decision of a cosine's run, and the first may have left a checkpoint that knows it.
    run_ok([
        "train",
        "--resume",
        run.to_str().unwrap(),
        "--iterations",
        "1",
        "--allow-drift",
        "--quiet",
    ]);

    // Two that begin at once: one of them trains.
    let run = folder.path().join("raced");
    let mut flags = small(shards(), &run);
    flags.extend(["A", "--iterations", "2"]);
    let both = [0; 2].map(|_| {
        command(&flags)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    });
    let mut codes = both.map(|mut child| child.wait().unwrap().code().unwrap());
    codes.sort_unstable();
    assert_eq!(codes, [0, 3]);
    let steps: Vec<_> = events(&run, "step")
        .iter()
        .map(|e| e["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [1, 2]);
}

/// Shards grow in one place for each destination.
#[test]
fn a_second_pack_is_refused_by_name_and_clears_away_what_a_dead_one_left() {
    let temporary = tempfile::tempdir().unwrap();
    let (out, growing) = (
        temporary.path().join("out"),
        temporary.path().join(".out.unfinished"),
    );
    fs::create_dir(&growing).unwrap();
    fs::write(growing.join("images-train-0000.tar"), b"half").unwrap();
    let flags = [
        "pack",
        "--images",
        images().to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ];
    let lock = Lock::take(&growing.join(".lock")).unwrap();
    let said = run_fails(3, flags);
    let own = format!("{} is in use by process {}", out.display(), std::process::id());
    assert!(said.contains(&own), "{said}");
    assert!(!out.exists());
    drop(lock);
    run_ok(flags);
    run_ok(["verify", out.to_str().unwrap()]);
    assert!(!growing.exists());
}

#[test]
fn a_file_system_without_locks_is_said_and_the_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut flags = small(shards(), &run);
    flags.extend(["A", "--iterations", "1"]);
    let output = faulty(&flags, "ENOLCK@2:.lock");
    let said = errors(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("gives no lock") && said.contains("os error"),
        "{said}"
    );
}

#[test]
fn a_variable_that_nobody_can_read_is_refused() {
    let output = faulty(&["plan", "--config", "A"], "ENOSPC");
    assert_eq!(output.status.code(), Some(2));
    assert!(errors(&output).contains("KIND@N"), "{}", errors(&output));
}
