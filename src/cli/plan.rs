//! `verydeep plan`: what a network is and what it will need.

use serde_json::json;

use super::args::{ForecastPrecision, NetworkArgs, PlanArgs};
use super::compute::{DeviceName, check_threads};
use super::forecasts::{Forecasts, cluster, stored_in};
use super::output::{print_json, say};
use super::processes::Placement;
use crate::backend::cpu::Cpu;
use crate::data::loader::ring_bytes;
use crate::data::preprocess::Preprocess;
use crate::error::{Error, Result};
use crate::network::{Config, Network, Spec};
use crate::plan::{Lowering, Memory, Mode, Plan, Tree, WalkOrder};
use crate::train::{LOADER_SLOTS, Recipe, check_shares};

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
            extent: paper.extent,
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
    let cluster = cluster(args)?;
    let (replicas, devices) = match &cluster {
        None => (args.replicas, 1),
        Some(cluster) => (cluster.replicas(), cluster.replicas()),
    };
    let flag = if cluster.is_some() {
        "--nodes x --gpus"
    } else {
        "--replicas"
    };
    check_shares(flag, replicas, args.batch, micro_batch)?;
    let network = args.network.spec(args.config, args.classes, None).build()?;
    let threads = check_threads(args.threads)?;
    let cpu;
    // A plan asks nothing of a device that is there.
    let device = args.device.as_deref().unwrap_or(match args.gpu {
        Some(_) => "cuda",
        None => "cpu",
    });
    let lowering: &dyn Lowering = match DeviceName::single(device)? {
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
        replicas,
        devices,
        local: replicas / devices,
        threads,
    };
    let memory = forecast(lowering, &network, args.walk.unwrap_or_default(), division)?;
    let micro_batches = [args.batch / micro_batch, micro_batch];
    let forecasts = Forecasts::of(args, &network, micro_batches, cluster)?;
    let arrays: u64 = network.parameters.iter().map(|p| p.len() as u64).sum();
    let checkpoint_bytes = 2 * 4 * arrays + CHECKPOINT_HEADER_BYTES;
    if args.json {
        let [gpu, cluster] = forecasts.map_or([None, None], |forecasts| forecasts.json());
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
            "gpu": gpu,
            "cluster": cluster,
        }));
        return Ok(0);
    }
    print_table(args.config, &network);
    say("");
    let where_it_lies = match devices {
        1 => format!("{replicas} replicas on one device"),
        _ => format!("on each of {devices} devices"),
    };
    say(format_args!(
        "memory of training, batch {} in micro-batches of {micro_batch}, {where_it_lies}:",
        args.batch
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
    if let Some(forecasts) = forecasts {
        forecasts.say();
    }
    Ok(0)
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
    /// Replicas.
    pub(super) replicas: usize,
    /// Devices that they are on: one, or one each.
    pub(super) devices: usize,
    /// Replicas of this process.
    pub(super) local: usize,
    /// Threads of this process, for the network and for the images each.
    pub(super) threads: usize,
}

impl Division {
    /// That of a recipe whose replicas are there.
    pub(super) fn of(recipe: &Recipe, place: &Placement) -> Self {
        Self {
            devices: place.all_devices(),
            local: place.local_replicas(),
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
        devices,
        local,
        threads,
    } = division;
    let preprocess = Preprocess::subtract_mean([0.0; 3]);
    let plan = |mode| Plan::new(network, &preprocess, micro_batch, mode, lowering);
    let tree = Tree::new(batch / (micro_batch * replicas));
    let training = plan(Mode::Training)?.walked(tree.leaves());
    let evaluation = plan(Mode::Evaluation)?;
    // During a validation, the training images that were loaded ahead stay where they are.
    let rings = 2 * ring_bytes(LOADER_SLOTS, micro_batch, network.input.h);
    let loader_threads = (threads / local).max(1) as u64;
    let loader = rings + 2 * loader_threads * LOADER_THREAD_BYTES;
    Ok(Memory::training(
        lowering,
        [&training, &evaluation],
        tree,
        order,
        loader,
        [replicas / devices, devices],
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
