//! `bench tune` and `train --plans`, on the simulated device: its cuDNN offers a tensor core engine and, behind it, one
//! engine with two settings of a knob.

use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::images::shards;
use crate::tool::{command, errors, events, hashes, small};

const NETWORK: &str = "--config A --width 0.0625 --fc 16 --crop 32 --micro-batch 3";

fn run(arguments: &[&str], code: i32) -> String {
    let output = command(arguments)
        .env("VERYDEEP_SIMULATE_CUDA", "1")
        .output()
        .unwrap();
    let said = errors(&output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(!said.contains("cudasim:") && !said.contains("panicked"), "{said}");
    said
}

/// Makes a plan file for the small network of these tests.
fn tune(out: &Path) -> Value {
    let classes = crate::images::CLASSES.to_string();
    let mut flags = vec!["bench", "tune", "--device", "cuda:0", "--precision", "tf32"];
    flags.extend(NETWORK.split(' '));
    flags.extend(["--classes", &classes, "--out", out.to_str().unwrap()]);
    run(&flags, 0);
    serde_json::from_str(&std::fs::read_to_string(out).unwrap()).unwrap()
}

/// Writes a file whose content was changed by somebody who knows how it is hashed.
fn write(path: &Path, mut file: Value) {
    let content = json!([
        file["format"],
        file["made_for"],
        file["convolutions"],
        file["products"]
    ]);
    let digest = Sha256::digest(content.to_string().as_bytes());
    file["sha256"] = digest
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>()
        .into();
    std::fs::write(path, file.to_string()).unwrap();
}

/// Gives every convolution the same engine.
fn with_engine(mut file: Value, engine: i64, tile: i64) -> Value {
    for choice in file["convolutions"].as_array_mut().unwrap() {
        choice["plan"]["engine"] = engine.into();
        choice["plan"]["knobs"][0][1] = tile.into();
    }
    file
}

fn train<'a>(run: &'a Path, plans: Option<&'a Path>, more: &[&'a str]) -> Vec<&'a str> {
    let mut flags = small(shards(), run);
    flags.extend([
        "A",
        "--device",
        "cuda:0",
        "--precision",
        "tf32",
        "--schedule",
        "plateau",
    ]);
    if let Some(plans) = plans {
        flags.extend(["--plans", plans.to_str().unwrap()]);
    }
    flags.extend(more);
    flags
}

