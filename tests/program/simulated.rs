//! The program on the simulated CUDA device: the same commands, no rule broken (the simulator ends a process that broke
//! one with 86), the results of the CPU.

mod devices;
mod processes;
mod splits;

use std::process::Output;

use serde_json::Value;

use crate::images::shards;
use crate::tool::{command, errors, events, hashes, run_fails, run_json, small, test_seed};

fn run(arguments: &[&str], seed: &str) -> Output {
    let output = command(arguments)
        .env("VERYDEEP_SIMULATE_CUDA", "1")
        .env("CUDASIM_SEED", seed)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    assert!(!errors(&output).contains("cudasim:"), "{}", errors(&output));
    output
}

#[test]
fn a_run_on_the_simulated_device_follows_the_cpu_and_resumes_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (cpu, whole, split) = (path("cpu"), path("whole"), path("split"));
    let flags = |run, iterations| {
        let mut flags = small(shards(), run);
        flags.extend(["A", "--iterations", iterations, "--schedule", "plateau"]);
        flags
    };
    let output = command(flags(&cpu, "1")).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let on_device = |run, iterations, seed| {
        let mut flags = flags(run, iterations);
        flags.extend(["--device", "cuda:0"]);
        self::run(&flags, seed)
    };
    on_device(&whole, "2", "1");
    on_device(&split, "1", "2");
    let resumed = split.to_str().unwrap();
    run(
        &[
            "train",
            "--resume",
            resumed,
            "--iterations",
            "2",
            "--cuda-graph",
            "--walk",
            "fc-first",
            "--quiet",
        ],
        "3",
    );
    // Whatever the order in which streams run, with graphs, and in another order of the walk.
    assert_eq!(hashes(&whole), hashes(&split));

    let loss = |run| {
        let steps: Vec<Value> = events(run, "step");
        steps[0]["loss"].as_f64().unwrap()
    };
    let (expected, found) = (loss(&cpu), loss(&whole));
    assert!(
        (expected - found).abs() <= 1e-5 * expected,
        "{expected} and {found}"
    );
}

/// Each with streams of its own on one device, also with graphs.
#[test]
fn replicas_on_one_simulated_device_give_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let trained = [("1", None), ("2", None), ("4", Some("--cuda-graph"))].map(|(replicas, graph)| {
        let run = folder.path().join(replicas);
        let mut flags = small(shards(), &run);
        flags.extend(["A", "--batch-norm", "--iterations", "2", "--device", "cuda:0"]);
        flags.extend(["--replicas", replicas]);
        flags.extend(graph);
        self::run(&flags, replicas);
        hashes(&run)
    });
    assert_eq!(trained[0], trained[1]);
    assert_eq!(trained[0], trained[2]);
}

#[test]
fn doctor_lists_simulated_devices() {
    let output = command(["doctor", "--device", "cuda", "--json"])
        .env("VERYDEEP_SIMULATE_CUDA", "3")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<&str> = said["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|check| check["name"].as_str())
        .collect();
    for device in ["cuda:0", "cuda:1", "cuda:2"] {
        assert!(names.contains(&device), "{names:?}");
    }
    assert!(!names.contains(&"cuda:3"));
}

#[test]
fn doctor_trains_on_simulated_devices() {
    let output = run(&["doctor", "--device", "cuda", "--full", "--json"], "1");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = said["checks"].as_array().unwrap();
    let trained = checks
        .iter()
        .find(|check| check["name"] == "cuda:0 training step");
    assert_eq!(trained.unwrap()["ok"], true, "{said}");
}

#[test]
fn the_precision_is_a_decision_of_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (fp32, tf32, bf16) = (path("fp32"), path("tf32"), path("bf16"));
    for (run, precision) in [(&fp32, "fp32"), (&tf32, "tf32"), (&bf16, "bf16")] {
        let mut flags = small(shards(), run);
        flags.extend([
            "A",
            "--iterations",
            "1",
            "--device",
            "cuda:0",
            "--precision",
            precision,
        ]);
        self::run(&flags, "1");
    }
    assert_ne!(hashes(&fp32), hashes(&tf32));
    assert_ne!(hashes(&fp32), hashes(&bf16));
    let recipe = std::fs::read_to_string(tf32.join("recipe.toml")).unwrap();
    assert!(recipe.contains("precision = \"tf32\""), "{recipe}");
    let resumed = tf32.to_str().unwrap();
    let said = run_fails(2, ["train", "--resume", resumed, "--precision", "fp32"]);
    assert!(
        said.contains("--precision: a resumed run keeps its recipe"),
        "{said}"
    );
    let said = run_fails(
        2,
        small(shards(), &fp32)
            .into_iter()
            .chain(["A", "--precision", "tf32"]),
    );
    assert!(
        said.contains("the CPU computes in single precision only"),
        "{said}"
    );
}

