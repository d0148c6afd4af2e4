//! Protocols of evaluation: dense, multi-crop, flips, scales, fusion, saved posteriors.

use std::path::Path;

use safetensors::SafeTensors;
use serde_json::Value;

use crate::evaluation::trained;
use crate::images::{CLASSES, VALIDATION, folder, shards};
use crate::tool::{run_fails, run_json, run_ok, small};

pub(crate) fn eval(extra: &[&str]) -> Value {
    let weights = trained().to_str().unwrap();
    let mut flags = vec!["eval", "--data", shards(), "--weights", weights];
    flags.extend(extra);
    run_json(flags)
}

/// All but the time.
fn without_time(mut report: Value) -> Value {
    report.as_object_mut().unwrap().remove("images_per_sec");
    report
}

#[test]
fn every_protocol_learns_from_every_image_whatever_the_batch_and_the_threads() {
    for protocol in ["center", "dense", "adaptive", "multi-crop", "both"] {
        let flags = ["--protocol", protocol, "--scales", "36,40", "--flip"];
        let whole = without_time(eval(&flags));
        assert_eq!((&whole["n"], &whole["protocol"]), (&20.into(), &protocol.into()));
        assert_eq!(whole["scales"], serde_json::json!([36, 40]));
        assert!(whole["top1"].as_f64().unwrap() >= 80.0, "{whole}");
        for batch in ["1", "7"] {
            let again = eval(&[&flags[..], &["--batch", batch, "--threads", "1"]].concat());
            assert_eq!(without_time(again), whole, "batches of {batch}");
        }
    }
}

/// Each replica has images of its own; posteriors, errors and losses are those of one, to the bit.
#[test]
fn any_number_of_replicas_and_threads_finds_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("posteriors");
    let at = ["--save-posteriors", saved.to_str().unwrap()];
    // Centre crops of one scale are counted on the way; every other look makes posteriors.
    let mut looks = vec![(vec!["--protocol", "center", "--scales", "40"], false)];
    for protocol in ["center", "dense", "multi-crop", "both"] {
        looks.push((vec!["--protocol", protocol, "--scales", "36,72", "--flip"], true));
    }
    for (look, has_posteriors) in looks {
        let run = |replicas: &str, threads: &str| {
            let share = ["--batch", "3", "--replicas", replicas, "--threads", threads];
            let save = if has_posteriors { &at[..] } else { &[] };
            let report = without_time(eval(&[&look[..], &share, save].concat()));
            let posteriors = has_posteriors.then(|| std::fs::read(&saved).unwrap());
            (report, posteriors)
        };
        let expected = run("1", "1");
        assert_eq!(expected.0["n"], 20);
        // Some share a thread, some have several; of 32 replicas, 12 have nothing to do.
        for (replicas, threads) in [("2", "1"), ("2", "4"), ("3", "2"), ("8", "3"), ("32", "2")] {
            let found = run(replicas, threads);
            assert!(
                found == expected,
                "{look:?}: {replicas} replicas, {threads} threads"
            );
        }
    }
}

/// Where the image at Q is as large as the crop there is one window, and the protocols see the same of a square one.
#[test]
fn both_averages_of_the_score_map_are_reported() {
    let report = eval(&["--protocol", "dense", "--scales", "96"]);
    assert_eq!(report["score_average"], "scores");
    let averages = &report["averages"];
    assert_eq!(averages["scores"]["loss"], report["loss"]);
    assert_ne!(averages["posteriors"]["loss"], report["loss"]);
    let other = eval(&[
        "--protocol",
        "dense",
        "--scales",
        "96",
        "--score-average",
        "posteriors",
    ]);
    assert_eq!(other["averages"], *averages);
    assert_eq!(other["loss"], averages["posteriors"]["loss"]);
    assert!(eval(&["--protocol", "multi-crop", "--scales", "40"])["averages"].is_null());
}

