//! Our side of `tools/bench-peers`: one step for every line on the standard input, so that others can be measured in
//! between.
//!
//! `peer CONFIG WIDTH CROP FC infer|train BATCH MICRO_BATCH THREADS DROPOUT WEIGHTS IMAGES`. WEIGHTS holds every array as
//! f32 in the network's order, IMAGES the pixels (N, CROP, CROP, 3) as bytes; sample n has the class `37 * n mod 1000`.
//! Commands: `step`, answered by a JSON object with its seconds (and the loss), and
//! `posteriors FILE`, which writes those of the last forward pass.

use std::error::Error;
use std::io::{BufRead, Write};
use std::time::Instant;

use verydeep::backend::cpu::Cpu;
use verydeep::bench::peak_memory;
use verydeep::data::preprocess::{Flip, Preprocess};
use verydeep::exec::{Inference, Shape, SharedParameters, Training, Unwatched};
use verydeep::network::{Config, Network, Spec};
use verydeep::parallel::{Group as _, Local};
use verydeep::plan::{Batch, StepParams, Tree, UpdateRule, WalkOrder};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [
        config,
        width,
        crop,
        fc,
        mode,
        batch,
        micro_batch,
        threads,
        dropout,
        weights,
        images,
    ] = &arguments[..]
    else {
        let usage = "peer CONFIG WIDTH CROP FC infer|train BATCH MICRO_BATCH THREADS DROPOUT WEIGHTS IMAGES";
        return Err(usage.into());
    };
    let (batch, micro_batch): (usize, usize) = (batch.parse()?, micro_batch.parse()?);
    let spec = Spec {
        width: width.parse()?,
        crop: crop.parse()?,
        fc: fc.parse()?,
        dropout: dropout.parse()?,
        ..Spec::paper(config.parse::<Config>()?)
    };
    let network = spec.build()?;
    let cpu = Cpu::new(threads.parse()?)?;
    let flat = read_weights(&network, weights)?;
    let images = Images::read(images, batch)?;
    let preprocess = Preprocess::subtract_mean([123.0, 117.0, 104.0]);
    if mode == "train" {
        let rule = UpdateRule {
            momentum: 0.9,
            weight_decay: 5e-4,
            bias_decay: 1.0,
            bias_lr: 1.0,
            batch,
            micro_batches: batch / micro_batch,
        };
        let parameters = SharedParameters::new(&cpu, &network, &flat, &[])?;
        drop(flat);
        let shape = Shape {
            micro_batch,
            tree: Tree::new(rule.micro_batches),
            order: WalkOrder::default(),
        };
        let mut training = Training::new(&cpu, &network, &preprocess, shape, parameters)?;
        let mut group = Local::alone(&cpu, training.parameters());
        let mut params = StepParams {
            seed: 1,
            step: 0,
            position: 0,
            learning_rate: 1e-6,
        };
        serve(
            || {
                let mut loss = 0.0;
                for leaf in 0..rule.micro_batches {
                    let part = images.part(leaf * micro_batch, micro_batch);
                    training.micro_batch(leaf, part, &params, &mut Unwatched)?;
                    loss += training.outcomes()?.loss_sum();
                    params.position += micro_batch as u64;
                }
                group.update(&mut training, &rule, &params)?;
                params.step += 1;
                Ok(loss / batch as f64)
            },
            || Err("no posteriors in training".into()),
        )
    } else if mode == "infer" {
        let inference = Inference::new(&cpu, &network, &preprocess, batch, &flat)?;
        drop(flat);
        let inference = std::cell::RefCell::new(inference);
        let posteriors = || {
            let mut values = vec![0.0; batch * network.classes];
            inference.borrow().posteriors(&mut values)?;
            Ok(values)
        };
        let step = || {
            let mut inference = inference.borrow_mut();
            Ok(inference.run(images.part(0, batch))?.loss_sum() / batch as f64)
        };
        serve(step, posteriors)
    } else {
        Err(format!("expected infer or train, found {mode}").into())
    }
}

/// Answers commands until the input ends.
fn serve(mut step: impl FnMut() -> Result<f64>, posteriors: impl Fn() -> Result<Vec<f32>>) -> Result<()> {
    let mut out = std::io::stdout();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match line.split_once(' ') {
            Some(("posteriors", file)) => {
                std::fs::write(file, bytemuck::cast_slice(&posteriors()?))?;
                writeln!(out, "{{}}")?;
            }
            _ => {
                let started = Instant::now();
                let loss = step()?;
                let seconds = started.elapsed().as_secs_f64();
                let memory = peak_memory().unwrap_or(0);
                writeln!(
                    out,
                    "{{\"seconds\": {seconds}, \"loss\": {loss}, \"peak_memory\": {memory}}}"
                )?;
            }
        }
        out.flush()?;
    }
    Ok(())
}

/// The arrays to their offsets.
fn read_weights(network: &Network, file: &str) -> Result<Vec<f32>> {
    let bytes = std::fs::read(file)?;
    let mut values = bytes.as_chunks::<4>().0.iter();
    let mut flat = vec![0.0; network.flat_len()];
    for parameter in &network.parameters {
        for weight in &mut flat[parameter.range()] {
            let bytes = values.next().ok_or("too few weights")?;
            *weight = f32::from_le_bytes(*bytes);
        }
    }
    Ok(flat)
}

/// Pixels and classes, without any augmentation.
struct Images {
    pixels: Vec<u8>,
    flips: Vec<Flip>,
    colours: Vec<[f32; 3]>,
    labels: Vec<u32>,
}

impl Images {
    fn read(file: &str, batch: usize) -> Result<Self> {
        Ok(Self {
            pixels: std::fs::read(file)?,
            flips: vec![Flip::Keep; batch],
            colours: vec![[0.0; 3]; batch],
            labels: (0..batch).map(|n| (37 * n % 1000) as u32).collect(),
        })
    }

    fn part(&self, first: usize, count: usize) -> Batch<'_> {
        let image = self.pixels.len() / self.labels.len();
        Batch {
            pixels: &self.pixels[first * image..][..count * image],
            flips: &self.flips[first..first + count],
            colours: &self.colours[first..first + count],
            labels: &self.labels[first..first + count],
        }
    }
}
