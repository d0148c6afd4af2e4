//! Dropout (Srivastava et al. 2014), scaled in training so that evaluation is the identity.
//!
//! x, dx, y and dy: (N, C/16, H, W, 16); masks are drawn by logical, channel-major element.
//! `y = 0 where dropped, else x / (1 - p)`.

use super::elementwise::{self, mask};
use super::isa::multiversion;
use super::layout::{image_len, lanes, tensor_bytes};
use super::tile::LANES;
use super::{Cpu, Views};
use crate::plan::{DataGradient, Footprint, Step, StepParams};
use crate::rng::{Purpose, Stream};

pub(super) fn footprint(step: &Step) -> Footprint {
    Footprint {
        value: tensor_bytes(step.batch, step.output),
        gradient: tensor_bytes(step.batch, step.output),
        // After a ReLU, y alone says what was kept and passed.
        backward_reads_value: step.data_gradient == DataGradient::Masked,
        ..Footprint::default()
    }
}

/// Overwrites y. Element i of sample n is dropped where its 32 random bits are below `floor(p * 2^32)`.
pub(super) fn forward(
    cpu: &Cpu,
    step: &Step,
    p: f32,
    layer: u16,
    params: &StepParams,
    views: &mut Views<'_>,
) {
    draw(cpu, step, p, layer, params, views.input, views.value);
}

/// dx of dy by the same masks, zero where a mask is asked for and x is not positive. Overwrites dx.
pub(super) fn backward(
    cpu: &Cpu,
    step: &Step,
    p: f32,
    layer: u16,
    params: &StepParams,
    views: &mut Views<'_>,
) {
    match step.data_gradient {
        DataGradient::None => {}
        DataGradient::Plain => draw(cpu, step, p, layer, params, views.gradient, views.input_gradient),
        DataGradient::Masked => {
            let (y, dy, scale) = (&*views.value, &*views.gradient, scale(p));
            cpu.team
                .chunks(views.input_gradient, elementwise::CHUNK, |index, dx| {
                    let start = index * elementwise::CHUNK;
                    scaled(cpu.isa, scale, &dy[start..], dx);
                    mask(cpu.isa, &y[start..], dx);
                });
        }
    }
}

multiversion! {
    fn scaled(scale: f32, from: &[f32], to: &mut [f32]) {
        for (to, &from) in to.iter_mut().zip(from) {
            *to = from * scale;
        }
    }
}

fn scale(p: f32) -> f32 {
    1.0 / (1.0 - p)
}

/// `to = 0 where dropped, else from / (1 - p)`; padding becomes zero.
fn draw(cpu: &Cpu, step: &Step, p: f32, layer: u16, params: &StepParams, from: &[f32], to: &mut [f32]) {
    let threshold = (f64::from(p) * 4_294_967_296.0).floor() as u32;
    let scale = scale(p);
    let (shape, plane) = (step.output, step.output.plane());
    cpu.team.chunks(to, image_len(shape), |n, to| {
        let stream = Stream::new(params.seed, params.position + n as u64, Purpose::Dropout, layer);
        let from = from[n * image_len(shape)..].as_chunks::<LANES>().0;
        let (mut words, mut block) = ([0; 4], None);
        for (index, (from, to)) in from.iter().zip(to.as_chunks_mut::<LANES>().0).enumerate() {
            let (group, pixel) = (index / plane, index % plane);
            let lanes = lanes(shape.c, group);
            to[lanes..].fill(0.0);
            for l in 0..lanes {
                let element = (group * LANES + l) * plane + pixel;
                if block != Some(element / 4) {
                    block = Some(element / 4);
                    words = stream.block((element / 4) as u32);
                }
                to[l] = if words[element % 4] < threshold {
                    0.0
                } else {
                    from[l] * scale
                };
            }
        }
    });
}
