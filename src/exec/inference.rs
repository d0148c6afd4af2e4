//! Forward passes over weights that do not change.

use super::scored::Scored;
use super::{IN_FLIGHT, Outcomes, Score};
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
    scored: Scored<B>,
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
        let mut weights = backend.allocate_weights(plan.flat_len)?;
        backend.write_parameters(&mut weights, 0, flat)?;
        let no_gradient = backend.allocate_parameters(0)?;
        let scored = Scored::new(backend, &plan, IN_FLIGHT)?;
        Ok(Self {
            backend,
            plan,
            arena,
            weights,
            no_gradient,
            scored,
        })
    }

    /// The plan that it runs.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Scores one micro-batch and waits for it.
    pub fn run(&mut self, batch: Batch<'_>) -> Result<&Outcomes> {
        self.submit(batch)?;
        self.collect()
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

impl<B: Backend> Score for Inference<'_, B> {
    fn submit(&mut self, batch: Batch<'_>) -> Result<()> {
        let memory = Memory {
            arena: &mut self.arena,
            weights: &self.weights,
            gradient: &mut self.no_gradient,
            batch,
        };
        forward(self.backend, &self.plan, memory)?;
        self.scored.put(self.backend, &self.plan, &self.arena)
    }

    fn collect(&mut self) -> Result<&Outcomes> {
        self.scored.take(self.backend, &self.plan)
    }
}

/// The forward passes of an evaluation plan. Nothing in it depends on seed, step or position.
pub(super) fn forward<B: Backend>(backend: &B, plan: &Plan, memory: Memory<'_, B::Buffer>) -> Result<()> {
    let params = StepParams {
        seed: 0,
        step: 0,
        position: 0,
        learning_rate: 0.0,
    };
    backend.walk(plan, 0..plan.passes(), memory, &params)
}
