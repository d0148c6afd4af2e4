//! Finishing the input: pixels (N, H, W, 3) u8 to the network's input (N, 3, H, W).

use super::memory::f32_bytes;
use super::{Cpu, Views};
use crate::data::preprocess::finish;
use crate::error::Result;
use crate::plan::{Footprint, Plan, Step};

pub(super) fn footprint(step: &Step) -> Footprint {
    Footprint {
        value: f32_bytes(step.batch * step.output.len()),
        ..Footprint::default()
    }
}

/// Overwrites the value, image by image.
pub(super) fn forward(cpu: &Cpu, plan: &Plan, step: &Step, views: &mut Views<'_>) -> Result<()> {
    let (image, crop, batch) = (step.output.len(), step.output.h, views.batch);
    cpu.team.chunks(views.value, image, |n, value| {
        let pixels = &batch.pixels[n * image..][..image];
        finish(
            pixels,
            crop,
            batch.flips[n],
            batch.colours[n],
            &plan.preprocess,
            value,
        );
    });
    Ok(())
}
