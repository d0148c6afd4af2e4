//! Reading checkpoints and weights files, with everything that can be checked checked.

use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::about::{ABOUT_HASH_KEY, ABOUT_KEY, About, described};
use super::arrays::LONGEST_HEADER;
use super::checkpoint::{CheckpointMeta, META_HASH_KEY, META_KEY, MOMENTUM_PREFIX};
use super::damaged;
use super::hash::StateHasher;
use super::import::{difference, expect_safetensors};
use super::shown::{reason, shown, sides};
use crate::data::map::Map;
use crate::error::{Error, Result};
use crate::network::{Network, Parameter};

const WHOLE: &str = "a whole safetensors file";

/// Arrays of a file at most: many times those of VGG-19 with batch norm and momentum.
const MOST_ARRAYS: usize = 4096;

/// A weights file, mapped or in memory.
pub struct Loaded {
    path: PathBuf,
    bytes: Box<dyn AsRef<[u8]> + Send + Sync>,
    /// What stands beside the arrays of a checkpoint; `None` for another weights file.
    pub meta: Option<CheckpointMeta>,
    /// What an evaluation wants to know, if the file says it.
    pub about: Option<About>,
}

/// Opens a safetensors file and checks its structure and its metadata's hash. The arrays are checked when read.
pub fn load(path: &Path) -> Result<Loaded> {
    load_from(path, Map::open(path)?)
}

