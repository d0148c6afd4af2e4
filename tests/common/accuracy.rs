//! How much rounding Winograd's method costs: its error and that of direct sums, against the f64 reference.

use std::io::Write;

use verydeep::backend::Tensor;
use verydeep::backend::cpu::{ConvAlgorithm, Cpu};
use verydeep::backend::reference::Reference;
use verydeep::network::Op;
use verydeep::plan::{Lowering, Mode, Pass};
use verydeep::shape::Chw;

use super::cases::{Tail, around};
use super::draw::singles;
use super::rig::{Raw, Rig, step_params};
use super::{Case, Draw, Images};

/// What an error may be.
struct Bounds {
    /// At most of the norm of what is computed, in every pass.
    of_norm: f64,
    /// At most of the error of direct sums, in the forward pass and in a filter gradient that sums over [`LONG`] pixels.
    /// Shorter sums are nearly exact when they are summed directly.
    of_direct: f64,
}

const WINOGRAD4: Bounds = Bounds {
    of_norm: 3e-6,
    of_direct: 3.0,
};
const WINOGRAD2: Bounds = Bounds {
    of_norm: 1e-6,
    of_direct: 2.0,
};
const LONG: usize = 500;

/// y, dx and dw of the convolution under test, which is step 2.
type Results = [Vec<f32>; 3];

/// Prints a table and fails where an error is too large.
pub(crate) fn of_winograd() {
    let mut draw = Draw::new();
    let mut table =
        String::from("layer: error of winograd4 / winograd2 / direct sums, of the norm: y, dx, dw\n");
    let mut failures = 0;
    for (inputs, outputs, (h, w), batch) in [
        (16, 16, (17, 19), 2),
        (64, 64, (28, 28), 1),
        (70, 33, (9, 5), 3),
        (128, 128, (14, 14), 4),
        (512, 256, (7, 7), 1),
    ] {
        let shape = Chw::new(inputs, h, w);
        let case = around(
            Op::Conv { kernel: 3 },
            outputs,
            shape,
            Tail::Nothing,
            batch,
            Mode::Training,
        );
        let numbers = Numbers::new(&mut draw, &case, batch * shape.len(), batch * outputs * h * w);
        let cpus = [
            ConvAlgorithm::Winograd4,
            ConvAlgorithm::Winograd2,
            ConvAlgorithm::Direct,
        ]
        .map(|algorithm| Cpu::new(2).unwrap().with_convolution(algorithm));
        let expected = numbers.run(&Reference::<f64>::new(), &cpus[0], &case);
        let [four, two, direct] = cpus
            .each_ref()
            .map(|cpu| errors(&numbers.run(cpu, &cpus[0], &case), &expected));
        table += &format!("{batch} x {shape} to {outputs}:");
        for pass in 0..3 {
            table += &format!(" {:.1e} / {:.1e} / {:.1e}", four[pass], two[pass], direct[pass]);
            let long = [true, false, batch * h * w >= LONG][pass];
            let too_large = [(four, WINOGRAD4), (two, WINOGRAD2)]
                .iter()
                .any(|(errors, bounds)| {
                    errors[pass] > bounds.of_norm || long && errors[pass] > bounds.of_direct * direct[pass]
                });
            failures += usize::from(too_large);
            table += if too_large { " (!)" } else { "" };
        }
        table += "\n";
    }
    assert!(failures == 0, "{table}");
    std::io::stderr().write_all(table.as_bytes()).unwrap();
}

/// What goes into the convolution.
struct Numbers {
    draw: Draw,
    weights: Vec<f32>,
    x: Vec<f32>,
    dy: Vec<f32>,
}

impl Numbers {
    fn new(draw: &mut Draw, case: &Case, x: usize, dy: usize) -> Self {
        Self {
            weights: draw.parameters(&case.network),
            x: singles(&draw.normals(x)),
            dy: singles(&draw.normals(dy)),
            draw: draw.clone(),
        }
    }

    fn run<B: Raw>(&self, backend: &B, choices: &dyn Lowering, case: &Case) -> Results {
        const CONV: usize = 2;
        let mut draw = self.draw.clone();
        let params = step_params(&mut draw);
        let images = Images::new(&mut draw, case);
        let mut rig = Rig::new(backend, choices, case, params);
        rig.set_weights(&self.weights);
        rig.set(CONV - 1, Tensor::Value, &self.x);
        rig.run(CONV, Pass::Forward, &images);
        let y = rig.get(CONV, Tensor::Value);
        rig.set(CONV, Tensor::Gradient, &self.dy);
        rig.run(CONV, Pass::Backward, &images);
        let weights = rig.plan.steps[CONV].parameters.start;
        [
            y,
            rig.get(CONV - 1, Tensor::Gradient),
            rig.parameter_gradient(weights),
        ]
    }
}

/// The norm of every difference, of the norm of what is expected.
fn errors(found: &Results, expected: &Results) -> [f64; 3] {
    std::array::from_fn(|i| {
        let squares = |values: &[f32]| values.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
        let pairs = found[i].iter().zip(&expected[i]);
        let difference: Vec<f32> = pairs.map(|(found, expected)| found - expected).collect();
        (squares(&difference) / squares(&expected[i])).sqrt()
    })
}
