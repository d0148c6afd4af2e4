//! Class scores of images, of any size: what is left to do is averaging.

use super::inference::forward;
use crate::backend::{Backend, Memory, Tensor};
use crate::data::preprocess::Preprocess;
use crate::error::{Error, Result};
use crate::network::Network;
use crate::plan::{Batch, Mode, Plan};

/// Weights on a back end, and networks over them that give scores: of crops, or of every window of whole images.
/// What is planned next takes the place of what was planned before; the memory stays, and grows where it must.
pub struct Scorer<'b, B: Backend> {
    backend: &'b B,
    weights: B::Buffer,
    /// Evaluation has no gradients.
    no_gradient: B::Buffer,
    arena: Option<(usize, B::Buffer)>,
    plan: Option<Plan>,
    scores: Vec<f32>,
}

impl<'b, B: Backend> Scorer<'b, B> {
    /// `flat` holds every parameter at its offset.
    pub fn new(backend: &'b B, flat: &[f32]) -> Result<Self> {
        let mut weights = backend.allocate_weights(flat.len())?;
        backend.write_parameters(&mut weights, 0, flat)?;
        Ok(Self {
            backend,
            weights,
            no_gradient: backend.allocate_parameters(0)?,
            arena: None,
            plan: None,
            scores: Vec::new(),
        })
    }

    /// Plans `network` for micro-batches of `batch` images; its parameters lie as those of the weights do.
    pub fn plan(&mut self, network: &Network, preprocess: &Preprocess, batch: usize) -> Result<()> {
        self.plan = None;
        let plan = Plan::new(network, preprocess, batch, Mode::Evaluation, self.backend)?;
        self.backend.prepare(&plan)?;
        if self
            .arena
            .as_ref()
            .is_none_or(|(bytes, _)| *bytes < plan.arena_bytes)
        {
            self.arena = None; // the old one ends before the new one begins
            self.arena = Some((plan.arena_bytes, self.backend.allocate_arena(plan.arena_bytes)?));
        }
        let step = &plan.steps[plan.scores()];
        self.scores.resize(step.batch * step.output.len(), 0.0);
        self.plan = Some(plan);
        Ok(())
    }

    /// The scores of one micro-batch: (N, windows of an image, classes), one window for a crop.
    pub fn run(&mut self, batch: Batch<'_>) -> Result<&[f32]> {
        let (Some(plan), Some((_, arena))) = (&self.plan, &mut self.arena) else {
            return Err(Error::invalid("scores", "a network that was planned", "none"));
        };
        let memory = Memory {
            arena,
            weights: &self.weights,
            gradient: &mut self.no_gradient,
            batch,
        };
        forward(self.backend, plan, memory)?;
        self.backend
            .read_tensor(plan, plan.scores(), Tensor::Value, arena, &mut self.scores)?;
        Ok(&self.scores)
    }
}
