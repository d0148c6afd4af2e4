//! What travels with weights that are not a checkpoint: the network, its classes, and how images are preprocessed.

use serde::{Deserialize, Serialize};

use super::CheckpointMeta;
use crate::data::preprocess::Preprocess;
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
