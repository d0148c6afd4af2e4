//! What others have measured of training VGG networks on one GPU: third-party logs, not ours. Forecasts are printed
//! beside them.

use super::gpus::Arithmetic;
use crate::network::Config;

/// How a figure came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// Somebody ran it.
    Measured,
    /// Arithmetic, by us: nobody has published a run.
    Estimated,
}

/// Images per second of training steps (forward and backward) at 224x224 on one GPU.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PublicFigure {
    /// [`Gpu::name`](super::Gpu::name).
    pub gpu: &'static str,
    /// The network.
    pub config: Config,
    /// Arithmetic as far as the source says it.
    pub arithmetic: Arithmetic,
    /// The exact product and how it was run.
    pub setting: &'static str,
    /// Images/s.
    pub images_per_sec: f64,
    /// How it came about.
    pub evidence: Evidence,
    /// Who published it.
    pub source: &'static str,
}

const fn measured(
    gpu: &'static str,
    config: Config,
    arithmetic: Arithmetic,
    images_per_sec: f64,
    setting: &'static str,
    source: &'static str,
) -> PublicFigure {
    PublicFigure {
        gpu,
        config,
        arithmetic,
        setting,
        images_per_sec,
        evidence: Evidence::Measured,
        source,
    }
}

pub(super) const LAMBDA: &str =
    "logs of lambdal/lambda-tensorflow-benchmark (tf_cnn_benchmarks, synthetic images)";
const PYTORCH: &str = "ryujaehun/pytorch-gpu-benchmark";
const TIMM: &str = "timm's benchmark tables";
const CONVNET: &str = "soumith/convnet-benchmarks";

/// Every figure that is known to this program. PyTorch's "float" on an A100 is TF32: 428 images/s are twice the peak of
/// its true single precision. The TITAN X runs in fp16 storage are left out: that GPU has no arithmetic in it.
pub const PUBLIC_FIGURES: [PublicFigure; 16] = {
    use Arithmetic::{Bf16, Fp16, Fp32, Tf32};
    use Config::{A, D, E};
    [
        PublicFigure {
            gpu: "h100",
            config: D,
            arithmetic: Bf16,
            setting: "SXM, lower end",
            images_per_sec: 2500.0,
            evidence: Evidence::Estimated,
            source: "92.6 GFLOP per image, at the utilisation of the A100",
        },
        PublicFigure {
            gpu: "h100",
            config: D,
            arithmetic: Bf16,
            setting: "SXM, upper end",
            images_per_sec: 3500.0,
            evidence: Evidence::Estimated,
            source: "92.6 GFLOP per image, at the utilisation of the A100",
        },
        measured("a100", D, Fp16, 1190.0, "PCIe 40 GB, batch 448", LAMBDA),
        measured("a100", D, Fp16, 675.0, "SXM4 40 GB, batch 12", PYTORCH),
        measured("a100", D, Tf32, 504.0, "PCIe 40 GB, batch 224", LAMBDA),
        measured("a100", D, Tf32, 428.0, "SXM4 40 GB, batch 12", PYTORCH),
        measured("rtx3090", D, Fp16, 546.0, "mixed precision, NHWC", TIMM),
        measured("rtx3090", D, Fp16, 465.0, "mixed precision, NCHW", TIMM),
        measured("rtx3090", E, Fp16, 457.0, "mixed precision, NHWC", TIMM),
        measured("rtx3090", E, Fp16, 352.0, "mixed precision, NCHW", TIMM),
        measured("v100", D, Fp16, 456.0, "SXM3 32 GB, batch 384", LAMBDA),
        measured("v100", D, Fp32, 249.0, "SXM3 32 GB, batch 192", LAMBDA),
        measured(
            "p100",
            D,
            Fp32,
            154.0,
            "DGX-1, batch 64",
            "TensorFlow's benchmarks of 2017",
        ),
        measured(
            "p100",
            D,
            Fp32,
            131.0,
            "Pascal class, batch 64",
            "horovod, pull request 44",
        ),
        measured("titanx", A, Fp32, 64.0 / 0.529, "cuDNN R4, batch 64", CONVNET),
        measured("titanx", A, Fp32, 64.0 / 1.068, "Caffe, batch 64", CONVNET),
    ]
};
