//! One pass of one step: the operation, and the epilogue and the masks around it.

use std::ops::Range;

use super::batch_norm::{BatchNorm, Statistics};
use super::conv::Conv;
use super::dropout::Dropout;
use super::factors::Factors;
use super::linear::Linear;
use super::lrn::Lrn;
use super::max_pool::MaxPool;
use super::regions::{Regions, disjoint, part};
use super::windows::Windows;
use super::{Real, average_pool, epilogue, input, loss, relu, result_shape};
use crate::backend::Memory;
use crate::error::Result;
use crate::plan::{DataGradient, Epilogue, Mode, Pass, Plan, Step, StepOp, StepParams, ValueGradient};

/// One pass of one step.
pub(super) fn run<T: Real>(
    plan: &Plan,
    index: usize,
    pass: Pass,
    memory: Memory<'_, Vec<T>>,
    params: &StepParams,
    factors: Factors,
) -> Result<()> {
    match pass {
        Pass::Forward => forward(plan, index, memory, params, factors),
        Pass::Backward => backward(plan, index, memory, params, factors),
    }
}

/// Input to value: overwrites the value and what the step keeps.
fn forward<T: Real>(
    plan: &Plan,
    index: usize,
    memory: Memory<'_, Vec<T>>,
    params: &StepParams,
    factors: Factors,
) -> Result<()> {
    let step = &plan.steps[index];
    let regions = Regions::of(plan, index, Pass::Forward, memory.arena)?;
    let (x, value, saved) = (&*regions.input, regions.value, regions.saved);
    let weights = memory.weights;
    let epilogue = epilogue(step.op);
    let y = if epilogue == Epilogue::ReluPool {
        &mut *saved
    } else {
        &mut *value
    };
    match step.op {
        StepOp::Input => input::forward(&plan.preprocess, step.output, memory.batch, y),
        StepOp::Conv { kernel, .. } => {
            let [w, b] = arrays(plan, index);
            let (x, w) = (factors.of(x), factors.of(part(weights, w)?));
            conv(step, kernel).forward(&x, &w, part(weights, b)?, y);
        }
        StepOp::Windows { side } => windows(step, side).forward(x, y),
        StepOp::AveragePool { side } => average_pool::forward(step, side, x, y),
        StepOp::Linear { .. } => {
            let [w, b] = arrays(plan, index);
            let (x, w) = (factors.of(x), factors.of(part(weights, w)?));
            linear(step).forward(&x, &w, part(weights, b)?, y);
        }
        StepOp::BatchNorm { .. } => {
            let [gamma, beta, mean, variance] = arrays(plan, index);
            let op = batch_norm(step);
            for c in 0..step.output.c {
                let statistics = match plan.mode {
                    Mode::Training => op.statistics(x, c),
                    Mode::Evaluation => Statistics {
                        mean: weights[mean.start + c].into(),
                        variance: weights[variance.start + c].into(),
                    },
                };
                let (gamma, beta) = (weights[gamma.start + c], weights[beta.start + c]);
                op.forward(c, x, gamma, beta, statistics, y);
            }
        }
        StepOp::Relu => {
            y.copy_from_slice(x);
            relu::forward(y);
        }
        StepOp::Lrn => lrn(step).forward(x, y),
        StepOp::MaxPool => max_pool(step).forward(x, y),
        StepOp::Dropout { p, layer } => dropout(step, p, layer).apply(params, x, y),
        StepOp::Loss => {
            let (losses, ranks) = saved.split_at_mut(step.batch);
            let samples = x.chunks(plan.classes).zip(value.chunks_mut(plan.classes));
            for (n, (x, p)) in samples.enumerate() {
                let label = memory.batch.labels[n] as usize;
                losses[n] = T::round(loss::forward(x, label, p));
                ranks[n] = T::round(loss::rank(x, label) as f64);
            }
        }
    }
    match epilogue {
        Epilogue::None => {}
        Epilogue::Relu => relu::forward(value),
        Epilogue::ReluPool => {
            relu::forward(saved);
            max_pool(step).forward(saved, value);
        }
    }
    Ok(())
}

