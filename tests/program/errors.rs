//! Bad input: the right exit code, a message that says what to do, no panic, nothing written.

use std::fs;

use crate::images::{folder, shards};
use crate::tool::{run_fails, run_ok, small};

#[test]
fn bad_flags_are_usage_errors() {
    for flags in [
        &["train"][..],
        &["train", "--data", "x", "--run", "y", "--config", "F"],
        &[
            "train",
            "--data",
            "x",
            "--run",
            "y",
            "--config",
            "A",
            "--schedule",
            "linear",
        ],
        &[
            "train",
            "--data",
            "x",
            "--run",
            "y",
            "--config",
            "A",
            "--precision",
            "fp8",
        ],
        &[
            "train", "--data", "x", "--run", "y", "--config", "A", "--reduce", "nccl",
        ],
        &["eval", "--data", "x", "--weights", "y", "--replicas", "0"],
        &[
            "reproduce",
            "table3",
            "--data",
            "x",
            "--device",
            "cuda:0-1",
            "--replicas",
            "3",
        ],
        &["predict", "--weights", "y", "x.png", "--replicas", "2"],
        &[
            "train",
            "--data",
            "x",
            "--run",
            "y",
            "--config",
            "A",
            "--threads",
            "0",
        ],
        &["bench", "infer", "--config", "A", "--cuda-graph"],
        &["bench", "layers", "--config", "A", "--cuda-graph"],
        &["bench", "tune", "--config", "A", "--out", "x"],
        &["plan", "--config", "A", "--gpu", "k80"],
        &["bench", "infer", "--config", "A", "--conv-algo", "winograd3"],
        &[
            "bench",
            "infer",
            "--config",
            "A",
            "--device",
            "cuda",
            "--conv-algo",
            "winograd4",
        ],
        &["train", "--resume", "x", "--lr", "1"],
        &["train", "--no-such-flag"],
        &["eval", "--data", "x"],
        &[
            "eval",
            "--data",
            "x",
            "--weights",
            "y",
            "--score-average",
            "scores",
        ],
        &[
            "eval",
            "--data",
            "x",
            "--weights",
            "y",
            "--protocol",
            "multi-crop",
            "--score-average",
            "posteriors",
        ],
        &["eval", "--data", "x", "--weights", "y", "--scales", "0"],
        &[
            "eval",
            "--data",
            "x",
            "--weights",
            "y",
            "--protocol",
            "dense",
            "--scales",
            "18446744073709551615",
        ],
        &["eval", "--data", "x", "--weights", "y@65536"],
        &["eval", "--data", "x", "--weights", "y", "--reduce", "exact"],
        &["eval", "--data", "x", "--posteriors", "y", "--scales", "40"],
        &["eval", "--data", "x", "--posteriors", "y", "--protocol", "dense"],
        &["eval", "--data", "x", "--posteriors", "y", "--flip"],
        &["eval", "--data", "x", "--posteriors", "y", "--device", "cpu"],
        &["eval", "--data", "x", "--posteriors", "y", "--replicas", "1"],
        &["eval", "--data", "x", "--posteriors", "y", "--batch", "7"],
        &[
            "reproduce",
            "table6",
            "--data",
            "x",
            "--weights",
            "D=a",
            "--weights",
            "D/256=b",
        ],
        &["predict", "--weights", "y", "x.png", "--score-average", "scores"],
        &["eval", "--data", "x", "--weights", "y", "--protocol", "sparse"],
        &["pack", "--out", "x"],
        &["no-such-command"],
        &[],
    ] {
        run_fails(2, flags);
    }
}

#[test]
fn an_unknown_algorithm_is_answered_with_the_known_ones() {
    let said = run_fails(2, "bench infer --config A --conv-algo winograd3".split(' '));
    for known in ["auto", "winograd4", "winograd2", "direct"] {
        assert!(said.contains(known), "{known}: {said}");
    }
}

#[test]
fn impossible_configurations_name_what_is_possible() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    for (flags, word) in [
        (&["A", "--micro-batch", "5"][..], "1, 2, 3, 4, 6, 12"),
        (&["A", "--crop", "16"], "--crop"),
        (&["A", "--scale", "31"], "--crop"),
        (&["A", "--lr=-1"], "--lr"),
        (&["A", "--lr", "nan"], "--lr"),
        (&["A", "--dropout", "1"], "--dropout"),
        (&["A", "--epochs", "0"], "--epochs"),
        (&["A", "--width", "0"], "--width"),
        (&["A", "--weights", "nowhere"], "nowhere"),
        (&["A", "--init-from", shards()], "checkpoint"),
    ] {
        let mut all = small(shards(), &run);
        all.extend(flags);
        let said = run_fails(3, all);
        assert!(said.contains(word), "{flags:?}: {said}");
        assert!(!run.exists(), "{flags:?} wrote something");
    }
}

