//! Fusion: the mean of the posteriors of several networks (section 4.4 of the paper), computed now or saved earlier.

use std::path::Path;

use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::averages::{Averages, ScoreAverage};
use super::look::Look;
use crate::data::loader::{BadEvent, Source};
use crate::error::{Error, Result};
use crate::weights::{Array, write_arrays};

/// The metadata keys: what the posteriors are of, as JSON, and the hash of that and of them.
const KEY: &str = "verydeep_posteriors";
const HASH_KEY: &str = "verydeep_posteriors_sha256";

/// One network of an ensemble.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Hash of its weights.
    pub weights_sha256: String,
    /// How it looked at the images.
    #[serde(flatten)]
    pub look: Look,
}

/// Posteriors of one or more networks, each with the same weight.
#[derive(Debug, Clone)]
pub struct Ensemble {
    /// Their mean.
    pub averages: Averages,
    /// Whose they are, in the order in which they came.
    pub members: Vec<Member>,
}

/// What a file of posteriors says about itself.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    /// Hash of the manifest of the data set, whose validation split they are of.
    data_sha256: String,
    members: Vec<Member>,
    bad: Vec<BadEvent>,
}

impl Ensemble {
    /// Adds networks: the mean over all of them, each with the same weight.
    pub fn add(&mut self, other: &Self) {
        let (own, others) = (self.members.len() as f64, other.members.len() as f64);
        self.averages.mix(&other.averages, own / (own + others));
        self.members.extend(other.members.iter().cloned());
    }

    /// Writes everything that a later fusion needs to `path`, whole or not at all.
    pub fn save(&self, path: &Path, data_sha256: &str) -> Result<()> {
        let description = Description {
            data_sha256: data_sha256.into(),
            members: self.members.clone(),
            bad: self.averages.bad().cloned().collect(),
        };
        let text = serde_json::to_string(&description).expect("plain data serialises");
        let classes = self.averages.classes();
        let arrays = ScoreAverage::ALL.map(|average| {
            let values = self.averages.all(average);
            Array {
                name: average.name().into(),
                dims: vec![values.len() / classes, classes],
                values,
            }
        });
        let hash = hash(
            &text,
            arrays.iter().map(|array| bytemuck::cast_slice(array.values)),
        );
        let metadata = [(HASH_KEY, hash), (KEY, text)];
        write_arrays(path, &metadata, &arrays)
    }

    /// Reads what [`Ensemble::save`] wrote; it must be of this data set.
    pub fn load(path: &Path, source: &dyn Source, classes: usize, data_sha256: &str) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        let (text, stored) = description_of(path, &bytes)?;
        let description: Description = serde_json::from_str(&text).map_err(|error| damaged(path, error))?;
        if description.data_sha256 != data_sha256 {
            return Err(Error::invalid_hint(
                path.display(),
                format_args!("posteriors of this data set, {data_sha256}"),
                description.data_sha256,
                "save them again with eval --save-posteriors on this data set",
            ));
        }
        let arrays = SafeTensors::deserialize(&bytes).map_err(|error| damaged(path, error))?;
        let mut averages = Averages::new(source.len(), classes);
        let mut read = Vec::new();
        for average in ScoreAverage::ALL {
            let array = arrays
                .tensor(average.name())
                .map_err(|error| damaged(path, error))?;
            let shape = [source.len(), classes];
            if array.dtype() != safetensors::Dtype::F32 || array.shape() != shape {
                let found = format!("{:?} of shape {:?}", array.dtype(), array.shape());
                return Err(damaged(
                    path,
                    format_args!("{found} where {shape:?} f32 are expected"),
                ));
            }
            let values = array.data().as_chunks().0.iter().copied().map(f32::from_le_bytes);
            let to = averages.all_mut(average);
            to.iter_mut().zip(values).for_each(|(to, value)| *to = value);
            read.push(array.data());
        }
        if hash(&text, read.into_iter()) != stored {
            return Err(damaged(path, "content that does not match its hash"));
        }
        if description.members.is_empty() {
            return Err(damaged(path, "posteriors of no network"));
        }
        for event in description.bad {
            averages.note(event.position as usize, event.sample, event.action);
        }
        Ok(Self {
            averages,
            members: description.members,
        })
    }
}

/// The description of a file of posteriors, and the hash that it should have.
fn description_of(path: &Path, bytes: &[u8]) -> Result<(String, String)> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| damaged(path, error))?;
    let texts = header.metadata().clone().unwrap_or_default();
    match (texts.get(KEY), texts.get(HASH_KEY)) {
        (Some(text), Some(hash)) => Ok((text.clone(), hash.clone())),
        _ => Err(damaged(path, "a file without them; weights go to --weights")),
    }
}

fn hash<'a>(text: &str, arrays: impl Iterator<Item = &'a [u8]>) -> String {
    let mut hasher = Sha256::new();
    hasher.update(text.as_bytes());
    arrays.for_each(|array| hasher.update(array));
    hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn damaged(path: &Path, found: impl std::fmt::Display) -> Error {
    Error::invalid_hint(
        path.display(),
        "posteriors that eval --save-posteriors wrote",
        found,
        "save them again",
    )
}
