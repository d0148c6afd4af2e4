//! One replica's part of a training step: the gradient slots of its part of the reduction tree, and the walk that fills
//! them.

use serde::{Deserialize, Serialize};

use super::inference::forward;
use super::scored::Scored;
use super::{FoldOf, IN_FLIGHT, Outcomes, Score, SharedParameters, Watch};
use crate::backend::{Backend, Memory, Tensor};
use crate::data::preprocess::Preprocess;
use crate::error::Result;
use crate::network::{Network, Parameter};
use crate::plan::{Batch, DataGradient, Mode, Pass, Plan, Segment, StepParams, Tree, WalkOrder};

/// A bit to flip, as a faulty machine would: how tests show that audits, folds and `verydeep diff` find it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitFlip {
    /// Step, counted from 0.
    pub step: u64,
    /// What it is a bit of.
    pub flipped: Flipped,
    /// Name of the parameter array.
    pub parameter: String,
    /// Element of the array.
    pub element: usize,
    /// Bit of the f32, 0 is the lowest.
    pub bit: u32,
}

/// Folds of weights and momentum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateFolds {
    /// Master weights.
    pub weights: u64,
    /// The copy of them that products read, where there is one.
    pub copy: Option<u64>,
    /// Momentum.
    pub momentum: u64,
}

/// What a flipped bit belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flipped {
    /// The leaf of a micro-batch of the step, once it is computed.
    Leaf {
        /// Counted within the part of the step that whoever plants it looks at.
        micro_batch: usize,
    },
    /// The weights that a replica reads, before its part of the step.
    Weights {
        /// Its rank.
        replica: usize,
    },
    /// A replica's momentum, likewise.
    Momentum {
        /// Its rank.
        replica: usize,
    },
}

impl BitFlip {
    /// Flips it in a flat vector, if its array is among `parameters`.
    fn apply<B: Backend>(&self, backend: &B, parameters: &[Parameter], buffer: &mut B::Buffer) -> Result<()> {
        let Some(parameter) = parameters.iter().find(|array| array.name == self.parameter) else {
            return Ok(());
        };
        let at = parameter.offset + self.element;
        let mut value = [0.0];
        backend.read_parameters(buffer, at, &mut value)?;
        value[0] = f32::from_bits(value[0].to_bits() ^ 1 << self.bit);
        backend.write_parameters(buffer, at, &value)
    }
}

/// What a replica computes in every step.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Images of a micro-batch.
    pub micro_batch: usize,
    /// The replica's part of the reduction tree; the whole of it where there is one replica.
    pub tree: Tree,
    /// In which order its micro-batches are walked.
    pub order: WalkOrder,
}

/// A network being trained on a back end, by one replica.
pub struct Training<'b, B: Backend> {
    backend: &'b B,
    plan: Plan,
    evaluation: Plan,
    tree: Tree,
    order: WalkOrder,
    /// As many as the order needs. The first is the evaluation's, too, which never runs at the same time.
    arenas: Vec<B::Buffer>,
    parameters: SharedParameters<B>,
    /// The stack of partial sums; see [`Tree`].
    slots: Vec<B::Buffer>,
    scored: Scored<B>,
    flip: Option<BitFlip>,
}

impl<'b, B: Backend> Training<'b, B> {
    /// Plans and allocates everything that training will ever need beside the parameters.
    pub fn new(
        backend: &'b B,
        network: &Network,
        preprocess: &Preprocess,
        shape: Shape,
        parameters: SharedParameters<B>,
    ) -> Result<Self> {
        let Shape {
            micro_batch,
            tree,
            order,
        } = shape;
        let plan =
            Plan::new(network, preprocess, micro_batch, Mode::Training, backend)?.walked(tree.leaves());
        let evaluation = Plan::new(network, preprocess, micro_batch, Mode::Evaluation, backend)?;
        backend.prepare(&plan)?;
        backend.prepare(&evaluation)?;
        let arena = |_| backend.allocate_arena(plan.arena_bytes.max(evaluation.arena_bytes));
        Ok(Self {
            backend,
            tree,
            order,
            arenas: (0..order.arenas(tree.leaves()))
                .map(arena)
                .collect::<Result<_>>()?,
            parameters,
            slots: (0..tree.slots())
                .map(|_| backend.allocate_parameters(plan.flat_len))
                .collect::<Result<_>>()?,
            scored: Scored::new(backend, &plan, tree.leaves().max(IN_FLIGHT))?,
            flip: None,
            plan,
            evaluation,
        })
    }