#[test]
fn missing_and_damaged_data_is_named() {
    let temporary = tempfile::tempdir().unwrap();
    let run = temporary.path().join("run");
    let mut flags = small("no/such/shards", &run);
    flags.push("A");
    assert!(run_fails(3, flags).contains("no/such/shards"));

    let copy = temporary.path().join("copy");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(shards()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    let tar = fs::read_dir(&copy)
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.to_string_lossy().ends_with("train-0000.tar"));
    let tar = tar.unwrap();
    let bytes = fs::read(&tar).unwrap();
    fs::write(&tar, &bytes[..bytes.len() / 2]).unwrap();
    let mut flags = small(copy.to_str().unwrap(), &run);
    flags.push("A");
    assert!(run_fails(3, flags).contains("train-0000.tar"));
    assert!(!run.exists());
    let output = crate::tool::command(["verify", copy.to_str().unwrap(), "--json"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(7));
}

#[test]
fn nothing_that_exists_is_overwritten() {
    let temporary = tempfile::tempdir().unwrap();
    let run = temporary.path().join("run");
    let mut flags = small(shards(), &run);
    flags.extend(["A", "--iterations", "1"]);
    run_ok(&flags);
    let log = fs::read(run.join("log.jsonl")).unwrap();
    let said = run_fails(3, &flags);
    assert!(said.contains("--resume"), "{said}");
    assert_eq!(fs::read(run.join("log.jsonl")).unwrap(), log);
    run_fails(
        3,
        ["pack", "--images", folder().to_str().unwrap(), "--out", shards()],
    );
}

#[test]
fn weights_of_another_configuration_name_the_layer_and_what_they_fit() {
    let temporary = tempfile::tempdir().unwrap();
    let [a, other] = ["a", "other"].map(|name| temporary.path().join(name));
    let mut flags = small(shards(), &a);
    flags.extend(["A", "--iterations", "1"]);
    run_ok(&flags);
    for (flags, words) in [
        (
            "D",
            ["features.2.weight (layer conv1_2)", "--config A --width 0.0625"],
        ),
        (
            "A --batch-norm",
            ["features.1.weight (layer bn1_1)", "--config A --width"],
        ),
        ("A --fc 24", ["classifier.0.weight (layer fc6)", "--fc 16"]),
        ("A --crop 64 --scale 64", ["layer fc6", "--crop 32"]),
    ] {
        let mut all = small(shards(), &other);
        all.extend(flags.split(' '));
        all.extend(["--weights", a.to_str().unwrap()]);
        let said = run_fails(3, all);
        assert!(words.iter().all(|word| said.contains(word)), "{flags}: {said}");
        assert!(!other.exists(), "{flags} wrote something");
    }
}

#[test]
fn a_data_set_without_validation_images_is_named() {
    let temporary = tempfile::tempdir().unwrap();
    let at = |name: &str| temporary.path().join(name);
    std::os::unix::fs::symlink(folder().join("train"), at("train")).unwrap();
    let (images, packed) = (temporary.path(), at("shards"));
    let (run, unwatched) = (at("run"), at("unwatched"));
    run_ok([
        "pack",
        "--images",
        images.to_str().unwrap(),
        "--out",
        packed.to_str().unwrap(),
    ]);
    let mut flags = small(packed.to_str().unwrap(), &run);
    flags.extend(["A", "--iterations", "1"]);
    run_ok(&flags);
    for protocol in ["center", "dense"] {
        let weights = ["--weights", run.to_str().unwrap(), "--protocol", protocol];
        let said = run_fails(
            3,
            [&["eval", "--data", packed.to_str().unwrap()], &weights[..]].concat(),
        );
        assert!(said.contains("validation"), "{said}");
    }
    let mut flags = small(packed.to_str().unwrap(), &unwatched);
    let schedule = flags.iter().position(|flag| *flag == "cosine").unwrap();
    flags[schedule] = "plateau";
    flags.extend(["A", "--iterations", "1"]);
    let said = run_fails(3, &flags);
    assert!(said.contains("validation") && said.contains("cosine"), "{said}");
    assert!(!unwatched.exists(), "a run that cannot work left a folder");
}

#[test]
fn a_missing_device_is_exit_4_and_a_diverging_run_exit_6() {
    let temporary = tempfile::tempdir().unwrap();
    let run = temporary.path().join("run");
    let mut flags = small(shards(), &run);
    flags.extend(["A", "--device", "cuda:15"]);
    let said = run_fails(4, flags);
    // Without a driver, and with fewer devices.
    assert!(
        said.contains("NVIDIA driver") || said.contains("cuda:15"),
        "{said}"
    );
    let mut flags = small(shards(), &run);
    flags.extend(["A", "--lr", "1000000", "--iterations", "20"]);
    assert!(run_fails(6, flags).contains("not finite"));
    assert!(
        run.join("checkpoints").read_dir().unwrap().count() > 0,
        "the last good state is saved"
    );
}

#[test]
fn a_network_that_only_guesses_is_noticed() {
    let temporary = tempfile::tempdir().unwrap();
    let run = temporary.path().join("run");
    let mut flags = small(shards(), &run);
    flags.extend([
        "E",
        "--init",
        "normal:0.001",
        "--epochs",
        "9",
        "--stop-if-stuck",
        "2",
    ]);
    assert!(run_fails(6, flags).contains("ln(classes)"));
}

#[test]
fn weights_of_another_data_set_and_bad_images_are_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let run = temporary.path().join("run");
    let mut flags = small(shards(), &run);
    flags.extend(["A", "--iterations", "1"]);
    run_ok(&flags);
    let text = temporary.path().join("text.jpg");
    fs::write(&text, "not an image").unwrap();
    assert!(
        run_fails(
            7,
            [
                "predict",
                "--weights",
                run.to_str().unwrap(),
                text.to_str().unwrap()
            ]
        )
        .contains("text.jpg")
    );
    let newest = run.join("checkpoints/step-000000001.safetensors");
    let mut bytes = fs::read(&newest).unwrap();
    let last = bytes.len() - 1;
    bytes[last / 3] ^= 4;
    fs::write(&newest, bytes).unwrap();
    run_fails(
        3,
        ["eval", "--data", shards(), "--weights", newest.to_str().unwrap()],
    );
    run_fails(3, ["inspect", newest.to_str().unwrap()]);
}
