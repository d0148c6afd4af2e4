//! What is fixed to the bit, against its formula: inputs, masks, ties, the update rule, the tree, folds, errors.

use verydeep::Error;
use verydeep::backend::reference::Reference;
use verydeep::backend::{Memory, State, Tensor, fold_element};
use verydeep::data::preprocess::Flip;
use verydeep::network::{Op, Role, batch_norm};
use verydeep::plan::{Mode, Pass, StepParams, UpdateRule};
use verydeep::rng::{Purpose, Stream};
use verydeep::shape::Chw;

use super::cases::{Tail, around, networks, preprocess};
use super::draw::singles;
use super::rig::{Raw, Rig, step_params};
use super::{Case, Draw, Images};

/// Index of the operation under test of [`around`], where nothing is fused.
const OP: usize = 3;

/// One unfused operation on `x`: its value and, for a value gradient of `dy`, its data gradient.
pub(crate) fn one_operation<B: Raw>(
    backend: &B,
    case: &Case,
    params: StepParams,
    x: &[f32],
    dy: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let mut draw = Draw::new();
    let images = Images::new(&mut draw, case);
    let mut rig = Rig::new(backend, &Reference::<f32>::new(), case, params);
    rig.set_weights(&draw.parameters(&case.network));
    rig.set(OP - 1, Tensor::Value, x);
    rig.run(OP, Pass::Forward, &images);
    let value = rig.get(OP, Tensor::Value);
    rig.set(OP, Tensor::Gradient, dy);
    rig.run(OP, Pass::Backward, &images);
    (value, rig.get(OP - 1, Tensor::Gradient))
}

/// `fma(pixel + colour, scale, shift)`, mirrored columns, channels apart.
pub(crate) fn inputs<B: Raw>(backend: &B) {
    let mut draw = Draw::new();
    for side in [1, 3, 16, 37] {
        let case = around(
            Op::Relu,
            1,
            Chw::new(2, side, side),
            Tail::Nothing,
            3,
            Mode::Training,
        );
        let images = Images::new(&mut draw, &case);
        let mut rig = Rig::new(backend, backend, &case, step_params(&mut draw));
        rig.run(0, Pass::Forward, &images);
        let (found, batch, preprocess) = (rig.get(0, Tensor::Value), images.batch(), preprocess());
        for (i, found) in found.iter().enumerate() {
            let (n, c, row, column) = (
                i / (3 * side * side),
                i / (side * side) % 3,
                i / side % side,
                i % side,
            );
            let source = if batch.flips[n] == Flip::Mirror {
                side - 1 - column
            } else {
                column
            };
            let rgb = 2 - c; // the preprocessing of the tests is BGR
            let pixel = f32::from(batch.pixels[((n * side + row) * side + source) * 3 + rgb]);
            let sum = pixel + batch.colours[n][rgb];
            let expected = sum.mul_add(preprocess.scale[c], preprocess.shift[c]);
            assert_eq!(
                found.to_bits(),
                expected.to_bits(),
                "element {i} of 3 x 3x{side}x{side}"
            );
        }
    }
}

