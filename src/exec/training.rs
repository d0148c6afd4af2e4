//! One replica's training state: weights, momentum, the gradient slots of the reduction tree, and the walk that fills
//! them.

use super::inference::forward;
use super::scored::Scored;
use super::{FoldOf, IN_FLIGHT, Outcomes, Score, Watch};
use crate::backend::{Backend, Memory, State, Tensor};
use crate::data::preprocess::Preprocess;
use crate::error::{Error, Result};
use crate::network::{Network, Parameter};
use crate::plan::{Batch, DataGradient, Mode, Pass, Plan, Segment, StepParams, Tree, UpdateRule, WalkOrder};
use crate::weights::CheckpointView;

/// A bit to flip in a leaf, as a faulty machine would: how tests show that [`Watch::fold`] and `verydeep diff` find it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitFlip {
    /// Step, counted from 0.
    pub step: u64,
    /// Micro-batch within the step.
    pub micro_batch: usize,
    /// Name of the parameter array.
    pub parameter: String,
    /// Element of the array.
    pub element: usize,
    /// Bit of the f32, 0 is the lowest.
    pub bit: u32,
}

/// A network being trained on a back end.
pub struct Training<'b, B: Backend> {
    backend: &'b B,
    plan: Plan,
    evaluation: Plan,
    tree: Tree,
    order: WalkOrder,
    rule: UpdateRule,
    /// As many as the order needs. The first is the evaluation's, too, which never runs at the same time.
    arenas: Vec<B::Buffer>,
    weights: B::Buffer,
    momentum: B::Buffer,
    /// The stack of partial sums; see [`Tree`].
    slots: Vec<B::Buffer>,
    scored: Scored<B>,
    flip: Option<BitFlip>,
}

impl<'b, B: Backend> Training<'b, B> {
    /// Plans and allocates everything that training will ever need. Weights and momentum start at zero.
    pub fn new(
        backend: &'b B,
        network: &Network,
        preprocess: &Preprocess,
        rule: UpdateRule,
        order: WalkOrder,
    ) -> Result<Self> {
        let micro_batch = rule.batch / rule.micro_batches;
        let plan = Plan::new(network, preprocess, micro_batch, Mode::Training, backend)?;
        let evaluation = Plan::new(network, preprocess, micro_batch, Mode::Evaluation, backend)?;
        backend.prepare(&plan)?;
        backend.prepare(&evaluation)?;
        let tree = Tree::new(rule.micro_batches);
        let parameters = || backend.allocate_parameters(plan.flat_len);
        let arena = |_| backend.allocate_arena(plan.arena_bytes.max(evaluation.arena_bytes));
        Ok(Self {
            backend,
            tree,
            order,
            rule,
            arenas: (0..order.arenas(rule.micro_batches))
                .map(arena)
                .collect::<Result<_>>()?,
            weights: backend.allocate_weights(plan.flat_len)?,
            momentum: parameters()?,
            slots: (0..tree.slots()).map(|_| parameters()).collect::<Result<_>>()?,
            scored: Scored::new(backend, &plan, rule.micro_batches.max(IN_FLIGHT))?,
            flip: None,
            plan,
            evaluation,
        })
    }

    /// The plan of the forward and backward passes.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Sets the weights and the momentum; both flat.
    pub fn set_state(&mut self, weights: &[f32], momentum: &[f32]) -> Result<()> {
        self.backend.write_parameters(&mut self.weights, 0, weights)?;
        self.backend.write_parameters(&mut self.momentum, 0, momentum)
    }

    /// Flips a bit when the walk gets there.
    pub fn plant(&mut self, flip: BitFlip) {
        self.flip = Some(flip);
    }

