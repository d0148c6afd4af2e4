//! What people measure: whole steps, their parts layer by layer, the input pipeline, replicas, and the machine they run
//! on.

mod layers;
mod machine;
mod pipeline;
mod scale;
mod steps;

pub use layers::{LayerTime, Layers, layers};
pub use machine::{peak_memory, rates};
pub use pipeline::{PipelineRate, pipeline};
pub use scale::{Additions, additions, reduction};
pub use steps::{StepShape, StepTimes, infer_steps, train_steps, weights};

/// The middle of some samples, of which there is at least one.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
