//! The tensors of one step as slices of the arena and of the flat parameter vectors.

use super::Buffer;
use crate::backend::Memory;
use crate::plan::{Batch, Footprint, Mode, Pass, Plan, Region};

/// Bytes of `elements` f32.
pub(super) fn f32_bytes(elements: usize) -> usize {
    elements * size_of::<f32>()
}

/// Parameter arrays of a step at most: those of batch norm.
const ARRAYS: usize = 4;

/// What one pass of one step reads and writes. A tensor that the pass has no use for is empty: in the
/// backward pass its place may already belong to another.
pub(super) struct Views<'a> {
    /// x; activations and their gradients are (N, C/16, H, W, 16).
    pub(super) input: &'a [f32],
    /// y; of the forward pass the output.
    pub(super) value: &'a mut [f32],
    pub(super) saved: &'a mut [f32],
    /// Undefined before and after.
    pub(super) scratch: &'a mut [f32],
    /// dy; free to be overwritten.
    pub(super) gradient: &'a mut [f32],
    /// dx.
    pub(super) input_gradient: &'a mut [f32],
    /// The step's arrays in the order of the plan; the rest are empty.
    pub(super) weights: [&'a [f32]; ARRAYS],
    /// Their gradients; empty in evaluation.
    pub(super) weight_gradients: [&'a mut [f32]; ARRAYS],
    pub(super) batch: Batch<'a>,
}

impl<'a> Views<'a> {
    pub(super) fn new(
        plan: &Plan,
        step: usize,
        pass: Pass,
        footprint: &Footprint,
        memory: Memory<'a, Buffer>,
    ) -> Self {
        let regions = plan.steps[step].memory;
        let when = |wanted: bool, region: Region| if wanted { region } else { Region::default() };
        let forward = pass == Pass::Forward;
        let input = match step {
            0 => Region::default(),
            _ => when(forward || footprint.backward_reads_input, plan.input_of(step)),
        };
        let written = [
            when(forward || footprint.backward_reads_value, regions.value),
            regions.saved,
            match pass {
                Pass::Forward => regions.forward_scratch,
                Pass::Backward => regions.backward_scratch,
            },
            when(!forward, regions.gradient),
            when(!forward, plan.input_gradient_of(step).unwrap_or_default()),
        ];
        let (input, [value, saved, scratch, gradient, input_gradient]) = cut(memory.arena, input, written);

        let parameters = plan.parameters_of(step);
        let flat = memory.weights.as_slice();
        let weights = std::array::from_fn(|i| parameters.get(i).map_or(&flat[..0], |p| &flat[p.range()]));
        let mut rest = memory.gradient.as_mut_slice();
        let mut start = 0;
        let weight_gradients = std::array::from_fn(|i| {
            let Some(parameter) = parameters.get(i).filter(|_| plan.mode == Mode::Training) else {
                return &mut [][..];
            };
            let (before, after) = std::mem::take(&mut rest).split_at_mut(parameter.range().end - start);
            rest = after;
            let array = &mut before[parameter.offset - start..];
            start = parameter.range().end;
            array
        });
        Self {
            input,
            value,
            saved,
            scratch,
            gradient,
            input_gradient,
            weights,
            weight_gradients,
            batch: memory.batch,
        }
    }
}

/// A region as a slice.
pub(super) fn slice(arena: &Buffer, region: Region) -> &[f32] {
    &arena.as_slice()[elements(region)]
}

/// A region as a slice, to be written.
pub(super) fn slice_mut(arena: &mut Buffer, region: Region) -> &mut [f32] {
    &mut arena.as_mut_slice()[elements(region)]
}

fn elements(region: Region) -> std::ops::Range<usize> {
    let size = size_of::<f32>();
    let range = region.range();
    range.start / size..range.end.div_ceil(size)
}

/// One region to read and some to write, which do not overlap: the plan's lifetimes say so and this checks
/// it.
fn cut<const W: usize>(arena: &mut Buffer, read: Region, write: [Region; W]) -> (&[f32], [&mut [f32]; W]) {
    let arena = arena.as_mut_slice();
    let ranges = write.map(elements);
    let apart = |a: &std::ops::Range<usize>, b: &std::ops::Range<usize>| {
        a.is_empty() || b.is_empty() || a.end <= b.start || b.end <= a.start
    };
    let read = elements(read);
    for (i, range) in ranges.iter().enumerate() {
        assert!(range.end <= arena.len(), "region {range:?} ends in the arena");
        assert!(apart(range, &read), "{range:?} is written, {read:?} is read");
        for other in &ranges[..i] {
            assert!(apart(range, other), "{range:?} and {other:?} are written");
        }
    }
    assert!(read.end <= arena.len(), "region {read:?} ends in the arena");
    let start = arena.as_mut_ptr();
    // SAFETY: all ranges lie inside the arena, which is borrowed exclusively for the slices' lifetime, and no
    // two of them overlap, as just checked.
    unsafe {
        (
            std::slice::from_raw_parts(start.add(read.start), read.len()),
            ranges.map(|range| std::slice::from_raw_parts_mut(start.add(range.start), range.len())),
        )
    }
}
