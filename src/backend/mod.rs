//! Floor 3: back ends execute the steps of a plan in memory that the caller owns.
//!
//! `reference` is the judge: naive loops, generic over f32 and f64. `cpu` is what runs where there is no GPU.
//! Layouts and padding are private to a back end; above this floor shapes are logical.

pub mod cpu;
pub mod cuda;
mod precision;
pub mod reference;

pub use precision::Precision;

use std::ops::Range;

use crate::data::loader::SlotMemory;
use crate::error::Result;
use crate::plan::{Batch, Lowering, Part, Pass, Plan, StepParams, UpdateRule};

/// The memory that a step runs in.
pub struct Memory<'a, Buffer> {
    /// Values, gradients of values, saved state and scratch at the plan's offsets.
    pub arena: &'a mut Buffer,
    /// All parameters at their flat offsets.
    pub weights: &'a Buffer,
    /// The leaf: gradients of the parameters of one micro-batch, at the parameters' flat offsets. A backward pass
    /// OVERWRITES the ranges of its own parameters and touches nothing else. Of batch norm's statistics it holds the
    /// micro-batch's mean and unbiased variance. Not touched by forward passes; may be empty in evaluation.
    pub gradient: &'a mut Buffer,
    /// The images: read by the first step and by the loss.
    pub batch: Batch<'a>,
}

impl<Buffer> Memory<'_, Buffer> {
    /// The same memory, for one of several passes.
    pub fn reborrow(&mut self) -> Memory<'_, Buffer> {
        Memory {
            arena: self.arena,
            weights: self.weights,
            gradient: self.gradient,
            batch: self.batch,
        }
    }
}

/// What the update rule reads and writes, each a flat vector of all parameters.
pub struct State<'a, Buffer> {
    /// Master weights and running statistics.
    pub weights: &'a mut Buffer,
    /// Momentum; stays 0 for running statistics.
    pub momentum: &'a mut Buffer,
    /// The sum over the step's leaves.
    pub gradient: &'a Buffer,
}

/// Which tensor of a step to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tensor {
    /// What the forward pass wrote.
    Value,
    /// The gradient of the value, before the step's own backward pass ran.
    Gradient,
}

/// Something that executes plans.
pub trait Backend: Lowering + Send + Sync {
    /// Memory of the device: an arena, or the flat vector of all parameters.
    type Buffer: Send + Sync;

    /// Memory of the host that images wait in: what the device copies from fastest.
    type HostMemory: SlotMemory;

    /// What results depend on besides the program and the recipe: device kind and instruction-set path.
    fn class(&self) -> String;

    /// Makes ready whatever a plan needs that is not in its arena, so that steps allocate nothing.
    fn prepare(&self, _plan: &Plan) -> Result<()> {
        Ok(())
    }

    /// Bytes that a run can have on a device with memory of its own: what is free there, and what this back end holds for
    /// itself.
    fn free_bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Memory of the host of `bytes` bytes, all 0. Errors with `OutOfMemory`.
    fn allocate_host(&self, bytes: usize) -> Result<Self::HostMemory>;

    /// An arena of at least `bytes`. Errors with `OutOfMemory`.
    fn allocate_arena(&self, bytes: usize) -> Result<Self::Buffer>;

    /// A flat vector of `elements` parameters (momentum or a gradient), all zero. Errors with `OutOfMemory`.
    fn allocate_parameters(&self, elements: usize) -> Result<Self::Buffer>;

    /// The flat vector of the weights, all zero; holds any copy of them that the back end computes with. Errors with
    /// `OutOfMemory`.
    fn allocate_weights(&self, elements: usize) -> Result<Self::Buffer> {
        self.allocate_parameters(elements)
    }

    /// Copies `values` into a flat vector, from element `offset` on, from logical layout.
    fn write_parameters(&self, buffer: &mut Self::Buffer, offset: usize, values: &[f32]) -> Result<()>;

    /// Copies out of a flat vector, from element `offset` on, into logical layout.
    fn read_parameters(&self, buffer: &Self::Buffer, offset: usize, values: &mut [f32]) -> Result<()>;

    /// How one part of a step is computed, for people: an algorithm of this program's, or a library's engine. The plan
    /// must be prepared.
    fn algorithm(&self, plan: &Plan, step: usize, part: Part) -> String;

    /// What part of a step's multiplications, as its sums are written down, that algorithm does: 1/4 for Winograd
    /// F(4x4, 3x3), 4/9 for F(2x2, 3x3). 1 also where a library does not say.
    fn share_of_products(&self, _plan: &Plan, _step: usize, _part: Part) -> f64 {
        1.0
    }

    /// Waits until everything that was enqueued is done: what is timed ends here. Nothing to do where calls compute.
    fn wait(&self) -> Result<()> {
        Ok(())
    }

