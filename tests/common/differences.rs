//! Gradients of the f64 reference against finite differences.

use verydeep::backend::Tensor;
use verydeep::backend::reference::Reference;
use verydeep::plan::{DataGradient, Mode, Pass, Plan, StepOp, ValueGradient};

use super::rig::{Rig, step_params};
use super::{Case, Draw, Images, cases};

/// Relative error allowed (DESIGN.md section 9).
const TOLERANCE: f64 = 1e-6;

/// Step sizes for one operation, whose input keeps away from kinks. A wrong gradient agrees at none of them.
const STEPS: [f64; 3] = [1e-3, 1e-4, 1e-5];

/// Step sizes for a whole network, which has kinks anywhere.
const SMALL_STEPS: [f64; 4] = [1e-4, 1e-5, 1e-6, 1e-7];

type Judge<'a> = Rig<'a, Reference<f64>>;

/// Every operation and pass, alone and fused, on random small shapes: every single derivative.
pub(crate) fn of_every_operation() {
    let mut draw = Draw::new();
    for case in cases::operations(&mut draw, 5, Mode::Training) {
        for reference in [Reference::new(), Reference::fused()] {
            let mut rig = Rig::new(&reference, &reference, &case, step_params(&mut draw));
            let images = Images::new(&mut draw, &case);
            for step in 1..rig.plan.steps.len() {
                let what = format!("{}: step {:?}", case.name, rig.plan.steps[step]);
                once_of_three(&what, || one_step(&mut draw, &mut rig, step, &images, &case));
            }
        }
    }
}

/// Whole small networks with dropout: for every array of parameters, the derivative in a random direction.
pub(crate) fn of_whole_networks() {
    let mut draw = Draw::new();
    for case in cases::networks(1.0 / 32.0, Mode::Training) {
        for reference in [Reference::new(), Reference::fused()] {
            let mut rig = Rig::new(&reference, &reference, &case, step_params(&mut draw));
            let images = Images::new(&mut draw, &case);
            once_of_three(&case.name, || whole_network(&mut draw, &mut rig, &images, &case));
        }
    }
}

/// A kink may lie next to the numbers of one attempt; a wrong gradient is wrong at all of them.
fn once_of_three(what: &str, mut attempt: impl FnMut() -> Result<(), String>) {
    let failures: Vec<String> = (0..3).map_while(|_| attempt().err()).collect();
    assert!(failures.len() < 3, "{what}: {failures:#?}");
}

/// Every single derivative at random numbers; else which gradient disagrees, and by how much.
fn one_step(
    draw: &mut Draw,
    rig: &mut Judge,
    step: usize,
    images: &Images,
    case: &Case,
) -> Result<(), String> {
    let planned = rig.plan.steps[step].clone();
    let x: Vec<f64> = draw
        .apart(rig.len(step - 1))
        .iter()
        .map(|x| x * case.scale)
        .collect();
    let weights: Vec<f64> = draw.parameters(&case.network).iter().map(|&w| w.into()).collect();
    rig.weights.copy_from_slice(&weights);

    // The objective: the sum of the losses, or the value's product with random factors.
    let mut factors = draw.normals(rig.len(step));
    write(rig, step - 1, Tensor::Value, &x);
    rig.run(step, Pass::Forward, images);
    if planned.value_gradient == ValueGradient::Masked {
        for (factor, y) in factors.iter_mut().zip(read(rig, step, Tensor::Value)) {
            *factor = if y > 0.0 { *factor } else { 0.0 };
        }
    }
    if planned.op != StepOp::Loss {
        write(rig, step, Tensor::Gradient, &factors);
    }
    rig.run(step, Pass::Backward, images);
    let dx = (planned.data_gradient != DataGradient::None).then(|| read(rig, step - 1, Tensor::Gradient));
    let gradient = rig.gradient.clone();

    let objective = |rig: &mut Judge, x: &[f64], weights: &[f64]| -> f64 {
        write(rig, step - 1, Tensor::Value, x);
        rig.weights.copy_from_slice(weights);
        rig.run(step, Pass::Forward, images);
        match planned.op {
            StepOp::Loss => losses(rig).iter().sum(),
            _ => dot(&factors, &read(rig, step, Tensor::Value)),
        }
    };
    if let Some(dx) = dx {
        compare("the input", &dx, &STEPS, 1e-10, |h| {
            let numeric = (0..x.len()).map(|i| {
                let masked = planned.data_gradient == DataGradient::Masked && x[i] <= 0.0;
                if masked {
                    0.0
                } else {
                    difference(h, |t| objective(rig, &moved(&x, i, t), &weights))
                }
            });
            numeric.collect()
        })?;
    }
    for parameter in rig.plan.parameters_of(step).to_vec() {
        if !parameter.role.is_learned() {
            continue;
        }
        compare(
            &parameter.name,
            &gradient[parameter.range()],
            &STEPS,
            1e-10,
            |h| {
                let numeric = parameter
                    .range()
                    .map(|i| difference(h, |t| objective(rig, &x, &moved(&weights, i, t))));
                numeric.collect()
            },
        )?;
    }
    Ok(())
}

