//! The same weights, to the bit, on any number of replicas.

use std::path::Path;
use std::time::Duration;

use crate::images::{shards, write_folder};
use crate::tool::{command, errors, events, hashes, run_fails, run_ok, said, small, with};

const NETS: [&[&str]; 4] = [&["A"], &["D"], &["A-LRN"], &["A", "--batch-norm"]];

/// Eight micro-batches of three images, with dropout, random scales, crops, flips and colours.
fn eight_leaves<'a>(run: &'a Path, net: &[&'a str]) -> Vec<&'a str> {
    let mut flags = small(shards(), run);
    let batch = flags.iter().position(|flag| *flag == "--batch").unwrap();
    flags[batch + 1] = "24";
    flags.extend(net);
    flags
}

fn losses(run: &Path) -> Vec<String> {
    let mut steps = events(run, "step");
    steps.extend(events(run, "validation"));
    steps.iter().map(|step| step["loss"].to_string()).collect()
}

#[test]
fn any_number_of_replicas_and_threads_gives_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let steps = said("VERYDEEP_TEST_STEPS", 6).to_string();
    for net in NETS {
        let splits = [(1, 2), (2, 1), (2, 2), (4, 2), (8, 1)];
        let trained = splits.map(|(replicas, threads)| {
            let run = folder
                .path()
                .join(format!("{}-{replicas}-{threads}", net.concat()));
            let (replicas, threads) = (replicas.to_string(), threads.to_string());
            let mut flags = eight_leaves(&run, net);
            flags.extend(["--iterations", &steps, "--validate-every", "3"]);
            flags.extend(["--replicas", &replicas, "--threads", &threads]);
            run_ok(flags);
            (hashes(&run), losses(&run))
        });
        for (split, other) in splits.iter().zip(&trained) {
            assert_eq!(*other, trained[0], "{net:?}, replicas and threads {split:?}");
        }
    }
}

/// Trains as said until `step` steps are in the log, then is killed; says whether it was still there.
fn killed_after(step: usize, run: &Path, flags: &[&str]) -> bool {
    let mut child = command(flags).spawn().unwrap();
    let steps = || {
        let log = std::fs::read_to_string(run.join("log.jsonl")).unwrap_or_default();
        log.matches(r#""event":"step""#).count()
    };
    while steps() < step && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    !child.wait().unwrap().success()
}

/// A checkpoint of some replicas is one of any number of them, also of one that was killed. VERYDEEP_TEST_STEPS as above.
#[test]
fn a_run_that_changes_its_replicas_at_every_resumption_ends_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let steps = said("VERYDEEP_TEST_STEPS", 24);
    let iterations = steps.to_string();
    for net in NETS {
        let place = |name: &str| folder.path().join(format!("{}-{name}", net.concat()));
        let (steady, restless) = (place("steady"), place("restless"));
        let flags = |run| {
            let mut flags = with(eight_leaves(run, net), "--schedule", "plateau");
            flags.extend(["--checkpoint-every", "2", "--iterations", &iterations]);
            flags
        };
        run_ok(flags(&steady));
        let run = restless.to_str().unwrap();
        let mut kills = 0;
        for (quarter, replicas) in [(1, "4"), (2, "2"), (3, "8")] {
            let resume = vec!["train", "--resume", run, "--quiet"];
            let mut flags = if quarter == 1 { flags(&restless) } else { resume };
            flags.extend(["--replicas", replicas]);
            kills += usize::from(killed_after(steps * quarter / 4, &restless, &flags));
        }
        assert!(kills > 0, "{net:?}: all ended before they could be killed");
        run_ok(["train", "--resume", run, "--replicas", "1", "--quiet"]);
        assert_eq!(hashes(&steady), hashes(&restless), "{net:?}");
    }
}

