//! What a step reads and writes: everything else holds a pattern before it, and the same pattern after it.

use std::ops::Range;

use verydeep::backend::Tensor;
use verydeep::backend::reference::Reference;
use verydeep::plan::{DataGradient, Lowering, Mode, Pass, Region, Step};

use super::rig::{Raw, Rig, step_params};
use super::{Case, Draw, Images, cases};

/// A NaN as f32 and as f64, so that whatever reads it shows it.
const POISON: [u8; 4] = 0x7FC5_A5A5_u32.to_ne_bytes();

/// Every operation and pass on random small shapes, with and without the back end's fusions.
pub(crate) fn around_every_operation<B: Raw>(backend: &B) {
    let mut draw = Draw::new();
    for mode in [Mode::Training, Mode::Evaluation] {
        for case in cases::operations(&mut draw, 20, mode) {
            around_steps(&mut draw, backend, &Reference::<f32>::new(), &case);
            around_steps(&mut draw, backend, backend, &case);
        }
    }
}

/// Runs the case once undisturbed, then every pass of every step alone in poisoned memory: it changes nothing but its
/// outputs, and they have the same bits, so it read nothing but its inputs.
fn around_steps<B: Raw>(draw: &mut Draw, backend: &B, choices: &dyn Lowering, case: &Case) {
    let mut rig = Rig::new(backend, choices, case, step_params(draw));
    let images = Images::new(draw, case);
    let weights = draw.parameters(&case.network);
    let steps = rig.plan.steps.len();

    rig.set_weights(&weights);
    let mut values = Vec::new();
    for step in 0..steps {
        rig.run(step, Pass::Forward, &images);
        values.push(rig.get(step, Tensor::Value));
    }
    let mut gradients = vec![Vec::new(); steps];
    if case.mode == Mode::Training {
        for step in (1..steps).rev() {
            if step + 1 < steps {
                gradients[step] = rig.get(step, Tensor::Gradient);
            }
            rig.run(step, Pass::Backward, &images);
        }
    }
    let leaf = backend.bytes(&rig.gradient);

    for step in 0..steps {
        let mut alone = Alone {
            rig: &mut rig,
            images: &images,
            weights: &weights,
            leaf: &leaf,
            what: format!("{}: {:?}", case.name, case_step(case, step)),
            step,
        };
        alone.forward(&values);
        if case.mode == Mode::Training && step > 0 {
            alone.backward(&values, &gradients);
        }
    }
}

fn case_step(case: &Case, step: usize) -> String {
    let layer = case.network.layers.get(step.wrapping_sub(1));
    format!("step {step}, near {}", layer.map_or("loss", |layer| &layer.name))
}

/// One step in memory that is poisoned elsewhere.
struct Alone<'a, 'b, B: Raw> {
    rig: &'a mut Rig<'b, B>,
    images: &'a Images,
    weights: &'a [f32],
    /// The leaf of the undisturbed run.
    leaf: &'a [u8],
    what: String,
    step: usize,
}

impl<B: Raw> Alone<'_, '_, B> {
    fn forward(&mut self, values: &[Vec<f32>]) {
        let (index, memory) = (self.step, self.planned().memory);
        self.poison(&[]);
        if index > 0 {
            self.rig.set(index - 1, Tensor::Value, &values[index - 1]);
        }
        self.run_and_check(
            Pass::Forward,
            &[memory.value, memory.saved, memory.forward_scratch],
            &[],
        );
        self.same_bits("value", &self.rig.get(index, Tensor::Value), &values[index]);
    }

