//! `verydeep bench scale` and `verydeep bench reduce`: what several replicas bring, and what adding their gradients costs.

use serde_json::{Value, json};

use super::args::{BenchReduceArgs, BenchScaleArgs, ForecastPrecision};
use super::bench::CLASSES;
use super::compute::{DeviceName, on_device};
use super::forecasts::stored_in;
use super::output::{print_json, say};
use crate::bench::{Additions, StepShape, additions, median, reduction};
use crate::data::preprocess::Preprocess;
use crate::error::{Error, Result};
use crate::network::Network;
use crate::parallel::ExchangeTimes;
use crate::plan::{
    Arithmetic, Cluster, ClusterStep, Expectation, GPUS, Gpu, Mode, Plan, Reduction, WalkOrder,
};
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
    let most = all.iter().copied().max().unwrap_or(1);
    let additions = on_device!(&device, backend => {
        additions(backend, network.flat_len(), (leaves, most), 5)?
    });
    let forecasts = Forecast::all(&network)?;
    let exchange: Vec<_> = exchange.iter().map(|times| typical(times)).collect();
    let measured: Vec<_> = seconds.into_iter().zip(exchange).collect();
    report(args, &network, all, &measured, additions, &forecasts);
    Ok(0)
}

/// GPUs of a forecast, in one node; and the images of their step, which they share as one micro-batch each.
const FORECAST_GPUS: usize = 8;
const FORECAST_BATCH: usize = 256;

/// A step of GPUs that are not here, by data sheets (`plan --gpu`): seconds with exact sums and with NCCL's.
struct Forecast {
    gpu: &'static str,
    exact: f64,
    nccl: f64,
}

impl Forecast {
    /// Of every GPU that computes in bf16.
    fn all(network: &Network) -> Result<Vec<Self>> {
        let arithmetic = Arithmetic::Bf16;
        let micro_batch = FORECAST_BATCH / FORECAST_GPUS;
        let lowering = stored_in(Some(ForecastPrecision::Bf16));
        let preprocess = Preprocess::subtract_mean([0.0; 3]);
        let plan = Plan::new(network, &preprocess, micro_batch, Mode::Training, &lowering)?;
        let of = |gpu: &'static Gpu| {
            let rates = Expectation::of(gpu, arithmetic).ok()?.expected;
            let cluster = Cluster::new(gpu, 1, FORECAST_GPUS).ok()?;
            let seconds = |reduction| {
                let walk = (&plan, WalkOrder::default());
                ClusterStep::new(walk, 1, arithmetic.element_bytes(), rates, (&cluster, reduction)).seconds()
            };
            Some(Self {
                gpu: gpu.name,
                exact: seconds(Reduction::Exact),
                nccl: seconds(Reduction::Nccl),
            })
        };
        Ok(GPUS.iter().filter_map(of).collect())
    }

    /// What exactness costs, as a fraction of NCCL's step.
    fn price(&self) -> f64 {
        self.exact / self.nccl - 1.0
    }

    fn json(&self) -> Value {
        json!({
            "gpu": self.gpu,
            "gpus": FORECAST_GPUS,
            "batch": FORECAST_BATCH,
            "precision": Arithmetic::Bf16.name(),
            "exact_step_seconds": self.exact,
            "nccl_step_seconds": self.nccl,
            "exact_over_nccl_of_step": self.price(),
        })
    }

    fn say(&self) {
        say(format_args!(
            "  {:+.2} % of a step over NCCL's {:.2} ms, forecast for {FORECAST_GPUS} x {}, {FORECAST_BATCH} images, {}",
            100.0 * self.price(),
            1e3 * self.nccl,
            self.gpu,
            Arithmetic::Bf16.name()
        ));
    }
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
    forecasts: &[Forecast],
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
            "exact_over_nccl_of_step": (additions.exact - additions.ring) / first,
            "exact_over_plain_of_step": (additions.exact - additions.plain) / first,
            "forecasts": forecasts.iter().map(Forecast::json).collect::<Vec<_>>(),
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
        "adding {} gradients of {:.1} MB here takes {:.2} ms in the order of the tree, of a step of {:.1} ms; the price \
         of that order:",
        args.batch / args.micro_batch,
        network.flat_len() as f64 * 4e-6,
        1e3 * additions.exact,
        1e3 * first
    ));
    let most = all.iter().max().unwrap_or(&1);
    for (seconds, other) in [
        (additions.ring, format!("as NCCL adds on a ring of {most}")),
        (additions.plain, "into one sum".into()),
    ] {
        say(format_args!(
            "  {:+.2} % of a step over {:.2} ms {other}",
            100.0 * (additions.exact - seconds) / first,
            1e3 * seconds
        ));
    }
    for forecast in forecasts {
        forecast.say();
    }
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
