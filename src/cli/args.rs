//! What was said: the flags of every sub-command, by their stable names. What they decide is in the command's module.

mod bench;
mod compute;
mod eval;

pub(super) use bench::{
    BenchCommand, BenchDataArgs, BenchLayersArgs, BenchReduceArgs, BenchScaleArgs, BenchStepArgs,
    BenchTuneArgs,
};
pub(super) use compute::{ComputeArgs, ConvAlgo, PrecisionArg, Reduce};
pub(super) use eval::{
    ConvertArgs, DEFAULT_BATCH, EvalArgs, FeaturesArgs, FromArg, LookArgs, PredictArgs, ReproduceArgs,
    ScalesArg, TableArg, ToArg, WeightsArg,
};

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::data::augment::ScaleRange;
use crate::data::bad::MaxBad;
use crate::data::loader::OnBad;
use crate::data::preprocess::Exif;
use crate::data::shards::IoMode;
use crate::network::Config;
use crate::network::init::Init;
use crate::plan::WalkOrder;
use crate::train::schedule::Schedule;

/// Trains and evaluates the VGG networks (Simonyan & Zisserman 2014) on ImageNet-size data: the same weights, to the
/// bit, for any number of threads, replicas, devices and processes, and across kill and resume.
#[derive(Debug, Parser)]
#[command(
    name = "verydeep",
    version,
    max_term_width = 110,
    disable_help_subcommand = true
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Turn a folder of images, or the ILSVRC archives, into shards
    Pack(PackArgs),
    /// Decode every image of shards and name the bad ones (exit 7 when there are any)
    Verify(VerifyArgs),
    /// Say what a shard, shard folder, run folder, checkpoint or weights file holds
    Inspect(PathArgs),
    /// Layers, shapes, parameters, multiply-accumulates and memory of a network, before anything is run
    Plan(PlanArgs),
    /// Train a network, or resume a run
    Train(Box<TrainArgs>),
    /// Name the first step, micro-batch, layer and pass in which two runs trained with --folds differ (exit 1)
    Diff(DiffArgs),
    /// Evaluate weights on the validation split
    Eval(EvalArgs),
    /// Print a table of the paper: ours, the paper's, and the difference, for every row whose networks are given
    Reproduce(ReproduceArgs),
    /// Classify images
    Predict(PredictArgs),
    /// Write what a fully connected layer makes of images, for classifiers of your own
    Features(FeaturesArgs),
    /// Bring weights from and to the files of other programs
    Convert(ConvertArgs),
    /// Measure speed
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Say what this machine has, and whether a device would work (exit 4 when not)
    Doctor(DoctorArgs),
    /// Train a small network A on the real images that come with the program, and evaluate it
    Quickstart(QuickstartArgs),
}

#[derive(Debug, Args)]
pub(super) struct TimeoutArgs {
    /// How long a process may be silent before it counts as lost, and the others end with exit 8 [default: 10]
    #[arg(long, value_name = "SECONDS")]
    pub(super) peer_timeout: Option<f64>,
    /// How long no process may make progress before the one that is furthest behind counts as lost; more than a
    /// validation or a checkpoint takes [default: 1800]
    #[arg(long, value_name = "SECONDS")]
    pub(super) hang_timeout: Option<f64>,
    /// How long the first one waits for the others to come [default: 120]
    #[arg(long, value_name = "SECONDS")]
    pub(super) join_timeout: Option<f64>,
}

