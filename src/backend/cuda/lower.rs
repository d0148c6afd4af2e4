//! What the planner asks of this back end: fusions, memory, and how tensors are stored.

use super::BLOCK_BYTES;
use super::dnn::WORKSPACE_CAP;
use super::launch::{Element, INPUT_CHANNELS, column_sum_bytes};
use super::staging::{BatchLayout, Inbox};
use crate::backend::{Precision, Tensor};
use crate::error::{Error, Result};
use crate::plan::{DataGradient, Epilogue, Footprint, Lowering, Plan, Region, Step, StepOp, ValueGradient};

/// Plans for CUDA devices, where there need not be one: what a plan asks is the same on all of them.
#[derive(Debug, Clone, Copy)]
pub struct CudaLowering {
    /// Arithmetic of the passes.
    pub precision: Precision,
}

impl CudaLowering {
    /// The type of activations and of their gradients.
    pub(super) fn element(self) -> Element {
        Element::of(self.precision)
    }
}

impl Lowering for CudaLowering {
    fn accepts(&self, op: StepOp) -> bool {
        op.epilogue() != Epilogue::ReluPool
    }

    /// The library's gradients are not masked; those of our kernels are.
    fn masks(&self, op: StepOp) -> bool {
        match op {
            StepOp::Lrn | StepOp::MaxPool | StepOp::Dropout { .. } => true,
            StepOp::Conv { .. }
            | StepOp::Windows { .. }
            | StepOp::AveragePool { .. }
            | StepOp::Linear { .. }
            | StepOp::BatchNorm { .. }
            | StepOp::Input
            | StepOp::Relu
            | StepOp::Loss => false,
        }
    }

    fn footprint(&self, step: &Step) -> Footprint {
        let element = self.element();
        let value = stored_as(step, element).bytes() * step.batch * step.output.len();
        let with_relu = |epilogue| epilogue == Epilogue::Relu && step.value_gradient == ValueGradient::Raw;
        let channels = step.output.c;
        let plain = Footprint {
            value,
            gradient: value,
            ..Footprint::default()
        };
        match step.op {
            StepOp::Input => Footprint {
                value: element.bytes() * step.batch * step.output.plane() * INPUT_CHANNELS,
                ..Footprint::default()
            },
            StepOp::Conv { kernel, epilogue } => {
                let filter = aligned(filter_bytes(step, element, kernel));
                Footprint {
                    forward_scratch: filter,
                    backward_scratch: 2 * filter + column_sum_bytes(rows(step), channels, 1),
                    backward_reads_input: true,
                    backward_reads_value: with_relu(epilogue),
                    ..plain
                }
            }
            StepOp::Windows { .. } | StepOp::AveragePool { .. } => plain,
            StepOp::Linear { epilogue } => {
                let flat = aligned(flat_bytes(step, element));
                Footprint {
                    forward_scratch: flat,
                    backward_scratch: 2 * flat + column_sum_bytes(step.batch, channels, 1),
                    backward_reads_input: true,
                    backward_reads_value: with_relu(epilogue),
                    ..plain
                }
            }
            StepOp::BatchNorm { epilogue } => Footprint {
                saved: f32s(NORM_SAVED * channels),
                forward_scratch: column_sum_bytes(rows(step), channels, 1),
                backward_scratch: column_sum_bytes(rows(step), channels, 2) + f32s(2 * channels),
                backward_reads_input: true,
                backward_reads_value: with_relu(epilogue),
                ..plain
            },
            StepOp::Relu => Footprint {
                backward_reads_value: true,
                ..plain
            },
            StepOp::Lrn => Footprint {
                backward_reads_input: true,
                ..plain
            },
            StepOp::MaxPool => Footprint {
                saved: step.batch * step.output.len(),
                backward_reads_value: step.data_gradient == DataGradient::Masked,
                ..plain
            },
            StepOp::Dropout { .. } => Footprint {
                // After a ReLU, y alone says what was kept and passed.
                backward_reads_value: step.data_gradient == DataGradient::Masked,
                ..plain
            },
            StepOp::Loss => Footprint {
                // A loss and a rank per sample.
                saved: 2 * step.batch * size_of::<u32>(),
                forward_scratch: flat_bytes(step, element),
                backward_scratch: flat_bytes(step, element),
                gradient: 0,
                backward_reads_value: true,
                ..plain
            },
        }
    }

    /// What the plans of convolutions may ask for at most, the block of step parameters, and the inbox.
    fn workspace_bytes(&self, plan: &Plan) -> u64 {
        (WORKSPACE_CAP + BLOCK_BYTES + Inbox::SLOTS * BatchLayout::of(plan).bytes()) as u64
    }

    /// In bf16, products read a copy of the weights, rounded once per update.
    fn weight_bytes(&self, plan: &Plan) -> u64 {
        (plan.flat_len * (size_of::<f32>() + copy_bytes(self.element()))) as u64
    }
}

/// Bytes per weight of the copy that products read; none where they read the weights.
pub(super) fn copy_bytes(element: Element) -> usize {
    match element {
        Element::F32 => 0,
        Element::Bf16 => element.bytes(),
    }
}

