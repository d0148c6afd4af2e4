//! The judge: every step as its defining equation, in naive loops, generic over f32 and f64.
//!
//! All tensors are in logical layout, (N, C, H, W), so that region offsets are the plan's bytes divided by the size of
//! the number type. Sums run in f64 and are rounded once: the distance of another back end to this one is that back
//! end's own error. Element-wise operations run in the number type, with the fused multiply-adds of the contract, and
//! are compared by equality.

mod average_pool;
mod batch_norm;
mod bf16;
mod conv;
mod dropout;
mod factors;
mod input;
mod linear;
mod loss;
mod lrn;
mod max_pool;
mod passes;
mod real;
mod regions;
mod relu;
mod update;
mod windows;

use std::marker::PhantomData;
use std::ops::Range;

pub use real::Real;

use self::factors::Factors;
use self::regions::{elements, part, part_mut};
use super::{Backend, Memory, State, Tensor, fold_element};
use crate::error::{Error, Result};
use crate::plan::{
    Batch, DataGradient, Epilogue, Footprint, Lowering, Part, Pass, Plan, Region, Step, StepOp, StepParams,
    UpdateRule, ValueGradient,
};
use crate::shape::Chw;

/// The reference back end. It executes every step, fused or not; the constructor only decides what it asks the planner
/// for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reference<T> {
    fused: bool,
    roundings: Roundings,
    real: PhantomData<T>,
}

/// What is rounded beyond what the number type rounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Roundings {
    #[default]
    None,
    /// Tensors that a back end keeps in bf16; see [`bf16`].
    Bf16,
    /// Factors of products; see [`factors`].
    Tf32,
}

impl<T: Real> Reference<T> {
    /// Takes no fusion: every layer is a step of its own.
    pub fn new() -> Self {
        Self {
            fused: false,
            roundings: Roundings::None,
            real: PhantomData,
        }
    }

    /// Takes every fusion and applies every mask.
    pub fn fused() -> Self {
        Self {
            fused: true,
            ..Self::new()
        }
    }

    /// Rounds to bf16 what the precision bf16 rounds, and nothing else: of convolutions and fully connected layers the
    /// weights and biases before they are used, of every step the value and the data gradient, and the gradients of
    /// filters. What stays as it is: the loss and the posteriors, statistics, the other gradients of parameters.
    pub fn with_bf16_roundings(self) -> Self {
        Self {
            roundings: Roundings::Bf16,
            ..self
        }
    }

    /// Rounds to TF32 what the precision tf32 rounds, and nothing else: the factors of convolutions and of fully connected
    /// layers, in every pass. What is added stays as it is: biases, and gradients that make up the gradient of a bias.
    pub fn with_tf32_roundings(self) -> Self {
        Self {
            roundings: Roundings::Tf32,
            ..self
        }
    }

    /// A tensor of one step, (N, C, H, W), at full precision.
    pub fn tensor<'a>(&self, plan: &Plan, step: usize, tensor: Tensor, arena: &'a [T]) -> Result<&'a [T]> {
        part(arena, elements::<T>(region_of(plan, step, tensor)))
    }

    /// A tensor of one step, (N, C, H, W), at full precision, to be written.
    pub fn tensor_mut<'a>(
        &self,
        plan: &Plan,
        step: usize,
        tensor: Tensor,
        arena: &'a mut [T],
    ) -> Result<&'a mut [T]> {
        part_mut(arena, elements::<T>(region_of(plan, step, tensor)))
    }

    /// What one step keeps for its backward pass, at full precision. Of the loss: N losses, then N ranks. Of a
    /// convolution with [`Epilogue::ReluPool`]: max(x, 0) before the pooling, (N, K, H, W).
    pub fn saved<'a>(&self, plan: &Plan, step: usize, arena: &'a [T]) -> Result<&'a [T]> {
        part(arena, elements::<T>(plan.steps[step].memory.saved))
    }
}

impl<T: Real> Lowering for Reference<T> {
    fn accepts(&self, _: StepOp) -> bool {
        self.fused
    }

    fn masks(&self, _: StepOp) -> bool {
        self.fused
    }

    fn footprint(&self, step: &Step) -> Footprint {
        footprint::<T>(step)
    }

    fn workspace_bytes(&self, _: &Plan) -> u64 {
        0
    }
}

impl<T: Real> Backend for Reference<T> {
    type Buffer = Vec<T>;
    type HostMemory = Vec<u8>;

    fn class(&self) -> String {
        format!("reference {}", T::NAME)
    }

    fn allocate_host(&self, bytes: usize) -> Result<Vec<u8>> {
        Ok(vec![0; bytes])
    }

    fn algorithm(&self, _: &Plan, _: usize, _: Part) -> String {
        "naive loops".into()
    }

    fn allocate_arena(&self, bytes: usize) -> Result<Vec<T>> {
        allocate("the arena", bytes.div_ceil(size_of::<T>()))
    }

