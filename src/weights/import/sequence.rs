//! Networks of programs that do not name arrays as torchvision does: the layers in the order of the forward pass.

use std::path::Path;

use super::{NamedArray, damaged};
use crate::error::{Error, Result};
use crate::network::{Config, Network, Role, Spec};

/// One layer with weights.
#[derive(Debug)]
pub(super) struct WeightLayer {
    pub(super) kind: Kind,
    /// In the order of this program: weight, bias; or scale, shift, running mean, running variance.
    pub(super) arrays: Vec<(Vec<usize>, Vec<f32>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Weight (K, C, R, S).
    Conv,
    BatchNorm,
    /// Weight (out, in).
    Linear,
}

/// The layers of a file.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    pub(super) layers: Vec<WeightLayer>,
    /// Whether local response normalisation is among them, with the paper's constants.
    pub(super) lrn: bool,
    /// Whether the map was flattened as (H, W, C), not (C, H, W).
    pub(super) channels_last: bool,
}

impl Sequence {
    /// The arrays under torchvision's names: of the network whose arrays have these shapes, in this order.
    pub(super) fn named(mut self, path: &Path, wanted: Option<Config>) -> Result<Vec<NamedArray>> {
        let spec = self.spec(path, wanted)?;
        let network = spec.build()?;
        if self.channels_last {
            self.channels_first(&network);
        }
        let arrays = self.layers.into_iter().flat_map(|layer| layer.arrays);
        let named = network
            .parameters
            .iter()
            .zip(arrays)
            .map(|(parameter, (dims, values))| NamedArray {
                name: parameter.name.clone(),
                dims,
                values,
            });
        Ok(named.collect())
    }

    /// Which network it is: its width, classes and crop follow from the first and last arrays, and A differs from A-LRN by
    /// the normalisation alone.
    fn spec(&self, path: &Path, wanted: Option<Config>) -> Result<Spec> {
        let expected = "the layers of a VGG network: convolutions, then three fully connected layers";
        let unknown = || {
            damaged(
                path,
                expected,
                format_args!("{} other layers with weights", self.layers.len()),
            )
        };
        let weights = |kind| {
            self.layers
                .iter()
                .filter(move |layer| layer.kind == kind)
                .map(|l| &l.arrays[0].0)
        };
        let convolutions: Vec<_> = weights(Kind::Conv).collect();
        let linear: Vec<_> = weights(Kind::Linear).collect();
        let (Some(first), Some(last), [fc6, _, fc8]) =
            (convolutions.first(), convolutions.last(), &linear[..])
        else {
            return Err(unknown());
        };
        let area = fc6[1] / last[0].max(1);
        let side = area.isqrt();
        let batch_norm = self.layers.iter().any(|layer| layer.kind == Kind::BatchNorm);
        let spec = |config| Spec {
            batch_norm,
            classes: fc8[0],
            crop: 32 * side,
            width: first[0] as f64 / 64.0,
            fc: fc6[0],
            ..Spec::paper(config)
        };
        let fits = |config: &Config| {
            let has_lrn = *config == Config::ALrn;
            has_lrn == self.lrn && spec(*config).build().is_ok_and(|network| self.is_of(&network))
        };
        let found = Config::all().find(fits).ok_or_else(unknown)?;
        match wanted {
            Some(wanted) if wanted != found => Err(Error::invalid_hint(
                path.display(),
                format_args!("weights of configuration {wanted}"),
                format_args!("weights of configuration {found}"),
                format_args!("they fit --config {found}"),
            )),
            _ => Ok(spec(found)),
        }
    }

    fn is_of(&self, network: &Network) -> bool {
        let found = self
            .layers
            .iter()
            .flat_map(|layer| layer.arrays.iter().map(|(dims, _)| dims));
        found.eq(network.parameters.iter().map(|parameter| &parameter.dims))
    }

    /// Turns the input of the first fully connected layer from (H, W, C) to (C, H, W).
    fn channels_first(&mut self, network: &Network) {
        let Some(layer) = self.layers.iter_mut().find(|layer| layer.kind == Kind::Linear) else {
            return;
        };
        let first = network
            .parameters
            .iter()
            .find(|p| p.role == Role::Weight && p.dims.len() == 2);
        let Some(map) = first.map(|parameter| network.layers[parameter.layer].input) else {
            return;
        };
        let mut row = vec![0.0; map.len()];
        for weights in layer.arrays[0].1.chunks_exact_mut(map.len()) {
            for (at, weight) in weights.iter().enumerate() {
                let (pixel, c) = (at / map.c, at % map.c);
                row[c * map.plane() + pixel] = *weight;
            }
            weights.copy_from_slice(&row);
        }
    }
}

/// Turns a matrix (rows, columns) into (columns, rows).
pub(super) fn transposed((rows, columns): (usize, usize), values: &[f32]) -> Vec<f32> {
    let at = |index: usize| values[index % rows * columns + index / rows];
    (0..rows * columns).map(at).collect()
}
