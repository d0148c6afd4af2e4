//! A plan held against the rates of a device: how long every step would take if nothing but arithmetic and memory
//! counted (Williams, Waterman and Patterson 2009), and how long it may be expected to take.

use super::gpus::{Arithmetic, Gpu, Unit};
use super::public_figures::{PUBLIC_FIGURES, PublicFigure};
use super::work::{Part, Work};
use super::{Mode, Pass, Plan};
use crate::error::Result;
use crate::network::Config;

/// What bounds the speed of a device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// FLOP/s of products.
    pub flops: f64,
    /// Bytes/s to and from memory, read and written together.
    pub bandwidth: f64,
}

/// Which of the two rates bounds a piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Products.
    Arithmetic,
    /// Bytes.
    Memory,
}

impl Limit {
    /// As reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Arithmetic => "arithmetic",
            Self::Memory => "memory",
        }
    }
}

impl Rates {
    /// The roofline: seconds that `work` takes at these rates, products and bytes overlapping completely, and what
    /// bounds it.
    pub fn seconds(self, work: Work) -> (f64, Limit) {
        let arithmetic = work.flops as f64 / self.flops;
        let memory = work.bytes as f64 / self.bandwidth;
        if arithmetic > memory {
            (arithmetic, Limit::Arithmetic)
        } else {
            (memory, Limit::Memory)
        }
    }
}

/// Fractions of the data sheet's rates that may be expected. The first two are the medians, over all measured
/// [`PUBLIC_FIGURES`] on that unit, of FLOP/s by direct counting over the peak (a test recomputes them): one number for
/// a kind of unit, whatever the GPU, the network and the program. On CUDA cores it is above 1, because libraries save
/// multiplications there (Winograd).
pub const TENSOR_CORE_EFFICIENCY: f64 = 0.35;
/// See [`TENSOR_CORE_EFFICIENCY`].
pub const CUDA_CORE_EFFICIENCY: f64 = 1.145;
/// Assumed, not fitted: kernels that only move memory reach about this part of the data sheet's bandwidth.
pub const MEMORY_EFFICIENCY: f64 = 0.8;

/// A device's data sheet, and what of it may be expected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expectation {
    /// The data sheet's rates.
    pub peak: Rates,
    /// Which unit executes products.
    pub unit: Unit,
    /// The rates that may be expected.
    pub expected: Rates,
}

impl Expectation {
    /// Of a GPU; refuses arithmetic that it does not have.
    pub fn of(gpu: &Gpu, arithmetic: Arithmetic) -> Result<Self> {
        let (flops, unit) = gpu.peak(arithmetic)?;
        let peak = Rates {
            flops,
            bandwidth: gpu.bandwidth,
        };
        let efficiency = match unit {
            Unit::TensorCores => TENSOR_CORE_EFFICIENCY,
            Unit::CudaCores => CUDA_CORE_EFFICIENCY,
        };
        let expected = Rates {
            flops: peak.flops * efficiency,
            bandwidth: peak.bandwidth * MEMORY_EFFICIENCY,
        };
        Ok(Self { peak, unit, expected })
    }
}

/// One part of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PartTime {
    /// What it costs.
    pub work: Work,
    /// Seconds.
    pub seconds: f64,
    /// What bounds it.
    pub limit: Limit,
}

/// The times of one step of the plan.
#[derive(Debug, Clone, PartialEq)]
pub struct StepTime {
    /// The step's name.
    pub name: String,
    /// By [`Part::ALL`]; `None` where it has no such part.
    pub parts: [Option<PartTime>; 3],
}

/// A step of one plan at given rates.
#[derive(Debug, Clone, PartialEq)]
pub struct Roofline {
    /// The steps of one micro-batch.
    pub steps: Vec<StepTime>,
    /// Gradient tree and update rule, once per training step; 0 in evaluation.
    pub update: f64,
    /// Micro-batches of a step.
    pub micro_batches: usize,
    /// Images of a micro-batch.
    pub micro_batch: usize,
}

impl Roofline {
    /// Holds `plan` against `rates`, with tensors of `element` bytes per element and all products of the sums as they are
    /// written down.
    pub fn new(plan: &Plan, micro_batches: usize, element: u64, rates: Rates) -> Self {
        Self::of_algorithms(plan, micro_batches, element, rates, |_, _| 1.0)
    }

    /// The same where a part of a step does only a `share` of these products.
    pub fn of_algorithms(
        plan: &Plan,
        micro_batches: usize,
        element: u64,
        rates: Rates,
        share: impl Fn(usize, Part) -> f64,
    ) -> Self {
        let steps = (0..plan.steps.len()).map(|step| StepTime {
            name: plan.steps[step].name.clone(),
            parts: Part::ALL.map(|part| {
                let work = plan.work(step, part, element)?;
                let (seconds, limit) = rates.seconds(work.with_share(share(step, part)));
                Some(PartTime { work, seconds, limit })
            }),
        });
        Self {
            steps: steps.collect(),
            update: match plan.mode {
                Mode::Training => rates.seconds(plan.update_work(micro_batches)).0,
                Mode::Evaluation => 0.0,
            },
            micro_batches,
            micro_batch: plan.batch,
        }
    }

    /// Seconds of one pass of one micro-batch.
    pub fn pass_seconds(&self, step: usize, pass: Pass) -> f64 {
        let [forward, data, filter] = self.steps[step].parts;
        let parts = match pass {
            Pass::Forward => [forward, None],
            Pass::Backward => [data, filter],
        };
        parts.iter().flatten().map(|part| part.seconds).sum()
    }

    /// Seconds of one micro-batch: every pass of the plan's schedule.
    pub fn micro_batch_seconds(&self) -> f64 {
        let parts = self.steps.iter().flat_map(|step| step.parts.iter().flatten());
        parts.map(|part| part.seconds).sum()
    }

    /// Seconds of a step: every micro-batch, then the update.
    pub fn step_seconds(&self) -> f64 {
        self.micro_batches as f64 * self.micro_batch_seconds() + self.update
    }

    /// Images per second.
    pub fn images_per_sec(&self) -> f64 {
        (self.micro_batches * self.micro_batch) as f64 / self.step_seconds()
    }
}

/// The public figures of a network on a GPU that can be compared with a forecast in `arithmetic`.
pub fn public_figures(
    gpu: &Gpu,
    config: Config,
    arithmetic: Arithmetic,
) -> impl Iterator<Item = &'static PublicFigure> {
    let name = gpu.name;
    PUBLIC_FIGURES.iter().filter(move |figure| {
        figure.gpu == name && figure.config == config && figure.arithmetic.is_like(arithmetic)
    })
}

#[cfg(test)]
mod tests;
