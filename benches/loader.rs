//! The input pipeline by parts: rendering, input finishing, and the loader with one worker and with two.
//!
//! `cargo bench --bench loader`. Images are synthetic, 500x375 at quality 92; `tools/bench-input` compares with other
//! programs on photographs.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use verydeep::data::augment::{ScaleRange, Views};
use verydeep::data::loader::{Config, Loader, Mode, OnBad, Positions, Source};
use verydeep::data::manifest::PcaRgb;
use verydeep::data::order::Order;
use verydeep::data::preprocess::{Flip, Preprocess, finish};
use verydeep::data::render::Worker;
use verydeep::error::{BadSample, Result};
use verydeep::rng::{Purpose, Stream};

const CROP: usize = 224;
const IMAGES: usize = 32;
const PCA_RGB: PcaRgb = PcaRgb {
    eigenvalues: [0.2175, 0.0188, 0.0045],
    eigenvectors: [
        [-0.5675, -0.5808, -0.5836],
        [0.7192, -0.0045, -0.6948],
        [0.4009, -0.8140, 0.4203],
    ],
};

/// A waving, noisy image of 500x375, as a JPEG.
fn image(number: u64) -> Vec<u8> {
    let (width, height) = (500, 375);
    let mut stream = Stream::new(1, number, Purpose::Synthetic, 0);
    let slopes: [f64; 2] = std::array::from_fn(|_| stream.uniform() * 0.2);
    let mut pixels = Vec::with_capacity(3 * width * height);
    for y in 0..height {
        for x in 0..width {
            let wave = (slopes[0] * x as f64 + slopes[1] * y as f64).sin();
            let noise = f64::from(stream.next_u32() % 24);
            pixels.extend([0.0, 20.0, 40.0].map(|tint| (80.0 + tint + 60.0 * wave + noise) as u8));
        }
    }
    let image = turbojpeg::Image {
        pixels: &pixels[..],
        width,
        pitch: 3 * width,
        height,
        format: turbojpeg::PixelFormat::RGB,
    };
    let jpeg = turbojpeg::compress(image, 92, turbojpeg::Subsamp::Sub2x2);
    jpeg.expect("an image that can be compressed").to_vec()
}

/// Compressed images in memory.
#[derive(Debug)]
struct Memory(Vec<Vec<u8>>);

impl Source for Memory {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn label(&self, sample: usize) -> u32 {
        sample as u32
    }

    fn read<'a>(&'a self, sample: usize, _scratch: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        Ok(&self.0[sample])
    }

    fn bad_sample(&self, sample: usize, reason: String) -> BadSample {
        BadSample {
            shard: "memory".into(),
            offset: 0,
            key: sample.to_string(),
            reason,
        }
    }
}

fn scales(text: &str) -> ScaleRange {
    text.parse().expect("a scale")
}

fn views(scale: &str) -> Views {
    Views::augmented(1, CROP, scales(scale), PCA_RGB).expect("a crop below the scale")
}

fn rendering(c: &mut Criterion) {
    let images: Vec<Vec<u8>> = (0..IMAGES as u64).map(image).collect();
    let mut group = c.benchmark_group("render");
    group.throughput(Throughput::Elements(1));
    for scale in ["256", "384", "256..512"] {
        let views = views(scale);
        let (mut worker, mut pixels, mut position) = (Worker::new(), vec![0; CROP * CROP * 3], 0);
        group.bench_function(BenchmarkId::from_parameter(scale), |b| {
            b.iter(|| {
                position += 1;
                let image = &images[position % IMAGES];
                let rendered = worker.render(image, &views.at(position as u64), CROP, &mut pixels);
                rendered.expect("a good image");
            });
        });
    }
    group.finish();
}

fn finishing(c: &mut Criterion) {
    let pixels: Vec<u8> = (0..CROP * CROP * 3).map(|i| (i * 7) as u8).collect();
    let preprocess = Preprocess::subtract_mean([123.68, 116.779, 103.939]);
    let mut input = vec![0.0; pixels.len()];
    let mut group = c.benchmark_group("finish");
    group.throughput(Throughput::Elements(1));
    for flip in [Flip::Keep, Flip::Mirror] {
        group.bench_function(BenchmarkId::from_parameter(format!("{flip:?}")), |b| {
            b.iter(|| {
                finish(
                    black_box(&pixels),
                    CROP,
                    flip,
                    [1.0, -2.0, 0.5],
                    &preprocess,
                    &mut input,
                )
            });
        });
    }
    group.finish();
}

fn loading(c: &mut Criterion) {
    let source = Arc::new(Memory((0..IMAGES as u64).map(image).collect()));
    let mut group = c.benchmark_group("loader");
    group.throughput(Throughput::Elements(16));
    group.sample_size(20);
    for threads in [1, 2] {
        let config = Config {
            threads,
            slots: 3,
            positions: Positions::from(0, 16).expect("a micro-batch"),
            views: views("256"),
            mode: Mode::Train {
                order: Order::new(1, IMAGES).expect("samples"),
                on_bad: OnBad::Fail,
            },
        };
        let mut loader =
            Loader::new(Arc::clone(&source) as Arc<dyn Source>, config).expect("a good configuration");
        group.bench_function(BenchmarkId::new("threads", threads), |b| {
            b.iter(|| {
                black_box(
                    loader
                        .next_slot()
                        .expect("good images")
                        .expect("an endless stream")
                        .samples,
                )
            });
        });
    }
    group.finish();
}

criterion_group!(benches, rendering, finishing, loading);
criterion_main!(benches);
