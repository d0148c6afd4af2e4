//! Checkpoints: one safetensors file with the weights under torchvision's names, the momentum under
//! `momentum.<name>`, and everything else as JSON in the file's metadata.

use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::arrays::{self, write_f32};
use super::hash::text_sha256;
use crate::data::preprocess::Preprocess;
use crate::durable::NewFile;
use crate::error::{Error, Result};
use crate::network::{Parameter, Spec};

/// Momentum arrays carry the weight's name behind this prefix.
pub const MOMENTUM_PREFIX: &str = "momentum.";

/// The metadata keys: the JSON and its hash.
pub(super) const META_KEY: &str = "verydeep";
pub(super) const META_HASH_KEY: &str = "verydeep_sha256";

/// Everything in a checkpoint besides the arrays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointMeta {
    /// The network.
    pub spec: Spec,
    /// Names of the classes, by index.
    pub class_names: Vec<String>,
    /// From pixels to the network's input.
    pub preprocess: Preprocess,
    /// Shorter side Q at which the network is evaluated by default.
    pub scale: usize,
    /// Finished steps.
    pub step: u64,
    /// Finished steps in epochs.
    pub epoch: f64,
    /// State of the learning-rate schedule.
    pub schedule: Value,
    /// The decided recipe.
    pub recipe: Value,
    /// The equivalence class of DESIGN section 3.
    pub class: Value,
    /// Hash of the weights.
    pub weights_sha256: String,
    /// Hash of weights, momentum, step and schedule.
    pub state_sha256: String,
}

/// Reads arrays out of wherever they live, into a buffer of the right length.
pub trait CheckpointView {
    /// The weights of one parameter.
    fn weights(&self, parameter: &Parameter, values: &mut [f32]) -> Result<()>;
    /// The momentum of one parameter.
    fn momentum(&self, parameter: &Parameter, values: &mut [f32]) -> Result<()>;
}

/// Writes a checkpoint to `path`, whole or not at all. One array at a time is held in memory.
pub fn write_checkpoint(
    path: &Path,
    meta: &CheckpointMeta,
    parameters: &[Parameter],
    view: &dyn CheckpointView,
) -> Result<()> {
    let header = header(meta, parameters);
    arrays::check_header(path, &header)?;
    let mut file = NewFile::create(path)?;
    file.write_all(&(header.len() as u64).to_le_bytes())
        .and_then(|()| file.write_all(header.as_bytes()))
        .map_err(Error::io("write", path))?;
    let longest = parameters.iter().map(Parameter::len).max().unwrap_or(0);
    let mut values = vec![0.0; longest];
    type Read = fn(&dyn CheckpointView, &Parameter, &mut [f32]) -> Result<()>;
    let halves: [Read; 2] = [
        |view, p, values| view.weights(p, values),
        |view, p, values| view.momentum(p, values),
    ];
    for read in halves {
        for parameter in parameters {
            let values = &mut values[..parameter.len()];
            read(view, parameter, values)?;
            write_f32(&mut file, values).map_err(Error::io("write", path))?;
        }
    }
    file.commit()
}

/// The file's header: weights, then momentum.
fn header(meta: &CheckpointMeta, parameters: &[Parameter]) -> String {
    let text = serde_json::to_string(meta).expect("plain data serialises");
    let metadata = [(META_HASH_KEY, text_sha256(&text)), (META_KEY, text)];
    let named = |prefix| {
        parameters
            .iter()
            .map(move |parameter| (format!("{prefix}{}", parameter.name), parameter.dims.as_slice()))
    };
    arrays::header(&metadata, named("").chain(named(MOMENTUM_PREFIX)))
}
