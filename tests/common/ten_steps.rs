//! Ten steps of training on two back ends, each from the first one's weights.

use std::collections::BTreeMap;
use std::ops::Range;

use verydeep::backend::{State, Tensor};
use verydeep::plan::{Mode, Pass, StepOp, StepParams, UpdateRule};

use super::cases::networks;
use super::rig::{Raw, Rig};
use super::{Case, Draw, Images};

/// How far apart two back ends may be, in a whole micro-batch (DESIGN.md section 9).
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    /// Of the loss, relative.
    loss: f64,
    /// Of the gradient of every layer, relative to its norm.
    gradient: f64,
    /// In how many of the ten steps the gradient of a layer must keep to that.
    share: f64,
    /// A number that rounds apart may decide which way a ReLU or a maximum goes, and then much more differs than was
    /// rounded. In such a step the second back end's gradients are held to those of weights that only rounding tells from
    /// the step's own; of so many, one must have them.
    neighbours: usize,
    /// Whether finished inputs are equal to the bit.
    same_inputs: bool,
}

pub(crate) const FP32: Bounds = Bounds {
    loss: 1e-5,
    gradient: 1e-4,
    share: 1.0,
    neighbours: 64,
    same_inputs: true,
};

/// Against a reference with the same roundings. A layer that is computed wrongly is far in all ten steps.
pub(crate) const BF16: Bounds = Bounds {
    loss: 5e-2,
    gradient: 1e-4,
    share: 0.5,
    neighbours: 0,
    same_inputs: true,
};

/// Only the loss: gradients of networks as small as these differ by 4 to 50 % of their norm between fp32 and bf16,
/// whoever computes them; the device's are the reference's (`BF16`).
pub(crate) const BF16_AGAINST_FP32: Bounds = Bounds {
    loss: 5e-2,
    gradient: f64::INFINITY,
    share: 1.0,
    neighbours: 0,
    same_inputs: false,
};

/// Every kind of network of the paper, small, with dropout.
pub(crate) fn agree<A: Raw, B: Raw>(first: &A, second: &B, bounds: Bounds) {
    let mut draw = Draw::new();
    for case in networks(1.0 / 16.0, Mode::Training) {
        train(&mut draw, &case, first, second, bounds);
    }
}

fn train<A: Raw, B: Raw>(draw: &mut Draw, case: &Case, first: &A, second: &B, bounds: Bounds) {
    let rule = UpdateRule {
        momentum: 0.9,
        weight_decay: 5e-4,
        bias_decay: 1.0,
        bias_lr: 1.0,
        batch: case.batch,
        micro_batches: 1,
    };
    let mut params = StepParams {
        seed: draw.bits(),
        step: 0,
        position: 0,
        learning_rate: 1e-3,
    };
    let mut first = Rig::new(first, first, case, params);
    let mut second = Rig::new(second, second, case, params);
    let mut weights = draw.parameters(&case.network);
    first.set_weights(&weights);
    let mut gradients: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut momentum = first.backend.allocate_parameters(weights.len()).unwrap();
    for step in 0..10 {
        params.step = step;
        params.position = step * case.batch as u64;
        (first.params, second.params) = (params, params);
        second.set_weights(&weights);
        let images = Images::new(draw, case);
        let what = format!("{}, step {step}", case.name);
        let dropouts = (forward(&mut first, &images), forward(&mut second, &images));
        same_masks(&what, &dropouts.0, &dropouts.1);
        compare_values(&what, &first, &second, bounds);
        first.walk(first.plan.steps.len()..first.plan.passes(), &images);
        second.walk(second.plan.steps.len()..second.plan.passes(), &images);
        let wanted = second.gradients();
        let mut errors = errors_between(&first.gradients(), &wanted);
        if worst(&errors) > bounds.gradient
            && let Some(near) = errors_of_neighbours(draw, &mut first, &weights, &images, &wanted, bounds)
        {
            errors = near;
        }
        for (bucket, error) in first.plan.buckets.iter().zip(errors) {
            let layer = first.plan.steps[bucket.step].name.clone();
            gradients.entry(layer).or_default().push(error);
        }
        for parameter in 0..first.plan.parameters.len() {
            let state = State {
                weights: &mut first.weights,
                momentum: &mut momentum,
                gradient: &first.gradient,
            };
            first
                .backend
                .update(&first.plan, parameter, &rule, &params, state)
                .unwrap();
        }
        first
            .backend
            .read_parameters(&first.weights, 0, &mut weights)
            .unwrap();
    }
    for (layer, errors) in gradients {
        let near = errors.iter().filter(|error| **error <= bounds.gradient).count();
        assert!(
            near as f64 >= bounds.share * errors.len() as f64,
            "{}: gradients of {layer} differ by {errors:?} of their norm",
            case.name
        );
    }
}

