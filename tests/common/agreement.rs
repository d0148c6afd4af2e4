//! A back end against the f32 reference, step by step: every step starts from the reference's state.
//!
//! In bf16 the reference rounds the same tensors. Where its sum and the back end's lie on either side of the middle
//! between two bf16 numbers, they round apart, by far more than the sums differ: such elements have a bound of their own.

use half::bf16;
use verydeep::backend::Tensor;
use verydeep::backend::reference::Reference;
use verydeep::network::Role;
use verydeep::network::batch_norm::EPSILON;
use verydeep::plan::{DataGradient, Epilogue, Lowering, Mode, Pass, Step, StepOp, ValueGradient};

use super::draw::singles;
use super::rig::{Raw, Rig, step_params};
use super::{Case, Draw, Images, cases};

/// Error allowed, relative to the tensor's norm (DESIGN.md section 9).
const TOLERANCE: f64 = 1e-5;

/// Error allowed of the elements that round apart in bf16, relative to the tensor's norm; a wrong rounding, which moves
/// every second element, makes three times as much and more. So few of them, always.
const ROUNDED_APART: (f64, usize) = (1e-3, 2);

/// Error allowed relative to the norm of what comes in: sums that cancel keep its rounding.
const CANCELLATION: f64 = 1e-6;

/// Who judges a back end.
#[derive(Clone, Copy)]
pub(crate) struct Judge {
    reference: Reference<f32>,
    is_bf16: bool,
}

impl Judge {
    /// Of a back end that computes in f32.
    pub(crate) fn fp32() -> Self {
        Self {
            reference: Reference::new(),
            is_bf16: false,
        }
    }

    /// Of a back end that computes in f32, with the factors of products rounded to TF32.
    pub(crate) fn tf32() -> Self {
        Self {
            reference: Reference::new().with_tf32_roundings(),
            is_bf16: false,
        }
    }

    /// Of a back end that keeps activations and their gradients in bf16.
    pub(crate) fn bf16() -> Self {
        Self {
            reference: Reference::new().with_bf16_roundings(),
            is_bf16: true,
        }
    }
}

/// Every operation and pass on random small shapes, in both modes, with and without the back end's fusions.
pub(crate) fn on_every_operation<B: Raw>(judge: Judge, backend: &B) {
    let mut draw = Draw::new();
    for mode in [Mode::Training, Mode::Evaluation] {
        for case in cases::operations(&mut draw, 37, mode) {
            both_ways(&mut draw, judge, backend, &case);
        }
    }
}

/// Every step of whole small networks.
pub(crate) fn on_whole_networks<B: Raw>(judge: Judge, backend: &B) {
    let mut draw = Draw::new();
    for mode in [Mode::Training, Mode::Evaluation] {
        for case in cases::networks(1.0 / 8.0, mode) {
            both_ways(&mut draw, judge, backend, &case);
        }
    }
}

fn both_ways<B: Raw>(draw: &mut Draw, judge: Judge, backend: &B, case: &Case) {
    step_by_step(draw, judge, backend, &Reference::<f32>::new(), case);
    step_by_step(draw, judge, backend, backend, case);
}

