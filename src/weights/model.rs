//! A trained network, read back: what evaluation starts from.

use std::path::Path;

use super::about::About;
use super::checkpoint::CheckpointMeta;
use super::hash::weights_sha256;
use super::import::{Format, Imported, NamedArray, Origin, Selection, difference, identify};
use super::import::{import, import_from, other_config};
use super::load::check_finite;
use super::shown::shown;
use super::{Loaded, load_from, open_weights};
use crate::data::preprocess::Preprocess;
use crate::error::{Error, Result};
use crate::network::{Config, Extent, Network, Spec};

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
    /// Classes and preprocessing; `None` where the file does not say them.
    pub about: Option<About>,
    /// What a checkpoint says besides; `None` for another weights file.
    pub meta: Option<CheckpointMeta>,
    /// Damaged checkpoints that were passed over.
    pub passed_over: Vec<Error>,
}

impl Model {
    /// Opens a run folder (its newest whole checkpoint), a checkpoint or a safetensors file with torchvision's names.
    pub fn open(path: &Path) -> Result<Self> {
        let (loaded, content, passed_over) = open_weights(path, Content::of)?;
        Ok(content.with(loaded, passed_over))
    }

    /// [`Model::open`] of a file whose bytes are at hand; `path` is for the errors.
    pub fn open_from(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        let loaded = load_from(path, bytes)?;
        let content = Content::of(&loaded)?;
        Ok(content.with(loaded, Vec::new()))
    }

    /// Reads another program's file, of which `format` and `config` may say what it is: a whole network, or one that has
    /// convolutions only. A file of ours says itself what it is, in any format.
    pub fn import(path: &Path, format: Option<Format>, config: Option<Config>) -> Result<Self> {
        Self::import_part(path, format, config, Extent::Whole)
    }

    /// [`Model::import`], of the whole network or of the convolutions alone, whatever stands behind them.
    pub fn import_part(
        path: &Path,
        format: Option<Format>,
        config: Option<Config>,
        extent: Extent,
    ) -> Result<Self> {
        let wanted = Selection { config, extent };
        Self::of_imported(path, import(path, format, wanted)?, wanted)
    }

    /// [`Model::import_part`] of a file whose bytes are at hand; `path` is for the errors.
    pub fn import_from(
        path: &Path,
        bytes: &[u8],
        format: Option<Format>,
        config: Option<Config>,
        extent: Extent,
    ) -> Result<Self> {
        let wanted = Selection { config, extent };
        Self::of_imported(path, import_from(path, bytes, format, wanted)?, wanted)
    }

    /// Refuses another configuration than `wanted`, by the first layer that differs. `path` is for the error.
    pub fn check_config(&self, path: &Path, wanted: Option<Config>) -> Result<()> {
        match wanted {
            Some(wanted) if wanted != self.spec.config => Err(other_config(path, wanted, &self.spec)?),
            Some(_) | None => Ok(()),
        }
    }

    /// The convolutions alone.
    pub fn trunk(self) -> Result<Self> {
        let spec = Spec {
            classes: 0,
            fc: 0,
            extent: Extent::Trunk,
            ..self.spec
        };
        let network = spec.build()?;
        let mut weights = self.weights;
        weights.truncate(network.flat_len()); // the first arrays lie where they lay
        let weights_sha256 = weights_sha256(&network.parameters, &weights);
        let about = self.about.map(|about| About {
            class_names: Vec::new(),
            spec: spec.clone(),
            weights_sha256: weights_sha256.clone(),
            ..about
        });
        Ok(Self {
            spec,
            network,
            weights,
            weights_sha256,
            about,
            meta: None,
            passed_over: self.passed_over,
        })
    }

    /// Refuses a trunk, which has no scores.
    pub fn check_classifier(&self) -> Result<()> {
        match self.spec.extent {
            Extent::Whole => Ok(()),
            Extent::Trunk => Err(Error::invalid_hint(
                "the weights",
                "a network that ends with its classes",
                format_args!("the convolutions of net {} alone", self.spec.config),
                "features --layer pool5 or train --init-from take them",
            )),
        }
    }

    fn of_imported(path: &Path, imported: Imported, wanted: Selection) -> Result<Self> {
        let Imported { arrays, origin } = imported;
        match origin {
            Origin::Ours(about) => {
                let model = Self::of_ours(path, &arrays, *about)?;
                model.check_config(path, wanted.config)?;
                match (wanted.extent, model.spec.extent) {
                    (Extent::Trunk, Extent::Whole) => model.trunk(),
                    _ => Ok(model),
                }
            }
            Origin::Theirs(preprocess) => Self::of_theirs(path, &arrays, preprocess, wanted.config),
        }
    }

