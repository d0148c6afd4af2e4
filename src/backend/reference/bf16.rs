//! The roundings of the precision bf16 around the passes of the reference.

use super::factors::Factors;
use super::regions::{elements, part_mut};
use super::{Real, passes};
use crate::backend::Memory;
use crate::error::Result;
use crate::plan::{Pass, Plan, Region, StepOp, StepParams};

/// One pass of one step, as [`Reference::with_bf16_roundings`](super::Reference::with_bf16_roundings) says.
pub(super) fn run<T: Real>(
    plan: &Plan,
    index: usize,
    pass: Pass,
    mut memory: Memory<'_, Vec<T>>,
    params: &StepParams,
) -> Result<()> {
    let step = &plan.steps[index];
    let is_product = matches!(step.op, StepOp::Conv { .. } | StepOp::Linear { .. });
    let mut weights = memory.weights.clone();
    if is_product {
        for parameter in plan.parameters_of(index) {
            round(part_mut(&mut weights, parameter.range())?);
        }
    }
    let rounded = Memory {
        weights: &weights,
        ..memory.reborrow()
    };
    passes::run(plan, index, pass, rounded, params, Factors::AsTheyAre)?;

    let written = match pass {
        Pass::Forward if step.op == StepOp::Loss => Region::default(),
        Pass::Forward => step.memory.value,
        Pass::Backward => plan.input_gradient_of(index).unwrap_or_default(),
    };
    round(part_mut(memory.arena, elements::<T>(written))?);
    if let (StepOp::Conv { .. }, Pass::Backward) = (step.op, pass) {
        let filters = &plan.parameters_of(index)[0];
        round(part_mut(memory.gradient, filters.range())?);
    }
    Ok(())
}

/// To f32 first, in which every back end has its sums.
fn round<T: Real>(values: &mut [T]) {
    for value in values {
        *value = T::from(half::bf16::from_f32((*value).into() as f32).to_f32());
    }
}
