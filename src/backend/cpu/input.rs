//! Finishing the input: pixels (N, crop, crop, 3) u8 to the network's input (N, 3, crop, crop).

use super::memory::f32_bytes;
use super::{Cpu, Views};
use crate::data::preprocess::finish;
use crate::error::{Error, Result};
use crate::plan::{Footprint, Plan, Step};

pub(super) fn footprint(step: &Step) -> Footprint {
    Footprint {
        value: f32_bytes(step.batch * step.output.len()),
        ..Footprint::default()
    }
}

/// Flip, colour shift, channel order, scale and shift of every image ([`finish`]). Overwrites the value.
pub(super) fn forward(cpu: &Cpu, plan: &Plan, step: &Step, views: &mut Views<'_>) -> Result<()> {
    let image = step.output;
    if image.c != 3 || image.h != image.w {
        return Err(Error::invalid(
            "shape of an input image",
            "3 channels, a square",
            image,
        ));
    }
    let batch = views.batch;
    cpu.team.chunks(views.value, image.len(), |n, value| {
        let pixels = &batch.pixels[n * image.len()..][..image.len()];
        finish(
            pixels,
            image.w,
            batch.flips[n],
            batch.colours[n],
            &plan.preprocess,
            value,
        );
    });
    Ok(())
}