/// [`load`], where the bytes of the file are at hand; `path` is for the errors.
pub fn load_from(path: &Path, bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Result<Loaded> {
    let (meta, about) = read_header(path, bytes.as_ref())?;
    Ok(Loaded {
        path: path.into(),
        bytes: Box::new(bytes),
        meta,
        about,
    })
}

/// What stands beside the arrays: of a checkpoint, and of any file of ours. Nobody's file but ours says anything.
pub(super) fn read_header(path: &Path, bytes: &[u8]) -> Result<(Option<CheckpointMeta>, Option<About>)> {
    expect_safetensors(path, bytes)?;
    check_len(path, bytes)?;
    let (_, header) =
        SafeTensors::read_metadata(bytes).map_err(|error| damaged(path, WHOLE, reason(error)))?;
    let arrays = header.tensors().len();
    if arrays > MOST_ARRAYS {
        return Err(Error::invalid(
            path.display(),
            format_args!("at most {MOST_ARRAYS} arrays; VGG-19 with momentum has 76"),
            arrays,
        ));
    }
    let texts = header.metadata().clone().unwrap_or_default();
    let meta: Option<CheckpointMeta> = match texts.get(META_KEY) {
        Some(text) => Some(described(path, text, texts.get(META_HASH_KEY))?),
        None => None,
    };
    let about = match (&meta, texts.get(ABOUT_KEY)) {
        (Some(meta), _) => Some(About::from(meta)),
        (None, Some(text)) => Some(described(path, text, texts.get(ABOUT_HASH_KEY))?),
        (None, None) => None,
    };
    Ok((meta, about))
}

/// Refuses a header that is longer than this program's can be, before it is read.
fn check_len(path: &Path, bytes: &[u8]) -> Result<()> {
    let len = bytes.first_chunk().map_or(0, |len| u64::from_le_bytes(*len));
    if len <= LONGEST_HEADER as u64 || len > bytes.len() as u64 {
        return Ok(()); // or it is damaged, which the library says
    }
    Err(Error::invalid(
        path.display(),
        format_args!("a header of at most {LONGEST_HEADER} bytes"),
        format_args!("one of {len}"),
    ))
}

impl Loaded {
    /// Whether the file has every array, in its shape: to be asked before memory is allocated for what a file says it is.
    pub fn check_arrays(&self, parameters: &[Parameter]) -> Result<()> {
        let tensors = self.tensors()?;
        parameters
            .iter()
            .try_for_each(|parameter| self.view(&tensors, &parameter.name, parameter).map(|_| ()))
    }

    /// Refuses weights of another network by the first array that differs; the error says which network they fit.
    pub fn check_network(&self, network: &Network) -> Result<()> {
        match difference(&self.path, &self.shapes()?, network) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Copies the weights into `flat`, each at its offset, and returns their hash, which must be the stored one. They must be
    /// finite.
    pub fn weights(&self, parameters: &[Parameter], flat: &mut [f32]) -> Result<String> {
        let mut hasher = StateHasher::new();
        self.copy(parameters, "", flat, &mut hasher)?;
        let hash = hasher.weights();
        self.compare(
            "weights_sha256",
            self.about.as_ref().map(|about| &about.weights_sha256),
            &hash,
        )?;
        check_finite(&self.path, parameters, flat, self.about.is_some())?;
        Ok(hash)
    }

    /// Copies weights and momentum, each at its offset, and returns both hashes, which must be the stored ones.
    pub fn state(
        &self,
        parameters: &[Parameter],
        weights: &mut [f32],
        momentum: &mut [f32],
    ) -> Result<(String, String)> {
        let meta = self.meta.as_ref().ok_or_else(|| {
            Error::invalid_hint(
                self.path.display(),
                "a checkpoint with momentum and step",
                "a plain weights file",
                "start from it with --weights",
            )
        })?;
        let mut hasher = StateHasher::new();
        self.copy(parameters, "", weights, &mut hasher)?;
        let weights_hash = hasher.weights();
        self.compare("weights_sha256", Some(&meta.weights_sha256), &weights_hash)?;
        self.copy(parameters, MOMENTUM_PREFIX, momentum, &mut hasher)?;
        let state_hash = hasher.state(meta.step, &meta.schedule);
        self.compare("state_sha256", Some(&meta.state_sha256), &state_hash)?;
        Ok((weights_hash, state_hash))
    }

    /// Copies one array by name, if the file has it in the shape of `parameter`.
    pub fn array(&self, parameter: &Parameter, values: &mut [f32]) -> Result<()> {
        self.copy_array(&self.tensors()?, &parameter.name, parameter, values)
    }

    /// Names and shapes of every array that is not momentum, sorted by name.
    pub fn shapes(&self) -> Result<Vec<(String, Vec<usize>)>> {
        let tensors = self.tensors()?;
        let mut shapes: Vec<_> = tensors
            .iter()
            .filter(|(name, _)| !name.starts_with(MOMENTUM_PREFIX))
            .map(|(name, view)| (name.to_string(), view.shape().to_vec()))
            .collect();
        shapes.sort();
        Ok(shapes)
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn tensors(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize((*self.bytes).as_ref())
            .map_err(|error| damaged(&self.path, WHOLE, reason(error)))
    }

    fn copy(
        &self,
        parameters: &[Parameter],
        prefix: &str,
        flat: &mut [f32],
        hasher: &mut StateHasher,
    ) -> Result<()> {
        let tensors = self.tensors()?;
        for parameter in parameters {
            let values = &mut flat[parameter.range()];
            self.copy_array(
                &tensors,
                &format!("{prefix}{}", parameter.name),
                parameter,
                values,
            )?;
            hasher.array(values);
        }
        Ok(())
    }

    fn copy_array(
        &self,
        tensors: &SafeTensors<'_>,
        name: &str,
        parameter: &Parameter,
        values: &mut [f32],
    ) -> Result<()> {
        let view = self.view(tensors, name, parameter)?;
        for (value, bytes) in values.iter_mut().zip(view.data().chunks_exact(4)) {
            *value = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        Ok(())
    }

    fn view<'a>(
        &self,
        tensors: &'a SafeTensors<'_>,
        name: &str,
        parameter: &Parameter,
    ) -> Result<TensorView<'a>> {
        let what = format!("{}: array {name}", self.path.display());
        let expected = format!("f32 of shape {:?}", parameter.dims);
        let view = tensors.tensor(name).map_err(|_| {
            Error::invalid_hint(
                &what,
                &expected,
                "no such array",
                "is it of another configuration? see verydeep inspect",
            )
        })?;
        let hint = match (view.shape() == parameter.dims, view.dtype()) {
            (true, Dtype::F32) => return Ok(view),
            (true, _) => "verydeep convert widens other numbers, and says what it cannot read",
            (false, _) => "the file is of another configuration",
        };
        let found = format!("{:?} of shape {}", view.dtype(), sides(view.shape()));
        Err(Error::invalid_hint(&what, &expected, found, hint))
    }

    fn compare(&self, what: &str, stored: Option<&String>, found: &str) -> Result<()> {
        match stored {
            Some(stored) if stored != found => Err(damaged(
                &self.path,
                WHOLE,
                format_args!("{what} {found}, not {}", shown(stored)),
            )),
            Some(_) | None => Ok(()),
        }
    }
}

/// Refuses NaN and infinite weights, by the name of the array. `ours` says whether a run of this program made them.
pub(super) fn check_finite(path: &Path, parameters: &[Parameter], weights: &[f32], ours: bool) -> Result<()> {
    let hint = if ours {
        "the training that made it diverged; take an earlier checkpoint"
    } else {
        "nothing can be computed with them: take another copy, or ask whoever made the file"
    };
    for parameter in parameters {
        let values = &weights[parameter.range()];
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            return Err(Error::invalid_hint(
                format_args!("{}: array {}", path.display(), parameter.name),
                "finite numbers",
                format_args!("{} at element {index}", values[index]),
                hint,
            ));
        }
    }
    Ok(())
}