/// Every array's derivative at random weights; else the name of the first that disagrees, and by how much.
fn whole_network(draw: &mut Draw, rig: &mut Judge, images: &Images, case: &Case) -> Result<(), String> {
    let input = draw.normals(rig.len(0));
    let weights: Vec<f64> = draw.parameters(&case.network).iter().map(|&w| w.into()).collect();
    let forward = |rig: &mut Judge, weights: &[f64]| -> f64 {
        rig.weights.copy_from_slice(weights);
        write(rig, 0, Tensor::Value, &input);
        for step in 1..rig.plan.steps.len() {
            rig.run(step, Pass::Forward, images);
        }
        losses(rig).iter().sum()
    };
    forward(rig, &weights);
    for step in (1..rig.plan.steps.len()).rev() {
        rig.run(step, Pass::Backward, images);
    }
    let gradient = rig.gradient.clone();
    for parameter in rig.plan.parameters.clone() {
        if !parameter.role.is_learned() {
            continue;
        }
        // A kink may lie within every step of one direction; a wrong gradient is wrong in all directions.
        let mut errors = Vec::new();
        let agrees = (0..3).any(|_| {
            let direction = draw.normals(parameter.len());
            let analytic = dot(&gradient[parameter.range()], &direction);
            let moved = |t: f64| {
                let mut weights = weights.clone();
                for (w, d) in weights[parameter.range()].iter_mut().zip(&direction) {
                    *w += t * d;
                }
                weights
            };
            // A bias before a batch norm has no effect: its derivative is the rounding of what it passes through.
            let numeric = |h: f64| vec![difference(h, |t| forward(rig, &moved(t)))];
            let compared = compare(&parameter.name, &[analytic], &SMALL_STEPS, 1e-8, numeric);
            compared.map_err(|found| errors.push(found)).is_ok()
        });
        if !agrees {
            return Err(errors.join("\n"));
        }
    }
    Ok(())
}

/// Whether the gradient of `what` agrees at one of the steps; else every step with its relative error.
fn compare(
    what: &str,
    analytic: &[f64],
    steps: &[f64],
    floor: f64,
    mut numeric: impl FnMut(f64) -> Vec<f64>,
) -> Result<(), String> {
    let mut errors = Vec::new();
    for &h in steps {
        let numeric = numeric(h);
        let error = norm(
            &numeric
                .iter()
                .zip(analytic)
                .map(|(a, b)| a - b)
                .collect::<Vec<_>>(),
        );
        let size = norm(&numeric).max(norm(analytic));
        if error <= TOLERANCE * size + floor {
            return Ok(());
        }
        errors.push((h, error / size));
    }
    Err(format!("gradient of {what}: (step, relative error) {errors:?}"))
}

/// The derivative at 0, with an error of order h^4.
fn difference(h: f64, mut f: impl FnMut(f64) -> f64) -> f64 {
    let near = f(h) - f(-h);
    let far = f(2.0 * h) - f(-2.0 * h);
    (8.0 * near - far) / (12.0 * h)
}

fn moved(values: &[f64], index: usize, by: f64) -> Vec<f64> {
    let mut values = values.to_vec();
    values[index] += by;
    values
}

fn losses(rig: &Judge) -> Vec<f64> {
    let last = rig.plan.steps.len() - 1;
    let saved = rig.backend.saved(&rig.plan, last, &rig.arena).unwrap();
    saved[..rig.plan.batch].to_vec()
}

fn read(rig: &Judge, step: usize, tensor: Tensor) -> Vec<f64> {
    let values = rig.backend.tensor(&rig.plan, step, tensor, &rig.arena).unwrap();
    values.to_vec()
}

fn write(rig: &mut Judge, step: usize, tensor: Tensor, values: &[f64]) {
    let plan: &Plan = &rig.plan;
    let target = rig
        .backend
        .tensor_mut(plan, step, tensor, &mut rig.arena)
        .unwrap();
    target.copy_from_slice(values);
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(values: &[f64]) -> f64 {
    dot(values, values).sqrt()
}
