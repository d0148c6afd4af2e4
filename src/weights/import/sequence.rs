//! Networks of programs that do not name arrays as torchvision does: the layers in the order of the forward pass.

use std::fmt::Display;
use std::path::Path;

use super::ends::Ends;
use super::steps::{Difference, Operation, Step, Weighted, compare, trunk};
use super::{NamedArray, Selection, other_config, other_head};
use crate::error::{Error, Result};
use crate::network::{Config, Extent, Network, Role, Spec};
use crate::weights::damaged;

const LAYERS: &str = "the layers of a VGG network: convolutions, then three fully connected layers";
const NOTHING_ELSE: &str = "it is damaged, or another network; no others are read";

/// One layer with weights.
#[derive(Debug)]
pub(super) struct WeightLayer {
    pub(super) kind: Weighted,
    /// In the order of this program: weight, bias; or scale, shift, running mean, running variance.
    pub(super) arrays: Vec<(Vec<usize>, Vec<f32>)>,
}

/// The layers of a file.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    pub(super) layers: Vec<WeightLayer>,
    /// Those layers and what is computed between them.
    pub(super) steps: Vec<Step>,
    /// Whether the file says nothing about what has no weights.
    pub(super) is_bare: bool,
    /// Whether the map was flattened as (H, W, C), not (C, H, W).
    pub(super) channels_last: bool,
}

impl Sequence {
    /// The next layer with weights.
    pub(super) fn push(&mut self, layer: WeightLayer, place: String) {
        self.step(Operation::Weights(layer.kind), place);
        self.layers.push(layer);
    }

    /// What is computed next.
    pub(super) fn step(&mut self, operation: Operation, place: String) {
        self.steps.push(Step { operation, place });
    }

    /// How often something has been computed so far.
    pub(super) fn count(&self, operation: &Operation) -> usize {
        self.steps
            .iter()
            .filter(|step| step.operation == *operation)
            .count()
    }

    /// Whether poolings are missing, which no VGG network lacks, and nothing else is strange: the file was stripped of layers
    /// without weights, or of some.
    pub(super) fn is_stripped(&self) -> bool {
        let is_strange = |step: &Step| matches!(step.operation, Operation::MaxPool | Operation::Other(_));
        !self.steps.iter().any(is_strange)
    }

    /// The arrays under torchvision's names: of the network that `described` says it is, or whose arrays have these shapes,
    /// in this order, with what it computes between them.
    pub(super) fn named(
        mut self,
        path: &Path,
        wanted: Selection,
        described: Option<&Spec>,
    ) -> Result<Vec<NamedArray>> {
        if wanted.extent == Extent::Trunk && described.is_none() {
            self.layers.truncate(self.head());
            self.steps.truncate(trunk(&self.steps).len());
        }
        let spec = match described {
            Some(spec) => spec.clone(),
            None => self.spec(path, wanted.config)?,
        };
        let network = spec.build()?;
        if !is_of(&self.layers, &network) {
            let found = format_args!("{} layers with weights of other shapes", self.layers.len());
            return Err(damaged(path, "the layers that its metadata describes", found));
        }
        if !self.is_bare
            && let Err(difference) = compare(&self.steps, &network, &spec)
        {
            return Err(self.differs(path, &spec, described.is_some(), difference));
        }
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
        let found = self.fitting(&self.layers).ok_or_else(|| {
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
        match self.trunk() {
            Some(spec) => other_head(path.display(), spec.config, found),
            None => Error::invalid_hint(path.display(), expected, found, NOTHING_ELSE),
        }
    }

    /// The error where what is computed differs, though the weights are those of a configuration.
    fn differs(&self, path: &Path, spec: &Spec, is_described: bool, difference: Difference) -> Error {
        let Difference {
            place,
            expected,
            found,
        } = difference;
        let place = format!("{}: {place}", path.display());
        match self.trunk() {
            Some(_) if spec.extent == Extent::Whole && !is_described => {
                let found = format_args!("{found} where {expected} should be");
                other_head(place, spec.config, found)
            }
            _ => Error::invalid_hint(place, expected, found, NOTHING_ELSE),
        }
    }

    /// The network that the convolutions alone are of.
    fn trunk(&self) -> Option<Spec> {
        let spec = self.fitting(&self.layers[..self.head()])?;
        let network = spec.build().ok()?;
        let is_same = self.is_bare || compare(trunk(&self.steps), &network, &spec).is_ok();
        is_same.then_some(spec)
    }

    /// How many layers with weights a trunk has of them.
    fn head(&self) -> usize {
        let is_weights = |step: &&Step| matches!(step.operation, Operation::Weights(_));
        trunk(&self.steps).iter().filter(is_weights).count()
    }

    /// The network that has exactly these layers, A-LRN where there is its normalisation.
    fn fitting(&self, layers: &[WeightLayer]) -> Option<Spec> {
        let base = Ends::of_layers(layers)?.spec()?;
        let has_lrn = self.count(&Operation::Lrn) > 0;
        let spec = |config| Spec {
            config,
            ..base.clone()
        };
        let is_it = |spec: &Spec| spec.build().is_ok_and(|network| is_of(layers, &network));
        let found: Vec<Spec> = Config::all().map(spec).filter(is_it).collect();
        let is_exact = |spec: &&Spec| (spec.config == Config::ALrn) == has_lrn;
        found.iter().find(is_exact).or(found.first()).cloned()
    }

    /// Turns the input of the first fully connected layer from (H, W, C) to (C, H, W).
    fn channels_first(&mut self, network: &Network) {
        let Some(layer) = self
            .layers
            .iter_mut()
            .find(|layer| layer.kind == Weighted::Linear)
        else {
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
