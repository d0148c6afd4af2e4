//! The flags of `bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ComputeArgs, NetworkArgs};
use crate::data::augment::ScaleRange;
use crate::data::shards::IoMode;
use crate::network::Config;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum BenchCommand {
    /// Training steps on synthetic images
    Train(BenchStepArgs),
    /// Forward passes on synthetic images
    Infer(BenchStepArgs),
    /// Every step of the network, part by part: forward, data gradient, filter gradient
    Layers(BenchLayersArgs),
    /// The input pipeline alone
    Data(BenchDataArgs),
    /// Training steps of several numbers of replicas, and what adding their gradients in a fixed order costs
    Scale(BenchScaleArgs),
    /// Sums of the replicas' gradients, in the columns of nccl-tests
    Reduce(BenchReduceArgs),
    /// Find the fastest engines and algorithms of NVIDIA's libraries for a network, and write them to a plan file
    Tune(BenchTuneArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct BenchScaleArgs {
    /// A, A-LRN, B, C, D or E; also vgg11, vgg13, vgg16, vgg19
    #[arg(long)]
    pub(in crate::cli) config: Config,
    #[command(flatten)]
    pub(in crate::cli) network: NetworkArgs,
    /// Global batch in images
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(in crate::cli) batch: usize,
    /// Images per micro-batch
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(in crate::cli) micro_batch: usize,
    /// Steps that are measured in each of three rounds, after some that are not
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(in crate::cli) steps: usize,
    #[command(flatten)]
    pub(in crate::cli) compute: ComputeArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct BenchReduceArgs {
    #[command(flatten)]
    pub(in crate::cli) compute: ComputeArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct BenchTuneArgs {
    /// A, A-LRN, B, C, D or E; also vgg11, vgg13, vgg16, vgg19
    #[arg(long)]
    pub(in crate::cli) config: Config,
    #[command(flatten)]
    pub(in crate::cli) network: NetworkArgs,
    /// Number of classes
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(in crate::cli) classes: usize,
    /// Images per micro-batch: plans are for one size
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(in crate::cli) micro_batch: usize,
    /// The plan file to write
    #[arg(long, value_name = "FILE.json")]
    pub(in crate::cli) out: PathBuf,
    #[command(flatten)]
    pub(in crate::cli) compute: ComputeArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct BenchLayersArgs {
    /// A, A-LRN, B, C, D or E; also vgg11, vgg13, vgg16, vgg19
    #[arg(long)]
    pub(in crate::cli) config: Config,
    #[command(flatten)]
    pub(in crate::cli) network: NetworkArgs,
    /// Images of the micro-batch that is timed
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(in crate::cli) batch: usize,
    /// Times that each pass is sampled; medians are reported
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(in crate::cli) repeats: usize,
    /// Compute as this file of `bench tune` says
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) plans: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) compute: ComputeArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct BenchStepArgs {
    /// A, A-LRN, B, C, D or E; also vgg11, vgg13, vgg16, vgg19
    #[arg(long)]
    pub(in crate::cli) config: Config,
    #[command(flatten)]
    pub(in crate::cli) network: NetworkArgs,
    /// Images per step
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(in crate::cli) batch: usize,
    /// Images per micro-batch, in training [default: the batch]
    #[arg(long, value_name = "N")]
    pub(in crate::cli) micro_batch: Option<usize>,
    /// Steps that are measured, after some that are not
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(in crate::cli) steps: usize,
    /// Compute as this file of `bench tune` says
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) plans: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) compute: ComputeArgs,
    /// Print one JSON object
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct BenchDataArgs {
    /// The shard folder
    #[arg(long, value_name = "SHARDS")]
    pub(in crate::cli) data: PathBuf,
    /// Shorter side S in pixels, or a range
    #[arg(long, value_name = "S|MIN..MAX", default_value = "256")]
    pub(in crate::cli) scale: ScaleRange,
    /// Side of the crop in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 224)]
    pub(in crate::cli) crop: usize,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N")]
    pub(in crate::cli) threads: Option<usize>,
    /// How shards are read
    #[arg(long, default_value = "mmap")]
    pub(in crate::cli) io: IoMode,
    /// Print one JSON object
    #[arg(long)]
    pub(in crate::cli) json: bool,
}
