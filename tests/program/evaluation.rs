//! Packing, training, evaluating, predicting, inspecting: what one command says agrees with what another does.

use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;

use crate::images::{CLASSES, VALIDATION, folder, shards};
use crate::tool::{command, events, hashes, run_json, run_ok, small};

/// A trained net A that all tests of one process read.
pub(crate) fn trained() -> &'static Path {
    static TRAINED: OnceLock<(tempfile::TempDir, std::path::PathBuf)> = OnceLock::new();
    let (_, run) = TRAINED.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        let mut flags = small(shards(), &run);
        flags.extend("A --batch-norm --micro-batch 12 --epochs 20 --lr 0.01 --dropout 0".split(' '));
        flags.extend("--width 0.125 --fc 32".split(' '));
        run_ok(flags);
        (folder, run)
    });
    run
}

fn eval(extra: &[&str]) -> Value {
    let mut flags = vec![
        "eval",
        "--data",
        shards(),
        "--weights",
        trained().to_str().unwrap(),
    ];
    flags.extend(extra);
    run_json(flags)
}

/// Photographs in class folders, with the flags that the README documents.
#[test]
fn images_sorted_into_folders_are_packed_trained_on_and_evaluated() {
    let folder_of_test = tempfile::tempdir().unwrap();
    let at = |name: &str| folder_of_test.path().join(name).to_str().unwrap().to_string();
    let (shards, run) = (at("shards"), at("run"));
    let packed = run_json(["pack", "--images", folder().to_str().unwrap(), "--out", &shards]);
    assert_eq!(packed["samples"]["train"], 48);
    let mut flags = vec!["train", "--data", &shards, "--run", &run];
    flags.extend(
        "--config A --width 0.25 --fc 256 --crop 64 --scale 72 --batch 64 --micro-batch 8".split(' '),
    );
    flags.extend("--schedule cosine --epochs 2".split(' '));
    let end = run_json(flags);
    assert_eq!((&end["event"], &end["exit"]), (&"end".into(), &0.into()));
    let report = run_json(["eval", "--data", &shards, "--weights", &run]);
    assert_eq!(report["n"], CLASSES * VALIDATION);
    assert_eq!(report["weights_sha256"][0], end["weights_sha256"]);
}

#[test]
fn it_learns_what_can_be_learned() {
    let report = eval(&[]);
    assert!(report["top1"].as_f64().unwrap() >= 90.0, "{report}");
}

/// 20 images: batches of 7 leave a partial one.
#[test]
fn every_image_counts_exactly_once_whatever_the_batch() {
    let whole = eval(&["--batch", "20"]);
    assert_eq!(whole["n"], 20);
    for batch in ["1", "7", "32"] {
        let report = eval(&["--batch", batch, "--threads", "1"]);
        for key in [
            "n",
            "top1",
            "top5",
            "top1_error",
            "loss",
            "weights_sha256",
            "scales",
            "protocol",
        ] {
            assert_eq!(report[key], whole[key], "{key} in batches of {batch}");
        }
    }
}

#[test]
fn eval_says_what_the_last_validation_said() {
    let (report, validation) = (eval(&[]), events(trained(), "validation").pop().unwrap());
    for key in ["top1", "top5", "top1_error", "top5_error", "n"] {
        assert_eq!(report[key], validation[key], "{key}");
    }
    assert_eq!(
        report["loss"], validation["loss"],
        "losses are summed in stream order, whatever the batch"
    );
}

#[test]
fn predictions_agree_with_the_evaluation() {
    let mut correct = 0;
    for class in 0..CLASSES {
        let name = format!("class{class}");
        let images = (0..VALIDATION).map(|n| folder().join("val").join(&name).join(format!("{n}.png")));
        let mut flags = vec![
            "predict".into(),
            "--weights".into(),
            trained().to_path_buf().into_os_string(),
        ];
        flags.extend(["--top", "4"].map(Into::into));
        flags.extend(images.map(|path| path.into_os_string()));
        let found = run_json(flags);
        for prediction in found["predictions"].as_array().unwrap() {
            let top = prediction["top"].as_array().unwrap();
            let sum: f64 = top
                .iter()
                .map(|guess| guess["probability"].as_f64().unwrap())
                .sum();
            assert!((sum - 1.0).abs() < 1e-5, "{prediction}");
            assert_eq!(top.len(), CLASSES);
            correct += usize::from(top[0]["class"] == name.as_str());
        }
    }
    let top1 = 100.0 * correct as f64 / (CLASSES * VALIDATION) as f64;
    assert_eq!(eval(&[])["top1"].as_f64().unwrap(), top1);
}

#[test]
fn an_image_of_standard_input_is_the_image_of_the_file() {
    let image = folder().join("val/class1/0.png");
    let weights = trained().to_str().unwrap();
    let of_file = run_json(["predict", "--weights", weights, image.to_str().unwrap()]);
    let output = command(["predict", "--weights", weights, "-", "--json"])
        .stdin(std::fs::File::open(image).unwrap())
        .output()
        .unwrap();
    let of_input: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(of_input["predictions"][0]["file"], "-");
    assert_eq!(
        of_input["predictions"][0]["top"],
        of_file["predictions"][0]["top"]
    );
}

#[test]
fn inspect_tells_runs_checkpoints_and_shards_apart() {
    let run = run_json(["inspect", trained().to_str().unwrap()]);
    let (weights, state) = hashes(trained());
    assert_eq!(
        (&run["weights_sha256"], &run["state_sha256"]),
        (&weights.into(), &state.into())
    );
    assert_eq!(
        (&run["config"], &run["classes"], &run["crop"]),
        (&"A".into(), &CLASSES.into(), &32.into())
    );
    assert_eq!(run["recipe"]["batch"], 12);
    assert!(run["preprocess"]["shift"].is_array());
    let newest = trained().join("checkpoints/step-000000080.safetensors");
    assert_eq!(run_json(["inspect", newest.to_str().unwrap()]), run);
    let found = run_json(["inspect", shards()]);
    assert_eq!((&found["samples"], &found["shards"]), (&68.into(), &4.into()));
    let verified = run_json(["verify", shards()]);
    assert_eq!(
        (&verified["samples"], verified["bad"].as_array().map(Vec::len)),
        (&68.into(), Some(0))
    );
}

#[test]
fn plan_prints_the_papers_numbers() {
    let plan = run_json(["plan", "--config", "D"]);
    assert_eq!(plan["parameters"], 138_357_544);
    assert_eq!(plan["macs_forward"], 15_470_264_320_u64);
    let layers = plan["layers"].as_array().unwrap();
    let sum = |key: &str| {
        layers
            .iter()
            .map(|layer| layer[key].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!((sum("parameters"), sum("macs")), (138_357_544, 15_470_264_320));
    assert_eq!(layers[0]["output"], serde_json::json!([64, 224, 224]));
    let memory = plan["memory"].as_object().unwrap();
    let parts: u64 = memory
        .iter()
        .filter(|(key, _)| *key != "total")
        .map(|(_, bytes)| bytes.as_u64().unwrap())
        .sum();
    assert_eq!(memory["total"], parts);
    assert!(run_ok(["plan", "--config", "vgg19"]).contains("143667240 parameters"));
    // A plan for a GPU needs none.
    let on_gpu = run_json(["plan", "--config", "D", "--device", "cuda"]);
    assert_eq!(on_gpu["memory"]["weights"], memory["weights"]);
    assert_ne!(on_gpu["memory"]["activations"], memory["activations"]);
}
