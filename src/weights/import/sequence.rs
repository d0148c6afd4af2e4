//! Networks of programs that do not name arrays as torchvision does: the layers in the order of the forward pass.

use std::fmt::Display;
use std::path::Path;

use super::{NamedArray, Wanted, damaged, other_head};
use crate::error::{Error, Result};
use crate::network::{Config, Extent, Layer, Network, Role, Spec};

const LAYERS: &str = "the layers of a VGG network: convolutions, then three fully connected layers";

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
    pub(super) fn named(mut self, path: &Path, wanted: Wanted) -> Result<Vec<NamedArray>> {
        if wanted.extent == Extent::Trunk {
            self.layers.truncate(self.head());
        }
        let spec = self.spec(path, wanted.config)?;
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

    /// Which network it is.
    fn spec(&self, path: &Path, wanted: Option<Config>) -> Result<Spec> {
        let found = fitting(&self.layers, self.lrn).ok_or_else(|| {
            let found = format_args!("{} other layers with weights", self.layers.len());
            self.unknown(path, LAYERS, found)
        })?;
        match wanted {
            Some(wanted) if wanted != found.config => Err(other_config(path, wanted, &found)?),
            _ => Ok(found),
        }
    }

    /// The error where no configuration fits: the convolutions alone may fit one.
    pub(super) fn unknown(&self, path: &Path, expected: &str, found: impl Display) -> Error {
        match fitting(&self.layers[..self.head()], self.lrn) {
            Some(spec) => other_head(path, spec.config, found),
            None => damaged(path, expected, found),
        }
    }

    /// Index of the first fully connected layer, or the end.
    fn head(&self) -> usize {
        let first = self.layers.iter().position(|layer| layer.kind == Kind::Linear);
        first.unwrap_or(self.layers.len())
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

/// Names the first layer that differs.
fn other_config(path: &Path, wanted: Config, found: &Spec) -> Result<Error> {
    let expected = Spec {
        config: wanted,
        ..found.clone()
    };
    let [expected, there] = [expected.build()?, found.build()?].map(|network| network.layers);
    let differs = expected
        .iter()
        .zip(&there)
        .find(|(a, b)| a.name != b.name || a.op != b.op);
    let shown = |layer: &Layer| format!("{} ({})", layer.name, layer.kind());
    let (layer, other) = differs.map_or_else(Default::default, |(a, b)| (shown(a), shown(b)));
    Ok(Error::invalid_hint(
        path.display(),
        format_args!("weights of configuration {wanted}, with layer {layer}"),
        format_args!(
            "weights of configuration {}, with {other} in its place",
            found.config
        ),
        format_args!("they fit --config {}", found.config),
    ))
}

/// The network that has exactly these layers, A-LRN where there is its normalisation.
fn fitting(layers: &[WeightLayer], lrn: bool) -> Option<Spec> {
    let numbers = numbers(layers)?;
    let spec = |config| Spec {
        config,
        ..numbers.clone()
    };
    let is_it = |spec: &Spec| {
        (spec.config == Config::ALrn) == lrn && spec.build().is_ok_and(|network| is_of(layers, &network))
    };
    Config::all().map(spec).find(is_it)
}

/// What the layers say whatever the configuration: width, classes and crop follow from the first and last arrays. Of a
/// trunk, where there are convolutions alone.
fn numbers(layers: &[WeightLayer]) -> Option<Spec> {
    let weights = |kind| {
        let layers = layers.iter().filter(move |layer| layer.kind == kind);
        layers.map(|layer| layer.arrays[0].0.as_slice())
    };
    let trunk = Spec {
        batch_norm: layers.iter().any(|layer| layer.kind == Kind::BatchNorm),
        width: weights(Kind::Conv).next()?[0] as f64 / 64.0,
        ..Spec::trunk(Config::D)
    };
    let linear: Vec<_> = weights(Kind::Linear).collect();
    match linear[..] {
        [] => Some(trunk),
        [fc6, _, fc8] => {
            let area = fc6[1] / weights(Kind::Conv).next_back()?[0].max(1);
            Some(Spec {
                classes: fc8[0],
                crop: 32 * area.isqrt(),
                fc: fc6[0],
                extent: Extent::Whole,
                ..trunk
            })
        }
        _ => None,
    }
}

fn is_of(layers: &[WeightLayer], network: &Network) -> bool {
    let found = layers
        .iter()
        .flat_map(|layer| layer.arrays.iter().map(|(dims, _)| dims));
    found.eq(network.parameters.iter().map(|parameter| &parameter.dims))
}

/// Turns a matrix (rows, columns) into (columns, rows).
pub(super) fn transposed((rows, columns): (usize, usize), values: &[f32]) -> Vec<f32> {
    let at = |index: usize| values[index % rows * columns + index / rows];
    (0..rows * columns).map(at).collect()
}
