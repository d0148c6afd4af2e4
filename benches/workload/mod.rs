//! A plan on the CPU with its memory and synthetic images, for the benchmarks.

use verydeep::backend::cpu::{Buffer, Cpu};
use verydeep::backend::{Backend, Memory};
use verydeep::data::preprocess::{Flip, Preprocess};
use verydeep::network::{Network, init::Init};
use verydeep::plan::{Batch, Mode, Pass, Plan, StepParams};

/// `VERYDEEP_THREADS`, or all processors.
pub(crate) fn threads() -> usize {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let asked = std::env::var("VERYDEEP_THREADS").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(all)
}

/// One plan and what it runs in.
pub(crate) struct Workload {
    /// The plan.
    pub(crate) plan: Plan,
    cpu: Cpu,
    arena: Buffer,
    weights: Buffer,
    gradient: Buffer,
    pixels: Vec<u8>,
    flips: Vec<Flip>,
    colours: Vec<[f32; 3]>,
    labels: Vec<u32>,
}

impl Workload {
    /// `batch` images through `network`, He-initialised.
    pub(crate) fn new(network: &Network, batch: usize, mode: Mode, cpu: Cpu) -> Self {
        let plan = Plan::new(network, &Preprocess::subtract_mean([0.0; 3]), batch, mode, &cpu)
            .expect("a valid plan");
        let mut flat = vec![0.0; plan.flat_len];
        network.initialise(Init::He, 1, &mut flat);
        let mut weights = cpu.allocate_parameters(plan.flat_len).expect("memory");
        cpu.write_parameters(&mut weights, 0, &flat)
            .expect("the same length");
        let pixels = batch * network.input.len();
        Self {
            arena: cpu.allocate_arena(plan.arena_bytes).expect("memory"),
            gradient: cpu.allocate_parameters(plan.flat_len).expect("memory"),
            weights,
            pixels: (0..pixels).map(|i| (i * 31 % 251) as u8).collect(),
            flips: vec![Flip::Keep; batch],
            colours: vec![[0.0; 3]; batch],
            labels: (0..batch).map(|n| (n % network.classes) as u32).collect(),
            plan,
            cpu,
        }
    }

    /// One pass of one step.
    pub(crate) fn run(&mut self, step: usize, pass: Pass) {
        let memory = Memory {
            arena: &mut self.arena,
            weights: &self.weights,
            gradient: &mut self.gradient,
            batch: Batch {
                pixels: &self.pixels,
                flips: &self.flips,
                colours: &self.colours,
                labels: &self.labels,
            },
        };
        let params = StepParams {
            seed: 1,
            step: 0,
            position: 0,
            learning_rate: 0.01,
        };
        self.cpu
            .run(&self.plan, step, pass, memory, &params)
            .expect("a step that runs");
    }

    /// The whole micro-batch.
    pub(crate) fn walk(&mut self) {
        for (step, pass) in self.plan.schedule() {
            self.run(step, pass);
        }
    }
}