#[test]
fn a_run_follows_its_plans_and_keeps_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let tuned = tune(&path("tuned.json"));
    // Every pass of every convolution shape and every product, each decided for something that is offered.
    let passes: Vec<&str> = tuned["convolutions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| choice["pass"].as_str().unwrap())
        .collect();
    for pass in ["forward-relu", "data-gradient", "filter-gradient"] {
        assert!(passes.contains(&pass), "{passes:?}");
    }
    for choice in tuned["convolutions"].as_array().unwrap() {
        // The tensor core engine and the plain one, never those that a careful program refuses.
        assert!(
            [2, 4].contains(&choice["plan"]["engine"].as_i64().unwrap()),
            "{choice}"
        );
    }
    assert_eq!(tuned["products"].as_array().unwrap().len(), 3 * 3);
    assert_eq!(tuned["made_for"]["precision"], "tf32");

    // Benchmarks follow it, too: the first convolution is computed by what the file says.
    let (layers, engine) = (
        path("tuned.json"),
        tuned["convolutions"][0]["plan"]["engine"].clone(),
    );
    let mut flags = vec![
        "bench",
        "layers",
        "--device",
        "cuda:0",
        "--precision",
        "tf32",
        "--repeats",
        "1",
        "--json",
    ];
    flags.extend("--config A --width 0.0625 --fc 16 --crop 32 --batch 3".split(' '));
    flags.extend(["--plans", layers.to_str().unwrap()]);
    let output = command(flags)
        .env("VERYDEEP_SIMULATE_CUDA", "1")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["layers"][1]["algorithm"], format!("cuDNN engine {engine}"));

    // TF32 with and without tensor cores: other bits, and the plan file decides.
    let (plain, default) = (path("plain.json"), path("default"));
    write(&plain, with_engine(tuned, 4, 1));
    let (whole, split) = (path("whole"), path("split"));
    run(&train(&default, None, &["--iterations", "2"]), 0);
    run(&train(&whole, Some(&plain), &["--iterations", "2"]), 0);
    assert_ne!(hashes(&default), hashes(&whole));
    // Resuming needs no file: recipe and checkpoint hold it.
    run(&train(&split, Some(&plain), &["--iterations", "1"]), 0);
    let plain_text = std::fs::read_to_string(&plain).unwrap();
    std::fs::remove_file(&plain).unwrap();
    run(
        &[
            "train",
            "--resume",
            split.to_str().unwrap(),
            "--iterations",
            "2",
            "--quiet",
        ],
        0,
    );
    assert_eq!(hashes(&whole), hashes(&split));
    let start = &events(&whole, "start")[0];
    let hash = serde_json::from_str::<Value>(&plain_text).unwrap()["sha256"].clone();
    assert_eq!(start["class"]["plans_sha256"], hash);
    assert_eq!(start["recipe"]["plans"]["sha256"], hash);

    // The decided recipe is a recipe; what it holds cannot be changed unseen.
    let recipe = whole.join("recipe.toml");
    let again = path("again");
    let flags = [
        "train",
        "--recipe",
        recipe.to_str().unwrap(),
        "--run",
        again.to_str().unwrap(),
        "--quiet",
    ];
    run(&flags, 0);
    assert_eq!(hashes(&whole), hashes(&again));
    let text = std::fs::read_to_string(&recipe).unwrap();
    assert!(text.contains("engine = 4"), "{text}");
    std::fs::write(&recipe, text.replacen("engine = 4", "engine = 2", 1)).unwrap();
    let said = run(
        &["train", "--resume", whole.to_str().unwrap(), "--iterations", "3"],
        3,
    );
    assert!(said.contains("plans, field sha256"), "{said}");
}

#[test]
fn plans_that_do_not_hold_are_refused_and_drift_is_the_default_rule() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (file, new) = (path("plans.json"), path("run"));
    let tuned = tune(&file);
    let refused = |words: &str, code: i32, more: &[&str]| {
        let said = run(&train(&new, Some(&file), more), code);
        assert!(said.contains(words), "{words}: {said}");
        assert!(!new.exists(), "nothing was started");
    };
    let one = ["--iterations", "1"];
    refused(
        "field precision: expected \"tf32\", found \"fp32\"",
        3,
        &["--precision", "fp32"],
    );
    refused(
        "--plans: expected with --device cuda",
        2,
        &["--precision", "fp32", "--device", "cpu"],
    );

    for (field, value) in [
        ("cudnn", json!("9.99.0")),
        ("multiprocessors", json!(7)),
        ("device", json!("another")),
    ] {
        let mut other = tuned.clone();
        other["made_for"][field] = value.clone();
        write(&file, other);
        refused(&format!("field {field}: expected {value}"), 3, &one);
    }
    let text = tuned.to_string();
    std::fs::write(&file, &text[..text.len() / 2]).unwrap();
    refused("expected a whole plan file", 3, &one);
    std::fs::write(&file, text.replacen("\"engine\":", "\"engine\":7", 1)).unwrap();
    refused("field sha256", 3, &one);

    // An engine that the library does not have, and one that breaks a promise.
    for engine in [77, 0] {
        write(&file, with_engine(tuned.clone(), engine, 0));
        refused(&format!("engine {engine} with knobs"), 3, &one);
    }
    let (drifted, default) = (path("drifted"), path("default"));
    run(
        &train(&drifted, Some(&file), &["--iterations", "1", "--allow-drift"]),
        0,
    );
    run(&train(&default, None, &one), 0);
    assert_eq!(hashes(&drifted).0, hashes(&default).0);
}
