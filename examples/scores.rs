//! Class scores of raw pixels, for comparisons with other programs (`tools/check-weights`).
//!
//! `scores WEIGHTS PIXELS N HEIGHT WIDTH OUT dense|adaptive|crop`: PIXELS are (N, HEIGHT, WIDTH, 3) bytes. OUT gets f32: the
//! scores of every window of every image, (N, windows, classes), of the network as convolutions; with `adaptive`, (N, classes)
//! of the network that averages its last map; with `crop`, of the network as it was trained, whose input has that size.
//! Standard output: the seconds of the second of two runs.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::thread::available_parallelism;
use std::time::Instant;

use verydeep::backend::cpu::Cpu;
use verydeep::data::preprocess::Flip;
use verydeep::exec::Scorer;
use verydeep::network::{adaptive, dense};
use verydeep::plan::Batch;
use verydeep::weights::Model;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [weights, pixels, n, height, width, out, way] = &arguments[..] else {
        return Err("scores WEIGHTS PIXELS N HEIGHT WIDTH OUT dense|adaptive|crop".into());
    };
    let (n, height, width): (usize, usize, usize) = (n.parse()?, height.parse()?, width.parse()?);
    let model = Model::open(Path::new(weights))?;
    let about = model
        .about
        .as_ref()
        .ok_or("weights that say how images are preprocessed")?;
    let network = match way.as_str() {
        "dense" => dense(&model.network, height, width)?,
        "adaptive" => dense(&adaptive(&model.network), height, width)?,
        "crop" => model.network.clone(),
        other => return Err(format!("dense, adaptive or crop, not {other}").into()),
    };
    let cpu = Cpu::new(available_parallelism()?.get())?;
    let mut scorer = Scorer::new(&cpu, &model.weights)?;
    scorer.plan(&network, &about.preprocess, n)?;
    let pixels = std::fs::read(pixels)?;
    let batch = Batch {
        pixels: &pixels,
        flips: &vec![Flip::Keep; n],
        colours: &vec![[0.0; 3]; n],
        labels: &vec![0; n],
    };
    scorer.run(batch)?;
    let started = Instant::now();
    let scores = scorer.run(batch)?;
    let seconds = started.elapsed().as_secs_f64();
    std::fs::write(out, bytemuck::cast_slice(scores))?;
    writeln!(std::io::stdout(), "{seconds}")?;
    Ok(())
}