    /// Executes one pass of one step. Allocates nothing. On a device, the pass has only been asked for when this
    /// returns; the images of the batch have been read.
    fn run(
        &self,
        plan: &Plan,
        step: usize,
        pass: Pass,
        memory: Memory<'_, Self::Buffer>,
        params: &StepParams,
    ) -> Result<()>;

    /// Executes some passes of the plan's schedule, by their places in it, as [`Backend::run`] would.
    fn walk(
        &self,
        plan: &Plan,
        passes: Range<usize>,
        mut memory: Memory<'_, Self::Buffer>,
        params: &StepParams,
    ) -> Result<()> {
        plan.part_of_schedule(passes)
            .try_for_each(|(step, pass)| self.run(plan, step, pass, memory.reborrow(), params))
    }

    /// [`Backend::run`] of the backward pass of a step, and [`Backend::tree_add`] of `sums` and the leaf that it makes, over the
    /// step's parameters: without a way of the leaf through memory, where the back end can do that. Whether it has; if not,
    /// only the pass is done. Where it has, the leaf is left undefined.
    fn run_and_add(
        &self,
        plan: &Plan,
        step: usize,
        memory: Memory<'_, Self::Buffer>,
        _sums: &mut [Self::Buffer],
        params: &StepParams,
    ) -> Result<bool> {
        self.run(plan, step, Pass::Backward, memory, params)?;
        Ok(false)
    }

    /// Whether a walk is more than its passes one by one: captured, and launched in one call.
    fn captures(&self) -> bool {
        false
    }

    /// Copies out a tensor of one step in logical layout (N, C, H, W).
    fn read_tensor(
        &self,
        plan: &Plan,
        step: usize,
        tensor: Tensor,
        arena: &Self::Buffer,
        values: &mut [f32],
    ) -> Result<()>;

    /// Copies in a tensor of one step from logical layout (N, C, H, W): how tests start a step from a given state.
    fn write_tensor(
        &self,
        plan: &Plan,
        step: usize,
        tensor: Tensor,
        arena: &mut Self::Buffer,
        values: &[f32],
    ) -> Result<()>;

    /// After the loss's forward pass: every sample's cross-entropy and the rank of its true class, 0 for the highest
    /// score. Ties count the lower class index first; a NaN score ranks the true class last.
    fn outcomes(
        &self,
        plan: &Plan,
        arena: &Self::Buffer,
        losses: &mut [f32],
        ranks: &mut [u32],
    ) -> Result<()>;

    /// Puts what [`Backend::outcomes`] would read into place `index` of `kept`, an arena of [`Plan::outcome_bytes`], where it
    /// stays when the plan's arena is used again. Does not wait for a device.
    fn keep_outcomes(
        &self,
        plan: &Plan,
        arena: &Self::Buffer,
        kept: &mut Self::Buffer,
        index: usize,
    ) -> Result<()>;

    /// [`Backend::outcomes`] of what was kept at place `index`.
    fn kept_outcomes(
        &self,
        plan: &Plan,
        kept: &Self::Buffer,
        index: usize,
        losses: &mut [f32],
        ranks: &mut [u32],
    ) -> Result<()>;

    /// `slots[0] <- slots[0] + (slots[1] + (... + slots[k]))` over `elements`, in one pass: one branch of the
    /// reduction tree.
    fn tree_add(&self, slots: &mut [Self::Buffer], elements: Range<usize>) -> Result<()>;

    /// Whether every element of the range is finite.
    fn is_finite(&self, buffer: &Self::Buffer, elements: Range<usize>) -> Result<bool>;

    /// Applies the update rule (see [`UpdateRule`]) to array `parameter` of the plan.
    fn update(
        &self,
        plan: &Plan,
        parameter: usize,
        rule: &UpdateRule,
        params: &StepParams,
        state: State<'_, Self::Buffer>,
    ) -> Result<()>;

    /// The 64-bit fold ([`fold_element`]) of a range of a flat vector, by logical element index within the range.
    fn fold_parameters(&self, buffer: &Self::Buffer, elements: Range<usize>) -> Result<u64>;

    /// A fold of the copy of the first `elements` weights that products read, where there is one.
    fn fold_copy(&self, _weights: &Self::Buffer, _elements: usize) -> Result<Option<u64>> {
        Ok(None)
    }

    /// The fold of a tensor of one step, by logical element index.
    fn fold_tensor(&self, plan: &Plan, step: usize, tensor: Tensor, arena: &Self::Buffer) -> Result<u64>;
}

/// What element `index` with value `value` adds (wrapping) to a fold: a 64-bit mix of index and bits (the finaliser of
/// SplitMix64). A sum, so that neither order nor layout matters; any flipped bit changes it.
#[inline]
pub fn fold_element(index: usize, value: f32) -> u64 {
    let mut x = (index as u64) << 32 | u64::from(value.to_bits());
    x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ x >> 31
}
