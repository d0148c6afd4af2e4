//! Shards that are shortened while a run reads them: the run ends with the shard's name, and goes on once it is back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use verydeep::rng::{Purpose, Stream};

use crate::images::shards;
use crate::interruption::wait_for_step;
use crate::tool::{command, errors, hashes, run_ok, small, test_seed};

const NET: [&str; 6] = [
    "A",
    "--batch-norm",
    "--iterations",
    "200",
    "--checkpoint-every",
    "2",
];

fn copy_of_shards(to: &Path) -> PathBuf {
    let copy = to.join("shards");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(shards()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    copy
}

fn training_shards(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| {
            path.extension().is_some_and(|end| end == "tar") && path.to_string_lossy().contains("-train-")
        })
        .collect()
}

#[test]
fn a_run_whose_shards_are_shortened_names_one_and_goes_on_when_they_are_back() {
    let folder = tempfile::tempdir().unwrap();
    let (seed, undisturbed) = (test_seed(), folder.path().join("undisturbed"));
    let mut draw = Stream::new(seed, 0, Purpose::Synthetic, 0);
    let mut flags = small(shards(), &undisturbed);
    flags.extend(NET);
    run_ok(flags);
    let data = copy_of_shards(folder.path());
    for io in ["mmap", "pread"] {
        let run = folder.path().join(io);
        let mut flags = small(data.to_str().unwrap(), &run);
        flags.extend(NET);
        flags.extend(["--io", io]);
        let mut child = command(&flags)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_for_step(&mut child, &run, 3);
        let whole: Vec<_> = training_shards(&data)
            .into_iter()
            .map(|path| (fs::read(&path).unwrap(), path))
            .collect();
        for (bytes, path) in &whole {
            let file = fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(draw.below(bytes.len() as u64 / 4)).unwrap();
        }
        let output = child.wait_with_output().unwrap();
        let said = errors(&output);
        assert_eq!(
            output.status.code(),
            Some(3),
            "{io}, VERYDEEP_TEST_SEED={seed}: {:?} {said}",
            output.status
        );
        assert!(
            said.contains("-train-00") && said.contains("when it was opened"),
            "{io}: {said}"
        );
        for (bytes, path) in whole {
            fs::write(path, bytes).unwrap();
        }
        run_ok(["train", "--resume", run.to_str().unwrap(), "--quiet"]);
        assert_eq!(
            hashes(&run),
            hashes(&undisturbed),
            "{io}, VERYDEEP_TEST_SEED={seed}"
        );
    }
}

/// Nothing is lost with a name: a run that is under way has its files open.
#[test]
fn a_run_whose_shards_are_removed_goes_on_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let undisturbed = folder.path().join("undisturbed");
    let net = ["A", "--iterations", "40"];
    let mut flags = small(shards(), &undisturbed);
    flags.extend(net);
    run_ok(flags);
    for io in ["mmap", "pread"] {
        let place = folder.path().join(format!("data-{io}"));
        fs::create_dir(&place).unwrap();
        let data = copy_of_shards(&place);
        let run = folder.path().join(io);
        let mut flags = small(data.to_str().unwrap(), &run);
        flags.extend(net);
        flags.extend(["--io", io]);
        let mut child = command(&flags)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for_step(&mut child, &run, 2);
        fs::remove_dir_all(&data).unwrap();
        assert!(child.wait().unwrap().success(), "{io}");
        assert_eq!(hashes(&run), hashes(&undisturbed), "{io}");
    }
}