    /// The back end that it runs on.
    pub fn backend(&self) -> &'b B {
        self.backend
    }

    /// Weights and momentum.
    pub fn parameters(&self) -> &SharedParameters<B> {
        &self.parameters
    }

    /// The plan of the forward and backward passes.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Flips a bit when the walk gets there; the micro-batch of a leaf counts within the replica's part of the step.
    pub fn plant(&mut self, flip: BitFlip) {
        self.flip = Some(flip);
    }

    /// Computes the leaf of any micro-batch, also of another replica's, where this one's first will be; the folds of its
    /// buckets, in their order. Between two steps.
    pub fn leaf_of(&mut self, batch: Batch<'_>, params: &StepParams) -> Result<Vec<u64>> {
        let passes = 0..self.plan.passes();
        self.with_memory(0, batch, |backend, plan, memory| {
            backend.walk(plan, passes, memory, params)
        })?;
        let leaf = &self.slots[self.tree.slot(0)];
        let buckets = self.plan.buckets.iter();
        buckets
            .map(|bucket| self.backend.fold_parameters(leaf, bucket.elements.clone()))
            .collect()
    }

    /// Walks what the replica's micro-batch `micro_batch` of the step makes possible and adds to the tree the leaves that
    /// become complete. Micro-batches come in order, from 0 on. After the last one, the sum of the leaves is complete.
    ///
    /// On a device, all of that has only been asked for when this returns; `batch` has been read.
    pub fn micro_batch(
        &mut self,
        micro_batch: usize,
        batch: Batch<'_>,
        params: &StepParams,
        watch: &mut dyn Watch<B>,
    ) -> Result<()> {
        if micro_batch == 0 {
            self.scored.clear();
            self.flip_state(params.step)?;
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
        watch: &mut dyn Watch<B>,
    ) -> Result<()> {
        let micro_batch = segment.micro_batch;
        let whole = self.backend.captures() && self.flip.is_none() && !watch.wants_folds();
        if whole {
            let passes = segment.passes.clone();
            self.with_memory(micro_batch, batch, |backend, plan, memory| {
                backend.walk(plan, passes, memory, params)
            })?;
        }
        let is_watched = self.flip.is_some() || watch.wants_folds() || watch.wants_leaf(micro_batch);
        for (step, pass) in self.plan.part_of_schedule(segment.passes.clone()) {
            let mut is_added = false;
            if !whole && pass == Pass::Backward && !is_watched {
                is_added = self.run_and_add(micro_batch, step, batch, params)?;
            } else if !whole {
                self.with_memory(micro_batch, batch, |backend, plan, memory| {
                    backend.run(plan, step, pass, memory, params)
                })?;
            }
            if pass == Pass::Backward {
                self.flip_leaf(micro_batch, step, params.step)?;
            }
            if watch.wants_folds() {
                self.fold(micro_batch, step, pass, watch)?;
            }
            if pass == Pass::Backward {
                self.merge(micro_batch, step, is_added, watch)?;
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
        let parameters = self.parameters.read();
        let memory = Memory {
            arena: &mut self.arenas[self.order.arena(micro_batch)],
            weights: &parameters.weights,
            gradient: &mut self.slots[self.tree.slot(micro_batch)],
            batch,
        };
        run(self.backend, &self.plan, memory)
    }

    /// Runs the backward pass of a step; whether its part of the leaf is added to the partial sums that wait for it, too.
    fn run_and_add(
        &mut self,
        micro_batch: usize,
        step: usize,
        batch: Batch<'_>,
        params: &StepParams,
    ) -> Result<bool> {
        let parameters = self.parameters.read();
        let merged = self.tree.merge(micro_batch);
        let (sums, leaf) = self.slots.split_at_mut(*merged.end());
        let memory = Memory {
            arena: &mut self.arenas[self.order.arena(micro_batch)],
            weights: &parameters.weights,
            gradient: &mut leaf[0],
            batch,
        };
        let sums = &mut sums[*merged.start()..];
        self.backend.run_and_add(&self.plan, step, memory, sums, params)
    }

    /// Adds the step's part of the leaf to the partial sums that wait for it, unless that is done.
    fn merge(
        &mut self,
        micro_batch: usize,
        step: usize,
        is_added: bool,
        watch: &mut dyn Watch<B>,
    ) -> Result<()> {
        let Some(bucket) = self.plan.buckets.iter().find(|bucket| bucket.step == step) else {
            return Ok(());
        };
        if watch.wants_leaf(micro_batch) {
            let leaf = &self.slots[self.tree.slot(micro_batch)];
            watch.leaf(self.backend.fold_parameters(leaf, bucket.elements.clone())?);
        }
        let merged = self.tree.merge(micro_batch);
        if merged.start() != merged.end() && !is_added {
            self.backend
                .tree_add(&mut self.slots[merged], bucket.elements.clone())?;
        }
        if micro_batch + 1 == self.tree.leaves() {
            watch.bucket_final(bucket, &mut self.slots[0])?;
        }
        Ok(())
    }

    fn fold(&self, micro_batch: usize, step: usize, pass: Pass, watch: &mut dyn Watch<B>) -> Result<()> {
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

    fn flip_leaf(&mut self, micro_batch: usize, step: usize, now: u64) -> Result<()> {
        let flipped = Flipped::Leaf { micro_batch };
        let due = |flip: &&BitFlip| flip.step == now && flip.flipped == flipped;
        let Some(flip) = self.flip.as_ref().filter(due) else {
            return Ok(());
        };
        let leaf = &mut self.slots[self.tree.slot(micro_batch)];
        flip.apply(self.backend, self.plan.parameters_of(step), leaf)
    }

    fn flip_state(&self, now: u64) -> Result<()> {
        let Some(flip) = self.flip.as_ref().filter(|flip| flip.step == now) else {
            return Ok(());
        };
        let mut state = self.parameters.write();
        let buffer = match flip.flipped {
            Flipped::Leaf { .. } => return Ok(()),
            Flipped::Weights { .. } => &mut state.weights,
            Flipped::Momentum { .. } => &mut state.momentum,
        };
        flip.apply(self.backend, &self.plan.parameters, buffer)
    }

    /// Folds of everything that stays from one step to the next.
    pub fn fold_state(&self) -> Result<StateFolds> {
        let state = self.parameters.read();
        let elements = self.plan.flat_len;
        Ok(StateFolds {
            weights: self.backend.fold_parameters(&state.weights, 0..elements)?,
            copy: self.backend.fold_copy(&state.weights, elements)?,
            momentum: self.backend.fold_parameters(&state.momentum, 0..elements)?,
        })
    }

    /// The plan, and the sum of the replica's leaves, complete after its last micro-batch.
    pub fn plan_and_sum(&self) -> (&Plan, &B::Buffer) {
        (&self.plan, &self.slots[0])
    }

    /// Hands out the sum, to be added to other replicas'. Nothing can be walked until [`Training::take_back`].
    pub fn hand_out(&mut self) -> B::Buffer {
        self.slots.remove(0)
    }

    /// Takes back what was handed out, or another buffer like it.
    pub fn take_back(&mut self, buffer: B::Buffer) {
        self.slots.insert(0, buffer);
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
        let parameters = training.parameters.read();
        let memory = Memory {
            arena: &mut training.arenas[0],
            weights: &parameters.weights,
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
