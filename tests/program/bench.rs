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
        assert!(report["fraction_of_peak"].as_f64().unwrap() > 0.0);
        let text = run_ok(&flags);
        assert!(
            text.lines().last().unwrap().starts_with("total images/sec: "),
            "{text}"
        );
    }
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
        "read",
        "decode",
        "resize",
        "finish",
    ] {
        assert!(report[key].as_f64().unwrap() > 0.0, "{key}");
    }
}