#[derive(Debug, Args)]
pub(super) struct PathArgs {
    /// What to look at
    pub(super) path: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// A shard folder, a folder of tars, or one tar
    pub(super) path: PathBuf,
    /// Write what is good of them into this new folder, in shards of the same names
    #[arg(long, value_name = "OUT")]
    pub(super) repair: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct PackArgs {
    /// Folder with train/<class>/* and, optionally, val/<class>/*
    #[arg(long, value_name = "DIR", required_unless_present_any = ["ilsvrc_train", "shards"])]
    pub(super) images: Option<PathBuf>,
    /// ILSVRC2012_img_train.tar, read in place
    #[arg(long, value_name = "TAR", conflicts_with = "images", requires = "ilsvrc_val")]
    pub(super) ilsvrc_train: Option<PathBuf>,
    /// ILSVRC2012_img_val.tar
    #[arg(long, value_name = "TAR", requires = "ilsvrc_train", requires = "val_labels")]
    pub(super) ilsvrc_val: Option<PathBuf>,
    /// Classes of the validation images: a list of wnids, Caffe's val.txt, or Kaggle's CSV
    #[arg(long, value_name = "FILE", requires = "ilsvrc_val")]
    pub(super) val_labels: Option<PathBuf>,
    /// Shards of any tool, with a class index in a .cls member: a folder of tars, or one tar. Without a manifest, those
    /// whose names have "val" or "test" in them are the validation split
    #[arg(long, value_name = "DIR|TAR", conflicts_with_all = ["images", "ilsvrc_train"])]
    pub(super) shards: Option<PathBuf>,
    /// Names of the classes of --shards in index order, one a line [default: the manifest's, or numbers]
    #[arg(long, value_name = "FILE", requires = "shards")]
    pub(super) class_names: Option<PathBuf>,
    /// The shard folder to make
    #[arg(long, value_name = "SHARDS")]
    pub(super) out: PathBuf,
    /// Samples per shard
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(super) shard_size: usize,
    /// Rescale images whose shorter side is longer than this many pixels, and encode them again
    #[arg(long, value_name = "PIXELS", requires = "quality")]
    pub(super) max_short: Option<usize>,
    /// JPEG quality of what is encoded again, 1 to 100
    #[arg(long, value_name = "Q", requires = "max_short")]
    pub(super) quality: Option<u8>,
    /// Key of the shuffle that deals training samples to shards
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub(super) seed: u64,
    /// What to do with an image that cannot be decoded at all: leave it out and name it, or fail (exit 7)
    #[arg(long, value_name = "skip|fail", default_value = "skip")]
    pub(super) on_bad: OnBad,
    /// End with exit 7 once more images than this cannot be decoded: a number, or a share of all such as 0.1%
    #[arg(long, value_name = "N|P%")]
    pub(super) max_bad: Option<MaxBad>,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

/// The flags that describe a network.
#[derive(Debug, Args)]
pub(super) struct NetworkArgs {
    /// Batch normalisation after every convolution
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) batch_norm: Option<bool>,
    /// Side of the square crop in pixels [default: 224]
    #[arg(long, value_name = "PIXELS")]
    pub(super) crop: Option<usize>,
    /// Factor of the convolutions' channels [default: 1]
    #[arg(long, value_name = "FACTOR")]
    pub(super) width: Option<f64>,
    /// Outputs of fc6 and fc7 [default: 4096]
    #[arg(long, value_name = "N")]
    pub(super) fc: Option<usize>,
}

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// A, A-LRN, B, C, D or E; also vgg11, vgg13, vgg16, vgg19
    #[arg(long)]
    pub(super) config: Config,
    #[command(flatten)]
    pub(super) network: NetworkArgs,
    /// Number of classes
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(super) classes: usize,
    /// Global batch in images
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(super) batch: usize,
    /// Images per micro-batch [default: 32, or the batch where that is smaller]
    #[arg(long, value_name = "N")]
    pub(super) micro_batch: Option<usize>,
    /// Replicas that share the batch on one device: a power of two that divides the number of micro-batches
    #[arg(long, value_name = "R", default_value_t = 1, conflicts_with_all = ["nodes", "gpus"])]
    pub(super) replicas: usize,
    /// Where it would run: cpu, cuda or cuda:N [default: cpu, and cuda with --gpu]
    #[arg(long)]
    pub(super) device: Option<String>,
    /// Forecast the time of a training step on a GPU that need not be here: h200, h100, a100, rtx3090, v100, p100,
    /// titanx or titanblack
    #[arg(long, value_name = "GPU")]
    pub(super) gpu: Option<String>,
    /// Forecast it on so many nodes, too, with a replica on each of their GPUs: a power of two that divides the number
    /// of micro-batches [default: 1]
    #[arg(long, value_name = "N", requires = "gpu")]
    pub(super) nodes: Option<usize>,
    /// GPUs of each node [default: 1]
    #[arg(long, value_name = "G", requires = "gpu")]
    pub(super) gpus: Option<usize>,
    /// In which order a replica's micro-batches are walked [default: depth-first]
    #[arg(long, value_name = "ORDER")]
    pub(super) walk: Option<WalkOrder>,
    /// Arithmetic of that forecast, and of the memory on a CUDA device [default: fp32]
    #[arg(long)]
    pub(super) precision: Option<ForecastPrecision>,
    /// Threads of the CPU [default: all cores]
    #[arg(long, value_name = "N")]
    pub(super) threads: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ForecastPrecision {
    /// IEEE single precision, on CUDA cores
    Fp32,
    /// Factors of products are rounded to TF32 on tensor cores
    Tf32,
    /// bf16 tensors
    Bf16,
    /// fp16 tensors: this program does not train in them; for comparison with other programs on GPUs without bf16
    Fp16,
}

#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(super) struct TrainArgs {
    /// The shard folder
    #[arg(long, value_name = "SHARDS", required_unless_present = "resume")]
    pub(super) data: Option<PathBuf>,
    /// The run folder to make
    #[arg(long, value_name = "RUN", required_unless_present = "resume")]
    pub(super) run: Option<PathBuf>,
    /// Go on with the run in this folder, from its newest whole checkpoint
    #[arg(long, value_name = "RUN", conflicts_with = "run")]
    pub(super) resume: Option<PathBuf>,
    /// Read flags from a TOML file whose keys are the long flags' names; flags on the command line win
    #[arg(long, value_name = "FILE.toml")]
    pub(super) recipe: Option<PathBuf>,

