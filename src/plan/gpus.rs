//! GPUs by their data sheets: what a plan is held against where the GPU is not here.

use super::links::{
    BOX_OF_RTX_3090, DGX_1_P100, DGX_1_V100, DGX_A100, DGX_H100, DGX_H200, DIGITS_DEVBOX, Node,
    THE_PAPERS_SYSTEM,
};
use crate::error::{Error, Result};

/// Arithmetic of products. Sums are single precision in all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// IEEE single precision, on CUDA cores.
    Fp32,
    /// f32 tensors with factors rounded to TF32, on tensor cores.
    Tf32,
    /// bf16 tensors.
    Bf16,
    /// IEEE half precision tensors: what other programs use on GPUs that have no bf16. This program does not compute in
    /// it; plans do, so that they can be compared with those programs.
    Fp16,
}

impl Arithmetic {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Fp32, Self::Tf32, Self::Bf16, Self::Fp16];

    /// As it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
        }
    }

    /// Bytes of an element of a tensor.
    pub fn element_bytes(self) -> u64 {
        match self {
            Self::Fp32 | Self::Tf32 => 4,
            Self::Bf16 | Self::Fp16 => 2,
        }
    }

    /// Whether figures in the two can be compared: the same, or both of 16 bits, which have the same peak on every GPU
    /// of the table that has both.
    pub fn is_like(self, other: Self) -> bool {
        let sixteen_bits = |arithmetic| matches!(arithmetic, Self::Bf16 | Self::Fp16);
        self == other || sixteen_bits(self) && sixteen_bits(other)
    }
}

/// The unit that executes products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Tensor cores.
    TensorCores,
    /// The ordinary pipelines.
    CudaCores,
}

/// A GPU's data sheet. Rates are the vendor's at boost clock, dense (without its sparsity).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gpu {
    /// As it is called on the command line.
    pub name: &'static str,
    /// The product that the figures are of.
    pub model: &'static str,
    /// Where they are from.
    pub source: &'static str,
    /// Bytes per second of its memory.
    pub bandwidth: f64,
    /// FLOP/s in single precision on CUDA cores.
    fp32: f64,
    /// FLOP/s of TF32 on tensor cores; `None` before Ampere.
    tf32: Option<f64>,
    /// FLOP/s of bf16 with single-precision sums on tensor cores; `None` before Ampere.
    bf16: Option<f64>,
    /// FLOP/s of fp16 with single-precision sums, and the unit that has it.
    fp16: Option<(f64, Unit)>,
    /// The machine that several of them are built into.
    pub node: Node,
}

/// 10^12.
const TERA: f64 = 1e12;
/// 10^9.
const GIGA: f64 = 1e9;