    fn backward(&mut self, values: &[Vec<f32>], gradients: &[Vec<f32>]) {
        let (index, step) = (self.step, self.planned().clone());
        self.poison(&[]);
        self.rig.set(index - 1, Tensor::Value, &values[index - 1]);
        self.rig.run(index, Pass::Forward, self.images);

        let footprint = self.rig.backend.footprint(&step);
        let mut kept = vec![step.memory.saved];
        if footprint.backward_reads_input {
            kept.push(self.rig.plan.input_of(index));
        }
        if footprint.backward_reads_value {
            kept.push(step.memory.value);
        }
        self.poison(&kept);
        if index + 1 < values.len() {
            self.rig.set(index, Tensor::Gradient, &gradients[index]);
        }
        let arrays = self.arrays();
        let input_gradient = self.rig.plan.input_gradient_of(index).unwrap_or_default();
        self.run_and_check(
            Pass::Backward,
            &[input_gradient, step.memory.gradient, step.memory.backward_scratch],
            &arrays,
        );
        if step.data_gradient != DataGradient::None {
            self.same_bits(
                "data gradient",
                &self.rig.get(index - 1, Tensor::Gradient),
                &gradients[index - 1],
            );
        }
    }

    fn planned(&self) -> &Step {
        &self.rig.plan.steps[self.step]
    }

    /// The bytes of the step's arrays in the leaf.
    fn arrays(&self) -> Vec<Range<usize>> {
        self.rig
            .plan
            .parameters_of(self.step)
            .iter()
            .map(|p| 4 * p.range().start..4 * p.range().end)
            .collect()
    }

    /// Fills the arena, the leaf and the weights of other steps with the pattern; `kept` regions stay.
    fn poison(&mut self, kept: &[Region]) {
        let backend = self.rig.backend;
        let before = backend.bytes(&self.rig.arena);
        let mut arena = pattern(before.len());
        for region in kept {
            arena[region.range()].copy_from_slice(&before[region.range()]);
        }
        backend.set_bytes(&mut self.rig.arena, &arena);
        let leaf = pattern(self.leaf.len());
        backend.set_bytes(&mut self.rig.gradient, &leaf);

        let mut weights = self.weights.to_vec();
        let own = self.planned().parameters.clone();
        for (index, parameter) in self.rig.plan.parameters.iter().enumerate() {
            if !own.contains(&index) {
                weights[parameter.range()].fill(f32::from_ne_bytes(POISON));
            }
        }
        self.rig.set_weights(&weights);
    }

    /// Runs the pass and checks that only `regions` of the arena and `arrays` of the leaf changed, and that the arrays
    /// are those of the undisturbed run.
    fn run_and_check(&mut self, pass: Pass, regions: &[Region], arrays: &[Range<usize>]) {
        let backend = self.rig.backend;
        let arena = backend.bytes(&self.rig.arena);
        let leaf = backend.bytes(&self.rig.gradient);
        let weights = backend.bytes(&self.rig.weights);
        self.rig.run(self.step, pass, self.images);
        let what = format!("{}, {pass:?}", self.what);

        let written: Vec<Range<usize>> = regions.iter().map(|region| region.range()).collect();
        unchanged(&what, "arena", &arena, &backend.bytes(&self.rig.arena), &written);
        let found = backend.bytes(&self.rig.gradient);
        unchanged(&what, "leaf", &leaf, &found, arrays);
        for array in arrays {
            let (found, expected) = (&found[array.clone()], &self.leaf[array.clone()]);
            assert!(
                found == expected,
                "{what}: reads what it must not: leaf bytes {array:?}"
            );
        }
        unchanged(&what, "weights", &weights, &backend.bytes(&self.rig.weights), &[]);
    }

    fn same_bits(&self, tensor: &str, found: &[f32], expected: &[f32]) {
        let same = found
            .iter()
            .zip(expected)
            .all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{}: reads what it must not: {tensor}", self.what);
    }
}

fn pattern(bytes: usize) -> Vec<u8> {
    POISON.into_iter().cycle().take(bytes).collect()
}

fn unchanged(what: &str, buffer: &str, before: &[u8], after: &[u8], except: &[Range<usize>]) {
    let changed =
        (0..before.len()).find(|i| before[*i] != after[*i] && !except.iter().any(|range| range.contains(i)));
    if let Some(byte) = changed {
        panic!("{what}: writes byte {byte} of the {buffer}, allowed are {except:?}");
    }
}
