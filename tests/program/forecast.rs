//! `plan --gpu`: the time of a training step on GPUs that are not here.

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
fn several_gpus_take_what_their_parts_take() {
    let flags = "plan --config D --gpu p100 --nodes 2 --gpus 4 --batch 512 --micro-batch 64";
    let plan = run_json(flags.split(' '));
    let number = |name: &str| plan["cluster"][name].as_f64().unwrap();
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9 * b, "{a} and {b}");
    let step = number("compute_seconds")
        + number("update_seconds")
        + number("reduce_exposed_seconds")
        + number("gather_seconds");
    close(step, number("step_seconds"));
    close(512.0 / step, number("images_per_sec"));
    close(
        number("hidden_seconds") + number("exposed_seconds"),
        number("reduce_seconds") + number("gather_seconds"),
    );
    // 3/4 of the gradient in the node and half of it to the other node, twice; slices are rounded up to 16 bytes.
    let gradient = number("gradient_bytes");
    assert!((number("bytes_per_gpu_inside") - 1.5 * gradient).abs() < 1e-5 * gradient);
    assert!((number("bytes_per_node_between") - gradient).abs() < 1e-5 * gradient);
    // The whole batch on one GPU is the forecast beside it.
    let alone = plan["gpu"]["images_per_sec"].as_f64().unwrap();
    close(number("speedup_same_batch"), number("images_per_sec") / alone);
    close(
        number("efficiency_same_batch"),
        number("speedup_same_batch") / 8.0,
    );
    // Figures of one DGX-1 are not of two nodes.
    assert_eq!(plan["cluster"]["public_figures"].as_array().unwrap().len(), 0);
    // Memory is that of one GPU: a copy of everything, as on one.
    let one = run_json("plan --config D --gpu p100 --batch 64 --micro-batch 64".split(' '));
    for part in ["weights", "gradients", "optimizer", "activations"] {
        assert_eq!(plan["memory"][part], one["memory"][part], "{part}");
    }
    assert!(one["cluster"].is_null());
}

#[test]
fn several_gpus_stand_beside_what_others_measured() {
    let said = run_ok("plan --config D --gpu p100 --gpus 8 --batch 512 --micro-batch 64".split(' '));
    for words in [
        "the same step on 8 GPUs (8 a node): 1 micro-batch on each",
        "assumed: links reach",
        "on each of 8 devices",
        "hidden behind the backward pass",
        "1081 images/s, the forecast deviates by",
        "7.02 times one GPU",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    // The paper's own speed-up, section 3.3.
    let said = run_ok("plan --config E --gpu titanblack --gpus 4 --walk fc-first".split(' '));
    assert!(
        said.contains("3.75 times one GPU with the same batch in all"),
        "{said}"
    );
    assert!(said.contains("fc-first walk"), "{said}");
}

#[test]
fn numbers_of_gpus_that_cannot_share_the_batch_are_refused() {
    for (code, flags, words) in [
        (
            3,
            "--nodes 3 --gpus 8",
            "--nodes x --gpus: expected 1, 2, 4, 8 for 8 micro-batches of 32, found 24",
        ),
        (3, "--nodes 2 --gpus 8", "--micro-batch 16 would allow 16"),
        (
            3,
            "--gpus 16",
            "--gpus: expected 1 to 8, what DGX H100 has; more with --nodes",
        ),
        (3, "--nodes 0", "--nodes: expected at least 1"),
        (2, "--gpus 2 --replicas 2", "cannot be used with"),
    ] {
        let command = "plan --config A --gpu h100".split(' ').chain(flags.split(' '));
        let said = run_fails(code, command);
        assert!(said.contains(words), "{flags}: {said}");
    }
    let said = run_fails(2, "plan --config A --gpus 2".split(' '));
    assert!(said.contains("--gpu <GPU>"), "{said}");
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
