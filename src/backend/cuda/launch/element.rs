//! The types that activations and their gradients have in device memory.

/// What a kernel reads and writes. It computes in f32, whatever this is, and rounds what it writes once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Element {
    /// 32 bits.
    F32,
    /// The upper half of an f32.
    Bf16,
}

impl Element {
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
