//! Finishing the input: pixels (N, H, W, 3) u8 to the network's input (N, 3, H, W).

use super::memory::f32_bytes;
use super::{Cpu, Views};
use crate::error::Result;
use crate::plan::{Footprint, Plan, Step};

pub(super) fn footprint(step: &Step) -> Footprint {
    Footprint {
        value: f32_bytes(step.batch * step.output.len()),
        ..Footprint::default()
    }
}

/// Overwrites the value, image by image.
pub(super) fn forward(cpu: &Cpu, _plan: &Plan, step: &Step, views: &mut Views<'_>) -> Result<()> {
    let image = step.output.len();
    let pixels = views.batch.pixels;
    cpu.team.chunks(views.value, image, |n, value| {
        for (i, value) in value.iter_mut().enumerate() {
            let (c, p) = (i / (image / 3), i % (image / 3));
            *value = f32::from(pixels[n * image + 3 * p + c]);
        }
    });
    Ok(())
}
