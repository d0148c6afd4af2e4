//! `bench` reports what scripts parse.

use crate::images::shards;
use crate::tool::{run_json, run_ok};

#[test]
fn steps_are_reported_with_the_stable_fields() {
    for what in ["train", "infer"] {
        let mut flags = vec!["bench", what];
        flags
            .extend("--config A --width 0.0625 --fc 16 --crop 32 --batch 4 --steps 3 --threads 1".split(' '));
        let report = run_json(&flags);
        assert_eq!(report["step_seconds"].as_array().unwrap().len(), 3);
        assert!(report["images_per_sec_best"].as_f64() >= report["images_per_sec"].as_f64());
        for key in [
            "fraction_of_peak",
            "fraction_of_roofline",
            "peak_flops",
            "peak_bandwidth",
        ] {
            assert!(report[key].as_f64().unwrap() > 0.0, "{key}");
        }
        let rate = |key: &str| report[key].as_f64().unwrap();
        let fraction = rate("images_per_sec") * rate("flops_per_image") / rate("peak_flops");
        assert!((rate("fraction_of_peak") / fraction - 1.0).abs() < 1e-9);
        let text = run_ok(&flags);
        assert!(
            text.lines().last().unwrap().starts_with("total images/sec: "),
            "{text}"
        );
    }
}

#[test]
fn replicas_are_reported_with_the_price_of_exactness() {
    let flags = "bench scale --config A --width 0.0625 --fc 16 --crop 32 --batch 4 --micro-batch 1 --replicas 1,2 \
                 --steps 1 --threads 1";
    let flags: Vec<&str> = flags.split_whitespace().collect();
    let text = run_ok(&flags);
    assert!(text.contains("as NCCL adds on a ring of 2"), "{text}");
    assert!(text.contains("8 x h100"), "{text}");
    let report = run_json(&flags);
    for way in ["exact", "ring", "plain"] {
        assert!(report["additions"][way].as_f64().unwrap() > 0.0, "{way}");
    }
    let forecasts = report["forecasts"].as_array().unwrap();
    assert!(forecasts.iter().any(|forecast| forecast["gpu"] == "a100"));
    for forecast in forecasts {
        let seconds = |key: &str| forecast[key].as_f64().unwrap();
        let price = seconds("exact_step_seconds") / seconds("nccl_step_seconds") - 1.0;
        assert!(
            (seconds("exact_over_nccl_of_step") - price).abs() < 1e-12,
            "{forecast}"
        );
    }
}

/// With `--conv-algo`, every 3x3 filter, and held against the products that this algorithm needs.
#[test]
fn layers_are_computed_as_asked() {
    for (algorithm, share) in [
        ("winograd4", 1.0 / 4.0),
        ("winograd2", 4.0 / 9.0),
        ("direct", 1.0),
    ] {
        let flags =
            "bench layers --config A --width 0.125 --fc 64 --crop 32 --batch 4 --repeats 1 --threads 1";
        let report = run_json(flags.split(' ').chain(["--conv-algo", algorithm]));
        let layers = report["layers"].as_array().unwrap();
        let is_conv = |layer: &&serde_json::Value| layer["name"].as_str().unwrap().starts_with("conv");
        for conv in layers.iter().filter(is_conv) {
            assert_eq!(conv["algorithm"], algorithm, "{conv}");
            let row = &conv["parts"]["forward"];
            let products = share * row["flops"].as_f64().unwrap() / report["peak_flops"].as_f64().unwrap();
            let memory = row["bytes"].as_f64().unwrap() / report["peak_bandwidth"].as_f64().unwrap();
            let bound = row["roofline_seconds"].as_f64().unwrap();
            assert!((bound / products.max(memory) - 1.0).abs() < 1e-9, "{conv}");
        }
    }
}

