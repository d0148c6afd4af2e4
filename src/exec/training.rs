//! One replica's training state: weights, momentum, the gradient slots of the reduction tree, and the walk that fills
//! them.

use super::inference::Device;
use super::{FoldOf, Outcomes, Watch};
use crate::backend::{Backend, Memory, State, Tensor};
use crate::data::preprocess::Preprocess;
use crate::error::{Error, Result};
use crate::network::{Network, Parameter};
use crate::plan::{Batch, DataGradient, Mode, Pass, Plan, StepParams, Tree, UpdateRule};
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
    rule: UpdateRule,
    /// Shared by both plans, which never run at the same time.
    arena: B::Buffer,
    weights: B::Buffer,
    momentum: B::Buffer,
    /// The stack of partial sums; see [`Tree`].
    slots: Vec<B::Buffer>,
    outcomes: Outcomes,
    flip: Option<BitFlip>,
}

impl<'b, B: Backend> Training<'b, B> {
    /// Plans and allocates everything that training will ever need. Weights and momentum start at zero.
    pub fn new(backend: &'b B, network: &Network, preprocess: &Preprocess, rule: UpdateRule) -> Result<Self> {
        let micro_batch = rule.batch / rule.micro_batches;
        let plan = Plan::new(network, preprocess, micro_batch, Mode::Training, backend)?;
        let evaluation = Plan::new(network, preprocess, micro_batch, Mode::Evaluation, backend)?;
        backend.prepare(&plan)?;
        backend.prepare(&evaluation)?;
        let tree = Tree::new(rule.micro_batches);
        let parameters = || backend.allocate_parameters(plan.flat_len);
        Ok(Self {
            backend,
            tree,
            rule,
            arena: backend.allocate_arena(plan.arena_bytes.max(evaluation.arena_bytes))?,
            weights: parameters()?,
            momentum: parameters()?,
            slots: (0..tree.slots()).map(|_| parameters()).collect::<Result<_>>()?,
            outcomes: Outcomes::sized(micro_batch),
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

    /// Computes leaf `micro_batch` of the step and adds it to the tree. After the last one, the gradient of the whole
    /// batch is complete; weights and momentum are untouched until [`Training::update`].
    pub fn micro_batch(
        &mut self,
        micro_batch: usize,
        batch: Batch<'_>,
        params: &StepParams,
        watch: &mut dyn Watch,
    ) -> Result<&Outcomes> {
        let leaf = self.tree.slot(micro_batch);
        let last = micro_batch + 1 == self.tree.leaves();
        let whole = self.backend.captures() && self.flip.is_none() && !watch.wants_folds();
        if whole {
            let memory = Memory {
                arena: &mut self.arena,
                weights: &self.weights,
                gradient: &mut self.slots[leaf],
                batch,
            };
            self.backend.walk(&self.plan, memory, params)?;
        }
        for (step, pass) in self.plan.schedule() {
            if !whole {
                let memory = Memory {
                    arena: &mut self.arena,
                    weights: &self.weights,
                    gradient: &mut self.slots[leaf],
                    batch,
                };
                self.backend.run(&self.plan, step, pass, memory, params)?;
            }
            if pass == Pass::Backward {
                self.flip_bit(micro_batch, step, params.step)?;
            }
            if watch.wants_folds() {
                self.fold(micro_batch, step, pass, watch)?;
            }
            if pass == Pass::Backward {
                self.merge(micro_batch, step, last, watch)?;
            }
        }
        self.backend.outcomes(
            &self.plan,
            &self.arena,
            &mut self.outcomes.losses,
            &mut self.outcomes.ranks,
        )?;
        Ok(&self.outcomes)
    }

    /// Adds the step's part of the leaf to the partial sums that wait for it.
    fn merge(&mut self, micro_batch: usize, step: usize, last: bool, watch: &mut dyn Watch) -> Result<()> {
        let Some(bucket) = self.plan.buckets.iter().find(|bucket| bucket.step == step) else {
            return Ok(());
        };
        let merged = self.tree.merge(micro_batch);
        if merged.start() != merged.end() {
            self.backend
                .tree_add(&mut self.slots[merged], bucket.elements.clone())?;
        }
        if last { watch.bucket_final(bucket) } else { Ok(()) }
    }

    fn fold(&self, micro_batch: usize, step: usize, pass: Pass, watch: &mut dyn Watch) -> Result<()> {
        let at = &self.plan.steps[step];
        match pass {
            Pass::Forward => {
                let fold = self
                    .backend
                    .fold_tensor(&self.plan, step, Tensor::Value, &self.arena)?;
                watch.fold(micro_batch, &at.name, FoldOf::Forward, fold);
            }
            Pass::Backward => {
                if at.data_gradient != DataGradient::None {
                    let fold =
                        self.backend
                            .fold_tensor(&self.plan, step - 1, Tensor::Gradient, &self.arena)?;
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
        for parameter in &self.plan.parameters {
            if !self.backend.is_finite(&self.slots[0], parameter.range())? {
                let what = format!("the gradient of {}", parameter.name);
                return Err(Error::NonFinite {
                    step: params.step + 1,
                    what,
                });
            }
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

    /// Scores one micro-batch with the present weights, as evaluation does.
    pub fn evaluate(&mut self, batch: Batch<'_>) -> Result<&Outcomes> {
        let mut device = Device {
            backend: self.backend,
            arena: &mut self.arena,
            weights: &self.weights,
            gradient: &mut self.slots[0], // a forward pass in evaluation mode leaves it alone
        };
        device.forward(&self.evaluation, batch, &mut self.outcomes)?;
        Ok(&self.outcomes)
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
