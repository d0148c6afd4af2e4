//! What the simulated libraries (cuDNN, cuBLASLt) are built on: work on a stream, with the memory that it touches said in
//! advance.

use std::sync::Arc;

use cudarc::driver::sys::CUresult;
use half::bf16;

use crate::api::current;
use crate::faults::Call;
use crate::sim::{Action, Handle, Sim};

/// A range of device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) address: u64,
    pub(crate) bytes: usize,
}

/// One call of a library.
pub(crate) struct Work {
    pub(crate) name: String,
    pub(crate) reads: Vec<Access>,
    pub(crate) writes: Vec<Access>,
    /// Does it, on host memory: device addresses are host addresses. Called again whenever a captured graph is replayed.
    pub(crate) run: Box<dyn Fn() + Send + Sync>,
}

/// Puts a call on a stream. It counts as a launch.
pub(crate) fn enqueue(stream: usize, work: Work) -> Result<(), CUresult> {
    crate::wait::enter();
    let mut sim = Sim::lock();
    if let Some(error) = sim.broken(current()) {
        return Err(error);
    }
    sim.faults.meet(Call::Launch)?;
    let stream: Handle = crate::api::checked_stream(&mut sim, stream)?;
    crate::api::check_launch_device(&mut sim, stream, &work.name)?;
    let name = work.name.clone();
    sim.enqueue(stream, &name, Action::Library(Arc::new(work)));
    Ok(())
}

/// Whether a library can be started: a context is current, and the start is not made to fail.
pub(crate) fn can_start() -> bool {
    crate::wait::enter();
    current().is_some() && Sim::lock().faults.meet(Call::Other).is_ok()
}

/// The numbers of a tensor or matrix in memory. What is computed with them is wider; what is written is rounded once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Float {
    F32,
    /// The upper half of an f32.
    Bf16,
}

impl Float {
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// # Safety
    ///
    /// `start` points to more than `index` of them.
    pub(crate) unsafe fn read(self, start: usize, index: usize) -> f32 {
        // SAFETY: the caller vouches for the memory.
        unsafe {
            match self {
                Self::F32 => *(start as *const f32).add(index),
                Self::Bf16 => (*(start as *const bf16).add(index)).to_f32(),
            }
        }
    }

    /// # Safety
    ///
    /// As for [`Float::read`].
    pub(crate) unsafe fn write(self, start: usize, index: usize, value: f32) {
        // SAFETY: the caller vouches for the memory.
        unsafe {
            match self {
                Self::F32 => *(start as *mut f32).add(index) = value,
                Self::Bf16 => *(start as *mut bf16).add(index) = bf16::from_f32(value),
            }
        }
    }
}

/// A factor as tensor cores multiply it: rounded to the 10 bits of fraction that TF32 keeps, ties away from zero.
pub(crate) fn to_tf32(factor: f32) -> f32 {
    if !factor.is_finite() {
        return factor;
    }
    let bits = factor.to_bits();
    f32::from_bits((bits + 0x1000) & !0x1fff)
}

#[cfg(test)]
mod tests {
    use super::to_tf32;

    #[test]
    fn tf32_keeps_ten_bits_of_fraction() {
        let ulp = 2f32.powi(-10);
        for (value, expected) in [
            (1.0, 1.0),
            (1.0 + ulp, 1.0 + ulp),
            (1.0 + 0.49 * ulp, 1.0),
            (1.0 + 0.5 * ulp, 1.0 + ulp),
            (-1.0 - 0.5 * ulp, -1.0 - ulp),
            (2.0 - 0.25 * ulp, 2.0),
        ] {
            assert_eq!(to_tf32(value), expected, "{value}");
        }
        assert!(to_tf32(f32::NAN).is_nan());
    }
}
