//! Two back ends give the same bits in everything that is not a convolution, a matrix product or a sum over rows.

use verydeep::backend::reference::Reference;
use verydeep::backend::{State, Tensor};
use verydeep::network::Op;
use verydeep::plan::{Mode, Pass, StepParams, UpdateRule};
use verydeep::shape::Chw;

use super::cases::{Tail, around, networks};
use super::draw::singles;
use super::exact::one_operation;
use super::rig::{Raw, Rig, step_params};
use super::{Draw, Images};

/// What was computed, by name.
type Results = Vec<(String, Vec<f32>)>;

/// Random cases of ReLU, pooling, LRN, dropout, the loss, finished inputs, the update rule, the tree and folds.
pub(crate) fn to_the_bit<A: Raw, B: Raw>(a: &A, b: &B) {
    let draw = Draw::new();
    // The same numbers for both.
    let (first, second) = (results(a, &mut draw.clone()), results(b, &mut draw.clone()));
    for ((name, first), (_, second)) in first.iter().zip(&second) {
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert!(bits(first) == bits(second), "{name}");
    }
}

fn results<B: Raw>(backend: &B, draw: &mut Draw) -> Results {
    let mut results = operations(backend, draw);
    results.extend(loss_and_input(backend, draw));
    results.extend(flat_vectors(backend, draw));
    results
}

fn operations<B: Raw>(backend: &B, draw: &mut Draw) -> Results {
    let mut results = Vec::new();
    let p = draw.integer(1..=99) as f32 / 100.0;
    for op in [Op::Relu, Op::MaxPool, Op::Lrn, Op::Dropout { p }] {
        let [batch, c, h, w] = [1..=4, 1..=70, 2..=9, 2..=9].map(|range| draw.integer(range));
        let case = around(op, 1, Chw::new(c, h, w), Tail::Nothing, batch, Mode::Training);
        let shrinks = if op == Op::MaxPool { 2 } else { 1 };
        let x: Vec<f64> = draw.normals(batch * c * h * w);
        let x = singles(&x.iter().map(|x| x * case.scale).collect::<Vec<_>>());
        let dy = singles(&draw.normals(batch * c * (h / shrinks) * (w / shrinks)));
        let (y, dx) = one_operation(backend, &case, step_params(draw), &x, &dy);
        results.push((case.name.clone(), y));
        results.push((format!("gradient of {}", case.name), dx));
    }
    results
}

/// Losses, ranks, posteriors and gradient of random scores, and what becomes of random pixels.
fn loss_and_input<B: Raw>(backend: &B, draw: &mut Draw) -> Results {
    let [batch, classes, side] = [1..=5, 1..=1500, 1..=30].map(|range| draw.integer(range));
    let case = |shape| around(Op::Relu, 1, shape, Tail::Nothing, batch, Mode::Training);
    let (loss, pixels) = (case(Chw::new(classes, 1, 1)), case(Chw::new(1, side, side)));
    let mut rig = Rig::new(backend, &Reference::<f32>::new(), &loss, step_params(draw));
    let images = Images::new(draw, &loss);
    let last = rig.plan.steps.len() - 1;
    rig.set(last - 1, Tensor::Value, &singles(&draw.normals(batch * classes)));
    rig.run(last, Pass::Forward, &images);
    rig.run(last, Pass::Backward, &images);
    let (losses, ranks) = rig.outcomes();
    let mut results = vec![
        ("losses".into(), losses),
        (
            "ranks".into(),
            ranks.into_iter().map(|rank| rank as f32).collect(),
        ),
        ("posteriors".into(), rig.get(last, Tensor::Value)),
        ("gradient of the loss".into(), rig.get(last - 1, Tensor::Gradient)),
    ];
    let mut rig = Rig::new(backend, &Reference::<f32>::new(), &pixels, step_params(draw));
    rig.run(0, Pass::Forward, &Images::new(draw, &pixels));
    results.push(("input".into(), rig.get(0, Tensor::Value)));
    results
}

/// One update of every role of parameters, then additions of the tree, then a fold.
fn flat_vectors<B: Raw>(backend: &B, draw: &mut Draw) -> Results {
    let case = networks(1.0 / 16.0, Mode::Training).pop().unwrap(); // with batch norm: every role
    let params = StepParams {
        learning_rate: 0.013,
        ..step_params(draw)
    };
    let rule = UpdateRule {
        momentum: 0.9,
        weight_decay: 5e-4,
        bias_decay: 0.5,
        bias_lr: 2.0,
        batch: 48,
        micro_batches: 3,
    };
    let plan = Rig::new(backend, &Reference::<f32>::new(), &case, params).plan;
    let length = plan.flat_len;
    let [mut weights, mut momentum, gradient] = [0; 3].map(|_| {
        let mut buffer = backend.allocate_parameters(length).unwrap();
        let values = singles(&draw.normals(length));
        backend.write_parameters(&mut buffer, 0, &values).unwrap();
        buffer
    });
    for parameter in 0..plan.parameters.len() {
        let state = State {
            weights: &mut weights,
            momentum: &mut momentum,
            gradient: &gradient,
        };
        backend.update(&plan, parameter, &rule, &params, state).unwrap();
    }
    let mut slots = [weights, momentum, gradient];
    let start = draw.integer(0..=length - 1);
    let mut results = Vec::new();
    for range in [0..0, start..length] {
        backend.tree_add(&mut slots, range.clone()).unwrap();
        for slot in &slots {
            let mut values = vec![0.0; length];
            backend.read_parameters(slot, 0, &mut values).unwrap();
            results.push((format!("a vector after adding {range:?}"), values));
        }
    }
    let fold = backend.fold_parameters(&slots[0], start..length).unwrap();
    let halves = [fold, fold >> 32].map(|half| f32::from_bits(half as u32));
    results.push(("the fold".into(), halves.into()));
    results
}