    /// Walks what micro-batch `micro_batch` of the step makes possible and adds to the tree the leaves that become
    /// complete. Micro-batches come in order, from 0 on. After the last one, the gradient of the whole batch is
    /// complete; weights and momentum are untouched until [`Training::update`].
    ///
    /// On a device, all of that has only been asked for when this returns; `batch` has been read.
    pub fn micro_batch(
        &mut self,
        micro_batch: usize,
        batch: Batch<'_>,
        params: &StepParams,
        watch: &mut dyn Watch,
    ) -> Result<()> {
        if micro_batch == 0 {
            self.scored.clear();
        }
        let segments = self.order.segments(&self.plan, self.tree.leaves(), micro_batch);
        for segment in segments {
            let has_arrived = segment.passes.start == 0;
            let batch = if has_arrived { batch } else { Batch::NONE };
            self.walk(&segment, batch, params, watch)?;
            if has_arrived {
                let arena = &self.arenas[self.order.arena(micro_batch)];
                self.scored.put(self.backend, &self.plan, arena)?;
            }
        }
        Ok(())
    }

    /// What the forward pass of the step's next micro-batch said, in their order. Waits for the device.
    pub fn outcomes(&mut self) -> Result<&Outcomes> {
        self.scored.take(self.backend, &self.plan)
    }

    /// Walks some passes of a micro-batch; in one go, where the back end gains from that and nobody looks on.
    fn walk(
        &mut self,
        segment: &Segment,
        batch: Batch<'_>,
        params: &StepParams,
        watch: &mut dyn Watch,
    ) -> Result<()> {
        let micro_batch = segment.micro_batch;
        let whole = self.backend.captures() && self.flip.is_none() && !watch.wants_folds();
        if whole {
            let passes = segment.passes.clone();
            self.with_memory(micro_batch, batch, |backend, plan, memory| {
                backend.walk(plan, passes, memory, params)
            })?;
        }
        for (step, pass) in self.plan.part_of_schedule(segment.passes.clone()) {
            if !whole {
                self.with_memory(micro_batch, batch, |backend, plan, memory| {
                    backend.run(plan, step, pass, memory, params)
                })?;
            }
            if pass == Pass::Backward {
                self.flip_bit(micro_batch, step, params.step)?;
            }
            if watch.wants_folds() {
                self.fold(micro_batch, step, pass, watch)?;
            }
            if pass == Pass::Backward {
                self.merge(micro_batch, step, watch)?;
            }
        }
        Ok(())
    }