/// After the forward passes: inputs and losses.
fn compare_values<A: Raw, B: Raw>(what: &str, first: &Rig<A>, second: &Rig<B>, bounds: Bounds) {
    if bounds.same_inputs {
        let inputs = (first.get(0, Tensor::Value), second.get(0, Tensor::Value));
        assert!(inputs.0 == inputs.1, "{what}: inputs differ");
    }
    let loss = |losses: Vec<f32>| losses.into_iter().map(f64::from).sum::<f64>();
    let losses = (loss(first.outcomes().0), loss(second.outcomes().0));
    assert!(
        (losses.0 - losses.1).abs() <= bounds.loss * losses.0,
        "{what}: losses {losses:?}"
    );
}

/// The gradients of a step, layer by layer. Of a layer as a whole: the gradient of a bias before batch norm is 0, and what
/// is computed of it is rounding.
type Gradients = Vec<Vec<f32>>;

impl<B: Raw> Rig<'_, B> {
    fn gradients(&self) -> Gradients {
        let of = |parameters: &Range<usize>| parameters.clone().flat_map(|i| self.parameter_gradient(i));
        let buckets = self.plan.buckets.iter();
        buckets.map(|bucket| of(&bucket.parameters).collect()).collect()
    }
}

/// How far apart the gradients of every layer are, relative to their norm.
fn errors_between(first: &Gradients, second: &Gradients) -> Vec<f64> {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let layers = first.iter().zip(second);
    layers
        .map(|(a, b)| {
            let differences = a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b));
            match norm(&mut { differences }) {
                // Also where both are zero, as they are when no unit of a layer is active.
                0.0 => 0.0,
                difference => difference / norm(&mut a.iter().map(|x| f64::from(*x))),
            }
        })
        .collect()
}

fn worst(errors: &[f64]) -> f64 {
    errors.iter().copied().fold(0.0, f64::max)
}

/// How far from `wanted` the gradients of weights are that differ from `weights` by a part in a million, for the first of
/// them that keeps to the bounds. Leaves `rig` as it was.
fn errors_of_neighbours<B: Raw>(
    draw: &mut Draw,
    rig: &mut Rig<B>,
    weights: &[f32],
    images: &Images,
    wanted: &Gradients,
    bounds: Bounds,
) -> Option<Vec<f64>> {
    let step = |rig: &mut Rig<B>, weights: &[f32]| {
        rig.set_weights(weights);
        rig.walk(0..rig.plan.passes(), images);
    };
    let found = (0..bounds.neighbours).find_map(|_| {
        let nudges = draw.normals(weights.len());
        let nudged = weights.iter().zip(nudges);
        let nudged: Vec<f32> = nudged.map(|(w, nudge)| w * (1.0 + 1e-6 * nudge as f32)).collect();
        step(rig, &nudged);
        let errors = errors_between(&rig.gradients(), wanted);
        (worst(&errors) <= bounds.gradient).then_some(errors)
    });
    step(rig, weights);
    found
}

/// What comes into a dropout, and what comes out.
type Dropped = [Vec<f32>; 2];

/// The forward passes, and every dropout among them: later passes reuse the memory.
fn forward<B: Raw>(rig: &mut Rig<B>, images: &Images) -> Vec<Dropped> {
    let mut dropouts = Vec::new();
    for step in 0..rig.plan.steps.len() {
        rig.run(step, Pass::Forward, images);
        if let StepOp::Dropout { .. } = rig.plan.steps[step].op {
            dropouts.push([rig.get(step - 1, Tensor::Value), rig.get(step, Tensor::Value)]);
        }
    }
    dropouts
}

/// Every dropout drops the same elements; where either back end has a 0 before it, nobody can tell.
fn same_masks(what: &str, first: &[Dropped], second: &[Dropped]) {
    assert_eq!(first.len(), second.len(), "{what}: dropouts");
    for ([x, y], [other_x, other_y]) in first.iter().zip(second) {
        let told = (0..x.len()).filter(|&i| x[i] != 0.0 && other_x[i] != 0.0);
        for i in told {
            assert_eq!(y[i] == 0.0, other_y[i] == 0.0, "{what}: mask of element {i}");
        }
    }
}