fn step_by_step<B: Raw>(draw: &mut Draw, judge: Judge, backend: &B, choices: &dyn Lowering, case: &Case) {
    let params = step_params(draw);
    let mut expected = Rig::new(&judge.reference, choices, case, params);
    let mut found = Rig::new(backend, choices, case, params);
    let images = Images::new(draw, case);
    let weights = draw.parameters(&case.network);
    expected.set_weights(&weights);
    found.set_weights(&weights);

    // Forward, each step of the back end from the reference's input. The first input has a size that suits random
    // weights; the step that makes inputs of pixels is judged in `exact`.
    let steps = expected.plan.steps.len();
    let input: Vec<f64> = draw
        .normals(expected.len(0))
        .iter()
        .map(|x| x * case.scale)
        .collect();
    let mut values = vec![judge.rounded(singles(&input))];
    let mut own_values = vec![Vec::new()];
    expected.set(0, Tensor::Value, &values[0]);
    for step in 1..steps {
        expected.run(step, Pass::Forward, &images);
        found.set(step - 1, Tensor::Value, &values[step - 1]);
        found.run(step, Pass::Forward, &images);
        let (reference, own) = (expected.get(step, Tensor::Value), found.get(step, Tensor::Value));
        let size = norm(&values[step - 1]) * amplification(&expected, step) + shifts(&expected, step);
        judge.check(case, &expected.plan.steps[step], "value", &reference, &own, size);
        values.push(reference);
        own_values.push(own);
    }
    if !case.network.only_scores() {
        check_outcomes(case, &expected, &found);
    }
    if case.mode == Mode::Evaluation {
        return;
    }

    // Backward, each step from the reference's state and gradient.
    for step in (1..steps).rev() {
        let planned = expected.plan.steps[step].clone();
        let mut size = 0.0;
        found.set(step - 1, Tensor::Value, &values[step - 1]);
        found.run(step, Pass::Forward, &images);
        if step + 1 < steps {
            let mut gradient = judge.rounded(expected.get(step, Tensor::Gradient));
            forget_undecided(&expected, step, &values[step], &own_values[step], &mut gradient);
            size = norm(&gradient) * amplification(&expected, step);
            expected.set(step, Tensor::Gradient, &gradient);
            found.set(step, Tensor::Gradient, &gradient);
        }
        expected.run(step, Pass::Backward, &images);
        found.run(step, Pass::Backward, &images);
        if planned.data_gradient != DataGradient::None {
            let reference = expected.get(step - 1, Tensor::Gradient);
            let own = found.get(step - 1, Tensor::Gradient);
            judge.check(case, &planned, "data gradient", &reference, &own, size);
        }
        for index in planned.parameters.clone() {
            let reference = expected.parameter_gradient(index);
            let own = found.parameter_gradient(index);
            let parameter = &expected.plan.parameters[index];
            // Batch norm's statistics are sums over what came in.
            let size = if parameter.role.is_learned() {
                size
            } else {
                norm(&values[step - 1])
            };
            judge.check(case, &planned, &parameter.name, &reference, &own, size);
        }
    }
}

/// By how much a step multiplies the rounding of what comes in: batch norm by the inverse of the smallest deviation.
fn amplification(expected: &Rig<Reference<f32>>, step: usize) -> f64 {
    let parameters = expected.plan.steps[step].parameters.clone();
    let variances = parameters.filter(|&i| expected.plan.parameters[i].role == Role::RunningVariance);
    let variances = variances.flat_map(|i| match expected.plan.mode {
        Mode::Training => expected.parameter_gradient(i),
        Mode::Evaluation => expected.parameter(i),
    });
    variances
        .map(|variance| 1.0 / f64::from(variance + EPSILON).sqrt())
        .fold(1.0, f64::max)
}

/// The norm of what batch norm adds to its input whatever that is: its shift and, in evaluation, the running mean. Both
/// come in like the input, and may cancel with it or with each other.
fn shifts(expected: &Rig<Reference<f32>>, step: usize) -> f64 {
    let planned = &expected.plan.steps[step];
    let StepOp::BatchNorm { .. } = planned.op else {
        return 0.0;
    };
    let arrays = planned.parameters.clone();
    let [scale, shift, mean, variance] = std::array::from_fn(|i| expected.parameter(arrays.start + i));
    let added = (0..planned.output.c).map(|c| {
        let of_mean = match expected.plan.mode {
            Mode::Training => 0.0,
            Mode::Evaluation => scale[c] * mean[c] / (variance[c] + EPSILON).sqrt(),
        };
        shift[c].abs() + of_mean.abs()
    });
    let pixels = (planned.batch * planned.output.plane()) as f64;
    norm(&added.collect::<Vec<f32>>()) * pixels.sqrt()
}

/// Removes the gradient where rounding decides which way it goes: where the two back ends differ on whether a
/// rectified value is positive, and where the two largest values of a pooling window are nearly equal.
fn forget_undecided(
    expected: &Rig<Reference<f32>>,
    step: usize,
    value: &[f32],
    own: &[f32],
    gradient: &mut [f32],
) {
    let planned = &expected.plan.steps[step];
    let epilogue = match planned.op {
        StepOp::Conv { epilogue, .. } | StepOp::Linear { epilogue } | StepOp::BatchNorm { epilogue } => {
            epilogue
        }
        _ => return,
    };
    if epilogue == Epilogue::None || planned.value_gradient == ValueGradient::Masked {
        return;
    }
    for (i, gradient) in gradient.iter_mut().enumerate() {
        let pooled = epilogue == Epilogue::ReluPool;
        let tied = pooled && nearly_tied(&window(expected, step, i));
        if tied || (value[i] > 0.0) != (own[i] > 0.0) {
            *gradient = 0.0;
        }
    }
}

