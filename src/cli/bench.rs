//! `verydeep bench`: what is fast and what is not, on this machine.

use std::sync::Arc;

use serde_json::json;

use super::args::{BenchDataArgs, BenchStepArgs};
use super::compute::{check_threads, on_device};
use super::output::{print_json, say};
use super::plans;
use crate::bench::{StepShape, StepTimes, infer_steps, peak_memory, pipeline};
use crate::data::shards::{Dataset, Split};
use crate::error::{Error, Result};
use crate::network::Network;
use crate::plan::{Rates, Roofline};

/// Classes of the benchmarked networks, as in ImageNet.
pub(super) const CLASSES: usize = 1000;

/// A training step does about three times the arithmetic of a forward pass: forward, data gradient, filter gradient.
const TRAINING_FACTOR: u64 = 3;

pub(super) fn train(args: &BenchStepArgs) -> Result<u8> {
    let micro_batch = args.micro_batch.unwrap_or(args.batch);
    if micro_batch == 0 || !args.batch.is_multiple_of(micro_batch) {
        return Err(Error::invalid(
            "--micro-batch",
            format_args!("a divisor of --batch {}", args.batch),
            micro_batch,
        ));
    }
    let (network, threads) = prepare(args)?;
    let device = plans::open(&args.compute, args.plans.as_deref())?;
    let shape = StepShape {
        batch: args.batch,
        micro_batch,
        steps: args.steps,
    };
    let times = device.train_steps(&network, args.compute.reduction(), shape)?;
    report(args, &network, device.rates(threads)?, &times, TRAINING_FACTOR)?;
    Ok(0)
}

pub(super) fn infer(args: &BenchStepArgs) -> Result<u8> {
    let (network, threads) = prepare(args)?;
    let device = plans::open(&args.compute, args.plans.as_deref())?;
    let times = on_device!(&device, backend => {
        infer_steps(backend, &network, args.batch, args.steps)?
    });
    report(args, &network, device.rates(threads)?, &times, 1)?;
    Ok(0)
}

fn prepare(args: &BenchStepArgs) -> Result<(Network, usize)> {
    args.compute.check()?;
    for (flag, value) in [("--batch", args.batch), ("--steps", args.steps)] {
        if value == 0 {
            return Err(Error::invalid(flag, "at least 1", 0));
        }
    }
    Ok((
        args.network.spec(args.config, CLASSES, None).build()?,
        args.compute.threads()?,
    ))
}

fn report(
    args: &BenchStepArgs,
    network: &Network,
    peak: Rates,
    times: &StepTimes,
    factor: u64,
) -> Result<()> {
    let threads = args.compute.threads()?;
    let flops = 2 * factor * network.macs();
    let rate = times.median_rate();
    let fraction = rate * flops as f64 / peak.flops;
    let micro_batches = times.batch / times.plan.batch;
    let roofline = Roofline::of_algorithms(
        &times.plan,
        micro_batches,
        args.compute.element_bytes(),
        peak,
        |step, part| times.shares[step][part as usize],
    );
    let bound = roofline.images_per_sec();
    if args.json {
        print_json(&json!({
            "images_per_sec": rate,
            "images_per_sec_best": times.best_rate(),
            "step_seconds": times.seconds,
            "batch": args.batch,
            "config": args.config.name(),
            "device": args.compute.device(),
            "precision": args.compute.precision().name(),
            "threads": threads,
            "peak_memory": peak_memory(),
            "flops_per_image": flops,
            "peak_flops": peak.flops,
            "peak_bandwidth": peak.bandwidth,
            "fraction_of_peak": fraction,
            "roofline_images_per_sec": bound,
            "fraction_of_roofline": rate / bound,
            "version": env!("CARGO_PKG_VERSION"),
            "commit": env!("VERYDEEP_COMMIT"),
        }));
        return Ok(());
    }
    say(format_args!(
        "net {}, batch {}, {} in {}, {threads} threads, {} steps",
        args.config,
        args.batch,
        args.compute.device(),
        args.compute.precision().name(),
        times.seconds.len(),
    ));
    say_rates(peak);
    say(format_args!(
        "{:.1} GFLOP/s: {:.0} % of the first rate; {:.0} % of the roofline of both, {bound:.2} images/sec",
        rate * flops as f64 / 1e9,
        100.0 * fraction,
        100.0 * rate / bound
    ));
    say(format_args!("best step: {:.2} images/sec", times.best_rate()));
    say(format_args!("total images/sec: {rate:.2}"));
    Ok(())
}

/// What the device was measured to reach.
pub(super) fn say_rates(peak: Rates) {
    say(format_args!(
        "measured here: products {:.1} GFLOP/s, copies {:.1} GB/s",
        peak.flops / 1e9,
        peak.bandwidth / 1e9
    ));
}

/// Images of one measurement of the pipeline: a few seconds of photographs.
const PIPELINE_IMAGES: u64 = 2048;

pub(super) fn data(args: &BenchDataArgs) -> Result<u8> {
    let threads = check_threads(args.threads)?;
    let data = Arc::new(Dataset::open(&args.data, Split::Train, args.io)?);
    let rate = pipeline(data, args.scale, args.crop, threads, PIPELINE_IMAGES)?;
    if args.json {
        print_json(&rate);
        return Ok(0);
    }
    for (stage, seconds) in [
        ("read", rate.read),
        ("decode", rate.decode),
        ("resize", rate.resize),
        ("finish", rate.finish),
    ] {
        say(format_args!(
            "{stage:<8} {:9.1} us per image {:9.0} images/sec by one thread",
            1e6 * seconds,
            1.0 / seconds
        ));
    }
    say(format_args!(
        "{threads} workers; waited {:.2} s for images, {:.2} s for room; read {:.1} MB/s",
        rate.consumer_waited,
        rate.workers_waited,
        rate.bytes_per_sec / 1e6
    ));
    say(format_args!(
        "per core: {:.1} images per second of processor time",
        rate.images_per_sec_per_core
    ));
    say(format_args!("total images/sec: {:.2}", rate.images_per_sec));
    Ok(0)
}
