//! What cuDNN would do on a device that is not here, but described: how a machine without a GPU checks that every
//! convolution has an engine that keeps our promises (`tools/cuda-gates cudnn`).

use std::collections::HashSet;

use serde::Serialize;

use super::dnn::{Candidates, Target};
use super::libraries::{Libraries, Library};
use super::run::convolutions;
use crate::backend::Precision;
use crate::error::{Error, Result};
use crate::plan::Plan;

/// A device, by its properties.
pub struct DescribedDevice(Target);

/// What became of one pass of one convolution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// Name of the first step that has this convolution.
    pub layer: String,
    /// `forward`, `data gradient` or `filter gradient`.
    pub pass: &'static str,
    /// N, C, H, W of the input as it lies in memory, K, and the side of the filter.
    pub shape: [usize; 6],
    /// Engine configurations that the heuristics offer.
    pub offered: usize,
    /// Those that are deterministic and keep to the precision.
    pub eligible: usize,
    /// The plan that training takes.
    pub chosen: Option<Chosen>,
    /// Where there is none: why each is not.
    pub refused: Vec<String>,
}

/// The plan that training takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Chosen {
    /// cuDNN's number of the engine.
    pub engine: i64,
    /// cuDNN's number of each knob that the heuristics set, and its value: what a plan file pins.
    pub knobs: Vec<[i64; 2]>,
    /// Bytes.
    pub workspace: usize,
    /// How many were offered before it.
    pub rank: usize,
    /// Whether it is found again by engine and knobs when the heuristics are asked anew, as a run that follows a plan
    /// file does.
    pub found_again: bool,
}

impl DescribedDevice {
    /// Reads the properties: cuDNN's JSON of a device property descriptor.
    pub fn new(libraries: &Libraries, json: &str) -> Result<Self> {
        libraries.need(Library::Cudnn)?;
        Target::described(json).map(Self)
    }

    /// Plans every pass of every convolution of some plans, each once, as the back end does for a device.
    pub fn plan(&self, plans: &[Plan], precision: Precision) -> Result<Vec<Planned>> {
        let mut seen = HashSet::new();
        let passes = plans.iter().flat_map(convolutions);
        passes
            .filter(|(_, pass, shape)| seen.insert((*pass, *shape)))
            .map(|(step, pass, shape)| {
                let candidates = Candidates::new(&self.0, precision, pass, shape)?;
                let (chosen, refused) = match candidates.choose(&self.0) {
                    Ok(accepted) => (Some(accepted), Vec::new()),
                    Err(refused) => (None, refused),
                };
                Ok(Planned {
                    layer: step.name.clone(),
                    pass: pass.name(),
                    shape: [shape.n, shape.c, shape.h, shape.w, shape.k, shape.kernel],
                    offered: candidates.offered(),
                    eligible: candidates.eligible(),
                    chosen: chosen
                        .map(|accepted| {
                            let choice = candidates.choice(accepted.rank)?;
                            let anew = Candidates::new(&self.0, precision, pass, shape)?;
                            let again = anew.find(&self.0, &choice)?;
                            Ok::<_, Error>(Chosen {
                                found_again: again.is_some_and(|again| again.rank == accepted.rank),
                                engine: choice.engine,
                                knobs: choice.knobs,
                                workspace: accepted.workspace,
                                rank: accepted.rank,
                            })
                        })
                        .transpose()?,
                    refused,
                })
            })
            .collect()
    }
}