#[test]
fn every_layer_is_reported_part_by_part() {
    let flags = "bench layers --config A --width 0.125 --fc 64 --crop 32 --batch 4 --repeats 3 --threads 1";
    let report = run_json(flags.split(' '));
    let layers = report["layers"].as_array().unwrap();
    let find = |name: &str| layers.iter().find(|layer| layer["name"] == name).unwrap();
    // 8 -> 16 channels of 16 x 16, four images.
    let conv = find("conv2_1");
    assert_eq!(conv["flops"], 2 * 4 * 16 * 8 * 9 * 16 * 16);
    assert_eq!(conv["algorithm"], "winograd4");
    assert_eq!(find("conv1_1")["algorithm"], "direct");
    for part in ["forward", "filter_gradient"] {
        let seconds = conv[part].as_f64().unwrap();
        assert!(seconds > 0.0);
        let row = &conv["parts"][part];
        let rate = row["flops"].as_f64().unwrap() / seconds / 1e9;
        assert!((row["gflops_per_sec"].as_f64().unwrap() / rate - 1.0).abs() < 1e-9);
        let bound = row["roofline_seconds"].as_f64().unwrap();
        assert!((row["fraction_of_roofline"].as_f64().unwrap() / (bound / seconds) - 1.0).abs() < 1e-9);
        // Of the products that the algorithm needs, a quarter.
        let products = row["flops"].as_f64().unwrap() / 4.0 / report["peak_flops"].as_f64().unwrap();
        let memory = row["bytes"].as_f64().unwrap() / report["peak_bandwidth"].as_f64().unwrap();
        assert!((bound / products.max(memory) - 1.0).abs() < 1e-9, "{row}");
    }
    assert!(report["fraction_of_roofline"].as_f64().unwrap() > 0.0);
    // The two gradients are the whole pass, unless noise made the difference negative and it is not reported.
    let number = |layer: &serde_json::Value, key: &str| layer[key].as_f64();
    let backward = number(conv, "backward").unwrap();
    if let Some(data) = number(conv, "data_gradient") {
        let sum = data + number(conv, "filter_gradient").unwrap();
        assert!((sum / backward - 1.0).abs() < 1e-9, "{conv}");
    }
    // Nobody wants the gradient of an image; a dropout has no weights; the input has no gradient at all.
    assert!(find("conv1_1")["data_gradient"].is_null());
    assert_eq!(find("conv1_1")["filter_gradient"], find("conv1_1")["backward"]);
    assert!(find("drop6")["filter_gradient"].is_null());
    assert_eq!(find("drop6")["data_gradient"], find("drop6")["backward"]);
    assert!(find("input")["backward"].is_null());
    let text = run_ok(flags.split(' '));
    assert!(text.contains("measured here: products"), "{text}");
}

#[test]
fn gradients_that_are_computed_at_once_are_not_split() {
    let flags = "bench layers --config A --batch-norm --width 0.0625 --fc 16 --crop 32 --batch 2 --repeats 1";
    let report = run_json(flags.split(' '));
    let layers = report["layers"].as_array().unwrap();
    let norm = layers.iter().find(|layer| layer["name"] == "bn1_1").unwrap();
    assert!(norm["backward"].as_f64().unwrap() > 0.0, "{norm}");
    assert!(
        norm["data_gradient"].is_null() && norm["filter_gradient"].is_null(),
        "{norm}"
    );
}

#[test]
fn the_pipeline_is_reported_by_stage() {
    let report = run_json([
        "bench",
        "data",
        "--data",
        shards(),
        "--scale",
        "32..40",
        "--crop",
        "32",
    ]);
    for key in [
        "images_per_sec",
        "images_per_sec_per_core",
        "bytes_per_sec",
        "read",
        "decode",
        "resize",
        "finish",
    ] {
        assert!(report[key].as_f64().unwrap() > 0.0, "{key}");
    }
    for key in ["consumer_waited", "workers_waited"] {
        assert!(report[key].as_f64().unwrap() >= 0.0, "{key}");
    }
    assert!(report["threads"].as_u64().unwrap() > 0);
}
