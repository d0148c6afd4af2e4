//! Cutting an arena into the regions that one pass of a step touches.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::plan::{Pass, Plan, Region};

use super::{Real, footprint};

/// The tensors of one pass of a step, in logical layout; empty where the pass has no business with them.
pub(super) struct Regions<'a, T> {
    /// x of the forward pass, and of those backward passes that read it.
    pub(super) input: &'a mut [T],
    /// y: written by the forward pass; of those backward passes that read it.
    pub(super) value: &'a mut [T],
    /// dy, of the backward pass.
    pub(super) gradient: &'a mut [T],
    /// dx, of the backward pass, where it is wanted.
    pub(super) input_gradient: &'a mut [T],
    /// What the forward pass keeps.
    pub(super) saved: &'a mut [T],
    /// Scratch of the backward pass.
    pub(super) scratch: &'a mut [T],
}

impl<'a, T: Real> Regions<'a, T> {
    /// Of one pass of step `index`.
    pub(super) fn of(plan: &Plan, index: usize, pass: Pass, arena: &'a mut [T]) -> Result<Self> {
        let step = &plan.steps[index];
        let none = Region::default();
        let input = if index == 0 { none } else { plan.input_of(index) };
        let memory = step.memory;
        let regions = match pass {
            Pass::Forward => [input, memory.value, none, none, memory.saved, none],
            Pass::Backward => {
                let footprint = footprint::<T>(step);
                [
                    if footprint.backward_reads_input {
                        input
                    } else {
                        none
                    },
                    if footprint.backward_reads_value {
                        memory.value
                    } else {
                        none
                    },
                    memory.gradient,
                    plan.input_gradient_of(index).unwrap_or_default(),
                    memory.saved,
                    memory.backward_scratch,
                ]
            }
        };
        let [input, value, gradient, input_gradient, saved, scratch] =
            disjoint(arena, regions.map(elements::<T>), &step.name)?;
        Ok(Self {
            input,
            value,
            gradient,
            input_gradient,
            saved,
            scratch,
        })
    }
}

/// A region in elements of `T`.
pub(super) fn elements<T>(region: Region) -> Range<usize> {
    let size = size_of::<T>();
    region.offset / size..(region.offset + region.bytes) / size
}

/// Ranges of one vector, all borrowed for writing. Errors where they overlap or leave the vector.
pub(super) fn disjoint<'a, T, const N: usize>(
    vector: &'a mut [T],
    ranges: [Range<usize>; N],
    step: &str,
) -> Result<[&'a mut [T]; N]> {
    let length = vector.len();
    vector.get_disjoint_mut(ranges.clone()).map_err(|_| {
        Error::invalid(
            format_args!("memory of step {step}"),
            format_args!("disjoint ranges within {length} elements"),
            format_args!("{ranges:?}"),
        )
    })
}

/// A range of a vector. Errors where it leaves the vector.
pub(super) fn part<T>(vector: &[T], range: Range<usize>) -> Result<&[T]> {
    let length = vector.len();
    vector.get(range.clone()).ok_or_else(|| outside(range, length))
}

/// A range of a vector, to be written. Errors where it leaves the vector.
pub(super) fn part_mut<T>(vector: &mut [T], range: Range<usize>) -> Result<&mut [T]> {
    let length = vector.len();
    vector
        .get_mut(range.clone())
        .ok_or_else(|| outside(range, length))
}

fn outside(range: Range<usize>, length: usize) -> Error {
    Error::invalid(
        "range of a buffer",
        format_args!("elements within 0..{length}"),
        format_args!("{range:?}"),
    )
}