#[test]
fn fusion_now_and_later_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let (first, second, fused) = (at("first"), at("second"), at("fused"));
    let weights = trained().to_str().unwrap();
    let own = format!("{weights}@40,48");
    let base = ["eval", "--data", shards()];
    let run = |more: &[&str]| without_time(run_json([&base[..], more].concat()));
    let look = ["--protocol", "dense", "--scales", "36", "--weights"];
    let compute = |more: &[&str]| run(&[&look[..], more].concat());
    let now = compute(&[weights, "--weights", &own, "--save-posteriors", &fused]);
    assert_eq!(now["networks"][0]["scales"], serde_json::json!([36]));
    assert_eq!(now["networks"][1]["scales"], serde_json::json!([40, 48]));
    assert_eq!(now["weights_sha256"].as_array().unwrap().len(), 2);
    compute(&[weights, "--save-posteriors", &first]);
    compute(&[&own, "--save-posteriors", &second]);
    assert_eq!(run(&["--posteriors", &first, "--posteriors", &second]), now);
    assert_eq!(compute(&[weights, "--posteriors", &second]), now);
    assert_eq!(run(&["--posteriors", &fused]), now);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    damaged_posteriors_are_refused(Path::new(&fused), &base);
}

fn damaged_posteriors_are_refused(saved: &Path, base: &[&str]) {
    let bytes = std::fs::read(saved).unwrap();
    let path = saved.with_file_name("damaged");
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for content in [&flipped[..], &bytes[..bytes.len() - 3], &bytes[..40], b""] {
        std::fs::write(&path, content).unwrap();
        let said = run_fails(3, [base, &["--posteriors", path.to_str().unwrap()]].concat());
        assert!(said.contains("--save-posteriors"), "{said}");
    }
}

#[test]
fn predictions_follow_every_protocol() {
    let weights = trained().to_str().unwrap();
    for protocol in ["center", "dense", "adaptive", "multi-crop", "both"] {
        let mut correct = 0;
        let look = ["--protocol", protocol, "--scales", "38,44", "--flip"];
        for class in 0..CLASSES {
            let name = format!("class{class}");
            let images = folder().join("val").join(&name);
            let files: Vec<String> = (0..VALIDATION)
                .map(|n| images.join(format!("{n}.png")).to_str().unwrap().to_string())
                .collect();
            let mut flags = vec!["predict", "--weights", weights, "--top", "4"];
            flags.extend(look);
            flags.extend(files.iter().map(String::as_str));
            for prediction in run_json(flags)["predictions"].as_array().unwrap() {
                let top = prediction["top"].as_array().unwrap();
                let probability = |guess: &Value| guess["probability"].as_f64().unwrap();
                assert!((top.iter().map(probability).sum::<f64>() - 1.0).abs() < 1e-5);
                correct += usize::from(top[0]["class"] == name.as_str());
            }
        }
        let report = eval(&look);
        let top1 = 100.0 * correct as f64 / (CLASSES * VALIDATION) as f64;
        assert_eq!(report["top1"].as_f64().unwrap(), top1, "{protocol}");
    }
}

#[test]
fn scales_below_the_crop_are_refused() {
    let weights = trained().to_str().unwrap();
    for protocol in ["center", "dense", "adaptive", "multi-crop", "both"] {
        let flags = [
            "eval",
            "--data",
            shards(),
            "--weights",
            weights,
            "--protocol",
            protocol,
            "--scales",
            "40,31",
        ];
        let said = run_fails(3, flags);
        assert!(said.contains("32") && said.contains("31"), "{said}");
    }
}

