//! The types that activations and their gradients have in device memory.

use half::bf16;
use serde::{Deserialize, Serialize};

use crate::backend::Precision;

/// What a kernel reads and writes. It computes in f32, whatever this is, and rounds what it writes once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Element {
    /// 32 bits.
    F32,
    /// The upper half of an f32.
    Bf16,
}

impl Element {
    /// What a precision keeps activations in.
    pub const fn of(precision: Precision) -> Self {
        match precision {
            Precision::Fp32 | Precision::Tf32 => Self::F32,
            Precision::Bf16 => Self::Bf16,
        }
    }

    /// The value of one that was read from device memory.
    ///
    /// # Panics
    ///
    /// Where `bytes` are not [`Element::bytes`] bytes.
    pub fn read(self, bytes: &[u8]) -> f32 {
        match self {
            Self::F32 => bytemuck::pod_read_unaligned(bytes),
            Self::Bf16 => bytemuck::pod_read_unaligned::<bf16>(bytes).to_f32(),
        }
    }

    /// Writes one as it lies in device memory, rounded to nearest, ties to even.
    ///
    /// # Panics
    ///
    /// As [`Element::read`].
    pub fn write(self, value: f32, bytes: &mut [u8]) {
        match self {
            Self::F32 => bytes.copy_from_slice(bytemuck::bytes_of(&value)),
            Self::Bf16 => bytes.copy_from_slice(bytemuck::bytes_of(&bf16::from_f32(value))),
        }
    }

    /// Bytes of one.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// How many of them a thread takes at a time: WIDTH in element.cuh.
    pub(super) const fn width(self) -> usize {
        16 / self.bytes()
    }
}
