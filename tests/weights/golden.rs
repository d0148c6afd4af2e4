//! PyTorch's files and PyTorch's scores.

use std::path::{Path, PathBuf};

use serde_json::Value;
use verydeep::backend::cpu::Cpu;
use verydeep::data::preprocess::Flip;
use verydeep::eval::{AcrossScales, Files, Protocol, Resources, WantedFeatures, features};
use verydeep::exec::Scorer;
use verydeep::network::{Config, Network, adaptive, dense};
use verydeep::plan::Batch;
use verydeep::shape::Chw;
use verydeep::weights::Model;

pub(crate) fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/weights")
        .join(name)
}

/// `pixels_of` of tools/check-weights.
fn pixels(n: usize, height: usize, width: usize) -> Vec<u8> {
    let mut pixels = Vec::new();
    for i in 0..n {
        for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
            for c in 0..3 {
                let wave = (0.031 * (x * (c + 1)) as f64 + 0.017 * y as f64 + i as f64).sin();
                let texture = (x * 7 + y * 13 + c * 5 + i) % 41;
                pixels.push((127.0 + 80.0 * wave + texture as f64).clamp(0.0, 255.0) as u8);
            }
        }
    }
    pixels
}

/// Scores of crops, or of the windows of whole images where a size is given.
pub(crate) fn scores(model: &Model, n: usize, size: Option<(usize, usize)>) -> Vec<f32> {
    let network = match size {
        Some((height, width)) => dense(&model.network, height, width).unwrap(),
        None => model.network.clone(),
    };
    scores_of(model, &network, n)
}

/// Scores of a network over the model's weights.
fn scores_of(model: &Model, network: &Network, n: usize) -> Vec<f32> {
    let Chw { h, w, .. } = network.input;
    let cpu = Cpu::new(2).unwrap();
    let mut scorer = Scorer::new(&cpu, &model.weights).unwrap();
    let preprocess = &model.about.as_ref().unwrap().preprocess;
    scorer.plan(network, preprocess, n).unwrap();
    let batch = Batch {
        pixels: &pixels(n, h, w),
        flips: &vec![Flip::Keep; n],
        colours: &vec![[0.0; 3]; n],
        labels: &vec![0; n],
    };
    scorer.run(batch).unwrap().to_vec()
}

fn expected() -> Value {
    let text = std::fs::read_to_string(file("expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn close(found: &[f32], expected: &Value, tolerance: f64, what: &str) {
    let expected: Vec<f64> = expected
        .as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_f64().unwrap())
        .collect();
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    for (found, expected) in found.iter().zip(&expected) {
        let error = (f64::from(*found) - expected).abs() / largest;
        assert!(
            error <= tolerance,
            "{what}: {found}, expected {expected}: error {error:e}"
        );
    }
}

/// fc6 reads a 2x2 map through random weights: any other order of its axes gives other scores.
#[test]
fn scores_of_crops_and_maps_are_pytorchs() {
    let expected = expected();
    for (name, batch_norm) in [("vgg11", false), ("vgg11_bn", true)] {
        let model = Model::import(&file(&format!("{name}.pth")), None, None).unwrap();
        let spec = &model.spec;
        assert_eq!(
            (spec.config, spec.batch_norm, spec.crop),
            (Config::A, batch_norm, 64)
        );
        close(&scores(&model, 2, None), &expected[name]["crop"], 1e-5, name);
        close(
            &scores(&model, 1, Some((75, 135))),
            &expected[name]["map"],
            1e-5,
            name,
        );
    }
    let half = Model::import(&file("half.pth"), None, Some(Config::A)).unwrap();
    close(
        &scores(&half, 2, None),
        &expected["vgg11"]["crop"],
        1e-2,
        "half precision",
    );
}

/// Maps of 2x4 and of 1x5 pixels become 2x2 in parts that share rows and columns; a map of that size stays as it is.
#[test]
fn averaged_maps_are_pytorchs() {
    for name in ["vgg11", "vgg11_bn"] {
        let model = Model::import(&file(&format!("{name}.pth")), None, None).unwrap();
        let pooled = adaptive(&model.network);
        for (i, (height, width)) in [(75, 135), (50, 170)].into_iter().enumerate() {
            let network = dense(&pooled, height, width).unwrap();
            let expected = &expected()[name]["adaptive"][i];
            close(&scores_of(&model, &network, 1), expected, 1e-5, name);
        }
        let same = dense(&pooled, 64, 64).unwrap();
        assert_eq!(scores_of(&model, &same, 2), scores(&model, 2, None));
    }
}

#[test]
fn features_of_convolutions_are_pytorchs() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image.png");
    let mut png = png::Encoder::new(std::fs::File::create(&image).unwrap(), 135, 75);
    png.set_color(png::ColorType::Rgb);
    png.write_header()
        .unwrap()
        .write_image_data(&pixels(1, 75, 135))
        .unwrap();
    let files = Files::new(vec![image], std::io::empty()).unwrap();
    let cpu = Cpu::new(2).unwrap();
    for name in ["vgg11", "vgg11_bn"] {
        let model = Model::import(&file(&format!("{name}.pth")), None, None).unwrap();
        for layer in ["conv3_2", "pool5"] {
            let wanted = WantedFeatures {
                layer: layer.into(),
                protocol: Protocol::Dense,
                scales: vec![75],
                flip: true,
                across: AcrossScales::Average,
                normalise: false,
            };
            let preprocess = &model.about.as_ref().unwrap().preprocess;
            let resources = Resources { batch: 2, threads: 1 };
            let found = features(&cpu, &model, preprocess, &files, &wanted, resources).unwrap();
            let expected = &expected()[name]["features"][layer];
            close(&found.values, expected, 1e-5, &format!("{name} {layer}"));
        }
    }
}

/// A graph that TensorFlow bore flattens as H, W, C; Caffe sees blue first and subtracts a mean.
#[test]
fn scores_of_other_programs_weights_are_pytorchs() {
    let expected = expected();
    for (name, of) in [
        ("channels_last.onnx", "vgg11"),
        ("current.caffemodel", "caffe"),
        ("older.caffemodel", "caffe"),
    ] {
        let model = Model::import(&file(name), None, Some(Config::A)).unwrap();
        assert_eq!(model.spec.crop, 64);
        close(&scores(&model, 2, None), &expected[of]["crop"], 1e-5, name);
        let error = Model::import(&file(name), None, Some(Config::ALrn))
            .err()
            .unwrap();
        let said = error.to_string();
        for word in ["--config A", "layer lrn1_1", "pool1"] {
            assert!(said.contains(word), "{said}");
        }
    }
}

#[test]
fn the_older_format_is_refused_with_advice() {
    let error = Model::import(&file("old.pth"), None, None).err().unwrap();
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains("torch.save(torch.load("), "{error}");
}

#[test]
fn weights_of_another_configuration_are_named() {
    let error = Model::import(&file("vgg11_bn.pth"), None, Some(Config::D))
        .err()
        .unwrap();
    let said = error.to_string();
    assert_eq!(error.exit_code(), 3);
    assert!(
        said.contains("features.1.weight") || said.contains("features.2.weight"),
        "{said}"
    );
    assert!(said.contains("--config A --batch-norm --width 0.0625"), "{said}");
}
