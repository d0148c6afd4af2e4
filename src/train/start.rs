//! Where a run starts from: random weights, other people's, another run's, or its own newest checkpoint.

use std::mem;
use std::path::Path;

use super::job::Progress;
use super::recipe::Recipe;
use crate::error::{Error, Result};
use crate::network::{Config, Extent, Network};
use crate::weights::{Loaded, Newest, RunFolder, newest_checkpoint, open_weights, weights_sha256};

/// State to start from, on the host; flat vectors.
pub struct Start {
    /// Weights.
    pub weights: Vec<f32>,
    /// Momentum; empty means zero.
    pub momentum: Vec<f32>,
    /// How far the run is.
    pub progress: Progress,
    /// Hash of the weights before the first step: part of the equivalence class.
    pub initial_sha256: String,
    /// Hash of weights, momentum, step and schedule, where they come from a checkpoint.
    pub state_sha256: Option<String>,
    /// The class stored in the checkpoint.
    pub class: Option<serde_json::Value>,
    /// Damaged checkpoints that were passed over, each with what is wrong.
    pub passed_over: Vec<String>,
}

impl Start {
    /// Hands out weights and momentum: they are as large as the network.
    pub(super) fn take(&mut self) -> (Vec<f32>, Vec<f32>) {
        (mem::take(&mut self.weights), mem::take(&mut self.momentum))
    }

    /// The start of a new run, as its recipe says.
    pub fn new_run(recipe: &Recipe, network: &Network) -> Result<Self> {
        let mut weights = vec![0.0; network.flat_len()];
        network.initialise(recipe.init, recipe.seed, &mut weights);
        let mut passed_over = Vec::new();
        if let Some(path) = &recipe.weights {
            let (_, _, passed) = open_weights(path, |file| {
                file.check_network(network)?;
                file.weights(&network.parameters, &mut weights)
            })?;
            passed_over = passed;
        }
        if let Some(path) = &recipe.init_from {
            passed_over = stage(path, recipe.config, network, &mut weights)?;
        }
        Ok(Self {
            initial_sha256: weights_sha256(&network.parameters, &weights),
            weights,
            momentum: Vec::new(),
            progress: Progress::default(),
            state_sha256: None,
            class: None,
            passed_over: passed_over.iter().map(Error::to_string).collect(),
        })
    }

    /// The newest whole checkpoint of a run; its beginning where it has none yet. Errors where it has checkpoints but
    /// no whole one.
    pub fn resumed(run: &RunFolder, recipe: &Recipe, network: &Network) -> Result<Self> {
        let (mut weights, mut momentum) = (vec![0.0; network.flat_len()], vec![0.0; network.flat_len()]);
        let whole = |file: &Loaded| file.state(&network.parameters, &mut weights, &mut momentum);
        let Newest {
            found,
            mut passed_over,
        } = newest_checkpoint(run, whole)?;
        let Some((file, _)) = found else {
            return match passed_over.pop() {
                Some(error) => Err(error),
                None => Self::new_run(recipe, network),
            };
        };
        let meta = file.meta.as_ref().expect("a file with a state has its metadata");
        let schedule = serde_json::from_value(meta.schedule.clone()).map_err(|e| {
            Error::invalid(
                format_args!("{}: schedule", file.path().display()),
                "the schedule's state",
                e,
            )
        })?;
        let initial = meta
            .class
            .get("initial_weights_sha256")
            .and_then(|hash| hash.as_str());
        Ok(Self {
            progress: Progress {
                step: meta.step,
                schedule,
            },
            initial_sha256: initial.unwrap_or_default().into(),
            state_sha256: Some(meta.state_sha256.clone()),
            class: Some(meta.class.clone()),
            passed_over: passed_over.iter().map(Error::to_string).collect(),
            weights,
            momentum,
        })
    }
}

/// The layers that the paper takes from a trained net A (section 3.1): the first four convolutional layers and the
/// three fully connected ones, by name.
const STAGED: [&str; 7] = ["conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8"];

/// Copies the staged layers of a trained network A into `weights`; of a trunk, which somebody has trained to the end, all.
fn stage(path: &Path, config: Config, network: &Network, weights: &mut [f32]) -> Result<Vec<Error>> {
    let copy = |file: &Loaded| -> Result<()> {
        let source_spec = match &file.about {
            Some(about) => about.spec.clone(),
            None => {
                return Err(Error::invalid_hint(
                    path.display(),
                    "a checkpoint or run of net A",
                    "a weights file that does not say its configuration",
                    "give --init-from the run folder",
                ));
            }
        };
        let source = source_spec.build()?;
        // The stored hash covers all weights, so all are read even where some are used.
        let mut theirs = vec![0.0; source.flat_len()];
        file.weights(&source.parameters, &mut theirs)?;
        let layers = source.layers.iter().filter(|layer| !layer.parameters.is_empty());
        let names = match source_spec.extent {
            Extent::Whole => STAGED.to_vec(),
            Extent::Trunk => layers.map(|layer| layer.name.as_str()).collect(),
        };
        for name in names {
            copy_layer(
                path,
                (&source, &theirs),
                (network, &mut *weights),
                name,
                (source_spec.config, config),
            )?;
        }
        Ok(())
    };
    let (_, (), passed_over) = open_weights(path, copy)?;
    Ok(passed_over)
}

fn copy_layer(
    path: &Path,
    (source, theirs): (&Network, &[f32]),
    (target, ours): (&Network, &mut [f32]),
    name: &str,
    (from, to): (Config, Config),
) -> Result<()> {
    let find = |network: &Network, config: Config| {
        let layer = network.layers.iter().find(|layer| layer.name == name).cloned();
        layer.ok_or_else(|| {
            Error::invalid(
                path.display(),
                format_args!("a layer {name}"),
                format_args!("net {config}"),
            )
        })
    };
    let (mine, other) = (find(target, to)?, find(source, from)?);
    for (parameter, wanted) in source.parameters[other.parameters]
        .iter()
        .zip(&target.parameters[mine.parameters])
    {
        if parameter.dims != wanted.dims {
            return Err(Error::invalid_hint(
                format_args!("{}: {name}", path.display()),
                format_args!("an array of shape {:?}", wanted.dims),
                format_args!("{:?}", parameter.dims),
                "the layers of both networks must have the same --width, and --fc, --crop and classes if there are any",
            ));
        }
        ours[wanted.range()].copy_from_slice(&theirs[parameter.range()]);
    }
    Ok(())
}
