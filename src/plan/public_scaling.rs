//! What others have measured of training VGG networks on several GPUs: third-party logs, not ours. Forecasts are printed
//! beside them.

use super::cluster::{Baseline, Cluster};
use super::gpus::Arithmetic;
use super::public_figures::LAMBDA;
use crate::network::Config;

/// Training steps at 224x224 on several GPUs, and on one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScalingFigure {
    /// [`Gpu::name`](super::Gpu::name).
    pub gpu: &'static str,
    /// GPUs together.
    pub gpus: usize,
    /// Nodes that they are in; `None` where the source does not say.
    pub nodes: Option<usize>,
    /// The network; `None` where the source means all of them.
    pub config: Option<Config>,
    /// Arithmetic as far as the source says it.
    pub arithmetic: Arithmetic,
    /// The exact product and how it was run.
    pub setting: &'static str,
    /// Images/s of all GPUs; `None` where only the speed-up is known.
    pub images_per_sec: Option<f64>,
    /// How much faster than one GPU.
    pub speedup: f64,
    /// What that one GPU was given.
    pub baseline: Baseline,
    /// Who published it.
    pub source: &'static str,
}

/// `together` and `one` are images/s of all GPUs and of one with the same batch per GPU.
const fn measured(
    (gpu, gpus, nodes): (&'static str, usize, Option<usize>),
    arithmetic: Arithmetic,
    [together, one]: [f64; 2],
    setting: &'static str,
    source: &'static str,
) -> ScalingFigure {
    ScalingFigure {
        gpu,
        gpus,
        nodes,
        config: Some(Config::D),
        arithmetic,
        setting,
        images_per_sec: Some(together),
        speedup: together / one,
        baseline: Baseline::SameShare,
        source,
    }
}

const TENSORFLOW: &str = "TensorFlow's benchmarks of 2017";
const SYNTHETIC: &str = "DGX-1, batch 64 per GPU, synthetic images";
const REAL: &str = "DGX-1, batch 64 per GPU, ImageNet from disk";

/// Every figure that is known to this program.
pub const SCALING_FIGURES: [ScalingFigure; 12] = {
    use Arithmetic::{Fp16, Fp32, Tf32};
    let in_one = Some(1);
    [
        measured(
            ("a100", 8, in_one),
            Fp16,
            [10222.0, 1190.0],
            "PCIe 40 GB, batch 448 per GPU",
            LAMBDA,
        ),
        measured(
            ("a100", 8, in_one),
            Tf32,
            [4074.0, 504.0],
            "PCIe 40 GB, batch 224 per GPU",
            LAMBDA,
        ),
        measured(
            ("v100", 8, in_one),
            Fp16,
            [3759.0, 456.0],
            "SXM3 32 GB, batch 384 per GPU",
            LAMBDA,
        ),
        measured(
            ("v100", 8, in_one),
            Fp32,
            [1942.0, 249.0],
            "SXM3 32 GB, batch 192 per GPU",
            LAMBDA,
        ),
        measured(("p100", 2, in_one), Fp32, [295.0, 154.0], SYNTHETIC, TENSORFLOW),
        measured(("p100", 4, in_one), Fp32, [584.0, 154.0], SYNTHETIC, TENSORFLOW),
        measured(("p100", 8, in_one), Fp32, [1081.0, 154.0], SYNTHETIC, TENSORFLOW),
        measured(("p100", 2, in_one), Fp32, [284.0, 154.0], REAL, TENSORFLOW),
        measured(("p100", 4, in_one), Fp32, [534.0, 154.0], REAL, TENSORFLOW),
        measured(("p100", 8, in_one), Fp32, [898.0, 154.0], REAL, TENSORFLOW),
        measured(
            ("p100", 16, None),
            Fp32,
            [1787.0, 131.0],
            "Pascal class, batch 64 per GPU, nodes not stated",
            "horovod, pull request 44",
        ),
        ScalingFigure {
            gpu: "titanblack",
            gpus: 4,
            nodes: in_one,
            config: None,
            arithmetic: Fp32,
            setting: "batch 256 together, a branch of Caffe",
            images_per_sec: None,
            speedup: 3.75,
            baseline: Baseline::SameBatch,
            source: "the paper, section 3.3",
        },
    ]
};

/// The public figures of a network on so many GPUs that can be compared with a forecast in `arithmetic`.
pub fn scaling_figures(
    cluster: &Cluster,
    config: Config,
    arithmetic: Arithmetic,
) -> impl Iterator<Item = &'static ScalingFigure> {
    let (name, nodes, replicas) = (cluster.gpu.name, cluster.nodes, cluster.replicas());
    SCALING_FIGURES.iter().filter(move |figure| {
        figure.gpu == name
            && figure.gpus == replicas
            && figure.nodes.is_none_or(|stated| stated == nodes)
            && figure.config.is_none_or(|stated| stated == config)
            && figure.arithmetic.is_like(arithmetic)
    })
}