    fn allocate_parameters(&self, elements: usize) -> Result<Vec<T>> {
        allocate("a vector of parameters", elements)
    }

    fn write_parameters(&self, buffer: &mut Vec<T>, offset: usize, values: &[f32]) -> Result<()> {
        write(part_mut(buffer, offset..offset + values.len())?, values)
    }

    fn read_parameters(&self, buffer: &Vec<T>, offset: usize, values: &mut [f32]) -> Result<()> {
        read(part(buffer, offset..offset + values.len())?, values)
    }

    fn run(
        &self,
        plan: &Plan,
        step: usize,
        pass: Pass,
        memory: Memory<'_, Vec<T>>,
        params: &StepParams,
    ) -> Result<()> {
        check_batch(plan, &plan.steps[step], memory.batch)?;
        match self.roundings {
            Roundings::None => passes::run(plan, step, pass, memory, params, Factors::AsTheyAre),
            Roundings::Bf16 => bf16::run(plan, step, pass, memory, params),
            Roundings::Tf32 => passes::run(plan, step, pass, memory, params, Factors::Tf32),
        }
    }

    fn read_tensor(
        &self,
        plan: &Plan,
        step: usize,
        tensor: Tensor,
        arena: &Vec<T>,
        values: &mut [f32],
    ) -> Result<()> {
        read(self.tensor(plan, step, tensor, arena)?, values)
    }

    fn write_tensor(
        &self,
        plan: &Plan,
        step: usize,
        tensor: Tensor,
        arena: &mut Vec<T>,
        values: &[f32],
    ) -> Result<()> {
        write(self.tensor_mut(plan, step, tensor, arena)?, values)
    }

    fn outcomes(&self, plan: &Plan, arena: &Vec<T>, losses: &mut [f32], ranks: &mut [u32]) -> Result<()> {
        loss::outcomes(self.saved(plan, plan.steps.len() - 1, arena)?, losses, ranks)
    }

    fn keep_outcomes(&self, plan: &Plan, arena: &Vec<T>, kept: &mut Vec<T>, index: usize) -> Result<()> {
        let saved = self.saved(plan, plan.steps.len() - 1, arena)?;
        let start = index * saved.len();
        part_mut(kept, start..start + saved.len())?.copy_from_slice(saved);
        Ok(())
    }

    fn kept_outcomes(
        &self,
        plan: &Plan,
        kept: &Vec<T>,
        index: usize,
        losses: &mut [f32],
        ranks: &mut [u32],
    ) -> Result<()> {
        let len = elements::<T>(plan.steps[plan.steps.len() - 1].memory.saved).len();
        loss::outcomes(part(kept, index * len..(index + 1) * len)?, losses, ranks)
    }

    fn tree_add(&self, slots: &mut [Vec<T>], range: Range<usize>) -> Result<()> {
        for slot in slots.iter() {
            part(slot, range.clone())?;
        }
        for i in range {
            let sum = slots
                .iter()
                .rev()
                .map(|slot| slot[i])
                .reduce(|right, left| left + right);
            if let (Some(first), Some(sum)) = (slots.first_mut(), sum) {
                first[i] = sum;
            }
        }
        Ok(())
    }

    fn is_finite(&self, buffer: &Vec<T>, range: Range<usize>) -> Result<bool> {
        Ok(part(buffer, range)?.iter().all(|&x| x.into().is_finite()))
    }

    fn update(
        &self,
        plan: &Plan,
        parameter: usize,
        rule: &UpdateRule,
        params: &StepParams,
        state: State<'_, Vec<T>>,
    ) -> Result<()> {
        let parameter = &plan.parameters[parameter];
        let weights = part_mut(state.weights, parameter.range())?;
        let momentum = part_mut(state.momentum, parameter.range())?;
        let gradient = part(state.gradient, parameter.range())?;
        update::update(parameter, rule, params, weights, momentum, gradient);
        Ok(())
    }

    fn fold_parameters(&self, buffer: &Vec<T>, range: Range<usize>) -> Result<u64> {
        Ok(fold(part(buffer, range)?))
    }

    fn fold_tensor(&self, plan: &Plan, step: usize, tensor: Tensor, arena: &Vec<T>) -> Result<u64> {
        Ok(fold(self.tensor(plan, step, tensor, arena)?))
    }
}