#[test]
fn converted_weights_evaluate_as_the_run_does() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let (plain, onnx) = (at("net.safetensors"), at("net.onnx"));
    let run = trained().to_str().unwrap();
    let converted = run_json(["convert", run, &plain]);
    assert_eq!(
        (&converted["config"], &converted["batch_norm"]),
        (&"A".into(), &true.into())
    );
    let flags = ["--protocol", "dense"];
    let now = run_json([&["eval", "--data", shards(), "--weights", &plain], &flags[..]].concat());
    assert_eq!(without_time(now), without_time(eval(&flags)));
    let inspected = run_json(["inspect", &plain]);
    assert_eq!(inspected["weights_sha256"], converted["weights_sha256"]);
    assert!(inspected["preprocess"].is_object() && inspected["step"].is_null());
    assert_eq!(
        run_json(["convert", &plain, &onnx])["weights_sha256"],
        converted["weights_sha256"]
    );

    assert!(run_fails(2, ["convert", &plain, &at("net.pkl")]).contains(".onnx"));
    assert!(run_fails(3, ["convert", &plain, &at("x.onnx"), "--config", "D"]).contains("configuration A"));
    assert!(run_fails(3, ["convert", &at("nowhere"), &at("x.onnx")]).contains("nowhere"));
    assert!(run_fails(3, ["convert", &plain, &at("none/x.onnx")]).contains("no folder"));
    assert!(run_fails(3, ["convert", run, &at("x.onnx"), "--from", "torch"]).contains("found a folder"));
}

/// A wide image smaller than the crop is scaled up, whatever looks at it.
#[test]
fn images_smaller_than_the_crop_are_scaled_up() {
    let folder = tempfile::tempdir().unwrap();
    let small = folder.path().join("small.png");
    let mut png = png::Encoder::new(std::fs::File::create(&small).unwrap(), 9, 4);
    png.set_color(png::ColorType::Grayscale);
    let pixels: Vec<u8> = (0..36).map(|i| 7 * i).collect();
    png.write_header().unwrap().write_image_data(&pixels).unwrap();
    for protocol in ["center", "dense", "adaptive", "multi-crop", "both"] {
        let weights = trained().to_str().unwrap();
        let flags = ["predict", "--weights", weights, "--protocol", protocol];
        let found = run_json([&flags[..], &[small.to_str().unwrap()]].concat());
        let top = found["predictions"][0]["top"].as_array().unwrap();
        assert_eq!(top.len(), CLASSES, "{protocol}");
    }
}

/// A trunk gives the features of the network that it was taken from, starts another one, and has no scores.
#[test]
fn convolutions_alone_give_features_and_start_other_networks() {
    let folder_of_test = tempfile::tempdir().unwrap();
    let at = |name: &str| folder_of_test.path().join(name).to_str().unwrap().to_string();
    let (run, trunk) = (trained().to_str().unwrap(), at("trunk.safetensors"));
    let converted = run_json(["convert", run, &trunk, "--trunk"]);
    assert_eq!(
        (&converted["extent"], &converted["classes"]),
        (&"trunk".into(), &0.into())
    );
    let images = folder().join("val");
    let features = |weights: &str, out: &str, layer: &str| {
        let flags = ["features", "--weights", weights, "--out", out, "--layer", layer];
        run_json([&flags[..], &["--raw", images.to_str().unwrap()]].concat())
    };
    for (layer, channels) in [("conv1_1", 8), ("bn3_2", 32), ("relu5_2", 64), ("pool5", 64)] {
        let (own, theirs) = (at("own.npy"), at("theirs.npy"));
        assert_eq!(features(run, &own, layer)["features"], channels, "{layer}");
        features(&trunk, &theirs, layer);
        assert_eq!(std::fs::read(&own).unwrap(), std::fs::read(&theirs).unwrap());
    }
    let eval = ["eval", "--data", shards(), "--weights", &trunk];
    for protocol in ["center", "dense"] {
        let said = run_fails(3, [&eval[..], &["--protocol", protocol]].concat());
        assert!(said.contains("features --layer pool5"), "{said}");
    }
    assert!(run_fails(3, ["predict", "--weights", &trunk, "x.png"]).contains("pool5"));
    let flags = ["features", "--weights", &trunk, "--out", &at("x.npy"), "x.png"];
    assert!(run_fails(3, flags).contains("pool5"));

    let started = folder_of_test.path().join("started");
    let mut flags = small(shards(), &started);
    flags.extend("A --batch-norm --iterations 1 --lr 0 --width 0.125 --fc 48 --init-from".split(' '));
    flags.push(&trunk);
    run_ok(flags);
    let step = started.join("checkpoints/step-000000001.safetensors");
    let [theirs, own] = [Path::new(&trunk), &step].map(|path| std::fs::read(path).unwrap());
    let [theirs, own] = [&theirs, &own].map(|bytes| SafeTensors::deserialize(bytes).unwrap());
    // The statistics have seen a batch; what is learned has not moved.
    let learned = theirs
        .tensors()
        .into_iter()
        .filter(|(name, _)| !name.contains("running"));
    let learned: Vec<_> = learned.collect();
    assert_eq!(learned.len(), 8 * 4);
    for (name, tensor) in learned {
        assert_eq!(own.tensor(&name).unwrap().data(), tensor.data(), "{name}");
    }

    let other = folder_of_test.path().join("other");
    let mut flags = small(shards(), &other);
    flags.extend("A --batch-norm --width 0.125 --weights".split(' '));
    flags.push(&trunk);
    let said = run_fails(3, flags);
    assert!(said.contains("fc6") && said.contains("--init-from"), "{said}");
}