/// The GPUs, newest first.
pub const GPUS: [Gpu; 8] = [
    Gpu {
        name: "h200",
        model: "H200 SXM",
        source: "NVIDIA H200 Tensor Core GPU data sheet",
        bandwidth: 4800.0 * GIGA,
        fp32: 66.9 * TERA,
        tf32: Some(494.7 * TERA),
        bf16: Some(989.4 * TERA),
        fp16: Some((989.4 * TERA, Unit::TensorCores)),
        node: DGX_H200,
    },
    Gpu {
        name: "h100",
        model: "H100 SXM5 80 GB",
        source: "NVIDIA H100 Tensor Core GPU Architecture, white paper v1.04, table 2",
        bandwidth: 3352.0 * GIGA,
        fp32: 66.9 * TERA,
        tf32: Some(494.7 * TERA),
        bf16: Some(989.4 * TERA),
        fp16: Some((989.4 * TERA, Unit::TensorCores)),
        node: DGX_H100,
    },
    Gpu {
        name: "a100",
        model: "A100 40 GB",
        source: "NVIDIA A100 Tensor Core GPU Architecture, white paper v1.0, table 1",
        bandwidth: 1555.0 * GIGA,
        fp32: 19.5 * TERA,
        tf32: Some(156.0 * TERA),
        bf16: Some(312.0 * TERA),
        fp16: Some((312.0 * TERA, Unit::TensorCores)),
        node: DGX_A100,
    },
    Gpu {
        name: "rtx3090",
        model: "GeForce RTX 3090",
        source: "NVIDIA Ampere GA102 GPU Architecture, white paper v2.0, appendix A",
        bandwidth: 936.0 * GIGA,
        fp32: 35.6 * TERA,
        tf32: Some(35.6 * TERA),
        bf16: Some(71.0 * TERA),
        fp16: Some((71.0 * TERA, Unit::TensorCores)),
        node: BOX_OF_RTX_3090,
    },
    Gpu {
        name: "v100",
        model: "V100 SXM2",
        source: "NVIDIA Tesla V100 GPU Architecture, white paper v1.1, table 1",
        bandwidth: 900.0 * GIGA,
        fp32: 15.7 * TERA,
        tf32: None,
        bf16: None,
        fp16: Some((125.0 * TERA, Unit::TensorCores)),
        node: DGX_1_V100,
    },
    Gpu {
        name: "p100",
        model: "P100 SXM2 16 GB",
        source: "NVIDIA Tesla P100, white paper v1.1, table 1",
        bandwidth: 720.0 * GIGA,
        fp32: 10.6 * TERA,
        tf32: None,
        bf16: None,
        fp16: Some((21.2 * TERA, Unit::CudaCores)),
        node: DGX_1_P100,
    },
    Gpu {
        name: "titanx",
        model: "GeForce GTX TITAN X (Maxwell)",
        source: "NVIDIA's product page",
        bandwidth: 336.5 * GIGA,
        fp32: 6.6 * TERA,
        tf32: None,
        bf16: None,
        fp16: None,
        node: DIGITS_DEVBOX,
    },
    Gpu {
        name: "titanblack",
        model: "GeForce GTX TITAN Black",
        source: "NVIDIA's product page",
        bandwidth: 336.0 * GIGA,
        fp32: 5.6 * TERA, // 2880 cores at 980 MHz
        tf32: None,
        bf16: None,
        fp16: None,
        node: THE_PAPERS_SYSTEM,
    },
];

impl Gpu {
    /// The GPU of that name, in any case.
    pub fn by_name(name: &str) -> Result<&'static Self> {
        GPUS.iter()
            .find(|gpu| gpu.name.eq_ignore_ascii_case(name))
            .ok_or_else(|| {
                let names: Vec<&str> = GPUS.iter().map(|gpu| gpu.name).collect();
                Error::Usage(format!(
                    "--gpu: expected {}, found '{name}'; its data sheet is not in the table (src/plan/gpus.rs)",
                    names.join(", ")
                ))
            })
    }

    /// FLOP/s of products, and the unit that reaches them. Refuses what the GPU does not have.
    pub fn peak(&self, arithmetic: Arithmetic) -> Result<(f64, Unit)> {
        self.find_peak(arithmetic).ok_or_else(|| {
            let has = Arithmetic::ALL
                .into_iter()
                .filter(|known| self.find_peak(*known).is_some());
            let names: Vec<&str> = has.map(Arithmetic::name).collect();
            Error::Usage(format!(
                "--precision: expected {} on the {}, found {}",
                names.join(" or "),
                self.model,
                arithmetic.name()
            ))
        })
    }

    fn find_peak(&self, arithmetic: Arithmetic) -> Option<(f64, Unit)> {
        match arithmetic {
            Arithmetic::Fp32 => Some((self.fp32, Unit::CudaCores)),
            Arithmetic::Tf32 => self.tf32.map(|rate| (rate, Unit::TensorCores)),
            Arithmetic::Bf16 => self.bf16.map(|rate| (rate, Unit::TensorCores)),
            Arithmetic::Fp16 => self.fp16,
        }
    }
}
