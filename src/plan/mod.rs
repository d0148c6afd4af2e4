//! How a network is computed, still without a device.
//!
//! A [`Plan`] is a network lowered for one micro-batch size and one mode: [`Step`]s (some of them several layers
//! fused), each with its places in one arena, worked out from how long every tensor lives. Back ends consume plans and
//! never see a network. [`Tree`] fixes the order in which the micro-batches' gradients are added.

mod arena;
mod cluster;
mod forecast;
mod gpus;
mod links;
mod lower;
mod params;
mod public_figures;
mod public_scaling;
mod reduction;
mod roofline;
mod slices;
mod step;
mod tree;
mod walk;
mod work;

pub use cluster::{Baseline, Cluster, ClusterStep, Traffic};
pub use forecast::Memory;
pub use gpus::{Arithmetic, GPUS, Gpu, Unit};
pub use links::{LINK_EFFICIENCY, Node};
pub use params::{Batch, StepParams, UpdateRule};
pub use public_figures::{Evidence, PUBLIC_FIGURES, PublicFigure};
pub use public_scaling::{SCALING_FIGURES, ScalingFigure, scaling_figures};
pub use reduction::Reduction;
pub use roofline::{
    CUDA_CORE_EFFICIENCY, Expectation, Limit, MEMORY_EFFICIENCY, PartTime, Rates, Roofline, StepTime,
    TENSOR_CORE_EFFICIENCY, public_figures,
};
pub use slices::{Level, Levels, pieces};
pub use step::{
    DataGradient, Epilogue, Footprint, Lowering, Pass, Region, Regions, Step, StepOp, ValueGradient,
};
pub use tree::Tree;
pub use walk::{Segment, WalkOrder};
pub use work::{Part, Work};

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::data::preprocess::Preprocess;
use crate::error::{Error, Result};
use crate::network::{Network, Parameter, Role};
use crate::shape::Chw;

/// Micro-batches that can be under way while scores are only asked for: one that is computed, one that arrives.
pub const IN_FLIGHT: usize = 2;

/// What a plan is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Forward and backward; dropout drops, batch norm uses the micro-batch's statistics.
    Training,
    /// Forward only; dropout is the identity and is not planned, batch norm uses the running statistics.
    Evaluation,
}

/// The parameters whose gradient becomes complete with one step's backward pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Index of that step in [`Plan::steps`].
    pub step: usize,
    /// Its arrays in [`Plan::parameters`].
    pub parameters: Range<usize>,
    /// Its elements in the flat vector of all parameters, gaps included.
    pub elements: Range<usize>,
}

/// Tells a plan from every other plan of the process; a clone is the same plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PlanId(u64);

impl PlanId {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// A network lowered to steps over one arena.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Tells it from every other plan of the process.
    pub id: PlanId,
    /// What the plan is for.
    pub mode: Mode,
    /// Images of one micro-batch.
    pub batch: usize,
    /// Shape of one input image.
    pub input: Chw,
    /// Number of classes.
    pub classes: usize,
    /// From pixels to the network's input.
    pub preprocess: Preprocess,
    /// The steps, in the order of the forward pass. The first finishes the input, the last is the loss; the last of a network
    /// for whole images gives its scores.
    pub steps: Vec<Step>,
    /// Every parameter array of the network, in its order.
    pub parameters: Vec<Parameter>,
    /// Length of the flat vector of all parameters.
    pub flat_len: usize,
    /// The buckets in the order in which they become final: last layer first.
    pub buckets: Vec<Bucket>,
    /// Size of the arena that one micro-batch runs in.
    pub arena_bytes: usize,
    /// How often a training plan is walked before the weights change: 1, unless [`Plan::walked`] says otherwise. A back end
    /// may keep what it makes of the weights.
    pub walks: usize,
}

