//! The flags that say where and how to compute.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Where and how to compute. Only device, precision and the convolutions' algorithm change bits of the result.
#[derive(Debug, Args)]
pub(in crate::cli) struct ComputeArgs {
    /// Where to compute: cpu, cuda or cuda:N; to train or evaluate on several GPUs, one replica on each, cuda:0-3 or cuda:0,2
    /// [default: cpu]
    #[arg(long)]
    pub(in crate::cli) device: Option<String>,
    /// Where NVIDIA's libraries are: their folder, or a Python environment that has them [default: VERYDEEP_CUDA_LIBS]
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) cuda_libs: Option<PathBuf>,
    /// Replicas that share the batch, a power of two that divides the number of micro-batches: the weights are the same to
    /// the bit for any number of them [default: 1]; `eval` and `reproduce` deal images to any number, `bench scale` takes
    /// several numbers
    #[arg(long, value_name = "R", value_delimiter = ',')]
    pub(in crate::cli) replicas: Vec<usize>,
    /// How replicas add their gradients [default: exact]
    #[arg(long)]
    pub(in crate::cli) reduce: Option<Reduce>,
    /// Arithmetic of the forward and backward passes
    #[arg(long)]
    pub(in crate::cli) precision: Option<PrecisionArg>,
    /// Capture the work of a micro-batch as a CUDA graph and launch it in one call; changes no bit
    #[arg(long)]
    pub(in crate::cli) cuda_graph: bool,
    /// Algorithm of the convolutions; CPU only
    #[arg(long)]
    pub(in crate::cli) conv_algo: Option<ConvAlgo>,
    /// Threads of the CPU, for the network and for the images each [default: all cores]
    #[arg(long, value_name = "N")]
    pub(in crate::cli) threads: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Reduce {
    /// In the fixed order of the reduction tree: the same bits for any number of replicas
    Exact,
    /// By NCCL's all-reduce, in an order of its own: bits depend on the number of replicas; several devices only
    Nccl,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum PrecisionArg {
    /// IEEE single precision throughout
    Fp32,
    /// Factors of products are rounded to TF32 on tensor cores, everything else is single precision; CUDA devices only
    Tf32,
    /// Activations, their gradients and the factors of products are bf16; sums, weights, their update and the gradients'
    /// sums are single precision; CUDA devices only
    Bf16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum ConvAlgo {
    /// Winograd where it pays, a function of the layer's shape
    Auto,
    /// Winograd F(4x4, 3x3) for every 3x3 filter
    Winograd4,
    /// Winograd F(2x2, 3x3) for every 3x3 filter: more products, less rounding
    Winograd2,
    /// Sums of products, without a transform
    Direct,
}