/// NaN passes, -0 stays, the gradient passes where the value is positive.
pub(crate) fn relu<B: Raw>(backend: &B) {
    let case = around(Op::Relu, 1, Chw::new(5, 1, 1), Tail::Nothing, 1, Mode::Training);
    let params = step_params(&mut Draw::new());
    let x = [-1.0, 2.0, f32::NAN, 0.0, f32::INFINITY];
    let (value, dx) = one_operation(backend, &case, params, &x, &[1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(value[..2], [0.0, 2.0]);
    assert!(value[2].is_nan(), "max(NaN, 0) is {}", value[2]);
    assert_eq!(value[3..], [0.0, f32::INFINITY]);
    assert_eq!((dx[0], dx[1], dx[3], dx[4]), (0.0, 2.0, 0.0, 5.0));
}

/// Among equals the first in row-major order gets the gradient; an odd last row and column get none.
pub(crate) fn max_pool_ties<B: Raw>(backend: &B) {
    let case = around(
        Op::MaxPool,
        1,
        Chw::new(1, 3, 5),
        Tail::Nothing,
        1,
        Mode::Training,
    );
    let params = step_params(&mut Draw::new());
    #[rustfmt::skip]
    let x = [
        1.0, 1.0, 0.0, 2.0, 9.0,
        1.0, 1.0, 2.0, 2.0, 9.0,
        9.0, 9.0, 9.0, 9.0, 9.0,
    ];
    let (value, dx) = one_operation(backend, &case, params, &x, &[3.0, 4.0]);
    assert_eq!(value, [1.0, 2.0]);
    let mut expected = [0.0; 15];
    (expected[0], expected[3]) = (3.0, 4.0);
    assert_eq!(dx, expected);
    let nan = [f32::NAN; 15];
    let (value, _) = one_operation(backend, &case, params, &nan, &[3.0, 4.0]);
    assert!(value.iter().all(|y| y.is_nan()), "maximum of NaN is {value:?}");
}

/// The mask is drawn from (seed, position + n, layer, channel-major element); kept values are scaled.
pub(crate) fn dropout<B: Raw>(backend: &B) {
    let mut draw = Draw::new();
    for (p, shape) in [
        (0.5, Chw::new(7, 3, 3)),
        (0.3, Chw::new(129, 1, 1)),
        (0.0, Chw::new(5, 1, 2)),
    ] {
        let case = around(Op::Dropout { p }, 1, shape, Tail::Nothing, 3, Mode::Training);
        let params = step_params(&mut draw);
        let x = singles(&draw.normals(3 * shape.len()));
        let dy = singles(&draw.normals(3 * shape.len()));
        let (value, dx) = one_operation(backend, &case, params, &x, &dy);
        let threshold = (f64::from(p) * 2f64.powi(32)) as u32;
        for i in 0..x.len() {
            let (n, element) = (i / shape.len(), i % shape.len());
            // Layers: front, its ReLU, and the dropout, which is the third.
            let stream = Stream::new(params.seed, params.position + n as u64, Purpose::Dropout, 2);
            let dropped = stream.block((element / 4) as u32)[element % 4] < threshold;
            let expected = |from: f32| if dropped { 0.0 } else { from * (1.0 / (1.0 - p)) };
            assert_eq!(
                value[i].to_bits(),
                expected(x[i]).to_bits(),
                "p = {p}, element {i}"
            );
            assert_eq!(
                dx[i].to_bits(),
                expected(dy[i]).to_bits(),
                "p = {p}, gradient of {i}"
            );
        }
    }
}

/// Ties count the lower index first, NaN ranks the true class last; nothing overflows.
pub(crate) fn ranks_and_losses<B: Raw>(backend: &B) {
    let draw = &mut Draw::new();
    let case = around(Op::Relu, 1, Chw::new(4, 1, 1), Tail::Nothing, 6, Mode::Training);
    let mut rig = Rig::new(backend, &Reference::<f32>::new(), &case, step_params(draw));
    let mut images = Images::new(draw, &case);
    images.labels = vec![2, 1, 0, 3, 0, 3];
    #[rustfmt::skip]
    let scores = [
        1.0, 3.0, 3.0, 2.0,
        1.0, 3.0, 3.0, 2.0,
        f32::NAN, 3.0, 3.0, 2.0,
        5.0, 6.0, 7.0, -1.0,
        1e38, -1e38, 0.0, 0.0,
        -200.0, -200.0, -200.0, -200.0,
    ];
    rig.set(OP, Tensor::Value, &scores);
    rig.run(OP + 1, Pass::Forward, &images);
    let (losses, ranks) = rig.outcomes();
    assert_eq!(ranks, [1, 0, 3, 3, 0, 3]);
    assert!(losses[2].is_nan(), "a NaN score gives the loss {}", losses[2]);
    assert_eq!(losses[4], 0.0);
    let chance = 4f32.ln();
    assert!(
        (losses[5] - chance).abs() < 1e-6,
        "{} instead of {chance}",
        losses[5]
    );
}

/// A label that names no class is an error of the data, and nothing has been written.
pub(crate) fn impossible_labels<B: Raw>(backend: &B) {
    let draw = &mut Draw::new();
    let case = around(Op::Relu, 1, Chw::new(4, 1, 1), Tail::Nothing, 3, Mode::Training);
    let mut rig = Rig::new(backend, backend, &case, step_params(draw));
    let mut images = Images::new(draw, &case);
    images.labels[2] = 4;
    let before = backend.bytes(&rig.arena);
    let memory = Memory {
        arena: &mut rig.arena,
        weights: &rig.weights,
        gradient: &mut rig.gradient,
        batch: images.batch(),
    };
    let loss = rig.plan.steps.len() - 1;
    let error = backend
        .run(&rig.plan, loss, Pass::Forward, memory, &rig.params)
        .unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    assert!(before == backend.bytes(&rig.arena), "the arena changed");
}

/// Mean and unbiased variance of the micro-batch, in the leaf; of a single element its own variance, 0.
pub(crate) fn statistics<B: Raw>(backend: &B) {
    let draw = &mut Draw::new();
    for (batch, shape) in [(1, Chw::new(3, 1, 1)), (3, Chw::new(17, 2, 3))] {
        let case = around(Op::BatchNorm, 1, shape, Tail::Nothing, batch, Mode::Training);
        let mut rig = Rig::new(backend, &Reference::<f32>::new(), &case, step_params(draw));
        let images = Images::new(draw, &case);
        rig.set_weights(&draw.parameters(&case.network));
        let x = singles(&draw.normals(rig.len(OP)));
        rig.set(OP - 1, Tensor::Value, &x);
        rig.run(OP, Pass::Forward, &images);
        rig.run(OP, Pass::Backward, &images);
        let arrays = rig.plan.steps[OP].parameters.clone();
        let means = rig.parameter_gradient(arrays.start + 2);
        let variances = rig.parameter_gradient(arrays.start + 3);
        for c in 0..shape.c {
            let of_channel = |i: &usize| i / shape.plane() % shape.c == c;
            let values: Vec<f64> = (0..x.len()).filter(of_channel).map(|i| x[i].into()).collect();
            let count = values.len() as f64;
            let mean = values.iter().sum::<f64>() / count;
            let squares: f64 = values.iter().map(|x| (x - mean) * (x - mean)).sum();
            let variance = squares / (count - 1.0).max(1.0);
            assert!((f64::from(means[c]) - mean).abs() < 1e-6, "mean of channel {c}");
            assert!(
                (f64::from(variances[c]) - variance).abs() < 1e-5,
                "variance of channel {c}"
            );
        }
    }
}

/// The update rule, array by array, to the bit; nothing outside the array changes.
pub(crate) fn update<B: Raw>(backend: &B) {
    let mut draw = Draw::new();
    let case = networks(1.0 / 16.0, Mode::Training).pop().unwrap(); // with batch norm: every role
    let params = StepParams {
        learning_rate: 0.013,
        ..step_params(&mut draw)
    };
    let rule = UpdateRule {
        momentum: 0.9,
        weight_decay: 5e-4,
        bias_decay: 0.5,
        bias_lr: 2.0,
        batch: 48,
        micro_batches: 3,
    };
    let rig = Rig::new(backend, backend, &case, params);
    let length = rig.plan.flat_len;
    let filled = |values: &[f32]| {
        let mut buffer = backend.allocate_parameters(length).unwrap();
        backend.write_parameters(&mut buffer, 0, values).unwrap();
        buffer
    };
    let [weights, momentum, gradient] = [0; 3].map(|_| singles(&draw.normals(length)));
    for (index, parameter) in rig.plan.parameters.iter().enumerate() {
        let (mut new_weights, mut new_momentum) = (filled(&weights), filled(&momentum));
        let state = State {
            weights: &mut new_weights,
            momentum: &mut new_momentum,
            gradient: &filled(&gradient),
        };
        backend.update(&rig.plan, index, &rule, &params, state).unwrap();

        let (mut expected_weights, mut expected_momentum) = (weights.clone(), momentum.clone());
        for i in parameter.range() {
            let (w, v, g) = (weights[i], momentum[i], gradient[i]);
            let (rate, decay) = match parameter.role {
                Role::Weight | Role::Scale => (0.013, 5e-4),
                Role::Bias | Role::Shift => (0.013 * 2.0, 5e-4 * 0.5),
                Role::RunningMean | Role::RunningVariance => {
                    expected_weights[i] = batch_norm::MOMENTUM.mul_add(g / 3.0 - w, w);
                    continue;
                }
            };
            let t = f32::mul_add(decay, w, g / 48.0);
            expected_momentum[i] = 0.9f32.mul_add(v, -(rate * t));
            expected_weights[i] = w + expected_momentum[i];
        }
        for (buffer, expected) in [
            (&new_weights, expected_weights),
            (&new_momentum, expected_momentum),
        ] {
            let same = backend.bytes(buffer) == backend.bytes(&filled(&expected));
            assert!(same, "update of {}", parameter.name);
        }
    }
}

/// `s[0] + (s[1] + (... + s[k]))` within the range, untouched outside of it.
pub(crate) fn tree_add<B: Raw>(backend: &B) {
    let mut draw = Draw::new();
    for slots in 1..=7 {
        let length = 16 * draw.integer(1..=40);
        let values: Vec<Vec<f32>> = (0..slots).map(|_| singles(&draw.normals(length))).collect();
        let mut buffers: Vec<B::Buffer> = Vec::new();
        for values in &values {
            let mut buffer = backend.allocate_parameters(length).unwrap();
            backend.write_parameters(&mut buffer, 0, values).unwrap();
            buffers.push(buffer);
        }
        let start = draw.integer(0..=length - 1);
        let range = start..draw.integer(start..=length);
        backend.tree_add(&mut buffers, range.clone()).unwrap();
        let mut found = vec![0.0; length];
        backend.read_parameters(&buffers[0], 0, &mut found).unwrap();
        for i in 0..length {
            let mut sum = values[slots - 1][i];
            for slot in (0..slots - 1).rev() {
                sum += values[slot][i];
            }
            let expected = if range.contains(&i) { sum } else { values[0][i] };
            assert_eq!(
                found[i].to_bits(),
                expected.to_bits(),
                "element {i}, {slots} slots, {range:?}"
            );
        }
    }
}

/// Flat vectors: what is written is read, folded and searched for values that are not finite.
pub(crate) fn flat_vectors<B: Raw>(backend: &B) {
    let mut draw = Draw::new();
    let length = 16 * draw.integer(4..=300);
    let mut buffer = backend.allocate_parameters(length).unwrap();
    let mut found = vec![1.0; length];
    backend.read_parameters(&buffer, 0, &mut found).unwrap();
    assert!(found.iter().all(|&x| x == 0.0), "a new vector is zero");

    let start = draw.integer(0..=length - 2);
    let values = singles(&draw.normals(length - start));
    backend.write_parameters(&mut buffer, start, &values).unwrap();
    backend.read_parameters(&buffer, 0, &mut found).unwrap();
    assert!(found[..start].iter().all(|&x| x == 0.0));
    assert_eq!(found[start..], values);

    let range = start..draw.integer(start + 1..=length);
    let elements = found[range.clone()].iter().enumerate();
    let expected = elements
        .map(|(i, &x)| fold_element(i, x))
        .fold(0, u64::wrapping_add);
    assert_eq!(backend.fold_parameters(&buffer, range.clone()).unwrap(), expected);

    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let at = draw.integer(range.start..=range.end - 1);
        let right = found[at];
        backend.write_parameters(&mut buffer, at, &[wrong]).unwrap();
        assert!(
            !backend.is_finite(&buffer, range.clone()).unwrap(),
            "{wrong} at {at}"
        );
        assert!(backend.is_finite(&buffer, 0..at).unwrap());
        assert!(backend.is_finite(&buffer, at + 1..length).unwrap());
        backend.write_parameters(&mut buffer, at, &[right]).unwrap();
    }
    assert!(backend.is_finite(&buffer, 0..length).unwrap());
    // Found by many at once.
    let all = vec![f32::NAN; length];
    backend.write_parameters(&mut buffer, 0, &all).unwrap();
    assert!(!backend.is_finite(&buffer, 0..length).unwrap());
}

/// Two back ends give the same bits in a whole training micro-batch: every value, gradient, loss and rank.
pub(crate) fn same_bits<A: Raw, B: Raw>(a: &A, b: &B) {
    let mut draw = Draw::new();
    for case in networks(1.0 / 8.0, Mode::Training) {
        let (params, images) = (step_params(&mut draw), Images::new(&mut draw, &case));
        let weights = draw.parameters(&case.network);
        let input = singles(&draw.normals(case.batch * case.network.input.len()));
        let first = folds(a, &case, params, &images, &weights, &input);
        let second = folds(b, &case, params, &images, &weights, &input);
        for (first, second) in first.iter().zip(&second) {
            assert_eq!(first, second, "{}", case.name);
        }
    }
}

/// Every pass of a training micro-batch, with the fold of what it wrote.
fn folds<B: Raw>(
    backend: &B,
    case: &Case,
    params: StepParams,
    images: &Images,
    weights: &[f32],
    input: &[f32],
) -> Vec<(String, u64)> {
    let mut rig = Rig::new(backend, backend, case, params);
    rig.set_weights(weights);
    let schedule: Vec<(usize, Pass)> = rig.plan.schedule().collect();
    let mut folds = Vec::new();
    for (step, pass) in schedule {
        rig.run(step, pass, images);
        let name = format!("{pass:?} of {}", rig.plan.steps[step].name);
        let (written, tensor) = match pass {
            Pass::Forward => (step, Tensor::Value),
            Pass::Backward => (step - 1, Tensor::Gradient),
        };
        if written > 0 || pass == Pass::Forward {
            let fold = backend
                .fold_tensor(&rig.plan, written, tensor, &rig.arena)
                .unwrap();
            folds.push((name, fold));
        }
        if step == 0 {
            rig.set(0, Tensor::Value, input);
        }
    }
    let leaf = backend
        .fold_parameters(&rig.gradient, 0..rig.plan.flat_len)
        .unwrap();
    folds.push(("leaf".into(), leaf));
    let (losses, ranks) = rig.outcomes();
    let outcomes = losses.iter().zip(&ranks).enumerate();
    folds.extend(outcomes.map(|(n, (loss, rank))| {
        (
            format!("loss and rank of sample {n}"),
            u64::from(loss.to_bits()) << 32 | u64::from(*rank),
        )
    }));
    folds
}