/// What output `i` of a step with a fused pooling was pooled from.
fn window(expected: &Rig<Reference<f32>>, step: usize, i: usize) -> [f32; 4] {
    let saved = expected
        .backend
        .saved(&expected.plan, step, &expected.arena)
        .unwrap();
    let Step { input, output, .. } = expected.plan.steps[step];
    let (image, row, column) = (i / output.plane(), i % output.plane() / output.w, i % output.w);
    let first = (image * input.h + 2 * row) * input.w + 2 * column;
    [first, first + 1, first + input.w, first + input.w + 1].map(|i| saved[i])
}

fn nearly_tied(window: &[f32; 4]) -> bool {
    let mut sorted = *window;
    sorted.sort_by(|a, b| b.total_cmp(a));
    sorted[0] > 0.0 && sorted[0] - sorted[1] <= 1e-4
}

impl Judge {
    /// What a back end keeps of a tensor.
    fn rounded(self, mut values: Vec<f32>) -> Vec<f32> {
        if self.is_bf16 {
            values.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
        }
        values
    }

    /// A step without sums gives the same bits everywhere; another one agrees within the tolerance.
    fn check(self, case: &Case, step: &Step, what: &str, expected: &[f32], found: &[f32], size: f64) {
        let exact = match step.op {
            StepOp::Input
            | StepOp::Windows { .. }
            | StepOp::AveragePool { .. }
            | StepOp::Relu
            | StepOp::MaxPool
            | StepOp::Dropout { .. } => true,
            StepOp::Conv { .. }
            | StepOp::Linear { .. }
            | StepOp::BatchNorm { .. }
            | StepOp::Lrn
            | StepOp::Loss => false,
        };
        let place = || format!("{}: {what} of step {step:?}", case.name);
        if exact {
            let differs = expected
                .iter()
                .zip(found)
                .position(|(a, b)| a.to_bits() != b.to_bits());
            if let Some(i) = differs {
                panic!(
                    "{}: element {i}: expected {:e}, found {:e}",
                    place(),
                    expected[i],
                    found[i]
                );
            }
            return;
        }
        let pairs = || expected.iter().copied().zip(found.iter().copied());
        let size_of_difference = |pairs: &mut dyn Iterator<Item = (f32, f32)>| {
            norm(&pairs.map(|(a, b)| a - b).collect::<Vec<_>>())
        };
        let apart = |(a, b): &(f32, f32)| self.is_bf16 && are_neighbours(*a, *b);
        let norm = norm(expected);
        let (bound, always) = ROUNDED_APART;
        let rounding = size_of_difference(&mut pairs().filter(apart));
        assert!(
            rounding <= bound * norm + CANCELLATION * size || pairs().filter(apart).count() <= always,
            "{}: elements round apart by {rounding:e} of norm {norm:e}",
            place()
        );
        let error = size_of_difference(&mut pairs().filter(|pair| !apart(pair)));
        let allowed = TOLERANCE * norm + CANCELLATION * size;
        assert!(
            error <= allowed,
            "{}: error {error:e} of norm {norm:e}, allowed {allowed:e}",
            place()
        );
    }
}

/// Whether they are bf16 numbers between which there is no other.
fn are_neighbours(a: f32, b: f32) -> bool {
    let (a, b) = (a.to_bits(), b.to_bits());
    a & 0xffff == 0 && b & 0xffff == 0 && a.abs_diff(b) == 1 << 16
}

fn check_outcomes<B: Raw>(case: &Case, expected: &Rig<Reference<f32>>, found: &Rig<B>) {
    let ((losses, ranks), (own_losses, own_ranks)) = (expected.outcomes(), found.outcomes());
    assert_eq!(ranks, own_ranks, "{}", case.name);
    for (loss, own) in losses.iter().zip(&own_losses) {
        let allowed = TOLERANCE as f32 * loss.abs().max(1.0);
        assert!(
            (loss - own).abs() <= allowed,
            "{}: loss {loss}, found {own}",
            case.name
        );
    }
}

fn norm(values: &[f32]) -> f64 {
    values
        .iter()
        .map(|&x| f64::from(x) * f64::from(x))
        .sum::<f64>()
        .sqrt()
}
