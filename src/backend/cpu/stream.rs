//! Memory that is read or written once: past the caches, or fetched ahead of its use. Speed only.

use super::isa::Isa;
use super::tile::LANES;

/// `to = from` without reading the line of `to` first, where it starts on a multiple of the register's size. Other threads may
/// read it after a [`fence`] of this one.
pub(super) fn store(isa: Isa, from: &[f32; LANES], to: &mut [f32; LANES]) {
    match isa {
        // SAFETY: `Isa::Avx2` is made only where the processor has AVX2; the address has just been looked at.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if to.as_ptr().cast::<u8>().align_offset(32) == 0 => unsafe { store_avx(from, to) },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => *to = *from,
        // SAFETY: `Isa::Avx512` is made only where the processor has AVX-512; the address has just been looked at.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if to.as_ptr().cast::<u8>().align_offset(64) == 0 => unsafe { store_avx512(from, to) },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => *to = *from,
        Isa::Portable => *to = *from,
    }
}

/// # Safety
/// AVX; `to` starts on a multiple of 32 bytes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
#[inline]
unsafe fn store_avx(from: &[f32; LANES], to: &mut [f32; LANES]) {
    use std::arch::x86_64::{_mm256_loadu_ps, _mm256_stream_ps};
    for half in [0, LANES / 2] {
        // SAFETY: both halves are inside the arrays, and aligned, says the caller.
        unsafe {
            let value = _mm256_loadu_ps(from.as_ptr().add(half));
            _mm256_stream_ps(to.as_mut_ptr().add(half), value);
        }
    }
}

/// # Safety
/// AVX-512F; `to` starts on a multiple of 64 bytes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn store_avx512(from: &[f32; LANES], to: &mut [f32; LANES]) {
    use std::arch::x86_64::{_mm512_loadu_ps, _mm512_stream_ps};
    // SAFETY: 16 elements each, and aligned, says the caller.
    unsafe { _mm512_stream_ps(to.as_mut_ptr(), _mm512_loadu_ps(from.as_ptr())) }
}

/// Ends a series of [`store`]s.
pub(super) fn fence(isa: Isa) {
    match isa {
        Isa::Portable => {}
        // SAFETY: every x86-64 processor has the instruction, which touches no memory.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512 => unsafe { std::arch::x86_64::_mm_sfence() },
    }
}

/// Fetches the line at an address, if there is one.
#[inline(always)]
pub(super) fn prefetch(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 processor has the instruction, which touches no memory that the process lacks.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// [`prefetch`] of a line that will be written: it is fetched as this core's own, so that the store need not wait for that.
#[inline(always)]
pub(super) fn prefetch_to_write(address: *const f32) {
    // `_mm_prefetch` makes a plain prefetch of it unless the whole program is compiled for newer processors.
    #[cfg(target_arch = "x86_64")]
    // SAFETY: it touches no memory that the process lacks; x86-64 processors that do not have the instruction ignore it.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
