//! Dropout (Srivastava et al. 2014), scaled in training so that evaluation is the identity.
//!
//! x, dx, y and dy: (N, elements of one image, channel-major). `y = 0 where dropped, else x / (1 - p)`.

use super::memory::f32_bytes;
use super::{Cpu, Views};
use crate::plan::{DataGradient, Footprint, Step, StepParams};
use crate::rng::{Purpose, Stream};

pub(super) fn footprint(step: &Step) -> Footprint {
    let elements = step.batch * step.output.len();
    Footprint {
        value: f32_bytes(elements),
        gradient: f32_bytes(elements),
        // After a ReLU, y alone says what was kept and passed.
        backward_reads_value: step.data_gradient == DataGradient::Masked,
        ..Footprint::default()
    }
}

/// Elements of one image are a multiple of this many draws per task.
const CHUNK: usize = 1 << 11;

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
            let scale = scale(p);
            let dy_and_y = views.gradient.iter().zip(views.value.iter());
            for (dx, (&dy, &y)) in views.input_gradient.iter_mut().zip(dy_and_y) {
                *dx = if y > 0.0 { dy * scale } else { 0.0 };
            }
        }
    }
}

fn scale(p: f32) -> f32 {
    1.0 / (1.0 - p)
}

/// `to = 0 where dropped, else from / (1 - p)`.
fn draw(cpu: &Cpu, step: &Step, p: f32, layer: u16, params: &StepParams, from: &[f32], to: &mut [f32]) {
    let threshold = (f64::from(p) * 4_294_967_296.0).floor() as u32;
    let scale = scale(p);
    let elements = step.output.len();
    cpu.team.chunks(to, CHUNK, |task, to| {
        let mut index = task * CHUNK;
        let end = index + to.len();
        while index < end {
            let (n, first) = (index / elements, index % elements);
            let stream = Stream::new(params.seed, params.position + n as u64, Purpose::Dropout, layer);
            let count = (elements - first).min(end - index);
            let to = &mut to[index - task * CHUNK..][..count];
            let mut words = [0; 4];
            for (i, (to, &from)) in (first..).zip(to.iter_mut().zip(&from[index..])) {
                if i == first || i.is_multiple_of(4) {
                    words = stream.block((i / 4) as u32);
                }
                *to = if words[i % 4] < threshold {
                    0.0
                } else {
                    from * scale
                };
            }
            index += count;
        }
    });
}
