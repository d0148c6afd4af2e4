//! TF32 is exactly this: the factors of every product are rounded to TF32, nothing else is.

use verydeep::backend::cuda::{Buffer, Cuda, Options};
use verydeep::backend::{Backend, Memory, Precision, Tensor};
use verydeep::data::preprocess::{Flip, Preprocess};
use verydeep::network::Builder;
use verydeep::plan::{Batch, Mode, Pass, Plan, StepOp, StepParams};
use verydeep::rng::{Purpose, Stream};
use verydeep::shape::Chw;

use super::simulator::libraries;

/// To the 10 bits of fraction that TF32 keeps, ties away from zero.
fn rounded(values: &[f32]) -> Vec<f32> {
    let round = |value: &f32| f32::from_bits((value.to_bits() + 0x1000) & !0x1fff);
    values.iter().map(round).collect()
}

/// One step on a device: input, parameters and the gradient of its value; value, parameter and data gradient.
struct OneStep<'a> {
    cuda: &'a Cuda,
    plan: &'a Plan,
    step: usize,
}

impl OneStep<'_> {
    fn run(&self, x: &[f32], weights: &[f32], dy: &[f32]) -> [Vec<f32>; 3] {
        let (cuda, plan, step) = (self.cuda, self.plan, self.step);
        let mut arena = cuda.allocate_arena(plan.arena_bytes).unwrap();
        let parameters = |values: &[f32]| -> Buffer {
            let mut buffer = cuda.allocate_weights(plan.flat_len).unwrap();
            cuda.write_parameters(&mut buffer, 0, values).unwrap();
            buffer
        };
        let weights = parameters(weights);
        let mut gradient = parameters(&vec![0.0; plan.flat_len]);
        cuda.write_tensor(plan, step - 1, Tensor::Value, &mut arena, x)
            .unwrap();
        let pixels = vec![0; plan.batch * plan.steps[0].output.len()];
        let batch = Batch {
            pixels: &pixels,
            flips: &vec![Flip::Keep; plan.batch],
            colours: &vec![[0.0; 3]; plan.batch],
            labels: &vec![0; plan.batch],
        };
        let params = StepParams {
            seed: 0,
            step: 0,
            position: 0,
            learning_rate: 0.0,
        };
        let mut value = vec![0.0; dy.len()];
        for pass in [Pass::Forward, Pass::Backward] {
            let memory = Memory {
                arena: &mut arena,
                weights: &weights,
                gradient: &mut gradient,
                batch,
            };
            cuda.run(plan, step, pass, memory, &params).unwrap();
            if pass == Pass::Forward {
                cuda.read_tensor(plan, step, Tensor::Value, &arena, &mut value)
                    .unwrap();
                cuda.write_tensor(plan, step, Tensor::Gradient, &mut arena, dy)
                    .unwrap();
            }
        }
        let (mut dw, mut dx) = (vec![0.0; plan.flat_len], vec![0.0; x.len()]);
        cuda.read_parameters(&gradient, 0, &mut dw).unwrap();
        cuda.read_tensor(plan, step - 1, Tensor::Gradient, &arena, &mut dx)
            .unwrap();
        [value, dw, dx]
    }
}

#[test]
fn tf32_rounds_the_factors_and_nothing_else() {
    let open = |precision| {
        let options = Options {
            precision,
            ..Options::default()
        };
        Cuda::open(0, libraries(), options).unwrap()
    };
    let (fp32, tf32) = (open(Precision::Fp32), open(Precision::Tf32));
    let mut net = Builder::new(Chw::new(3, 6, 5));
    net.conv("first".into(), 1, 4);
    net.relu("first_relu".into());
    net.conv("conv".into(), 3, 5);
    net.linear("fc".into(), 7);
    let network = net.finish();
    let preprocess = Preprocess::subtract_mean([0.0; 3]);
    let plan = Plan::new(&network, &preprocess, 3, Mode::Training, &fp32).unwrap();
    let mut random = Stream::new(1, 0, Purpose::Synthetic, 0);
    let mut draw = |count| -> Vec<f32> { (0..count).map(|_| random.normal() as f32).collect() };
    // The first convolution's step has the ReLU, and no data gradient.
    for (step, at) in plan.steps.iter().enumerate().skip(2) {
        if !matches!(at.op, StepOp::Conv { .. } | StepOp::Linear { .. }) {
            continue;
        }
        let (x, dy) = (draw(3 * at.input.len()), draw(3 * at.output.len()));
        let weights = draw(plan.flat_len);
        // Biases are added, not multiplied: they are not rounded.
        let mut factors = weights.clone();
        let kernel = plan.parameters_of(step)[0].range();
        factors[kernel.clone()].copy_from_slice(&rounded(&weights[kernel]));
        let on = |cuda| OneStep {
            cuda,
            plan: &plan,
            step,
        };
        let found = on(&tf32).run(&x, &weights, &dy);
        let expected = on(&fp32).run(&rounded(&x), &factors, &rounded(&dy));
        let exact = on(&fp32).run(&x, &weights, &dy);
        let bias = plan.parameters_of(step)[1].range();
        for (i, what) in ["value", "parameter gradient", "data gradient"]
            .iter()
            .enumerate()
        {
            let same = |j: &usize| i != 1 || !bias.contains(j);
            for j in (0..found[i].len()).filter(same) {
                assert_eq!(
                    found[i][j].to_bits(),
                    expected[i][j].to_bits(),
                    "{} {what} {j}",
                    at.name
                );
            }
            assert_ne!(found[i], exact[i], "{} {what}: nothing was rounded", at.name);
        }
        // The bias gradient is a sum of dy, no product.
        assert_eq!(found[1][bias.clone()], exact[1][bias], "{}", at.name);
    }
}
