//! Finishing the input: pixels (N, H, W, 3) u8 to the network's input, 3 channels of a group of 16.

use super::layout::{group_from_logical, image_len, tensor_bytes};
use super::memory::f32_bytes;
use super::team::Parts;
use super::{Cpu, Views};
use crate::data::preprocess::finish;
use crate::error::{Error, Result};
use crate::plan::{Footprint, Plan, Step};

pub(super) fn footprint(step: &Step, threads: usize) -> Footprint {
    Footprint {
        value: tensor_bytes(step.batch, step.output),
        forward_scratch: f32_bytes(threads * step.output.len()),
        ..Footprint::default()
    }
}

/// Flip, colour shift, channel order, scale and shift of every image ([`finish`]). Overwrites the value.
pub(super) fn forward(cpu: &Cpu, plan: &Plan, step: &Step, views: &mut Views<'_>) -> Result<()> {
    let image = step.output;
    if image.c != 3 {
        return Err(Error::invalid("shape of an input image", "3 channels", image));
    }
    let batch = views.batch;
    let scratch = Parts::new(views.scratch);
    let value = Parts::new(views.value);
    cpu.team.run(step.batch, |n, worker| {
        let pixels = &batch.pixels[n * image.len()..][..image.len()];
        // SAFETY: one task at a time has this worker number, and this task alone has this image.
        let (planes, value) = unsafe {
            (
                scratch.range(worker * image.len(), image.len()),
                value.range(n * image_len(image), image_len(image)),
            )
        };
        finish(
            pixels,
            image.w,
            batch.flips[n],
            batch.colours[n],
            &plan.preprocess,
            planes,
        );
        group_from_logical(cpu.isa, image.c, planes, value);
    });
    Ok(())
}
