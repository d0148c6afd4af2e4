//! What the first and last arrays of a network say, whatever its configuration: width, classes, crop.

use super::sequence::WeightLayer;
use super::steps::Weighted;
use crate::network::{Config, Extent, Spec};

/// The numbers at both ends of a network.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    /// Channels of the first convolution.
    pub(super) first: usize,
    /// Channels of the last one.
    pub(super) last: usize,
    pub(super) batch_norm: bool,
    /// Of a trunk `None`.
    pub(super) head: Option<Head>,
}

/// The numbers of the fully connected layers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    /// Inputs of the first.
    pub(super) inputs: usize,
    /// Outputs of the first two.
    pub(super) fc: usize,
    /// Outputs of the last.
    pub(super) classes: usize,
}

impl Ends {
    /// Of layers in their order. `None` where they are neither three fully connected ones at the end nor none.
    pub(super) fn of_layers(layers: &[WeightLayer]) -> Option<Self> {
        let weights = |kind| {
            let layers = layers.iter().filter(move |layer| layer.kind == kind);
            layers.map(|layer| layer.arrays[0].0.as_slice())
        };
        let linear: Vec<_> = weights(Weighted::Linear).collect();
        let head = match linear[..] {
            [] => None,
            [fc6, _, fc8] => Some(Head {
                inputs: fc6[1],
                fc: fc6[0],
                classes: fc8[0],
            }),
            _ => return None,
        };
        Some(Self {
            first: weights(Weighted::Conv).next()?[0],
            last: weights(Weighted::Conv).next_back()?[0],
            batch_norm: layers.iter().any(|layer| layer.kind == Weighted::BatchNorm),
            head,
        })
    }

    /// The network with these numbers, of any configuration. `None` where the head reads no square map.
    pub(super) fn spec(self) -> Option<Spec> {
        let trunk = Spec {
            batch_norm: self.batch_norm,
            width: self.first as f64 / 64.0,
            ..Spec::trunk(Config::D)
        };
        let Some(Head { inputs, fc, classes }) = self.head else {
            return Some(trunk);
        };
        let side = (inputs / self.last.max(1)).isqrt();
        let is_square = side.checked_mul(side)?.checked_mul(self.last)? == inputs;
        is_square.then_some(Spec {
            classes,
            crop: side.checked_mul(32)?,
            fc,
            extent: Extent::Whole,
            ..trunk
        })
    }
}
