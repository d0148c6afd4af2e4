//! One core of the input pipeline, for `tools/bench-input`, which runs it side by side with others.
//!
//! `bench_input FOLDER` reads every image of the folder, then commands from standard input, one a line:
//!
//! - `run 256..512`: decode, crop, resize, flip and normalise every image once, to f32 (3, 224, 224). Answers with
//!   images per second and the seconds per image of decode, resize and finish.
//! - `dump 256 FILE`: writes the centre crops, (images, 224, 224, 3) RGB8, to a file. Answers with their number.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;
use verydeep::data::augment::{ScaleRange, Views};
use verydeep::data::manifest::PcaRgb;
use verydeep::data::preprocess::{Preprocess, finish};
use verydeep::data::render::Worker;

const CROP: usize = 224;

/// ImageNet's, as Krizhevsky's successors use them.
const MEAN_RGB: [f64; 3] = [123.68, 116.779, 103.939];
const PCA_RGB: PcaRgb = PcaRgb {
    eigenvalues: [0.2175, 0.0188, 0.0045],
    eigenvectors: [
        [-0.5675, -0.5808, -0.5836],
        [0.7192, -0.0045, -0.6948],
        [0.4009, -0.8140, 0.4203],
    ],
};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let folder = std::env::args()
        .nth(1)
        .ok_or("usage: bench_input FOLDER < commands")?;
    let images = read_all(Path::new(&folder))?;
    let mut worker = Worker::new();
    let mut answers = std::io::stdout();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let answer = match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["run", scale] => run(&images, scale.parse()?, &mut worker)?,
            ["dump", scale, file] => dump(&images, scale.parse()?, &mut worker, Path::new(file))?,
            _ => return Err(format!("expected `run SCALE` or `dump SCALE FILE`, found {line:?}").into()),
        };
        writeln!(answers, "{answer}")?;
        answers.flush()?;
    }
    Ok(())
}

/// The files of a folder, in the order of their names.
fn read_all(folder: &Path) -> Result<Vec<Vec<u8>>, Failure> {
    let entries = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let mut paths = entries.collect::<std::io::Result<Vec<PathBuf>>>()?;
    paths.sort();
    Ok(paths.iter().map(std::fs::read).collect::<Result<_, _>>()?)
}

fn run(images: &[Vec<u8>], scale: ScaleRange, worker: &mut Worker) -> Result<String, Failure> {
    let views = Views::augmented(1, CROP, scale, PCA_RGB)?;
    let preprocess = Preprocess::subtract_mean(MEAN_RGB);
    let mut pixels = vec![0; CROP * CROP * 3];
    let mut input = vec![0.0; CROP * CROP * 3];
    worker.take_times();
    let start = Instant::now();
    for (position, image) in images.iter().enumerate() {
        let view = views.at(position as u64);
        worker.render(image, &view, CROP, &mut pixels)?;
        finish(&pixels, CROP, view.flip, view.colour, &preprocess, &mut input);
        std::hint::black_box(&input);
    }
    let total = start.elapsed().as_secs_f64();
    let times = worker.take_times();
    let per_image = |seconds: f64| seconds / images.len() as f64;
    let (decode, resize) = (times.decode.as_secs_f64(), times.resize.as_secs_f64());
    Ok(format!(
        "{} {} {} {}",
        images.len() as f64 / total,
        per_image(decode),
        per_image(resize),
        per_image(total - decode - resize),
    ))
}

fn dump(images: &[Vec<u8>], scale: ScaleRange, worker: &mut Worker, file: &Path) -> Result<String, Failure> {
    let view = Views::centred(CROP, scale.middle())?.at(0);
    let mut pixels = vec![0; images.len() * CROP * CROP * 3];
    for (image, out) in images.iter().zip(pixels.chunks_exact_mut(CROP * CROP * 3)) {
        worker.render(image, &view, CROP, out)?;
    }
    std::fs::write(file, pixels)?;
    Ok(images.len().to_string())
}