    /// Everything that the file says of itself is compared.
    fn of_ours(path: &Path, arrays: &[NamedArray], about: About) -> Result<Self> {
        let network = about.spec.build()?;
        if let Some(error) = difference(path, &shapes(arrays), &network) {
            return Err(error);
        }
        about.check(path)?;
        let weights = flat(&network, arrays);
        check_finite(path, &network.parameters, &weights, true)?;
        let weights_sha256 = weights_sha256(&network.parameters, &weights);
        if weights_sha256 != about.weights_sha256 {
            return Err(Error::invalid_hint(
                path.display(),
                format_args!("weights of weights_sha256 {}", shown(&about.weights_sha256)),
                format_args!("weights_sha256 {weights_sha256}"),
                "it is damaged, or another program changed the weights and left what verydeep says of them",
            ));
        }
        Ok(Self {
            spec: about.spec.clone(),
            network,
            weights,
            weights_sha256,
            about: Some(about),
            meta: None,
            passed_over: Vec::new(),
        })
    }

    /// What the file does not say is what the arrays are, and what the paper does.
    fn of_theirs(
        path: &Path,
        arrays: &[NamedArray],
        preprocess: Preprocess,
        config: Option<Config>,
    ) -> Result<Self> {
        let spec = identify(path, &shapes(arrays), config)?;
        let network = spec.build()?;
        let weights = flat(&network, arrays);
        check_finite(path, &network.parameters, &weights, false)?;
        let weights_sha256 = weights_sha256(&network.parameters, &weights);
        let about = About {
            class_names: (0..spec.classes).map(|index| index.to_string()).collect(),
            preprocess,
            scale: default_scale(&spec),
            weights_sha256: weights_sha256.clone(),
            spec: spec.clone(),
        };
        Ok(Self {
            spec,
            network,
            weights,
            weights_sha256,
            about: Some(about),
            meta: None,
            passed_over: Vec::new(),
        })
    }

    /// Shorter side Q at which it is evaluated unless told otherwise.
    pub fn scale(&self) -> usize {
        self.about
            .as_ref()
            .map_or(default_scale(&self.spec), |about| about.scale)
    }

    /// Names of the classes; their indices where the file has no names.
    pub fn class_names(&self) -> Vec<String> {
        match &self.about {
            Some(about) => about.class_names.clone(),
            None => (0..self.spec.classes).map(|index| index.to_string()).collect(),
        }
    }
}

fn shapes(arrays: &[NamedArray]) -> Vec<(String, Vec<usize>)> {
    arrays
        .iter()
        .map(|array| (array.name.clone(), array.dims.clone()))
        .collect()
}

/// Every parameter of a network at its flat offset, out of arrays that have been found to be its own.
fn flat(network: &Network, arrays: &[NamedArray]) -> Vec<f32> {
    let mut weights = vec![0.0; network.flat_len()];
    for parameter in &network.parameters {
        let array = arrays.iter().find(|array| array.name == parameter.name);
        let array = array.expect("a network fits all of its arrays");
        weights[parameter.range()].copy_from_slice(&array.values);
    }
    weights
}

/// What the arrays of a file are.
struct Content {
    spec: Spec,
    network: Network,
    weights: Vec<f32>,
    weights_sha256: String,
}

impl Content {
    fn of(file: &Loaded) -> Result<Self> {
        let spec = match &file.about {
            Some(about) => about.spec.clone(),
            None => identify(file.path(), &file.shapes()?, None)?,
        };
        let network = spec.build()?;
        file.check_arrays(&network.parameters)?;
        let mut weights = vec![0.0; network.flat_len()];
        let weights_sha256 = file.weights(&network.parameters, &mut weights)?;
        if let Some(about) = &file.about {
            about.check(file.path())?;
        }
        Ok(Self {
            spec,
            network,
            weights,
            weights_sha256,
        })
    }

    fn with(self, file: Loaded, passed_over: Vec<Error>) -> Model {
        Model {
            spec: self.spec,
            network: self.network,
            weights: self.weights,
            weights_sha256: self.weights_sha256,
            about: file.about,
            meta: file.meta,
            passed_over,
        }
    }
}

/// The paper's 256, or the crop where that is larger.
fn default_scale(spec: &Spec) -> usize {
    spec.crop.max(256)
}
