//! What people measure: whole steps, the input pipeline, and the machine they run on.

mod machine;
mod pipeline;
mod steps;

pub use machine::{peak_flops, peak_memory};
pub use pipeline::{PipelineRate, pipeline};
pub use steps::{StepTimes, infer_steps, train_steps};