    /// A, A-LRN, B, C, D or E; also vgg11, vgg13, vgg16, vgg19
    #[arg(long, required_unless_present = "resume", help_heading = "Network")]
    pub(super) config: Option<Config>,
    #[command(flatten, next_help_heading = "Network")]
    pub(super) network: NetworkArgs,
    /// Dropout probability of fc6 and fc7 [default: 0.5]
    #[arg(long, value_name = "P", help_heading = "Network")]
    pub(super) dropout: Option<f64>,
    /// How random weights start: glorot, he or normal:STD [default: glorot]
    #[arg(long, help_heading = "Network")]
    pub(super) init: Option<Init>,
    /// Copy the first four convolutions and the fully connected layers of a trained net A (the paper's staging)
    #[arg(
        long,
        value_name = "RUN|FILE",
        conflicts_with = "weights",
        help_heading = "Network"
    )]
    pub(super) init_from: Option<PathBuf>,
    /// Start from the weights of the same network (fine-tuning)
    #[arg(long, value_name = "RUN|FILE", help_heading = "Network")]
    pub(super) weights: Option<PathBuf>,

    /// Shorter side S of the training images in pixels, or a range from which it is drawn, such as 256..512
    /// [default: 256]
    #[arg(long, value_name = "S|MIN..MAX", help_heading = "Data")]
    pub(super) scale: Option<ScaleRange>,
    /// Centre crop at the smallest S, no flip, no colour shift
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = "Data")]
    pub(super) no_augment: Option<bool>,
    /// Orientation that EXIF asks for: ignore, or apply (turn images upright; travels with the weights) [default: ignore]
    #[arg(long, value_name = "ignore|apply", help_heading = "Data")]
    pub(super) exif: Option<Exif>,
    /// What to do with a training image that cannot be decoded: skip (draw another) or fail [default: skip]
    #[arg(long, value_name = "skip|fail", help_heading = "Data")]
    pub(super) on_bad: Option<OnBad>,
    /// End with exit 7 once more samples of a split than this cannot be used: a number, or a share such as 0.1%
    /// [default: no limit]
    #[arg(long, value_name = "N|P%", help_heading = "Data")]
    pub(super) max_bad: Option<MaxBad>,
    /// How shards are read: mmap, or pread for network file systems [default: mmap]
    #[arg(long, help_heading = "Data")]
    pub(super) io: Option<IoMode>,

    /// Global batch in images [default: 256]
    #[arg(long, value_name = "N", help_heading = "Optimisation")]
    pub(super) batch: Option<usize>,
    /// Images per micro-batch: part of what the bits depend on [default: 32, or the batch where that is smaller]
    #[arg(long, value_name = "N", help_heading = "Optimisation")]
    pub(super) micro_batch: Option<usize>,
    /// Length in epochs [default: 74, as in the paper]
    #[arg(
        long,
        value_name = "N",
        overrides_with = "iterations",
        help_heading = "Optimisation"
    )]
    pub(super) epochs: Option<u64>,
    /// Length in steps
    #[arg(
        long,
        value_name = "N",
        overrides_with = "epochs",
        help_heading = "Optimisation"
    )]
    pub(super) iterations: Option<u64>,
    /// Initial learning rate [default: 0.01]
    #[arg(long, value_name = "RATE", help_heading = "Optimisation")]
    pub(super) lr: Option<f64>,
    /// plateau, step:E,F (every E epochs multiply by F) or cosine [default: plateau]
    #[arg(long, help_heading = "Optimisation")]
    pub(super) schedule: Option<Schedule>,
    /// Validations without improvement before the plateau rule divides the rate by 10 [default: 5]
    #[arg(long, value_name = "N", help_heading = "Optimisation")]
    pub(super) plateau_patience: Option<u64>,
    /// Most divisions of the plateau rule [default: 3]
    #[arg(long, value_name = "N", help_heading = "Optimisation")]
    pub(super) plateau_drops: Option<u64>,
    /// Momentum [default: 0.9]
    #[arg(long, value_name = "M", help_heading = "Optimisation")]
    pub(super) momentum: Option<f64>,
    /// L2 multiplier [default: 5e-4]
    #[arg(long, value_name = "D", help_heading = "Optimisation")]
    pub(super) weight_decay: Option<f64>,
    /// Multiplier of the weight decay for biases [default: 1]
    #[arg(long, value_name = "F", help_heading = "Optimisation")]
    pub(super) bias_decay: Option<f64>,
    /// Multiplier of the learning rate for biases [default: 1]
    #[arg(long, value_name = "F", help_heading = "Optimisation")]
    pub(super) bias_lr: Option<f64>,
    /// Key of every random draw [default: 1]
    #[arg(long, value_name = "SEED", help_heading = "Optimisation")]
    pub(super) seed: Option<u64>,

    #[command(flatten, next_help_heading = "Execution")]
    pub(super) compute: ComputeArgs,

    /// Steps between checkpoints [default: one epoch]
    #[arg(long, value_name = "STEPS", help_heading = "Run")]
    pub(super) checkpoint_every: Option<u64>,
    /// Steps between validations [default: one epoch]
    #[arg(long, value_name = "STEPS", help_heading = "Run")]
    pub(super) validate_every: Option<u64>,
    /// Look for silent corruption (exit 4 where there is any): fold weights and momentum in every step, and every so many
    /// steps compute one micro-batch of every replica a second time; changes no bit
    #[arg(long, value_name = "STEPS", help_heading = "Run")]
    pub(super) audit_every: Option<u64>,
    /// End the run (exit 6) once the loss has stayed near ln(classes) for this many epochs
    #[arg(long, value_name = "EPOCHS", help_heading = "Run")]
    pub(super) stop_if_stuck: Option<u64>,
    /// Log a 64-bit fold of everything computed, for `verydeep diff`
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = "Run")]
    pub(super) folds: Option<bool>,
    /// In which order the micro-batches of a step are walked: one after the other, or the fully connected layers of
    /// all of them first, which takes an arena each and hides the way of their gradients to other replicas; changes no
    /// bit [default: depth-first]
    #[arg(long, value_name = "ORDER", help_heading = "Run")]
    pub(super) walk: Option<WalkOrder>,
    /// Compute as this file of `bench tune` says (or the recipe.toml of a run that has one); what it does not say, the
    /// default rule does
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    pub(super) plans: Option<PathBuf>,
    /// Go on although the weights will not be the same to the bit: resume a run of another equivalence class, or train
    /// by the default rule where a plan file does not hold
    #[arg(long, help_heading = "Run")]
    pub(super) allow_drift: bool,
    #[command(flatten, next_help_heading = "Several processes (srun, torchrun, mpirun)")]
    pub(super) timeouts: TimeoutArgs,
    /// Decide everything, print the recipe and the forecast, and stop
    #[arg(long, help_heading = "Run")]
    pub(super) dry_run: bool,
    /// No progress
    #[arg(long, help_heading = "Run")]
    pub(super) quiet: bool,
    /// Print the end event as one JSON object
    #[arg(long, help_heading = "Run")]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    /// A run folder
    pub(super) left: PathBuf,
    /// Another
    pub(super) right: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct QuickstartArgs {
    /// The run folder to make [default: runs/quickstart, or the next free runs/quickstart-N]
    #[arg(long, value_name = "RUN")]
    pub(super) run: Option<PathBuf>,
    /// Its shards [default: examples/quickstart-data, here or above the program]
    #[arg(long, value_name = "SHARDS")]
    pub(super) data: Option<PathBuf>,
    /// Key of every random draw
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub(super) seed: u64,
    /// Threads of the CPU [default: all cores]
    #[arg(long, value_name = "N")]
    pub(super) threads: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// The device that shall work [default: cuda where there is a driver, else cpu]
    #[arg(long)]
    pub(super) device: Option<DoctorDevice>,
    /// Train and evaluate a small network, too
    #[arg(long)]
    pub(super) full: bool,
    /// Where NVIDIA's libraries are: their folder, or a Python environment that has them [default: VERYDEEP_CUDA_LIBS]
    #[arg(long, value_name = "DIR")]
    pub(super) cuda_libs: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum DoctorDevice {
    /// The host's processor
    Cpu,
    /// NVIDIA's devices
    Cuda,
}
