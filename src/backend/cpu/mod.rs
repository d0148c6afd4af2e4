//! The CPU back end: fp32 on any number of threads.
//!
//! Activations lie in groups of 16 channels (`layout`), parameters as in the checkpoint. Everything that multiplies
//! many by many goes through one kernel (`tile`), but for the forward pass of fully connected layers: dot products along
//! the rows of weights, which are read once. Everything else runs at the speed of the memory.
//!
//! **Results do not depend on the threads.** How work is cut into tasks follows from the shapes; a sum is
//! computed by one task, in a fixed order; a task writes to a place of its own. Scratch is per thread,
//! results never are.

mod average_pool;
mod batch_norm;
mod buffer;
mod conv;
mod dropout;
mod elementwise;
mod input;
mod isa;
mod layout;
mod linear;
mod loss;
mod lrn;
mod max_pool;
mod memory;
mod reduce;
mod simd;
mod stream;
mod team;
mod tile;
mod transpose;
mod windows;

pub use buffer::Buffer;
pub use conv::ConvAlgorithm;

use std::ops::Range;

use super::{Backend, Memory, State, Tensor};
use crate::error::{Error, Result};
use crate::plan::{
    Epilogue, Footprint, Lowering, Part, Pass, Plan, Region, Step, StepOp, StepParams, UpdateRule,
};
use conv::KeptFilters;
use isa::Isa;
use memory::{Views, slice, slice_mut};
use team::Team;

/// Part of the equivalence class: raised whenever the bits of a sum change.
const KERNELS: u32 = 5;

/// The CPU back end. Replicas may share one: their steps then take turns on its threads.
pub struct Cpu {
    isa: Isa,
    team: Team,
    convolution: ConvAlgorithm,
    filters: KeptFilters,
}

impl Cpu {
    /// `threads` threads, the caller's among them. `VERYDEEP_ISA` (auto, portable, avx2, avx512) forces an
    /// instruction-set path; it is read here and nowhere else.
    pub fn new(threads: usize) -> Result<Self> {
        if threads == 0 {
            return Err(Error::invalid("--threads", "at least 1", 0));
        }
        Self::with(threads, Isa::detect()?)
    }

    fn with(threads: usize, isa: Isa) -> Result<Self> {
        Ok(Self {
            isa,
            team: Team::new(threads)?,
            convolution: ConvAlgorithm::Auto,
            filters: KeptFilters::default(),
        })
    }

    /// The same with another way to compute convolutions than [`ConvAlgorithm::Auto`].
    #[must_use]
    pub fn with_convolution(self, convolution: ConvAlgorithm) -> Self {
        Self { convolution, ..self }
    }
}

impl Lowering for Cpu {
    fn accepts(&self, op: StepOp) -> bool {
        match op {
            StepOp::Conv { .. } => true,
            StepOp::Input
            | StepOp::Windows { .. }
            | StepOp::AveragePool { .. }
            | StepOp::Linear { .. }
            | StepOp::BatchNorm { .. }
            | StepOp::Relu
            | StepOp::Lrn
            | StepOp::MaxPool
            | StepOp::Dropout { .. }
            | StepOp::Loss => op.epilogue() != Epilogue::ReluPool,
        }
    }

    fn masks(&self, op: StepOp) -> bool {
        match op {
            StepOp::Conv { .. }
            | StepOp::Linear { .. }
            | StepOp::Lrn
            | StepOp::MaxPool
            | StepOp::Dropout { .. } => true,
            StepOp::Input
            | StepOp::Windows { .. }
            | StepOp::AveragePool { .. }
            | StepOp::BatchNorm { .. }
            | StepOp::Relu
            | StepOp::Loss => false,
        }
    }

    fn footprint(&self, step: &Step) -> Footprint {
        match step.op {
            StepOp::Input => input::footprint(step, self.team.threads()),
            StepOp::Conv { kernel, epilogue } => conv::footprint(self, step, kernel, epilogue),
            StepOp::Windows { .. } => windows::footprint(step),
            StepOp::AveragePool { .. } => average_pool::footprint(step),
            StepOp::Linear { epilogue } => linear::footprint(self, step, epilogue),
            StepOp::BatchNorm { epilogue } => batch_norm::footprint(step, epilogue),
            StepOp::Relu => elementwise::relu_footprint(step),
            StepOp::Lrn => lrn::footprint(step),
            StepOp::MaxPool => max_pool::footprint(step),
            StepOp::Dropout { .. } => dropout::footprint(step),
            StepOp::Loss => loss::footprint(step),
        }
    }

    /// Scratch is part of the arena; beside it there are the threads' stacks and the filters that are kept.
    fn workspace_bytes(&self, plan: &Plan) -> u64 {
        ((self.team.threads() - 1) * team::STACK_BYTES + conv::kept_bytes(self, plan)) as u64
    }
}

impl Backend for Cpu {
    type Buffer = Buffer;
    type HostMemory = Vec<u8>;

    fn class(&self) -> String {
        format!("cpu {}, kernels {KERNELS}", self.isa.arithmetic())
    }

    fn prepare(&self, plan: &Plan) -> Result<()> {
        self.filters.prepare(self, plan)
    }