fn footprint<T>(step: &Step) -> Footprint {
    let bytes = |elements: usize| elements * size_of::<T>();
    let value = bytes(step.batch * step.output.len());
    let pooled = epilogue(step.op) == Epilogue::ReluPool;
    let before_pooling = if pooled {
        bytes(step.batch * result_shape(step).len())
    } else {
        0
    };
    let masks_own_value = epilogue(step.op) == Epilogue::Relu && step.value_gradient == ValueGradient::Raw;
    let (reads_input, reads_value) = match step.op {
        StepOp::Conv { .. } | StepOp::Linear { .. } | StepOp::BatchNorm { .. } => (true, masks_own_value),
        StepOp::Lrn | StepOp::MaxPool => (true, false),
        StepOp::Relu | StepOp::Loss => (false, true),
        StepOp::Input | StepOp::Windows { .. } | StepOp::AveragePool { .. } | StepOp::Dropout { .. } => {
            (false, false)
        }
    };
    Footprint {
        value,
        gradient: value,
        saved: if step.op == StepOp::Loss {
            bytes(2 * step.batch)
        } else {
            before_pooling
        },
        forward_scratch: 0,
        backward_scratch: before_pooling,
        backward_reads_input: reads_input || step.data_gradient == DataGradient::Masked,
        backward_reads_value: reads_value,
    }
}

fn epilogue(op: StepOp) -> Epilogue {
    match op {
        StepOp::Conv { epilogue, .. } | StepOp::Linear { epilogue } | StepOp::BatchNorm { epilogue } => {
            epilogue
        }
        StepOp::Input
        | StepOp::Windows { .. }
        | StepOp::AveragePool { .. }
        | StepOp::Relu
        | StepOp::Lrn
        | StepOp::MaxPool
        | StepOp::Dropout { .. }
        | StepOp::Loss => Epilogue::None,
    }
}

/// Shape of what a step pools, if it pools: height and width are the input's.
fn result_shape(step: &Step) -> Chw {
    Chw {
        c: step.output.c,
        ..step.input
    }
}

fn region_of(plan: &Plan, step: usize, tensor: Tensor) -> Region {
    let memory = &plan.steps[step].memory;
    match tensor {
        Tensor::Value => memory.value,
        Tensor::Gradient => memory.gradient,
    }
}

/// Index of element (n, c, i, j) of a tensor (N, C, H, W) with images of `shape`.
fn at(shape: Chw, n: usize, c: usize, i: usize, j: usize) -> usize {
    ((n * shape.c + c) * shape.h + i) * shape.w + j
}

/// Every (i, j) with `i < rows` and `j < columns`, row by row.
fn grid(rows: usize, columns: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows).flat_map(move |i| (0..columns).map(move |j| (i, j)))
}

fn allocate<T: Real>(what: &str, elements: usize) -> Result<Vec<T>> {
    let mut vector = Vec::new();
    vector
        .try_reserve_exact(elements)
        .map_err(|_| Error::OutOfMemory {
            what: what.into(),
            bytes: (elements * size_of::<T>()) as u64,
        })?;
    vector.resize(elements, T::default());
    Ok(vector)
}

fn read<T: Real>(from: &[T], to: &mut [f32]) -> Result<()> {
    check_length("values to read", from.len(), to.len())?;
    for (to, &from) in to.iter_mut().zip(from) {
        *to = from.into() as f32;
    }
    Ok(())
}

fn write<T: Real>(to: &mut [T], from: &[f32]) -> Result<()> {
    check_length("values to write", to.len(), from.len())?;
    for (to, &from) in to.iter_mut().zip(from) {
        *to = from.into();
    }
    Ok(())
}

fn fold<T: Real>(values: &[T]) -> u64 {
    let folds = values
        .iter()
        .enumerate()
        .map(|(i, &x)| fold_element(i, x.into() as f32));
    folds.fold(0, u64::wrapping_add)
}

fn check_length(what: &str, expected: usize, found: usize) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::invalid(
        what,
        format_args!("{expected} elements"),
        format_args!("{found}"),
    ))
}

/// What the first step and the loss read of a batch has the plan's size, and every label is a class.
fn check_batch(plan: &Plan, step: &Step, batch: Batch<'_>) -> Result<()> {
    match step.op {
        StepOp::Input => {
            check_length(
                "pixels of a micro-batch",
                plan.batch * plan.input.len(),
                batch.pixels.len(),
            )?;
            check_length("flips of a micro-batch", plan.batch, batch.flips.len())?;
            check_length("colours of a micro-batch", plan.batch, batch.colours.len())
        }
        StepOp::Loss => {
            check_length("labels of a micro-batch", plan.batch, batch.labels.len())?;
            let wrong = batch.labels.iter().find(|&&label| label as usize >= plan.classes);
            wrong.map_or(Ok(()), |label| {
                Err(Error::invalid(
                    "label",
                    format_args!("a class below {}", plan.classes),
                    label,
                ))
            })
        }
        StepOp::Conv { .. }
        | StepOp::Windows { .. }
        | StepOp::AveragePool { .. }
        | StepOp::Linear { .. }
        | StepOp::BatchNorm { .. }
        | StepOp::Relu
        | StepOp::Lrn
        | StepOp::MaxPool
        | StepOp::Dropout { .. } => Ok(()),
    }
}
