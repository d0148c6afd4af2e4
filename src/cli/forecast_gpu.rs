//! `verydeep plan --gpu`: how long a training step would take on a GPU that is not here.

use serde_json::{Value, json};

use super::output::say;
use crate::error::Result;
use crate::network::Config;
use crate::plan::{
    Arithmetic, CUDA_CORE_EFFICIENCY, Evidence, Expectation, Gpu, Limit, MEMORY_EFFICIENCY, Part, Plan,
    PublicFigure, Rates, Roofline, TENSOR_CORE_EFFICIENCY, Unit, public_figures,
};

/// A training step on a GPU, by its data sheet.
pub(super) struct GpuForecast {
    gpu: &'static Gpu,
    arithmetic: Arithmetic,
    rates: Expectation,
    /// At the data sheet's rates.
    data_sheet: Roofline,
    /// At the rates that may be expected.
    expected: Roofline,
    figures: Vec<&'static PublicFigure>,
}

impl GpuForecast {
    /// Of the micro-batch `plan`, `micro_batches` of which make a step.
    pub(super) fn new(
        gpu: &'static Gpu,
        arithmetic: Arithmetic,
        (config, plan): (Config, &Plan),
        micro_batches: usize,
        is_papers: bool,
    ) -> Result<Self> {
        let rates = Expectation::of(gpu, arithmetic)?;
        let at = |rates: Rates| Roofline::new(plan, micro_batches, arithmetic.element_bytes(), rates);
        let figures = public_figures(gpu, config, arithmetic).filter(|_| is_papers);
        Ok(Self {
            gpu,
            arithmetic,
            data_sheet: at(rates.peak),
            expected: at(rates.expected),
            figures: figures.collect(),
            rates,
        })
    }

    /// What was assumed, in words.
    fn assumptions(&self) -> [String; 3] {
        let (unit, efficiency, figures) = match self.rates.unit {
            Unit::TensorCores => (
                "tensor cores",
                TENSOR_CORE_EFFICIENCY,
                "the median of the public figures on tensor cores, all GPUs, networks and programs together",
            ),
            Unit::CudaCores => (
                "CUDA cores",
                CUDA_CORE_EFFICIENCY,
                "the median of the public figures on CUDA cores, all GPUs, networks and programs together; above 1 \
                 because libraries save multiplications (Winograd)",
            ),
        };
        [
            format!("products reach {efficiency} of the peak of {unit}: {figures}"),
            format!("memory reaches {MEMORY_EFFICIENCY} of its data sheet's bandwidth: assumed, not fitted"),
            "a pass takes the longer of its products and its bytes; every tensor moves once; launches, images and \
             waiting cost nothing"
                .into(),
        ]
    }

    /// How far the forecast is from a figure, as a fraction of the figure.
    fn deviation(&self, figure: &PublicFigure) -> f64 {
        self.expected.images_per_sec() / figure.images_per_sec - 1.0
    }

    /// The object under `gpu` in `plan --json`. Seconds are those of the expectation, but for `data_sheet_*`.
    pub(super) fn json(&self) -> Value {
        let steps = self.expected.steps.iter().zip(&self.data_sheet.steps);
        let layers = steps.map(|(step, data_sheet)| {
            let mut layer = json!({ "name": step.name });
            for (i, part) in Part::ALL.into_iter().enumerate() {
                layer[part.name()] = json!(step.parts[i].zip(data_sheet.parts[i]).map(
                    |(time, data_sheet)| json!({
                        "seconds": time.seconds,
                        "data_sheet_seconds": data_sheet.seconds,
                        "flops": time.work.flops,
                        "bytes": time.work.bytes,
                        "limit": time.limit.name(),
                    })
                ));
            }
            layer
        });
        json!({
            "name": self.gpu.name,
            "model": self.gpu.model,
            "source": self.gpu.source,
            "precision": self.arithmetic.name(),
            "peak_flops": self.rates.peak.flops,
            "peak_bandwidth": self.rates.peak.bandwidth,
            "expected_flops": self.rates.expected.flops,
            "expected_bandwidth": self.rates.expected.bandwidth,
            "assumptions": self.assumptions(),
            "layers": layers.collect::<Vec<_>>(),
            "update_seconds": self.expected.update,
            "step_seconds": self.expected.step_seconds(),
            "images_per_sec": self.expected.images_per_sec(),
            "data_sheet_images_per_sec": self.data_sheet.images_per_sec(),
            "public_figures": self.figures.iter().map(|figure| json!({
                "images_per_sec": figure.images_per_sec,
                "measured": figure.evidence == Evidence::Measured,
                "precision": figure.arithmetic.name(),
                "setting": figure.setting,
                "source": figure.source,
                "deviation": self.deviation(figure),
            })).collect::<Vec<_>>(),
        })
    }

    /// For people.
    pub(super) fn say(&self) {
        let Self { gpu, rates, .. } = self;
        say(format_args!(
            "a training step on {} ({}): {} at {:.1} TFLOP/s, memory at {:.0} GB/s; nothing was run",
            gpu.model,
            gpu.source,
            self.arithmetic.name(),
            rates.peak.flops / 1e12,
            rates.peak.bandwidth / 1e9
        ));
        for assumption in self.assumptions() {
            say(format_args!("  assumed: {assumption}"));
        }
        say(format_args!(
            "{:<10} {:>12} {:>14} {:>16}   us per micro-batch of {}; m: bounded by memory",
            "step", "forward", "data gradient", "filter gradient", self.expected.micro_batch
        ));
        for step in &self.expected.steps {
            let [forward, data, filter] = step.parts.map(|part| match part {
                None => String::new(),
                Some(part) => {
                    let mark = match part.limit {
                        Limit::Arithmetic => ' ',
                        Limit::Memory => 'm',
                    };
                    format!("{:.1} {mark}", 1e6 * part.seconds)
                }
            });
            say(format_args!(
                "{:<10} {forward:>12} {data:>14} {filter:>16}",
                step.name
            ));
        }
        say(format_args!(
            "a step of {} micro-batches: {:.2} ms, of which {:.2} ms tree and update",
            self.expected.micro_batches,
            1e3 * self.expected.step_seconds(),
            1e3 * self.expected.update
        ));
        say(format_args!(
            "forecast: {:.0} images/s; at the data sheet's rates {:.0}",
            self.expected.images_per_sec(),
            self.data_sheet.images_per_sec()
        ));
        if self.figures.is_empty() {
            say("no public figure for this network, GPU and precision is known to this program");
        }
        for figure in &self.figures {
            let kind = match figure.evidence {
                Evidence::Measured => "public figure",
                Evidence::Estimated => "estimate (nobody published a run)",
            };
            say(format_args!(
                "{kind}: {:.0} images/s ({}, {}; {}): the forecast deviates by {:+.0} %",
                figure.images_per_sec,
                figure.arithmetic.name(),
                figure.setting,
                figure.source,
                100.0 * self.deviation(figure)
            ));
        }
    }
}
