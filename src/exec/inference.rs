//! Forward passes over weights that do not change.

use super::Outcomes;
use crate::backend::{Backend, Memory, Tensor};
use crate::data::preprocess::Preprocess;
use crate::error::Result;
use crate::network::Network;
use crate::plan::{Batch, Mode, Plan, StepParams};

/// A network on a back end, ready to score micro-batches of one size.
pub struct Inference<'b, B: Backend> {
    backend: &'b B,
    plan: Plan,
    arena: B::Buffer,
    weights: B::Buffer,
    /// Evaluation has no gradients.
    no_gradient: B::Buffer,
    outcomes: Outcomes,
}

impl<'b, B: Backend> Inference<'b, B> {
    /// Plans and allocates for micro-batches of `batch` images; `flat` holds every parameter at its offset.
    pub fn new(
        backend: &'b B,
        network: &Network,
        preprocess: &Preprocess,
        batch: usize,
        flat: &[f32],
    ) -> Result<Self> {
        let plan = Plan::new(network, preprocess, batch, Mode::Evaluation, backend)?;
        backend.prepare(&plan)?;
        let arena = backend.allocate_arena(plan.arena_bytes)?;
        let mut weights = backend.allocate_parameters(plan.flat_len)?;
        backend.write_parameters(&mut weights, 0, flat)?;
        let no_gradient = backend.allocate_parameters(0)?;
        Ok(Self {
            backend,
            plan,
            arena,
            weights,
            no_gradient,
            outcomes: Outcomes::sized(batch),
        })
    }

    /// The plan that it runs.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Scores one micro-batch.
    pub fn run(&mut self, batch: Batch<'_>) -> Result<&Outcomes> {
        let mut device = Device {
            backend: self.backend,
            arena: &mut self.arena,
            weights: &self.weights,
            gradient: &mut self.no_gradient,
        };
        device.forward(&self.plan, batch, &mut self.outcomes)?;
        Ok(&self.outcomes)
    }

    /// The posteriors of the last micro-batch, (N, classes).
    pub fn posteriors(&self, values: &mut [f32]) -> Result<()> {
        self.backend.read_tensor(
            &self.plan,
            self.plan.steps.len() - 1,
            Tensor::Value,
            &self.arena,
            values,
        )
    }
}

/// The memory of a walk, borrowed from whoever owns it.
pub(super) struct Device<'a, B: Backend> {
    pub(super) backend: &'a B,
    pub(super) arena: &'a mut B::Buffer,
    pub(super) weights: &'a B::Buffer,
    pub(super) gradient: &'a mut B::Buffer,
}

impl<B: Backend> Device<'_, B> {
    /// The forward passes of an evaluation plan. Nothing in it depends on seed, step or position.
    pub(super) fn forward(&mut self, plan: &Plan, batch: Batch<'_>, outcomes: &mut Outcomes) -> Result<()> {
        let params = StepParams {
            seed: 0,
            step: 0,
            position: 0,
            learning_rate: 0.0,
        };
        let memory = Memory {
            arena: self.arena,
            weights: self.weights,
            gradient: self.gradient,
            batch,
        };
        self.backend.walk(plan, memory, &params)?;
        self.backend
            .outcomes(plan, self.arena, &mut outcomes.losses, &mut outcomes.ranks)
    }
}
