//! Dropout (Srivastava et al. 2014), scaled in training so that evaluation is the identity.
//!
//! x, dx, y and dy: (N, elements of one image, channel-major).

use super::Real;
use crate::plan::StepParams;
use crate::rng::{Purpose, Stream};

/// A dropout of one micro-batch.
#[derive(Clone, Copy)]
pub(super) struct Dropout {
    /// Elements of one image.
    pub(super) elements: usize,
    /// Probability of dropping, below 1.
    pub(super) p: f32,
    /// The dropout's index among the network's layers.
    pub(super) layer: u16,
}

impl Dropout {
    /// `output = 0 where dropped, else input / (1 - p)`: y of x, and dx of dy. Overwrites the output.
    ///
    /// Element i of sample n is dropped where the 32 random bits of (seed, position + n, layer, i) are below
    /// `floor(p * 2^32)`.
    pub(super) fn apply<T: Real>(self, params: &StepParams, input: &[T], output: &mut [T]) {
        let threshold = (f64::from(self.p) * 4_294_967_296.0).floor() as u32;
        let scale = T::from(1.0 / (1.0 - self.p));
        for (index, (input, output)) in input.iter().zip(output).enumerate() {
            let (n, i) = (index / self.elements, index % self.elements);
            let position = params.position + n as u64;
            let stream = Stream::new(params.seed, position, Purpose::Dropout, self.layer);
            let word = stream.block((i / 4) as u32)[i % 4];
            *output = if word < threshold {
                T::default()
            } else {
                *input * scale
            };
        }
    }
}