impl Plan {
    /// Lowers `network` for micro-batches of `batch` images. `lowering` says which fusions the back end takes and how
    /// much memory each step needs.
    pub fn new(
        network: &Network,
        preprocess: &Preprocess,
        batch: usize,
        mode: Mode,
        lowering: &dyn Lowering,
    ) -> Result<Self> {
        if batch == 0 {
            return Err(Error::invalid("--micro-batch", "at least 1 image", 0));
        }
        if mode == Mode::Training && network.only_scores() {
            return Err(Error::invalid(
                "mode of a network for whole images",
                "evaluation",
                "training: it has no backward pass",
            ));
        }
        let mut steps = lower::lower(network, batch, mode, lowering);
        let arena_bytes = arena::place(&mut steps, mode, lowering);
        let buckets = match mode {
            Mode::Training => buckets(&steps, &network.parameters),
            Mode::Evaluation => Vec::new(),
        };
        Ok(Self {
            id: PlanId::next(),
            mode,
            batch,
            input: network.input,
            classes: network.classes,
            preprocess: preprocess.clone(),
            steps,
            parameters: network.parameters.clone(),
            flat_len: network.flat_len(),
            buckets,
            arena_bytes,
            walks: 1,
        })
    }

    /// The plan of a step of so many micro-batches on one replica.
    #[must_use]
    pub fn walked(self, walks: usize) -> Self {
        Self { walks, ..self }
    }

    /// The (step, pass) pairs of one micro-batch: all forward, then all backward in reverse.
    pub fn schedule(&self) -> impl Iterator<Item = (usize, Pass)> + use<> {
        let steps = self.steps.len();
        let backward = match self.mode {
            Mode::Training => 1..steps, // finishing the input has no gradient
            Mode::Evaluation => 0..0,
        };
        (0..steps)
            .map(|i| (i, Pass::Forward))
            .chain(backward.rev().map(|i| (i, Pass::Backward)))
    }

    /// Whether products read the arrays of a bucket: weights and biases. Batch norm's are read element by element.
    pub fn are_factors(&self, bucket: &Bucket) -> bool {
        let arrays = self.parameters[bucket.parameters.clone()].iter();
        arrays
            .map(|array| array.role)
            .all(|role| matches!(role, Role::Weight | Role::Bias))
    }

    /// The pairs at some places of the schedule.
    pub fn part_of_schedule(&self, places: Range<usize>) -> impl Iterator<Item = (usize, Pass)> + use<> {
        self.schedule().skip(places.start).take(places.len())
    }

    /// Length of the schedule.
    pub fn passes(&self) -> usize {
        match self.mode {
            Mode::Training => 2 * self.steps.len() - 1,
            Mode::Evaluation => self.steps.len(),
        }
    }

    /// Bytes of the gradient as it travels to other replicas: f32, whatever the tensors are.
    pub fn gradient_bytes(&self) -> u64 {
        let elements = self.buckets.iter().map(|bucket| bucket.elements.len());
        (elements.sum::<usize>() * size_of::<f32>()) as u64
    }

    /// Bytes that keep the outcomes of `places` micro-batches: what the loss saves.
    pub fn outcome_bytes(&self, places: usize) -> usize {
        places * self.steps[self.steps.len() - 1].memory.saved.bytes
    }

    /// The step that gives the class scores.
    pub fn scores(&self) -> usize {
        let last = self.steps.len() - 1;
        match self.steps[last].op {
            StepOp::Loss => last - 1,
            _ => last,
        }
    }

    /// Where step `step` finds its input.
    pub fn input_of(&self, step: usize) -> Region {
        self.steps[step - 1].memory.value
    }

    /// Where step `step` writes the gradient of its input, if it does.
    pub fn input_gradient_of(&self, step: usize) -> Option<Region> {
        match self.steps[step].data_gradient {
            DataGradient::None => None,
            DataGradient::Plain | DataGradient::Masked => Some(self.steps[step - 1].memory.gradient),
        }
    }

    /// The arrays of step `step`.
    pub fn parameters_of(&self, step: usize) -> &[Parameter] {
        &self.parameters[self.steps[step].parameters.clone()]
    }
}

fn buckets(steps: &[Step], parameters: &[Parameter]) -> Vec<Bucket> {
    let with_parameters = steps
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, step)| !step.parameters.is_empty());
    with_parameters
        .map(|(index, step)| {
            let arrays = &parameters[step.parameters.clone()];
            let elements = arrays[0].offset..arrays[arrays.len() - 1].range().end;
            Bucket {
                step: index,
                parameters: step.parameters.clone(),
                elements,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
