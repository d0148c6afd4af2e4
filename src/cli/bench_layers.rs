//! `verydeep bench layers`: which step of a network takes how long, and how far from the machine's limits it is.

use serde_json::{Value, json};

use super::args::BenchLayersArgs;
use super::bench::{CLASSES, say_rates};
use super::compute::on_device;
use super::output::{print_json, say};
use super::plans;
use crate::bench::{LayerTime, Layers, layers as measure};
use crate::error::{Error, Result};
use crate::plan::{Part, Rates, Roofline, Work};

pub(super) fn layers(args: &BenchLayersArgs) -> Result<u8> {
    args.compute.check()?;
    plans::refuse_graphs(&args.compute, "bench layers")?;
    for (flag, value) in [("--batch", args.batch), ("--repeats", args.repeats)] {
        if value == 0 {
            return Err(Error::invalid(flag, "at least 1", 0));
        }
    }
    let network = args.network.spec(args.config, CLASSES, None).build()?;
    let threads = args.compute.threads()?;
    let device = plans::open(&args.compute, args.plans.as_deref())?;
    let peak = device.rates(threads)?;
    let measured = on_device!(&device, backend => measure(backend, &network, args.batch, args.repeats)?);
    let table = Table {
        measured,
        peak,
        element: args.compute.element_bytes(),
    };
    if args.json {
        print_json(&json!({
            "layers": table.json(),
            "fraction_of_roofline": table.roofline() / (table.totals().0 + table.totals().1),
            "config": args.config.name(),
            "batch": args.batch,
            "device": args.compute.device(),
            "precision": args.compute.precision().name(),
            "threads": threads,
            "peak_flops": peak.flops,
            "peak_bandwidth": peak.bandwidth,
            "version": env!("CARGO_PKG_VERSION"),
            "commit": env!("VERYDEEP_COMMIT"),
        }));
        return Ok(0);
    }
    say(format_args!(
        "net {}, micro-batch {}, {} in {}, {threads} threads, medians of {}",
        args.config,
        args.batch,
        args.compute.device(),
        args.compute.precision().name(),
        args.repeats
    ));
    say_rates(peak);
    table.say();
    Ok(0)
}

/// Times beside what bounds them.
struct Table {
    measured: Layers,
    peak: Rates,
    /// Bytes of an element of a tensor.
    element: u64,
}

/// One timed part of one step.
struct Row<'a> {
    seconds: f64,
    work: Work,
    /// Seconds at the measured rates, with the products that the algorithm needs.
    roofline: f64,
    limit: &'static str,
    algorithm: &'a str,
}

impl Table {
    fn row(&self, step: usize, part: Part) -> Option<Row<'_>> {
        let time = &self.measured.times[step];
        let seconds = time.seconds(part)?;
        let work = self.measured.plan.work(step, part, self.element)?;
        let share = self.measured.shares[step][part as usize];
        let (roofline, limit) = self.peak.seconds(work.with_share(share));
        let algorithm = time.algorithms[part as usize].as_deref().unwrap_or_default();
        Some(Row {
            seconds,
            work,
            roofline,
            limit: limit.name(),
            algorithm,
        })
    }

    fn steps(&self) -> impl Iterator<Item = (usize, &str, &LayerTime)> {
        let names = self.measured.plan.steps.iter().map(|step| step.name.as_str());
        let steps = names.zip(&self.measured.times).enumerate();
        steps.map(|(step, (name, time))| (step, name, time))
    }

    /// Seconds of all forward and of all backward passes.
    fn totals(&self) -> (f64, f64) {
        let total = |of: &dyn Fn(&LayerTime) -> Option<f64>| -> f64 {
            self.measured.times.iter().filter_map(of).sum()
        };
        (total(&|time| Some(time.forward)), total(&|time| time.backward))
    }

    /// Seconds of all passes at the measured rates.
    fn roofline(&self) -> f64 {
        let plan = &self.measured.plan;
        let share = |step: usize, part: Part| self.measured.shares[step][part as usize];
        Roofline::of_algorithms(plan, 1, self.element, self.peak, share).micro_batch_seconds()
    }

    fn json(&self) -> Vec<Value> {
        self.steps()
            .map(|(step, name, time)| {
                let parts = Part::ALL.map(|part| {
                    let row = self.row(step, part)?;
                    Some(json!({
                        "flops": row.work.flops,
                        "bytes": row.work.bytes,
                        "gflops_per_sec": row.work.flops as f64 / row.seconds / 1e9,
                        "gigabytes_per_sec": row.work.bytes as f64 / row.seconds / 1e9,
                        "fraction_of_peak": row.work.flops as f64 / row.seconds / self.peak.flops,
                        "roofline_seconds": row.roofline,
                        "fraction_of_roofline": row.roofline / row.seconds,
                        "limit": row.limit,
                        "algorithm": row.algorithm,
                    }))
                });
                let [forward, data_gradient, filter_gradient] = parts;
                json!({
                    "name": name,
                    "forward": time.forward,
                    "data_gradient": time.data_gradient,
                    "filter_gradient": time.filter_gradient,
                    "backward": time.backward,
                    "flops": 2 * self.measured.plan.steps[step].macs,
                    "algorithm": time.algorithms[Part::Forward as usize],
                    "parts": {
                        "forward": forward,
                        "data_gradient": data_gradient,
                        "filter_gradient": filter_gradient,
                    },
                })
            })
            .collect()
    }

    fn say(&self) {
        say(format_args!(
            "{:<10} {:<16} {:>11} {:>10} {:>8} {:>10}  {:<10} algorithm",
            "step", "part", "ms", "GFLOP/s", "GB/s", "% roofline", "limit"
        ));
        for (step, name, time) in self.steps() {
            for part in Part::ALL {
                let Some(row) = self.row(step, part) else { continue };
                say(format_args!(
                    "{name:<10} {:<16} {:>11.3} {:>10.1} {:>8.1} {:>10.0}  {:<10} {}",
                    part.name().replace('_', " "),
                    1e3 * row.seconds,
                    row.work.flops as f64 / row.seconds / 1e9,
                    row.work.bytes as f64 / row.seconds / 1e9,
                    100.0 * row.roofline / row.seconds,
                    row.limit,
                    row.algorithm
                ));
            }
            if let (Some(seconds), None, None) = (time.backward, time.data_gradient, time.filter_gradient) {
                say(format_args!(
                    "{name:<10} {:<16} {:>11.3}  both gradients at once",
                    "backward",
                    1e3 * seconds
                ));
            }
        }
        let (forward, backward) = self.totals();
        say(format_args!(
            "sum: forward {:.3} ms, backward {:.3} ms, {:.0} % of the roofline, {:.2} images/sec without tree and update",
            1e3 * forward,
            1e3 * backward,
            100.0 * self.roofline() / (forward + backward),
            self.measured.plan.batch as f64 / (forward + backward)
        ));
    }
}