/// The folds of all replicas are the folds of one.
#[test]
fn diff_compares_runs_of_different_numbers_of_replicas() {
    let folder = tempfile::tempdir().unwrap();
    let (one, four) = (folder.path().join("one"), folder.path().join("four"));
    for (run, replicas) in [(&one, "1"), (&four, "4")] {
        let mut flags = eight_leaves(run, &["A", "--iterations", "2", "--folds"]);
        flags.extend(["--replicas", replicas]);
        run_ok(flags);
    }
    run_ok(["diff", one.to_str().unwrap(), four.to_str().unwrap()]);
    assert_eq!(
        events(&one, "folds")[1]["folds"],
        events(&four, "folds")[1]["folds"]
    );
}

#[test]
fn replicas_that_cannot_own_a_subtree_are_refused_with_what_would_do() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let refused = |replicas| {
        let mut flags = eight_leaves(&run, &["A", "--iterations", "1"]);
        flags.extend(["--replicas", replicas]);
        run_fails(3, flags)
    };
    let message = refused("16");
    assert!(
        message.contains("expected 1, 2, 4, 8 for 8 micro-batches of 3, found 16"),
        "{message}"
    );
    assert!(
        message.contains("no --micro-batch of --batch 24 allows 16"),
        "{message}"
    );
    let message = refused("3");
    assert!(message.contains("powers of two share a batch"), "{message}");
    let message = refused("0");
    assert!(message.contains("found 0"), "{message}");
    assert!(!run.exists(), "nothing was started");

    let mut flags = eight_leaves(&run, &["A", "--iterations", "1", "--replicas", "8"]);
    let size = flags.iter().position(|flag| *flag == "--micro-batch").unwrap();
    flags[size + 1] = "6";
    let message = run_fails(3, flags);
    assert!(message.contains("--micro-batch 3 would allow 8"), "{message}");
}

#[test]
fn a_gradient_that_is_not_finite_ends_all_replicas() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut flags = eight_leaves(&run, &["A", "--iterations", "30", "--lr", "1e6"]);
    flags.extend(["--replicas", "4"]);
    let message = run_fails(6, flags);
    assert!(message.contains("not finite"), "{message}");
    assert_eq!(events(&run, "end").pop().unwrap()["exit"], 6);
}

/// Overwrites the first training image of the shards in `data`; its key.
pub(crate) fn damage_an_image(data: &Path) -> String {
    let index = std::fs::read_dir(data)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_str().unwrap().ends_with("train-0000.idx"));
    let index = index.unwrap();
    let text = std::fs::read_to_string(&index).unwrap();
    let sample = text.lines().nth(1).unwrap();
    let words: Vec<_> = sample.split(' ').collect();
    let image = words.chunks(4).find(|member| member[0] == "png").unwrap();
    let (offset, size): (usize, usize) = (image[1].parse().unwrap(), image[2].parse().unwrap());
    let shard = index.with_extension("tar");
    let mut bytes = std::fs::read(&shard).unwrap();
    bytes[offset..offset + size].fill(7);
    std::fs::write(shard, bytes).unwrap();
    image[3].trim_end_matches(".png").into()
}

/// A failure of one replica ends all of them, with its own words and exit code.
#[test]
fn what_one_replica_cannot_read_ends_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let (images, data) = (folder.path().join("images"), folder.path().join("shards"));
    write_folder(&images);
    run_ok([
        "pack",
        "--images",
        images.to_str().unwrap(),
        "--out",
        data.to_str().unwrap(),
        "--json",
    ]);
    let key = damage_an_image(&data);
    let ends = ["1", "8"].map(|replicas| {
        let run = folder.path().join(replicas);
        let mut flags = eight_leaves(&run, &["A", "--epochs", "1", "--on-bad", "fail"]);
        let shards = flags.iter().position(|flag| *flag == "--data").unwrap();
        flags[shards + 1] = data.to_str().unwrap();
        flags.extend(["--replicas", replicas]);
        let message = errors(&command(flags).output().unwrap());
        assert!(message.contains(&key), "{message}");
        events(&run, "end").pop().unwrap()
    });
    assert_ne!(ends[0]["exit"], 0);
    assert_eq!(ends[0]["exit"], ends[1]["exit"]);
    assert_eq!(ends[0]["step"], ends[1]["step"]);
    assert_eq!(ends[0]["state_sha256"], ends[1]["state_sha256"]);
}