/// The type of a step's value: posteriors are f32 always.
fn stored_as(step: &Step, element: Element) -> Element {
    if step.op == StepOp::Loss {
        Element::F32
    } else {
        element
    }
}

/// Saved numbers of a channel of batch norm: mean and its rest, inverse deviation; then the leaf's mean and variance.
pub(super) const NORM_SAVED: usize = 5;

/// Bytes of `elements` f32.
fn f32s(elements: usize) -> usize {
    elements * size_of::<f32>()
}

/// The next place in scratch that any kernel can use.
pub(super) fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(Region::ALIGNMENT)
}

/// Channels of a step's input as they lie in memory: the image's are padded.
pub(super) fn input_pitch(step: &Step) -> usize {
    let reads_image = step.layers.start == 0 && !step.layers.is_empty();
    if reads_image { INPUT_CHANNELS } else { step.input.c }
}

/// Bytes of the filter of a convolution as cuDNN reads it, (K, R, S, pitch).
pub(super) fn filter_bytes(step: &Step, element: Element, kernel: usize) -> usize {
    element.bytes() * step.output.c * kernel * kernel * input_pitch(step)
}

/// Bytes of the input of a fully connected layer (or the loss) in logical order, where it must be turned.
pub(super) fn flat_bytes(step: &Step, element: Element) -> usize {
    if step.input.plane() > 1 {
        element.bytes() * step.batch * step.input.len()
    } else {
        0
    }
}

/// Pixels of all images: rows of an (rows, channels) matrix.
pub(super) fn rows(step: &Step) -> usize {
    step.batch * step.output.plane()
}

/// A tensor as it is stored: (N, plane, pitch), of which the first `channels` of every pixel count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) element: Element,
    /// Byte in the arena.
    pub(super) offset: usize,
    pub(super) n: usize,
    pub(super) plane: usize,
    pub(super) channels: usize,
    pub(super) pitch: usize,
}

impl Stored {
    /// In a plan whose activations are of type `element`.
    pub(super) fn of(step: &Step, element: Element, tensor: Tensor) -> Self {
        let region = match tensor {
            Tensor::Value => step.memory.value,
            Tensor::Gradient => step.memory.gradient,
        };
        Self {
            element: stored_as(step, element),
            offset: region.offset,
            n: step.batch,
            plane: step.output.plane(),
            channels: step.output.c,
            pitch: if step.op == StepOp::Input {
                INPUT_CHANNELS
            } else {
                step.output.c
            },
        }
    }

    /// Elements in memory.
    pub(super) fn len(self) -> usize {
        self.n * self.plane * self.pitch
    }

    /// Refuses a host's tensor of another size.
    pub(super) fn check(self, found: usize, step: &Step) -> Result<()> {
        let expected = self.n * self.plane * self.channels;
        if found == expected {
            return Ok(());
        }
        Err(Error::invalid(
            format_args!("elements of the value of {}", step.name),
            expected,
            found,
        ))
    }

    /// Calls `pair` with every (logical index, index in memory).
    fn each(self, mut pair: impl FnMut(usize, usize)) {
        for n in 0..self.n {
            for p in 0..self.plane {
                for c in 0..self.channels {
                    pair(
                        (n * self.channels + c) * self.plane + p,
                        (n * self.plane + p) * self.pitch + c,
                    );
                }
            }
        }
    }

    /// Bytes in memory.
    pub(super) fn bytes(self) -> usize {
        self.len() * self.element.bytes()
    }

    /// From memory to (N, C, H, W).
    pub(super) fn to_logical(self, stored: &[u8], logical: &mut [f32]) {
        let bytes = self.element.bytes();
        self.each(|l, s| logical[l] = self.element.read(&stored[s * bytes..][..bytes]));
    }

    /// From (N, C, H, W) to memory, rounded where its type is narrower; the padding is left alone.
    pub(super) fn store_logical(self, logical: &[f32], stored: &mut [u8]) {
        let bytes = self.element.bytes();
        self.each(|l, s| self.element.write(logical[l], &mut stored[s * bytes..][..bytes]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logical_and_stored_order_are_inverse_maps() {
        for element in [Element::F32, Element::Bf16] {
            let at = Stored {
                element,
                offset: 0,
                n: 2,
                plane: 5,
                channels: 3,
                pitch: 8,
            };
            let logical: Vec<f32> = (0..30).map(|i| i as f32).collect();
            let mut stored = vec![0xff; at.bytes()];
            at.store_logical(&logical, &mut stored);
            let element_at = |index: usize| {
                let bytes = element.bytes();
                element.read(&stored[index * bytes..][..bytes])
            };
            let untouched = (0..at.len()).filter(|&index| element_at(index).is_nan());
            assert_eq!(untouched.count(), 2 * 5 * 5);
            // image 1, pixel 2, channel 1
            assert_eq!(element_at((5 + 2) * 8 + 1), logical[(3 + 1) * 5 + 2]);
            let mut back = vec![0.0; 30];
            at.to_logical(&stored, &mut back);
            assert_eq!(back, logical);
        }
    }
}
