//! Which arithmetic the matrix products and convolutions of a run use.

use serde::{Deserialize, Serialize};

/// Arithmetic of the forward and backward passes. Weights, momentum, the gradient tree and the update are f32 always.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// IEEE single precision throughout.
    #[default]
    Fp32,
    /// f32 tensors whose factors are rounded to TF32 (8 bits of exponent, 10 of fraction) before they are multiplied;
    /// sums are f32. Tensor cores of NVIDIA GPUs since Ampere.
    Tf32,
    /// bf16 tensors (8 bits of exponent, 7 of fraction); sums are f32.
    Bf16,
}

impl Precision {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Fp32, Self::Tf32, Self::Bf16];

    /// As it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        }
    }
}
