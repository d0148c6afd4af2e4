//! `plan --gpu`: the time of a training step on a GPU that is not here.

use crate::tool::{run_fails, run_json, run_ok};

#[test]
fn the_parts_add_up_to_the_step() {
    let flags = "plan --config D --gpu a100 --precision tf32 --batch 64 --micro-batch 16";
    let plan = run_json(flags.split(' '));
    let gpu = &plan["gpu"];
    let parts = gpu["layers"].as_array().unwrap().iter().flat_map(|layer| {
        ["forward", "data_gradient", "filter_gradient"].map(|part| layer[part]["seconds"].as_f64())
    });
    let micro_batch: f64 = parts.flatten().sum();
    let step = 4.0 * micro_batch + gpu["update_seconds"].as_f64().unwrap();
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9 * b, "{a} and {b}");
    close(step, gpu["step_seconds"].as_f64().unwrap());
    let rate = gpu["images_per_sec"].as_f64().unwrap();
    close(64.0 / step, rate);
    // 16 images, a convolution bounded by arithmetic: 2 * MACs over 156 TFLOP/s, and over what is expected of them.
    let conv = gpu["layers"]
        .as_array()
        .unwrap()
        .iter()
        .find(|layer| layer["name"] == "conv4_2")
        .unwrap();
    let flops = 2.0 * 16.0 * (512.0 * 512.0 * 9.0 * 28.0 * 28.0);
    close(
        conv["forward"]["data_sheet_seconds"].as_f64().unwrap(),
        flops / 156e12,
    );
    close(
        conv["forward"]["seconds"].as_f64().unwrap(),
        flops / (0.35 * 156e12),
    );
    assert_eq!(conv["forward"]["limit"], "arithmetic");

    let figures = gpu["public_figures"].as_array().unwrap();
    assert_eq!(figures.len(), 2);
    for figure in figures {
        assert_eq!(figure["precision"], "tf32");
        let public = figure["images_per_sec"].as_f64().unwrap();
        let deviation = figure["deviation"].as_f64().unwrap();
        assert!((public * (1.0 + deviation) - rate).abs() < 1e-6 * rate);
    }
}

#[test]
fn people_see_assumptions_and_deviations() {
    let said = run_ok("plan --config D --gpu v100 --precision fp32".split(' '));
    for words in [
        "assumed: products reach",
        "249 images/s",
        "the forecast deviates by",
        "nothing was run",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    // A network that nobody else trains is compared with nothing.
    let said = run_ok("plan --config D --width 0.5 --gpu v100".split(' '));
    assert!(said.contains("no public figure"), "{said}");
}

#[test]
fn what_a_gpu_does_not_have_is_refused() {
    for (flags, words) in [
        ("--gpu v100 --precision bf16", "expected fp32 or fp16 on the V100"),
        ("--gpu k80", "--gpu: expected h200, h100"),
        ("--gpu a100 --device cpu", "expected with --device cuda"),
        ("--precision tf32", "--precision: expected fp32, or --device cuda"),
    ] {
        let said = run_fails(2, "plan --config A".split(' ').chain(flags.split(' ')));
        assert!(said.contains(words), "{flags}: {said}");
    }
}

#[test]
fn bf16_takes_less_memory_on_a_device() {
    let memory = |precision: &str| {
        let flags = format!("plan --config D --device cuda --precision {precision}");
        let memory = run_json(flags.split(' '))["memory"].clone();
        ["weights", "gradients", "activations"].map(|part| memory[part].as_u64().unwrap())
    };
    let ([weights, gradients, activations], half) = (memory("fp32"), memory("bf16"));
    // A copy of the weights in bf16 lies beside them; what is added up is f32.
    assert_eq!([half[0], half[1]], [weights + weights / 2, gradients]);
    assert!(
        2 * half[2] < activations + activations / 8,
        "{half:?}, {activations}"
    );
}