/// The way of a user, every command on the device, in bf16.
#[test]
fn everything_runs_on_the_simulated_device() {
    let folder = tempfile::tempdir().unwrap();
    let run_folder = folder.path().join("run");
    let trained = run_folder.to_str().unwrap();
    let on_device = |arguments: &[&str]| {
        let device = ["--device", "cuda:0", "--precision", "bf16"];
        self::run(&[arguments, &device].concat(), "7")
    };
    let said = |output: Output| -> Value { serde_json::from_slice(&output.stdout).unwrap() };
    let mut flags = small(shards(), &run_folder);
    flags.extend(["A", "--batch-norm", "--iterations", "3", "--cuda-graph"]);
    on_device(&flags);
    let validation = events(&run_folder, "validation").pop().unwrap();

    let report = said(on_device(&[
        "eval",
        "--data",
        shards(),
        "--weights",
        trained,
        "--json",
    ]));
    assert_eq!(report["n"], validation["n"]);
    assert_eq!(report["weights_sha256"][0], validation["weights_sha256"]);
    let again = said(on_device(&[
        "eval",
        "--data",
        shards(),
        "--weights",
        trained,
        "--json",
    ]));
    assert_eq!(report["loss"], again["loss"]);
    // The validation read weights that steps had updated, the evaluation weights that were loaded: their copies in bf16
    // are the same.
    assert_eq!(report["loss"], validation["loss"]);

    let image = crate::images::folder().join("val/class0/0.png");
    let predict = [
        "predict",
        "--weights",
        trained,
        image.to_str().unwrap(),
        "--top",
        "4",
        "--json",
    ];
    for protocol in ["center", "dense", "adaptive"] {
        let predictions = said(on_device(&[&predict[..], &["--protocol", protocol]].concat()));
        let top = predictions["predictions"][0]["top"].as_array().unwrap();
        let sum: f64 = top
            .iter()
            .map(|class| class["probability"].as_f64().unwrap())
            .sum();
        assert!((sum - 1.0).abs() < 1e-6, "{predictions}");
    }

    for what in ["train", "infer"] {
        let network = "--config A --width 0.0625 --fc 16 --crop 32 --batch 4 --steps 2".split(' ');
        let flags: Vec<&str> = ["bench", what, "--json"].into_iter().chain(network).collect();
        let report = said(on_device(&flags));
        assert!(report["images_per_sec"].as_f64().unwrap() > 0.0, "{report}");
    }
}

#[test]
fn what_does_not_fit_is_said_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let network = "--config A --width 0.0625 --fc 16 --crop 96 --batch 64".split(' ');
    let needs = |micro_batch: &'static str| -> u64 {
        let plan = ["plan", "--device", "cuda", "--micro-batch", micro_batch];
        let memory = &run_json(plan.into_iter().chain(network.clone()))["memory"];
        ["weights", "gradients", "optimizer", "activations", "workspace"]
            .iter()
            .map(|part| memory[part].as_u64().unwrap())
            .sum()
    };
    let (eight, sixteen) = (needs("8").next_multiple_of(1 << 20), needs("16"));
    assert!(eight < sixteen);
    let memory = eight;
    let mut train = command(["train", "--data", shards(), "--run", run.to_str().unwrap()]);
    let output = train
        .args(network.clone())
        .args(["--micro-batch", "64", "--device", "cuda:0", "--scale", "96"])
        .env("VERYDEEP_SIMULATE_CUDA", "1")
        .env("CUDASIM_MEMORY_MB", (memory >> 20).to_string())
        .output()
        .unwrap();
    let said = errors(&output);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("--micro-batch 8 fits"), "{said}");
    assert!(!run.exists(), "nothing was started");
}

