//! `verydeep plan`: what a network is and what it will need.

use serde_json::json;

use super::args::{ForecastPrecision, NetworkArgs, PlanArgs};
use super::compute::{DeviceName, check_threads};
use super::forecast_gpu::GpuForecast;
use super::output::{print_json, say};
use crate::backend::Precision;
use crate::backend::cpu::Cpu;
use crate::backend::cuda::CudaLowering;
use crate::data::loader::ring_bytes;
use crate::data::preprocess::Preprocess;
use crate::error::{Error, Result};
use crate::network::{Config, Network, Spec};
use crate::plan::{Arithmetic, Gpu, Lowering, Memory, Mode, Plan, Tree, WalkOrder};
use crate::train::{LOADER_SLOTS, Recipe, check_replicas};

impl NetworkArgs {
    /// The network's description, with the paper's numbers where nothing was said.
    pub(super) fn spec(&self, config: Config, classes: usize, dropout: Option<f64>) -> Spec {
        let paper = Spec::paper(config);
        Spec {
            config,
            batch_norm: self.batch_norm.unwrap_or(false),
            classes,
            crop: self.crop.unwrap_or(paper.crop),
            width: self.width.unwrap_or(paper.width),
            fc: self.fc.unwrap_or(paper.fc),
            dropout: dropout.unwrap_or(paper.dropout),
        }
    }
}

/// `--micro-batch`, or 32, or the batch where that is smaller.
pub(super) fn micro_batch(said: Option<usize>, batch: usize) -> usize {
    said.unwrap_or(batch.min(32))
}

pub(super) fn plan(args: &PlanArgs) -> Result<u8> {
    let micro_batch = micro_batch(args.micro_batch, args.batch);
    if micro_batch == 0 || args.batch == 0 || !args.batch.is_multiple_of(micro_batch) {
        return Err(Error::invalid(
            "--micro-batch",
            format_args!("a divisor of --batch {}", args.batch),
            micro_batch,
        ));
    }
    check_replicas(args.replicas, args.batch, micro_batch)?;
    let network = args.network.spec(args.config, args.classes, None).build()?;
    let threads = check_threads(args.threads)?;
    let cpu;
    // A plan asks nothing of a device that is there.
    let device = args.device.as_deref().unwrap_or(match args.gpu {
        Some(_) => "cuda",
        None => "cpu",
    });
    let lowering: &dyn Lowering = match DeviceName::parse(device)? {
        DeviceName::Cpu if args.gpu.is_some() => {
            return Err(Error::Usage(
                "--gpu: expected with --device cuda, found --device cpu".into(),
            ));
        }
        DeviceName::Cpu
            if args
                .precision
                .is_some_and(|precision| precision != ForecastPrecision::Fp32) =>
        {
            return Err(Error::Usage(
                "--precision: expected fp32, or --device cuda; the CPU computes in single precision only"
                    .into(),
            ));
        }
        DeviceName::Cpu => {
            cpu = Cpu::new(threads)?;
            &cpu
        }
        DeviceName::Cuda(_) => &stored_in(args.precision),
    };
    let division = Division {
        batch: args.batch,
        micro_batch,
        replicas: args.replicas,
        threads,
    };
    let memory = forecast(lowering, &network, WalkOrder::default(), division)?;
    let gpu = forecast_gpu(args, &network, args.batch / micro_batch, micro_batch)?;
    let arrays: u64 = network.parameters.iter().map(|p| p.len() as u64).sum();
    let checkpoint_bytes = 2 * 4 * arrays + CHECKPOINT_HEADER_BYTES;
    if args.json {
        print_json(&json!({
            "config": args.config.name(),
            "parameters": network.parameter_count(),
            "macs_forward": network.macs(),
            "layers": network.layers.iter().map(|layer| json!({
                "name": layer.name,
                "kind": layer.kind(),
                "output": [layer.output.c, layer.output.h, layer.output.w],
                "parameters": layer_parameters(&network, layer.parameters.clone()),
                "macs": layer.macs(),
            })).collect::<Vec<_>>(),
            "batch": args.batch,
            "micro_batch": micro_batch,
            "memory": memory,
            "checkpoint_bytes": checkpoint_bytes,
            "gpu": gpu.map(|gpu| gpu.json()),
        }));
        return Ok(0);
    }
    print_table(args.config, &network);
    say("");
    say(format_args!(
        "memory of training, batch {} in micro-batches of {micro_batch}, {} replicas on one device:",
        args.batch, args.replicas
    ));
    for (what, bytes) in [
        ("weights", memory.weights),
        ("gradients", memory.gradients),
        ("momentum", memory.optimizer),
        ("activations", memory.activations),
        ("workspace", memory.workspace),
        ("loader", memory.loader),
        ("process", memory.process),
        ("total", memory.total),
        ("a checkpoint", checkpoint_bytes),
    ] {
        say(format_args!(
            "  {what:<12} {:>10.1} MiB",
            bytes as f64 / f64::from(1 << 20)
        ));
    }
    if let Some(gpu) = gpu {
        say("");
        gpu.say();
    }
    Ok(0)
}

