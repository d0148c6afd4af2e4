//! The pixels that a network sees, beside Pillow's and NumPy's: `tests/golden/images`, made by `tools/golden-images`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::*;
use crate::backend::cpu::Cpu;
use crate::eval::{Files, Protocol};
use crate::network::Builder;
use crate::shape::Chw;

/// How many views the paper's multi-crop has at a scale.
const VIEWS: usize = 50;

#[derive(Deserialize)]
struct Golden {
    file: String,
    crop: usize,
    scales: Vec<usize>,
}

/// A network whose scores are its input, (C, H, W): one fully connected layer that copies.
fn copying(crop: usize) -> (Network, Vec<f32>) {
    let input = Chw::new(3, crop, crop);
    let mut builder = Builder::new(input);
    builder.linear("fc8".into(), input.len());
    let network = builder.finish();
    let mut weights = vec![0.0; network.flat_len()];
    let diagonal = weights[network.parameters[0].range()].iter_mut();
    diagonal.step_by(input.len() + 1).for_each(|weight| *weight = 1.0);
    (network, weights)
}

/// The values of every view, in the order in which they come.
#[derive(Default)]
struct Seen(Vec<Vec<f32>>);

impl Sink for Seen {
    fn add(&mut self, image: usize, values: &[f32], weight: f64) {
        assert!(image == 0 && weight == 1.0 / VIEWS as f64);
        self.0.push(values.to_vec());
    }

    fn note(&mut self, _: usize, sample: BadSample, _: Action) {
        panic!("{sample}");
    }

    fn is_left_out(&self, _: usize) -> bool {
        false
    }
}

#[test]
fn the_fifty_views_of_multi_crop_are_pillows() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images");
    let text = std::fs::read(folder.join("multi-crop.json")).unwrap();
    let Golden { file, crop, scales } = serde_json::from_slice(&text).unwrap();
    let pillow = std::fs::read(folder.join("multi-crop.bin")).unwrap();
    let (network, weights) = copying(crop);
    let preprocess = Preprocess::subtract_mean([0.0; 3]);
    let cpu = Cpu::new(2).unwrap();
    let files: Vec<PathBuf> = vec![folder.join(file)];
    let source = Files::new(files, std::io::empty()).unwrap();
    let resources = Resources { batch: 7, threads: 2 };
    let view_len = 3 * crop * crop;
    let mut expected = pillow.chunks_exact(VIEWS * view_len);
    for &scale in &scales {
        let look = Look {
            protocol: Protocol::MultiCrop,
            scales: vec![scale],
            flip: false,
        };
        let mut views = Views {
            name: "copying".into(),
            crop,
            preprocess: &preprocess,
            source: &source,
            look: &look,
            networks: Networks::new(&network, |network| Ok(network.clone())).unwrap(),
            batch: resources.batch,
            pool: decoders(resources).unwrap(),
            scorer: Scorer::new(&cpu, &weights).unwrap(),
        };
        let mut seen = Seen::default();
        views.walk(scale, &mut seen).unwrap();
        assert_eq!(seen.0.len(), VIEWS);
        let expected = expected.next().unwrap().chunks_exact(view_len);
        for (view, (seen, expected)) in seen.0.iter().zip(expected).enumerate() {
            for (i, &found) in seen.iter().enumerate() {
                let (channel, pixel) = (i / (crop * crop), i % (crop * crop));
                let pillows = f32::from(expected[3 * pixel + channel]);
                assert!(
                    (found - pillows).abs() <= 1.0,
                    "Q = {scale}, view {view}, channel {channel}, pixel {pixel}: {found}, Pillow has {pillows}"
                );
            }
        }
    }
    assert!(expected.next().is_none(), "every scale was looked at");
}
