//! A trained network, read back: what evaluation starts from.

use std::path::Path;

use super::checkpoint::CheckpointMeta;
use super::{Loaded, open_weights};
use crate::error::{Error, Result};
use crate::network::{Config, Network, Spec};

/// A network and its weights.
pub struct Model {
    /// What it is.
    pub spec: Spec,
    /// The network.
    pub network: Network,
    /// Every parameter at its flat offset.
    pub weights: Vec<f32>,
    /// Hash of the weights, computed from what was loaded.
    pub weights_sha256: String,
    /// What the file says besides; `None` for a plain weights file.
    pub meta: Option<CheckpointMeta>,
    /// Damaged checkpoints that were passed over.
    pub passed_over: Vec<Error>,
}

impl Model {
    /// Opens a run folder (its newest whole checkpoint), a checkpoint or a safetensors file with torchvision's names.
    pub fn open(path: &Path) -> Result<Self> {
        let (loaded, (spec, network, weights, weights_sha256), passed_over) = open_weights(path, |file| {
            let spec = match &file.meta {
                Some(meta) => meta.spec.clone(),
                None => identify(file)?,
            };
            let network = spec.build()?;
            let mut weights = vec![0.0; network.flat_len()];
            let hash = file.weights(&network.parameters, &mut weights)?;
            Ok((spec, network, weights, hash))
        })?;
        Ok(Self {
            spec,
            network,
            weights,
            weights_sha256,
            meta: loaded.meta,
            passed_over,
        })
    }

    /// Names of the classes; their indices where the file has no names.
    pub fn class_names(&self) -> Vec<String> {
        match &self.meta {
            Some(meta) => meta.class_names.clone(),
            None => (0..self.spec.classes).map(|index| index.to_string()).collect(),
        }
    }
}

/// Which network a plain weights file is of: the one whose parameters have exactly its names and shapes.
fn identify(file: &Loaded) -> Result<Spec> {
    let shapes = file.shapes()?;
    let dims = |name: &str| {
        shapes
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, dims)| dims.as_slice())
    };
    let unknown = || {
        Error::invalid_hint(
            file.path().display(),
            "the arrays of a VGG network under torchvision's names",
            format_args!("{} other arrays", shapes.len()),
            "verydeep inspect shows what a file holds",
        )
    };
    let (first, fc6, fc8) = (
        dims("features.0.weight"),
        dims("classifier.0.weight"),
        dims("classifier.6.weight"),
    );
    let (Some(&[channels, _, _, _]), Some(&[fc, inputs]), Some(&[classes, _])) = (first, fc6, fc8) else {
        return Err(unknown());
    };
    let width = channels as f64 / 64.0;
    let last = ((512.0 * width).round() as usize).max(1);
    let side = (1..=128)
        .find(|side| side * side * last == inputs)
        .ok_or_else(unknown)?;
    for config in Config::all() {
        for batch_norm in [false, true] {
            let spec = Spec {
                batch_norm,
                classes,
                crop: 32 * side,
                width,
                fc,
                ..Spec::paper(config)
            };
            let Ok(network) = spec.build() else { continue };
            let mut expected: Vec<_> = network
                .parameters
                .iter()
                .map(|p| (p.name.clone(), p.dims.clone()))
                .collect();
            expected.sort();
            let same = |(name, _): &&(String, Vec<usize>)| !name.ends_with("num_batches_tracked"); // PyTorch's counter
            if shapes.iter().filter(same).eq(expected.iter()) {
                return Ok(spec);
            }
        }
    }
    Err(unknown())
}
