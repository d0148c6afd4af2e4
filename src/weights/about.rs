//! What travels with weights that are not a checkpoint: the network, its classes, and how images are preprocessed.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::hash::text_sha256;
use super::shown::reason;
use super::{CheckpointMeta, damaged};
use crate::data::preprocess::Preprocess;
use crate::error::{Error, Result};
use crate::network::Spec;

/// The metadata keys: the JSON and its hash.
pub(super) const ABOUT_KEY: &str = "verydeep_weights";
pub(super) const ABOUT_HASH_KEY: &str = "verydeep_weights_sha256";

/// Everything that an evaluation wants to know about weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// The network.
    pub spec: Spec,
    /// Names of the classes, by index.
    pub class_names: Vec<String>,
    /// From pixels to the network's input.
    pub preprocess: Preprocess,
    /// Shorter side Q at which the network is evaluated by default.
    pub scale: usize,
    /// Hash of the weights.
    pub weights_sha256: String,
}

impl About {
    /// Reads the metadata of a file. ONNX files of earlier builds have no hash of it; that of the weights they have.
    pub(super) fn parse(path: &Path, text: &str, hash: Option<&String>) -> Result<Self> {
        match hash {
            Some(_) => described(path, text, hash),
            None => parsed(path, text),
        }
    }

    /// Refuses what no evaluation could go by. To be asked once the arrays have been found to be those of the network:
    /// before, what a file says of its size is only said.
    pub(super) fn check(&self, path: &Path) -> Result<()> {
        self.preprocess.check(&path.display().to_string())?;
        if self.class_names.len() == self.spec.classes {
            return Ok(());
        }
        Err(Error::invalid(
            path.display(),
            format_args!("names of {} classes", self.spec.classes),
            format_args!("{} names", self.class_names.len()),
        ))
    }
}

/// What a text of the metadata says, if its hash is right.
pub(super) fn described<T: DeserializeOwned>(path: &Path, text: &str, hash: Option<&String>) -> Result<T> {
    if hash != Some(&text_sha256(text)) {
        return Err(damaged(path, METADATA, "another hash than its own"));
    }
    parsed(path, text)
}

fn parsed<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| damaged(path, METADATA, reason(error)))
}

const METADATA: &str = "the metadata that this program writes";

impl From<&CheckpointMeta> for About {
    fn from(meta: &CheckpointMeta) -> Self {
        Self {
            spec: meta.spec.clone(),
            class_names: meta.class_names.clone(),
            preprocess: meta.preprocess.clone(),
            scale: meta.scale,
            weights_sha256: meta.weights_sha256.clone(),
        }
    }
}