    /// Calls `run` with the memory that micro-batch `micro_batch` is computed in.
    fn with_memory(
        &mut self,
        micro_batch: usize,
        batch: Batch<'_>,
        run: impl FnOnce(&B, &Plan, Memory<'_, B::Buffer>) -> Result<()>,
    ) -> Result<()> {
        let memory = Memory {
            arena: &mut self.arenas[self.order.arena(micro_batch)],
            weights: &self.weights,
            gradient: &mut self.slots[self.tree.slot(micro_batch)],
            batch,
        };
        run(self.backend, &self.plan, memory)
    }

    /// Adds the step's part of the leaf to the partial sums that wait for it.
    fn merge(&mut self, micro_batch: usize, step: usize, watch: &mut dyn Watch) -> Result<()> {
        let Some(bucket) = self.plan.buckets.iter().find(|bucket| bucket.step == step) else {
            return Ok(());
        };
        let merged = self.tree.merge(micro_batch);
        if merged.start() != merged.end() {
            self.backend
                .tree_add(&mut self.slots[merged], bucket.elements.clone())?;
        }
        if micro_batch + 1 == self.tree.leaves() {
            watch.bucket_final(bucket)?;
        }
        Ok(())
    }

    fn fold(&self, micro_batch: usize, step: usize, pass: Pass, watch: &mut dyn Watch) -> Result<()> {
        let at = &self.plan.steps[step];
        let arena = &self.arenas[self.order.arena(micro_batch)];
        match pass {
            Pass::Forward => {
                let fold = self.backend.fold_tensor(&self.plan, step, Tensor::Value, arena)?;
                watch.fold(micro_batch, &at.name, FoldOf::Forward, fold);
            }
            Pass::Backward => {
                if at.data_gradient != DataGradient::None {
                    let fold = self
                        .backend
                        .fold_tensor(&self.plan, step - 1, Tensor::Gradient, arena)?;
                    watch.fold(micro_batch, &at.name, FoldOf::DataGradient, fold);
                }
                if let Some(bucket) = self.plan.buckets.iter().find(|bucket| bucket.step == step) {
                    let leaf = &self.slots[self.tree.slot(micro_batch)];
                    let fold = self.backend.fold_parameters(leaf, bucket.elements.clone())?;
                    watch.fold(micro_batch, &at.name, FoldOf::ParameterGradient, fold);
                }
            }
        }
        Ok(())
    }

    fn flip_bit(&mut self, micro_batch: usize, step: usize, now: u64) -> Result<()> {
        let Some(flip) = self
            .flip
            .as_ref()
            .filter(|f| f.step == now && f.micro_batch == micro_batch)
        else {
            return Ok(());
        };
        if let Some(parameter) = self
            .plan
            .parameters_of(step)
            .iter()
            .find(|p| p.name == flip.parameter)
        {
            let leaf = &mut self.slots[self.tree.slot(micro_batch)];
            let mut value = [0.0];
            let at = parameter.offset + flip.element;
            self.backend.read_parameters(leaf, at, &mut value)?;
            value[0] = f32::from_bits(value[0].to_bits() ^ 1 << flip.bit);
            self.backend.write_parameters(leaf, at, &value)?;
        }
        Ok(())
    }

    /// Applies the update rule with the complete gradient. A non-finite gradient is found before anything is changed.
    pub fn update(&mut self, params: &StepParams) -> Result<()> {
        if !self.backend.is_finite(&self.slots[0], 0..self.plan.flat_len)? {
            return Err(self.non_finite(params.step + 1)?);
        }
        for parameter in 0..self.plan.parameters.len() {
            let state = State {
                weights: &mut self.weights,
                momentum: &mut self.momentum,
                gradient: &self.slots[0],
            };
            self.backend
                .update(&self.plan, parameter, &self.rule, params, state)?;
        }
        Ok(())
    }

    /// The first array whose gradient is not finite, as an error.
    fn non_finite(&self, step: u64) -> Result<Error> {
        for parameter in &self.plan.parameters {
            if !self.backend.is_finite(&self.slots[0], parameter.range())? {
                let what = format!("the gradient of {}", parameter.name);
                return Ok(Error::NonFinite { step, what });
            }
        }
        let what = "the gradient, between the arrays".into();
        Ok(Error::NonFinite { step, what })
    }

    /// Scores micro-batches with the present weights, as evaluation does.
    pub fn validation(&mut self) -> Validation<'_, 'b, B> {
        self.scored.clear();
        Validation(self)
    }
}

/// A [`Training`] that scores.
pub struct Validation<'t, 'b, B: Backend>(&'t mut Training<'b, B>);

impl<B: Backend> Score for Validation<'_, '_, B> {
    fn submit(&mut self, batch: Batch<'_>) -> Result<()> {
        let training = &mut *self.0;
        let memory = Memory {
            arena: &mut training.arenas[0],
            weights: &training.weights,
            gradient: &mut training.slots[0], // a forward pass in evaluation mode leaves it alone
            batch,
        };
        forward(training.backend, &training.evaluation, memory)?;
        let (plan, arena) = (&training.evaluation, &training.arenas[0]);
        training.scored.put(training.backend, plan, arena)
    }

    fn collect(&mut self) -> Result<&Outcomes> {
        self.0.scored.take(self.0.backend, &self.0.evaluation)
    }
}

impl<B: Backend> CheckpointView for Training<'_, B> {
    fn weights(&self, parameter: &Parameter, values: &mut [f32]) -> Result<()> {
        self.backend
            .read_parameters(&self.weights, parameter.offset, values)
    }

    fn momentum(&self, parameter: &Parameter, values: &mut [f32]) -> Result<()> {
        self.backend
            .read_parameters(&self.momentum, parameter.offset, values)
    }
}
