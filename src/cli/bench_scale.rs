//! `verydeep bench scale` and `verydeep bench reduce`: what several replicas bring, and what adding their gradients costs.

use serde_json::json;

use super::args::{BenchReduceArgs, BenchScaleArgs};
use super::bench::CLASSES;
use super::compute::{DeviceName, on_device};
use super::output::{print_json, say};
use crate::bench::{Additions, StepShape, additions, median, reduction};
use crate::error::{Error, Result};
use crate::network::Network;
use crate::parallel::ExchangeTimes;
use crate::train::check_replicas;

/// How often every number of replicas has its turn.
const ROUNDS: usize = 3;

pub(super) fn scale(args: &BenchScaleArgs) -> Result<u8> {
    let all = match &args.compute.replicas[..] {
        [] => &[1, 2],
        said => said,
    };
    if args.micro_batch == 0 || args.batch == 0 || !args.batch.is_multiple_of(args.micro_batch) {
        return Err(Error::invalid(
            "--micro-batch",
            format_args!("a divisor of --batch {}", args.batch),
            args.micro_batch,
        ));
    }
    let devices = all
        .iter()
        .map(|replicas| {
            check_replicas(*replicas, args.batch, args.micro_batch)?;
            first_devices(args.compute.device(), *replicas)
        })
        .collect::<Result<Vec<_>>>()?;
    let network = args.network.spec(args.config, CLASSES, None).build()?;
    let shape = StepShape {
        batch: args.batch,
        micro_batch: args.micro_batch,
        steps: args.steps,
    };
    let mut seconds = vec![Vec::new(); all.len()];
    let mut exchange = vec![Vec::new(); all.len()];
    for _ in 0..ROUNDS {
        // Each in turn, so that a busy neighbour meets all of them.
        for (i, (replicas, device)) in all.iter().zip(&devices).enumerate() {
            let device = args.compute.open_for(device, *replicas)?;
            let times = device.train_steps(&network, args.compute.reduction(), shape)?;
            seconds[i].extend(times.seconds);
            exchange[i].extend(times.exchange);
        }
    }
    let device = args.compute.open_for(&devices[0], 1)?;
    let leaves = args.batch / args.micro_batch;
    let additions = on_device!(&device, backend => additions(backend, network.flat_len(), leaves, 5)?);
    let exchange: Vec<_> = exchange.iter().map(|times| typical(times)).collect();
    let measured: Vec<_> = seconds.into_iter().zip(exchange).collect();
    report(args, &network, all, &measured, additions);
    Ok(0)
}

/// The median of each time; `None` where nothing was exchanged.
fn typical(times: &[ExchangeTimes]) -> Option<ExchangeTimes> {
    let of = |time: fn(&ExchangeTimes) -> f64| median(&times.iter().map(time).collect::<Vec<_>>());
    (!times.is_empty()).then(|| ExchangeTimes {
        reduce: of(|times| times.reduce),
        exposed: of(|times| times.exposed),
        gather: of(|times| times.gather),
    })
}

/// The first `replicas` of the devices in `name`; one device is for any number of replicas.
fn first_devices(name: &str, replicas: usize) -> Result<String> {
    match DeviceName::parse(name)? {
        DeviceName::Cuda(list) if list.len() > 1 => {
            let few = Error::invalid(
                "--replicas",
                format_args!("at most {} devices", list.len()),
                replicas,
            );
            let first = list.get(..replicas).ok_or(few)?;
            let first: Vec<_> = first.iter().map(ToString::to_string).collect();
            Ok(format!("cuda:{}", first.join(",")))
        }
        DeviceName::Cuda(_) | DeviceName::Cpu => Ok(name.into()),
    }
}

