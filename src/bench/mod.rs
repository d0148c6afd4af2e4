//! What people measure: whole steps, their parts layer by layer, the input pipeline, and the machine they run on.

mod layers;
mod machine;
mod pipeline;
mod steps;

pub use layers::{LayerTime, Layers, layers};
pub use machine::{peak_memory, rates};
pub use pipeline::{PipelineRate, pipeline};
pub use steps::{StepTimes, infer_steps, train_steps};

/// The middle of some samples, of which there is at least one.
fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