/// A device, and a cuDNN, of years ago.
#[test]
fn what_is_too_old_is_named_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    for (variable, value, found) in [
        ("CUDASIM_CAPABILITY", "75", "7.5, expected at least 8.0"),
        ("CUDASIM_CUDNN", "90100", "found 9.1 at"),
    ] {
        let mut flags = small(shards(), &run);
        flags.extend(["A", "--iterations", "1", "--device", "cuda:0"]);
        let output = command(flags)
            .env("VERYDEEP_SIMULATE_CUDA", "1")
            .env(variable, value)
            .output()
            .unwrap();
        let said = errors(&output);
        assert_eq!(output.status.code(), Some(4), "{said}");
        assert!(said.contains(found), "{said}");
        assert!(!run.exists(), "nothing was started");
    }
}

#[test]
fn layers_are_timed_on_the_simulated_device_and_held_against_its_own_rates() {
    let flags = "--config A --width 0.0625 --fc 16 --crop 32 --batch 2 --device cuda:0 --json";
    let layers = |precision: &str| -> Value {
        let mut all = vec!["bench", "layers", "--repeats", "1", "--precision", precision];
        all.extend(flags.split(' '));
        serde_json::from_slice(&run(&all, "1").stdout).unwrap()
    };
    let engine = |report: &Value, name: &str| {
        let layers = report["layers"].as_array().unwrap();
        let layer = layers.iter().find(|layer| layer["name"] == name).unwrap();
        layer["algorithm"].as_str().unwrap().to_string()
    };
    let (fp32, tf32) = (layers("fp32"), layers("tf32"));
    assert!(engine(&fp32, "conv3_1").starts_with("cuDNN engine "), "{fp32}");
    // Tensor cores are another engine.
    assert_ne!(engine(&fp32, "conv3_1"), engine(&tf32, "conv3_1"));
    assert!(engine(&fp32, "fc6").starts_with("cuBLASLt algorithm "), "{fp32}");
    assert_eq!(engine(&fp32, "pool1"), "kernel of verydeep");

    let mut train = vec!["bench", "train", "--steps", "1"];
    train.extend(flags.split(' '));
    let report: Value = serde_json::from_slice(&run(&train, "1").stdout).unwrap();
    // The simulator multiplies with plain loops: far below what this processor's multiply-adds reach, which stood
    // here once.
    let cpu =
        run_json("bench infer --config A --width 0.0625 --fc 16 --crop 32 --batch 1 --steps 1".split(' '));
    let peak = |report: &Value| report["peak_flops"].as_f64().unwrap();
    assert!(peak(&report) < peak(&cpu), "{} and {}", peak(&report), peak(&cpu));
}

/// `bench infer` on the simulated device where one call of the driver fails; what it said.
fn infer_with(fault: &str, code: i32) -> String {
    let output =
        command("bench infer --config A --width 0.0625 --fc 16 --crop 32 --batch 2 --steps 1".split(' '))
            .args(["--device", "cuda:0"])
            .env("VERYDEEP_SIMULATE_CUDA", "1")
            .env("CUDASIM_FAIL", fault)
            .output()
            .unwrap();
    let said = errors(&output);
    assert_eq!(output.status.code(), Some(code), "{fault}: {said}");
    assert!(!said.contains("cudasim:"), "{fault}: {said}");
    assert!(!said.contains("panicked"), "{fault}: {said}");
    said
}

// Every call in turn: tests/simulated/faults.rs. Here: what the program makes of it.
#[test]
fn a_failed_allocation_on_the_simulated_device_is_exit_5_and_leaks_nothing() {
    for number in [1, 2, 5] {
        let said = infer_with(&format!("alloc:{number}"), 5);
        assert!(said.contains("out of memory"), "{said}");
    }
}

#[test]
fn a_failed_call_of_the_driver_is_exit_4_and_leaks_nothing() {
    // Which of the first ten fails is drawn anew at every run. The compiler's are among them where no image is kept.
    let drawn = test_seed();
    for kind in ["launch", "copy", "other"] {
        let said = infer_with(&format!("{kind}:{}", 1 + drawn % 10), 4);
        assert!(said.contains("cuda") || said.contains("NVRTC"), "{said}");
    }
}