fn report(
    args: &BenchScaleArgs,
    network: &Network,
    all: &[usize],
    measured: &[(Vec<f64>, Option<ExchangeTimes>)],
    additions: Additions,
) {
    let rate = |seconds: &[f64]| args.batch as f64 / median(seconds);
    let base = rate(&measured[0].0) / all[0] as f64;
    let first = median(&measured[0].0);
    if args.json {
        let scale: Vec<_> = all
            .iter()
            .zip(measured)
            .map(|(replicas, (seconds, exchange))| {
                let rate = rate(seconds);
                json!({
                    "replicas": replicas,
                    "images_per_sec": rate,
                    "step_seconds": seconds,
                    "speed_up": rate / (base * all[0] as f64),
                    "efficiency": rate / (base * *replicas as f64),
                    "exchange": exchange,
                })
            })
            .collect();
        print_json(&json!({
            "config": args.config.name(),
            "device": args.compute.device(),
            "batch": args.batch,
            "micro_batch": args.micro_batch,
            "scale": scale,
            "additions": additions,
            "exact_over_plain_of_step": (additions.exact - additions.plain) / first,
        }));
        return;
    }
    say(format_args!(
        "net {}, batch {} in micro-batches of {}, {}: medians of {} steps",
        args.config,
        args.batch,
        args.micro_batch,
        args.compute.device(),
        measured[0].0.len()
    ));
    say("replicas   images/s   speed-up");
    for (replicas, (seconds, exchange)) in all.iter().zip(measured) {
        let rate = rate(seconds);
        let speed_up = rate / (base * all[0] as f64);
        let exchange = exchange.map_or(String::new(), |times| {
            format!(
                "   gradients {:.2} ms, {:.2} ms of it hidden; weights {:.2} ms",
                1e3 * times.reduce,
                1e3 * (times.reduce - times.exposed),
                1e3 * times.gather
            )
        });
        say(format_args!(
            "{replicas:>8} {rate:>10.2} {speed_up:>9.2}x{exchange}"
        ));
    }
    say(format_args!(
        "adding {} gradients of {:.1} MB: {:.2} ms in the order of the tree, {:.2} ms one after the other: {:+.2} % of a step \
         of {:.1} ms",
        args.batch / args.micro_batch,
        network.flat_len() as f64 * 4e-6,
        1e3 * additions.exact,
        1e3 * additions.plain,
        100.0 * (additions.exact - additions.plain) / first,
        1e3 * first
    ));
}

/// Bytes of the smallest and the largest sum that is timed.
const SIZES: std::ops::RangeInclusive<u32> = 10..=26;

/// Repetitions of each.
const REPEATS: usize = 5;

pub(super) fn reduce(args: &BenchReduceArgs) -> Result<u8> {
    let replicas = args.compute.replicas()?.unwrap_or(2);
    if !replicas.is_power_of_two() {
        return Err(Error::invalid("--replicas", "a power of two", replicas));
    }
    let device = args.compute.open()?;
    let mut rows = Vec::new();
    if !args.json {
        say(format_args!(
            "# {replicas} replicas on {}, which share memory; sums in the order of the reduction tree, in place",
            args.compute.device()
        ));
        say("#       size         count      type   redop     time   algbw   busbw  #wrong");
        say("#        (B)    (elements)                       (us)  (GB/s)  (GB/s)");
    }
    for power in SIZES {
        let (bytes, elements) = (1usize << power, 1usize << (power - 2));
        let (seconds, wrong) =
            on_device!(&device, backend => reduction(backend, replicas, elements, REPEATS)?);
        let algorithm = bytes as f64 / seconds / 1e9;
        let bus = algorithm * 2.0 * (replicas - 1) as f64 / replicas as f64;
        if args.json {
            rows.push(json!({
                "size": bytes, "count": elements, "type": "float", "redop": "sum",
                "time": seconds, "algbw": algorithm, "busbw": bus, "wrong": wrong,
            }));
        } else {
            say(format_args!(
                "{bytes:>12} {elements:>13}     float     sum {:>8.1} {algorithm:>7.2} {bus:>7.2} {wrong:>7}",
                1e6 * seconds
            ));
        }
    }
    if args.json {
        print_json(&json!({ "replicas": replicas, "device": args.compute.device(), "rows": rows }));
    }
    Ok(0)
}