    fn allocate_host(&self, bytes: usize) -> Result<Vec<u8>> {
        Ok(vec![0; bytes])
    }

    fn share_of_products(&self, plan: &Plan, step: usize, _: Part) -> f64 {
        match plan.steps[step].op {
            StepOp::Conv { kernel, .. } => conv::share_of_products(self, &plan.steps[step], kernel),
            _ => 1.0,
        }
    }

    fn algorithm(&self, plan: &Plan, step: usize, _: Part) -> String {
        match plan.steps[step].op {
            StepOp::Conv { kernel, .. } => conv::algorithm(self, &plan.steps[step], kernel).into(),
            StepOp::Linear { .. } => "product".into(),
            StepOp::Input
            | StepOp::Windows { .. }
            | StepOp::AveragePool { .. }
            | StepOp::BatchNorm { .. }
            | StepOp::Relu
            | StepOp::Lrn
            | StepOp::MaxPool
            | StepOp::Dropout { .. }
            | StepOp::Loss => "element by element".into(),
        }
    }

    fn allocate_arena(&self, bytes: usize) -> Result<Buffer> {
        Buffer::zeroed("the arena of activations", bytes)
    }

    fn allocate_parameters(&self, elements: usize) -> Result<Buffer> {
        let bytes = elements.saturating_mul(size_of::<f32>());
        Buffer::zeroed("a vector of all parameters", bytes)
    }

    fn write_parameters(&self, buffer: &mut Buffer, offset: usize, values: &[f32]) -> Result<()> {
        let end = offset.saturating_add(values.len());
        let found = buffer.as_slice().len();
        let Some(to) = buffer.as_mut_slice().get_mut(offset..end) else {
            return Err(Error::invalid(
                "length of a parameter vector",
                format_args!("at least {end}"),
                found,
            ));
        };
        elementwise::copy(self, values, to);
        Ok(())
    }

    fn read_parameters(&self, buffer: &Buffer, offset: usize, values: &mut [f32]) -> Result<()> {
        let from = parameters(buffer, offset..offset.saturating_add(values.len()))?;
        elementwise::copy(self, from, values);
        Ok(())
    }

    fn run(
        &self,
        plan: &Plan,
        step: usize,
        pass: Pass,
        memory: Memory<'_, Buffer>,
        params: &StepParams,
    ) -> Result<()> {
        let mode = plan.mode;
        let footprint = self.footprint(&plan.steps[step]);
        let weights = conv::Weights::new(plan, step, memory.weights.version());
        let mut views = Views::new(plan, step, pass, &footprint, memory);
        let (step, views) = (&plan.steps[step], &mut views);
        match (step.op, pass) {
            (StepOp::Input, Pass::Forward) => return input::forward(self, plan, step, views),
            (StepOp::Input | StepOp::Windows { .. } | StepOp::AveragePool { .. }, Pass::Backward) => {}
            (StepOp::Windows { side }, Pass::Forward) => windows::forward(self, step, side, views),
            (StepOp::AveragePool { side }, Pass::Forward) => average_pool::forward(self, step, side, views),
            (StepOp::Conv { kernel, epilogue }, Pass::Forward) => {
                conv::forward(self, step, kernel, epilogue, weights, views);
            }
            (StepOp::Conv { kernel, epilogue }, Pass::Backward) => {
                conv::backward(self, step, kernel, epilogue, weights, views);
            }
            (StepOp::Linear { epilogue }, Pass::Forward) => linear::forward(self, step, epilogue, views),
            (StepOp::Linear { epilogue }, Pass::Backward) => {
                linear::backward(self, step, epilogue, views, (&mut [], 0));
            }
            (StepOp::BatchNorm { epilogue }, Pass::Forward) => {
                batch_norm::forward(self, step, mode, epilogue, views);
            }
            (StepOp::BatchNorm { epilogue }, Pass::Backward) => {
                batch_norm::backward(self, step, epilogue, views);
            }
            (StepOp::Relu, Pass::Forward) => elementwise::relu_forward(self, views),
            (StepOp::Relu, Pass::Backward) => elementwise::relu_backward(self, step, views),
            (StepOp::Lrn, Pass::Forward) => lrn::forward(self, step, views),
            (StepOp::Lrn, Pass::Backward) => lrn::backward(self, step, views),
            (StepOp::MaxPool, Pass::Forward) => max_pool::forward(self, step, views),
            (StepOp::MaxPool, Pass::Backward) => max_pool::backward(self, step, views),
            (StepOp::Dropout { p, layer }, Pass::Forward) => {
                dropout::forward(self, step, p, layer, params, views);
            }
            (StepOp::Dropout { p, layer }, Pass::Backward) => {
                dropout::backward(self, step, p, layer, params, views);
            }
            (StepOp::Loss, Pass::Forward) => return loss::forward(self, step, views),
            (StepOp::Loss, Pass::Backward) => loss::backward(self, step, views),
        }
        Ok(())
    }