#[test]
fn features_are_rows_of_length_one() {
    let out = tempfile::tempdir().unwrap();
    let at = |name: &str| out.path().join(name).to_str().unwrap().to_string();
    let (npy, tensors, raw) = (at("f.npy"), at("f.safetensors"), at("raw.safetensors"));
    let (weights, images) = (trained().to_str().unwrap(), folder().join("val"));
    let run = |file: &str, more: &[&str]| {
        let base = [
            "features",
            "--weights",
            weights,
            "--out",
            file,
            images.to_str().unwrap(),
            "--flip",
        ];
        run_json([&base[..], more].concat())
    };
    let said = run(&npy, &["--scales", "36,64", "--across-scales", "stack"]);
    assert_eq!(
        (&said["features"], said["files"].as_array().unwrap().len()),
        (&64.into(), 20)
    );
    let bytes = std::fs::read(&npy).unwrap();
    assert!(bytes.starts_with(b"\x93NUMPY\x01\x00") && bytes.len() == 128 + 20 * 64 * 4);
    assert!(String::from_utf8_lossy(&bytes[..128]).contains("'shape': (20, 64)"));
    for row in bytes[128..].chunks(64 * 4) {
        let squares = row.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x).powi(2));
        assert!((squares.sum::<f32>() - 1.0).abs() < 1e-5);
    }
    let again = at("again.npy");
    run(
        &again,
        &[
            "--scales",
            "36,64",
            "--across-scales",
            "stack",
            "--batch",
            "3",
            "--threads",
            "1",
        ],
    );
    assert_eq!(std::fs::read(&again).unwrap(), bytes);

    run(&tensors, &[]);
    assert_eq!(
        run(&raw, &["--layer", "fc8", "--raw", "--scales", "40"])["features"],
        CLASSES
    );
    assert!(
        run_fails(
            3,
            [
                "features",
                "--weights",
                weights,
                "--out",
                &npy,
                images.to_str().unwrap(),
                "--layer",
                "conv9"
            ]
        )
        .contains("fc7")
    );
    // The map of a convolution counts as its mean, whatever is done with it afterwards.
    let maps = [
        "--layer",
        "conv4_1",
        "--scales",
        "36,40",
        "--across-scales",
        "stack",
    ];
    assert_eq!(run(&raw, &maps)["features"], 2 * 64);
    for protocol in ["center", "adaptive", "multi-crop", "both"] {
        let said = run(&raw, &["--protocol", protocol]);
        assert_eq!(
            (&said["features"], &said["protocol"]),
            (&32.into(), &protocol.into())
        );
    }
    assert!(
        run_fails(
            2,
            ["features", "--weights", weights, "--out", &at("x.txt"), "x.png"]
        )
        .contains(".npy")
    );
}
