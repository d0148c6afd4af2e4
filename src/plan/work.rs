//! What a step costs, whoever executes it: floating-point operations, and bytes that have to move to and from memory.

use std::ops::Range;

use super::{DataGradient, Epilogue, Mode, Plan, Step, StepOp, Tree, ValueGradient};

/// What of a step is timed and accounted for on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// Input to value.
    Forward,
    /// Gradient of the value to gradient of the input.
    DataGradient,
    /// Gradient of the value to gradients of weights and bias.
    FilterGradient,
}

impl Part {
    /// All of them, in the order in which they are reported.
    pub const ALL: [Self; 3] = [Self::Forward, Self::DataGradient, Self::FilterGradient];

    /// As reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::DataGradient => "data_gradient",
            Self::FilterGradient => "filter_gradient",
        }
    }
}

/// The least that a part of a step costs: every tensor that it needs is read once, every one that it makes is written
/// once. Filters and matrices are counted as if they were read once for the whole micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Floating-point operations of products, a multiply-add as two. What is done element by element is not counted:
    /// it waits for memory.
    pub flops: u64,
    /// Bytes read and written.
    pub bytes: u64,
}

impl Work {
    /// The same with a `share` of its products, which an algorithm needs that saves the others.
    #[must_use]
    pub fn with_share(self, share: f64) -> Self {
        let flops = (self.flops as f64 * share).round() as u64;
        Self { flops, ..self }
    }
}

/// Bytes of an f32: gradients of parameters, and state of the update.
pub(super) const F32: u64 = size_of::<f32>() as u64;

impl Plan {
    /// What `part` of step `step` costs with tensors of `element` bytes per element (gradients of parameters are f32
    /// whatever the tensors are). `None` where the step has no such part: a step without weights has no filter
    /// gradient, batch norm's come with its data gradient, and nobody wants the gradient of an image.
    pub fn work(&self, step: usize, part: Part, element: u64) -> Option<Work> {
        if part != Part::Forward && self.mode == Mode::Evaluation {
            return None;
        }
        let at = &self.steps[step];
        if part == Part::DataGradient && at.data_gradient == DataGradient::None {
            return None;
        }
        let weights = self.learned(at.parameters.clone());
        let flops = 2 * at.macs;
        let bytes = match at.op {
            StepOp::Conv { epilogue, .. } | StepOp::Linear { epilogue } => {
                product_bytes(at, part, epilogue, weights, element)
            }
            StepOp::BatchNorm { .. } if part == Part::FilterGradient => return None,
            StepOp::Input
            | StepOp::Windows { .. }
            | StepOp::AveragePool { .. }
            | StepOp::BatchNorm { .. }
            | StepOp::Relu
            | StepOp::Lrn
            | StepOp::MaxPool
            | StepOp::Dropout { .. }
            | StepOp::Loss => elementwise_bytes(at, part, self.mode, element)?,
        };
        Some(Work { flops, bytes })
    }

    /// Learned elements of the arrays `parameters`.
    pub(super) fn learned(&self, parameters: Range<usize>) -> u64 {
        let learned = self.parameters[parameters].iter().filter(|p| p.role.is_learned());
        learned.map(|p| p.len() as u64).sum()
    }

    /// What the update of a step of `micro_batches` micro-batches moves: the additions of the gradient tree, the search
    /// for values that are not finite, and the rule itself.
    pub fn update_work(&self, micro_batches: usize) -> Work {
        let tree = Tree::new(micro_batches);
        let elements = self.learned(0..self.parameters.len());
        let added: u64 = (0..micro_batches)
            .map(|leaf| merge_work(tree, leaf, elements).bytes)
            .sum();
        Work {
            flops: 0,
            bytes: added + rule_work(elements).bytes,
        }
    }
}

/// The additions of the gradient tree once `leaf` is there, over so many elements: k + 1 buffers read, one written, all
/// f32.
pub(super) fn merge_work(tree: Tree, leaf: usize, elements: u64) -> Work {
    let buffers = match tree.merge(leaf).count() as u64 {
        1 => 0,
        read => read + 1,
    };
    Work {
        flops: 0,
        bytes: F32 * elements * buffers,
    }
}

/// The search of so many sums for values that are not finite, and the rule itself (weights, momentum and gradient read,
/// weights and momentum written), all f32.
pub(super) fn rule_work(elements: u64) -> Work {
    Work {
        flops: 0,
        bytes: F32 * elements * (1 + 5),
    }
}

/// Elements of a step's input and value, of all images.
fn elements(step: &Step) -> (u64, u64) {
    let batch = step.batch as u64;
    (batch * step.input.len() as u64, batch * step.output.len() as u64)
}

/// Bytes of a convolution or a fully connected layer.
fn product_bytes(step: &Step, part: Part, epilogue: Epilogue, weights: u64, element: u64) -> u64 {
    let (x, y) = elements(step);
    match part {
        Part::Forward => element * (x + weights + y),
        // dy and w make dx; the mask is read from x.
        Part::DataGradient => {
            let mask = if step.data_gradient == DataGradient::Masked {
                x
            } else {
                0
            };
            element * (y + weights + x + mask)
        }
        // x and dy make dw; a mask that is left to this step reads y and writes dy before.
        Part::FilterGradient => {
            let masks = epilogue != Epilogue::None && step.value_gradient == ValueGradient::Raw;
            let mask = if masks { 2 * y } else { 0 };
            element * (x + y + mask) + F32 * weights
        }
    }
}

/// Bytes of a step without products. `None` for a part that it does not have.
fn elementwise_bytes(step: &Step, part: Part, mode: Mode, element: u64) -> Option<u64> {
    let (x, y) = elements(step);
    let mask = if step.data_gradient == DataGradient::Masked {
        y
    } else {
        0
    };
    let bytes = match (step.op, part) {
        (_, Part::FilterGradient) | (StepOp::Input, Part::DataGradient) => return None,
        // Every window is read and written; neighbours share most of what they read, in caches.
        (StepOp::Windows { .. }, Part::Forward) => element * 2 * y,
        (StepOp::Windows { .. } | StepOp::AveragePool { .. }, Part::DataGradient) => return None,
        (StepOp::AveragePool { .. }, Part::Forward) => element * (x + y),
        // One byte per pixel and channel comes in.
        (StepOp::Input, Part::Forward) => x + element * y,
        // The statistics are one more sweep over x, and over x and dy on the way back.
        (StepOp::BatchNorm { .. }, Part::Forward) => match mode {
            Mode::Training => element * (2 * x + y),
            Mode::Evaluation => element * (x + y),
        },
        (StepOp::BatchNorm { .. }, Part::DataGradient) => element * (2 * x + 2 * y + x),
        (StepOp::Relu | StepOp::Lrn | StepOp::Dropout { .. }, Part::Forward) => element * (x + y),
        (StepOp::Relu | StepOp::Lrn, Part::DataGradient) => element * (y + x + x),
        // The mask is drawn again, not read.
        (StepOp::Dropout { .. }, Part::DataGradient) => element * (y + x + mask),
        // One byte per maximum says where it was.
        (StepOp::MaxPool, Part::Forward) => element * (x + y) + y,
        (StepOp::MaxPool, Part::DataGradient) => element * (y + x + mask) + y,
        // Posteriors are f32.
        (StepOp::Loss, Part::Forward | Part::DataGradient) => element * x + F32 * y,
        (StepOp::Conv { .. } | StepOp::Linear { .. }, _) => unreachable!("a product"),
    };
    Some(bytes)
}