/// Gradient of the value to gradients of input and parameters: overwrites both.
fn backward<T: Real>(
    plan: &Plan,
    index: usize,
    memory: Memory<'_, Vec<T>>,
    params: &StepParams,
    factors: Factors,
) -> Result<()> {
    let step = &plan.steps[index];
    let regions = Regions::of(plan, index, Pass::Backward, memory.arena)?;
    let (x, y, saved) = (&*regions.input, &*regions.value, &*regions.saved);
    let dx = regions.input_gradient;
    let wanted = step.data_gradient != DataGradient::None;

    // Back through the epilogue: dy of the operation itself.
    let dy: &[T] = match (epilogue(step.op), step.value_gradient) {
        (Epilogue::None, _) | (Epilogue::Relu, ValueGradient::Masked) => regions.gradient,
        (Epilogue::Relu, ValueGradient::Raw) => {
            relu::mask(y, regions.gradient);
            regions.gradient
        }
        (Epilogue::ReluPool, _) => {
            max_pool(step).backward(saved, regions.gradient, regions.scratch);
            relu::mask(saved, regions.scratch);
            regions.scratch
        }
    };
    match step.op {
        StepOp::Input | StepOp::Windows { .. } | StepOp::AveragePool { .. } => {}
        StepOp::Conv { kernel, .. } => {
            let op = conv(step, kernel);
            let [w, b] = arrays(plan, index);
            let [dw, db] = disjoint(memory.gradient, [w.clone(), b], &step.name)?;
            op.backward_bias(dy, db);
            let (x, dy) = (factors.of(x), factors.of(dy));
            op.backward_weight(&x, &dy, dw);
            if wanted {
                op.backward_data(&factors.of(part(memory.weights, w)?), &dy, dx);
            }
        }
        StepOp::Linear { .. } => {
            let op = linear(step);
            let [w, b] = arrays(plan, index);
            let [dw, db] = disjoint(memory.gradient, [w.clone(), b], &step.name)?;
            op.backward_bias(dy, db);
            let (x, dy) = (factors.of(x), factors.of(dy));
            op.backward_weight(&x, &dy, dw);
            if wanted {
                op.backward_data(&factors.of(part(memory.weights, w)?), &dy, dx);
            }
        }
        StepOp::BatchNorm { .. } => {
            let [gamma, beta, mean, variance] = arrays(plan, index);
            let op = batch_norm(step);
            for c in 0..step.output.c {
                let statistics = op.statistics(x, c);
                memory.gradient[mean.start + c] = T::round(statistics.mean);
                memory.gradient[variance.start + c] = T::round(op.unbiased(statistics.variance));
                let dx = wanted.then_some(&mut *dx);
                let (dgamma, dbeta) = op.backward(c, x, memory.weights[gamma.start + c], dy, dx);
                memory.gradient[gamma.start + c] = T::round(dgamma);
                memory.gradient[beta.start + c] = T::round(dbeta);
            }
        }
        StepOp::Relu if wanted => {
            dx.copy_from_slice(dy);
            relu::mask(y, dx);
        }
        StepOp::Lrn if wanted => lrn(step).backward(x, dy, dx),
        StepOp::MaxPool if wanted => max_pool(step).backward(x, dy, dx),
        StepOp::Dropout { p, layer } if wanted => dropout(step, p, layer).apply(params, dy, dx),
        StepOp::Loss if wanted => {
            let samples = y.chunks(plan.classes).zip(dx.chunks_mut(plan.classes));
            for ((p, dx), &label) in samples.zip(memory.batch.labels) {
                loss::backward(p, label as usize, dx);
            }
        }
        StepOp::Relu | StepOp::Lrn | StepOp::MaxPool | StepOp::Dropout { .. } | StepOp::Loss => {}
    }
    if step.data_gradient == DataGradient::Masked {
        relu::mask(x, dx);
    }
    Ok(())
}

fn conv(step: &Step, kernel: usize) -> Conv {
    Conv {
        batch: step.batch,
        input: step.input,
        output: result_shape(step),
        kernel,
    }
}

fn windows(step: &Step, side: usize) -> Windows {
    Windows {
        input: step.input,
        side,
        count: step.windows(side),
    }
}

fn linear(step: &Step) -> Linear {
    Linear {
        batch: step.batch,
        inputs: step.input.len(),
        outputs: step.output.len(),
    }
}

fn batch_norm(step: &Step) -> BatchNorm {
    BatchNorm {
        batch: step.batch,
        shape: step.input,
    }
}

fn lrn(step: &Step) -> Lrn {
    Lrn {
        batch: step.batch,
        shape: step.input,
    }
}

/// The pooling that a step is or ends with.
fn max_pool(step: &Step) -> MaxPool {
    MaxPool {
        batch: step.batch,
        input: result_shape(step),
        output: step.output,
    }
}

fn dropout(step: &Step, p: f32, layer: u16) -> Dropout {
    Dropout {
        elements: step.input.len(),
        p,
        layer,
    }
}

/// The ranges of a step's arrays in the flat vectors, in the order of [`crate::network::Network::parameters`].
fn arrays<const N: usize>(plan: &Plan, step: usize) -> [Range<usize>; N] {
    std::array::from_fn(|i| plan.parameters_of(step)[i].range())
}
