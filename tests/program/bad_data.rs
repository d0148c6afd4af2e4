//! Limits on bad samples, and the list of them in the run folder.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::images::write_folder;
use crate::replicas::damage_an_image;
use crate::tool::{command, errors, events, hashes, run_fails, run_ok, small};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Shards whose first training image is damaged; its key.
fn damaged(folder: &Path) -> (PathBuf, String) {
    let (images, data) = (folder.join("images"), folder.join("shards"));
    write_folder(&images);
    run_ok(["pack", "--images", text(&images), "--out", text(&data)]);
    let key = damage_an_image(&data);
    (data, key)
}

fn listed(run: &Path) -> Vec<Value> {
    let list = fs::read_to_string(run.join("bad.jsonl")).unwrap();
    list.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_run_lists_each_bad_sample_once_and_ends_at_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let (data, key) = damaged(folder.path());
    let run = folder.path().join("run");
    let train = |run: &Path, more: &[&str]| -> Vec<String> {
        let mut flags = small(text(&data), run);
        flags.extend(["A", "--epochs", "3", "--max-bad"]);
        flags.extend(more);
        flags.into_iter().map(String::from).collect()
    };
    // 48 images: one of them is more than 2 % and less than 3 %.
    run_ok(train(&run, &["3%"]));
    assert!(events(&run, "bad_sample").len() >= 3, "each epoch meets it");
    let list = listed(&run);
    assert_eq!(list.len(), 1, "{list:?}");
    assert_eq!(
        (list[0]["key"].as_str(), list[0]["action"].as_str()),
        (Some(key.as_str()), Some("replaced"))
    );
    for field in ["shard", "offset", "reason"] {
        assert_eq!(list[0][field], events(&run, "bad_sample")[0][field], "{field}");
    }

    let strict = folder.path().join("strict");
    let message = run_fails(7, train(&strict, &["2%"]));
    assert!(
        message.contains("1 of 48 samples are bad") && message.contains(&key),
        "{message}"
    );
    assert_eq!(events(&strict, "end").pop().unwrap()["exit"], 7);
    assert_eq!(listed(&strict).len(), 1);

    // With another limit it goes on, to the weights of the run that was never ended; so do replicas.
    run_ok(["train", "--resume", text(&strict), "--max-bad", "1", "--quiet"]);
    assert_eq!(hashes(&strict), hashes(&run));
    assert_eq!(listed(&strict).len(), 1);
    let shared = folder.path().join("shared");
    let message = run_fails(7, train(&shared, &["0", "--replicas", "4"]));
    assert!(message.contains(&key), "{message}");
}

#[test]
fn pack_and_eval_keep_to_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    write_folder(&images);
    fs::write(images.join("train/class1/broken.jpg"), b"no image").unwrap();
    let pack = |out: &str, limit: &str| -> Vec<String> {
        let out = folder.path().join(out);
        let flags = [
            "pack",
            "--images",
            text(&images),
            "--out",
            text(&out),
            "--max-bad",
            limit,
        ];
        flags.map(String::from).to_vec()
    };
    let message = run_fails(7, pack("refused", "1%"));
    assert!(message.contains("1 of 69 samples are bad"), "{message}");
    assert!(!folder.path().join("refused").exists());
    run_ok(pack("shards", "2%"));

    let data = folder.path().join("shards");
    let run = folder.path().join("run");
    let mut flags = small(text(&data), &run);
    flags.extend(["A", "--iterations", "1"]);
    run_ok(flags);
    let eval = |limit: &str| -> Vec<String> {
        let flags = [
            "eval",
            "--data",
            text(&data),
            "--weights",
            text(&run),
            "--max-bad",
            limit,
            "--json",
        ];
        flags.map(String::from).to_vec()
    };
    run_ok(eval("0"));
    let shard = fs::read_dir(&data)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| text(path).ends_with("validation-0000.tar"));
    let shard = shard.unwrap();
    let mut bytes = fs::read(&shard).unwrap();
    bytes[1536 + 60] ^= 4;
    fs::write(&shard, bytes).unwrap();
    run_ok(eval("1"));
    let output = command(eval("0.1%")).output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", errors(&output));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (result["n"].as_u64(), result["bad"].as_array().unwrap().len()),
        (Some(19), 1)
    );
}