    /// The weights of fully connected layers are most of the bytes of a gradient.
    fn run_and_add(
        &self,
        plan: &Plan,
        step: usize,
        mut memory: Memory<'_, Buffer>,
        sums: &mut [Buffer],
        params: &StepParams,
    ) -> Result<bool> {
        let StepOp::Linear { epilogue } = plan.steps[step].op else {
            self.run(plan, step, Pass::Backward, memory, params)?;
            return Ok(false);
        };
        let [weights, others @ ..] = plan.parameters_of(step) else {
            unreachable!("a fully connected layer has weights");
        };
        let footprint = self.footprint(&plan.steps[step]);
        let mut views = Views::new(plan, step, Pass::Backward, &footprint, memory.reborrow());
        linear::backward(
            self,
            &plan.steps[step],
            epilogue,
            &mut views,
            (sums, weights.offset),
        );
        for parameter in others {
            elementwise::tree_add(self, sums, memory.gradient, parameter.range());
        }
        Ok(!sums.is_empty())
    }

    fn read_tensor(
        &self,
        plan: &Plan,
        step: usize,
        tensor: Tensor,
        arena: &Buffer,
        values: &mut [f32],
    ) -> Result<()> {
        check_len(plan, step, values.len())?;
        let from = slice(arena, region(plan, step, tensor));
        layout::to_logical(self, plan.steps[step].output, from, values);
        Ok(())
    }

    fn write_tensor(
        &self,
        plan: &Plan,
        step: usize,
        tensor: Tensor,
        arena: &mut Buffer,
        values: &[f32],
    ) -> Result<()> {
        check_len(plan, step, values.len())?;
        let to = slice_mut(arena, region(plan, step, tensor));
        layout::from_logical(self, plan.steps[step].output, values, to);
        Ok(())
    }

    fn outcomes(&self, plan: &Plan, arena: &Buffer, losses: &mut [f32], ranks: &mut [u32]) -> Result<()> {
        loss::outcomes(slice(arena, loss_saved(plan)), losses, ranks);
        Ok(())
    }

    fn keep_outcomes(&self, plan: &Plan, arena: &Buffer, kept: &mut Buffer, index: usize) -> Result<()> {
        let saved = loss_saved(plan);
        slice_mut(kept, kept_place(saved, index)).copy_from_slice(slice(arena, saved));
        Ok(())
    }

    fn kept_outcomes(
        &self,
        plan: &Plan,
        kept: &Buffer,
        index: usize,
        losses: &mut [f32],
        ranks: &mut [u32],
    ) -> Result<()> {
        let place = kept_place(loss_saved(plan), index);
        loss::outcomes(slice(kept, place), losses, ranks);
        Ok(())
    }

    fn tree_add(&self, slots: &mut [Buffer], elements: Range<usize>) -> Result<()> {
        if let Some((leaf, sums)) = slots.split_last_mut() {
            elementwise::tree_add(self, sums, leaf, elements);
        }
        Ok(())
    }

    fn is_finite(&self, buffer: &Buffer, elements: Range<usize>) -> Result<bool> {
        Ok(elementwise::is_finite(self, parameters(buffer, elements)?))
    }

    fn update(
        &self,
        plan: &Plan,
        parameter: usize,
        rule: &UpdateRule,
        params: &StepParams,
        state: State<'_, Buffer>,
    ) -> Result<()> {
        elementwise::update(self, &plan.parameters[parameter], rule, params, state);
        Ok(())
    }

    fn fold_parameters(&self, buffer: &Buffer, elements: Range<usize>) -> Result<u64> {
        Ok(elementwise::fold(self, parameters(buffer, elements)?))
    }

    fn fold_tensor(&self, plan: &Plan, step: usize, tensor: Tensor, arena: &Buffer) -> Result<u64> {
        let from = slice(arena, region(plan, step, tensor));
        let step = &plan.steps[step];
        Ok(layout::fold(self, step.batch, step.output, from))
    }
}

fn parameters(buffer: &Buffer, elements: Range<usize>) -> Result<&[f32]> {
    let flat = buffer.as_slice();
    flat.get(elements.clone()).ok_or_else(|| {
        Error::invalid(
            "length of a parameter vector",
            format_args!("at least {}", elements.end),
            flat.len(),
        )
    })
}

fn region(plan: &Plan, step: usize, tensor: Tensor) -> Region {
    match tensor {
        Tensor::Value => plan.steps[step].memory.value,
        Tensor::Gradient => plan.steps[step].memory.gradient,
    }
}

/// Where the loss keeps every sample's outcome.
fn loss_saved(plan: &Plan) -> Region {
    plan.steps[plan.steps.len() - 1].memory.saved
}

/// The place of one micro-batch among those whose outcomes are kept.
fn kept_place(saved: Region, index: usize) -> Region {
    Region {
        offset: index * saved.bytes,
        ..saved
    }
}

/// Refuses another number of elements than a step's value has.
fn check_len(plan: &Plan, step: usize, found: usize) -> Result<()> {
    let step = &plan.steps[step];
    let len = step.batch * step.output.len();
    if len == found {
        Ok(())
    } else {
        Err(Error::invalid(
            format_args!("elements of the value of {}", step.name),
            len,
            found,
        ))
    }
}

#[cfg(test)]
mod tests;
