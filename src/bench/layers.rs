//! The time of every step of a network, part by part.

use std::time::Instant;

use super::median;
use super::steps::{Synthetic, shares, weights};
use crate::backend::{Backend, Memory};
use crate::data::preprocess::Preprocess;
use crate::error::Result;
use crate::network::Network;
use crate::plan::{DataGradient, Mode, Part, Pass, Plan, StepParams};

/// What a measurement of the steps found.
pub struct Layers {
    /// The plan whose steps were timed: training, one micro-batch.
    pub plan: Plan,
    /// By step.
    pub times: Vec<LayerTime>,
    /// What part of the multiplications of each step's parts was done, by [`Part::ALL`].
    pub shares: Vec<[f64; 3]>,
}

/// Seconds of one step, each the median of the repetitions.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerTime {
    /// The forward pass.
    pub forward: f64,
    /// The backward pass as training runs it, both gradients; `None` for the input, which has none.
    pub backward: Option<f64>,
    /// What the data gradient adds to the backward pass. `None` where there is none, and where it cannot be told apart.
    pub data_gradient: Option<f64>,
    /// The backward pass without the data gradient. `None` as above.
    pub filter_gradient: Option<f64>,
    /// How each part is computed, by [`Part::ALL`]; `None` where the step does not have it.
    pub algorithms: [Option<String>; 3],
}

impl LayerTime {
    /// Seconds of one part.
    pub fn seconds(&self, part: Part) -> Option<f64> {
        match part {
            Part::Forward => Some(self.forward),
            Part::DataGradient => self.data_gradient,
            Part::FilterGradient => self.filter_gradient,
        }
    }
}

/// One sample lasts at least this many seconds, so that neither clock nor enqueueing counts...
const SAMPLE_SECONDS: f64 = 0.005;
/// ... but is at most this many executions.
const MOST_EXECUTIONS: usize = 200;

/// Times every pass of every step on a micro-batch of `batch` synthetic images, `repeats` times each.
///
/// The schedule is walked once, so that every pass finds the tensors that training would give it, and each pass is
/// executed over and over when its turn comes. A back end computes both gradients in one pass. They are told apart by a
/// second plan, which differs in that the step's data gradient is not wanted: its backward pass is the filter gradient,
/// and what is missing from the whole pass is the data gradient. The two are sampled in turns, so that a busy neighbour
/// meets both.
pub fn layers<B: Backend>(backend: &B, network: &Network, batch: usize, repeats: usize) -> Result<Layers> {
    let preprocess = Preprocess::subtract_mean([123.0, 117.0, 104.0]);
    let plan = Plan::new(network, &preprocess, batch, Mode::Training, backend)?;
    backend.prepare(&plan)?;
    let mut flat = backend.allocate_weights(plan.flat_len)?;
    backend.write_parameters(&mut flat, 0, &weights(network))?;
    let mut bench = Bench {
        backend,
        arena: backend.allocate_arena(plan.arena_bytes)?,
        gradient: backend.allocate_parameters(plan.flat_len)?,
        weights: flat,
        images: Synthetic::new(backend, network, batch)?,
        repeats,
    };
    let mut times = Vec::with_capacity(plan.steps.len());
    for step in 0..plan.steps.len() {
        times.push(LayerTime {
            forward: bench.sample([&plan], step, Pass::Forward)?[0],
            backward: None,
            data_gradient: None,
            filter_gradient: None,
            algorithms: Part::ALL.map(|part| {
                plan.work(step, part, 1)?;
                Some(backend.algorithm(&plan, step, part))
            }),
        });
    }
    for step in (1..plan.steps.len()).rev() {
        let time = &mut times[step];
        let has = |part| plan.work(step, part, 1).is_some();
        let is_apart = has(Part::DataGradient) && has(Part::FilterGradient);
        if !is_apart {
            let [whole] = bench.sample([&plan], step, Pass::Backward)?;
            time.backward = Some(whole);
            match (has(Part::DataGradient), plan.steps[step].parameters.is_empty()) {
                (true, true) => time.data_gradient = Some(whole),
                (false, false) => time.filter_gradient = Some(whole),
                // Batch norm: one sweep makes everything.
                (true, false) | (false, true) => {}
            }
            continue;
        }
        let mut without = plan.clone();
        without.steps[step].data_gradient = DataGradient::None;
        // The whole pass last: the step before reads the data gradient.
        let [filter, whole] = bench.sample([&without, &plan], step, Pass::Backward)?;
        time.backward = Some(whole);
        time.filter_gradient = Some(filter);
        // Less than nothing is noise, and no measurement.
        time.data_gradient = Some(whole - filter).filter(|seconds| *seconds > 0.0);
    }
    Ok(Layers {
        shares: shares(backend, &plan),
        plan,
        times,
    })
}

/// A micro-batch in memory.
struct Bench<'b, B: Backend> {
    backend: &'b B,
    arena: B::Buffer,
    weights: B::Buffer,
    gradient: B::Buffer,
    images: Synthetic<B::HostMemory>,
    repeats: usize,
}

impl<B: Backend> Bench<'_, B> {
    /// Median seconds of one pass of one step under each of some plans, sampled in turns.
    fn sample<const PLANS: usize>(
        &mut self,
        plans: [&Plan; PLANS],
        step: usize,
        pass: Pass,
    ) -> Result<[f64; PLANS]> {
        // The first execution meets cold caches, and says how many make a sample.
        self.seconds(plans[PLANS - 1], step, pass, 1)?;
        let once = self.seconds(plans[PLANS - 1], step, pass, 1)?;
        let executions = (SAMPLE_SECONDS / once.max(1e-9)).ceil() as usize;
        let executions = executions.clamp(1, MOST_EXECUTIONS);
        let mut samples = [const { Vec::new() }; PLANS];
        for _ in 0..self.repeats {
            for (plan, samples) in plans.into_iter().zip(&mut samples) {
                samples.push(self.seconds(plan, step, pass, executions)?);
            }
        }
        Ok(samples.map(|seconds| median(&seconds)))
    }

    /// Seconds of one of `executions` in a row, from an idle device to an idle device.
    fn seconds(&mut self, plan: &Plan, step: usize, pass: Pass, executions: usize) -> Result<f64> {
        let params = StepParams {
            seed: 1,
            step: 0,
            position: 0,
            learning_rate: 0.01,
        };
        self.backend.wait()?;
        let started = Instant::now();
        for _ in 0..executions {
            let memory = Memory {
                arena: &mut self.arena,
                weights: &self.weights,
                gradient: &mut self.gradient,
                batch: self.images.batch(),
            };
            self.backend.run(plan, step, pass, memory, &params)?;
        }
        self.backend.wait()?;
        Ok(started.elapsed().as_secs_f64() / executions as f64)
    }
}