/// How a plan in that precision lies in memory.
fn stored_in(precision: Option<ForecastPrecision>) -> CudaLowering {
    let precision = match precision {
        None | Some(ForecastPrecision::Fp32) => Precision::Fp32,
        Some(ForecastPrecision::Tf32) => Precision::Tf32,
        // As wide as bf16.
        Some(ForecastPrecision::Bf16 | ForecastPrecision::Fp16) => Precision::Bf16,
    };
    CudaLowering { precision }
}

/// The time of a training step on the GPU that was asked for.
fn forecast_gpu(
    args: &PlanArgs,
    network: &Network,
    micro_batches: usize,
    micro_batch: usize,
) -> Result<Option<GpuForecast>> {
    let Some(name) = &args.gpu else {
        return Ok(None);
    };
    let arithmetic = match args.precision {
        None | Some(ForecastPrecision::Fp32) => Arithmetic::Fp32,
        Some(ForecastPrecision::Tf32) => Arithmetic::Tf32,
        Some(ForecastPrecision::Bf16) => Arithmetic::Bf16,
        Some(ForecastPrecision::Fp16) => Arithmetic::Fp16,
    };
    let plan = Plan::new(
        network,
        &Preprocess::subtract_mean([0.0; 3]),
        micro_batch,
        Mode::Training,
        &stored_in(args.precision),
    )?;
    // Public figures are of the paper's networks, whatever the number of classes.
    let papers = Spec {
        classes: args.classes,
        ..Spec::paper(args.config)
    };
    let is_papers = args.network.spec(args.config, args.classes, None) == papers;
    let network = (args.config, &plan);
    GpuForecast::new(Gpu::by_name(name)?, arithmetic, network, micro_batches, is_papers).map(Some)
}

/// Names, shapes, recipe and hashes that stand before the arrays of a checkpoint: about this much.
const CHECKPOINT_HEADER_BYTES: u64 = 16 << 10;

/// What a worker thread of the loader holds: a decoded window, its resampling tables and the decoder's own state, for
/// photographs of ImageNet's size. Measured.
const LOADER_THREAD_BYTES: u64 = 512 << 10;

/// How a run divides its batch and its threads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Division {
    /// Global batch in images.
    pub(super) batch: usize,
    /// Images per micro-batch.
    pub(super) micro_batch: usize,
    /// Replicas of this process.
    pub(super) replicas: usize,
    /// Threads of this process, for the network and for the images each.
    pub(super) threads: usize,
}

impl Division {
    /// That of a recipe.
    pub(super) fn of(recipe: &Recipe) -> Self {
        Self {
            batch: recipe.batch,
            micro_batch: recipe.micro_batch,
            replicas: recipe.replicas,
            threads: recipe.threads,
        }
    }
}

/// Memory of a training run on the back end that plans like this.
pub(super) fn forecast(
    lowering: &dyn Lowering,
    network: &Network,
    order: WalkOrder,
    division: Division,
) -> Result<Memory> {
    let Division {
        batch,
        micro_batch,
        replicas,
        threads,
    } = division;
    let preprocess = Preprocess::subtract_mean([0.0; 3]);
    let plan = |mode| Plan::new(network, &preprocess, micro_batch, mode, lowering);
    let (training, evaluation) = (plan(Mode::Training)?, plan(Mode::Evaluation)?);
    // During a validation, the training images that were loaded ahead stay where they are.
    let rings = 2 * ring_bytes(LOADER_SLOTS, micro_batch, network.input.h);
    let loader_threads = (threads / replicas).max(1) as u64;
    let loader = rings + 2 * loader_threads * LOADER_THREAD_BYTES;
    Ok(Memory::training(
        lowering,
        [&training, &evaluation],
        Tree::new(batch / (micro_batch * replicas)),
        order,
        loader,
        replicas,
    ))
}

fn layer_parameters(network: &Network, arrays: std::ops::Range<usize>) -> u64 {
    network.parameters[arrays]
        .iter()
        .filter(|p| p.role.is_learned())
        .map(|p| p.len() as u64)
        .sum()
}

fn print_table(config: Config, network: &Network) {
    say(format_args!(
        "{:<10} {:<11} {:>15} {:>13} {:>13}",
        "layer", "kind", "output", "parameters", "MACs"
    ));
    for layer in &network.layers {
        let parameters = layer_parameters(network, layer.parameters.clone());
        let (shape, macs) = (layer.output.to_string(), layer.macs());
        let blank = |n: u64| if n == 0 { String::new() } else { n.to_string() };
        let (parameters, macs) = (blank(parameters), blank(macs));
        say(format_args!(
            "{:<10} {:<11} {shape:>15} {parameters:>13} {macs:>13}",
            layer.name,
            layer.kind()
        ));
    }
    say(format_args!(
        "net {config}, input {}: {} parameters, {:.3} GMAC per image",
        network.input,
        network.parameter_count(),
        network.macs() as f64 / 1e9
    ));
}
