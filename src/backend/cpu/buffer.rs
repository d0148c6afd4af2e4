//! Memory of the CPU back end: zeroed f32, on huge pages where the system offers them.

use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::MmapMut;

use crate::error::{Error, Result};

/// Bytes of a huge page; buffers of at least this size start on a multiple of it.
const HUGE_PAGE: usize = 2 << 20;

/// An arena or a flat vector of parameters: f32 elements, aligned to a page at least.
#[derive(Debug)]
pub struct Buffer {
    map: MmapMut,
    /// First byte in use.
    start: usize,
    bytes: usize,
    /// See [`Buffer::version`].
    version: u64,
}

/// A number that no buffer of the process has had as its version.
fn next_version() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Buffer {
    /// At least `bytes` bytes, all zero. Fresh pages cost nothing until they are touched.
    pub(super) fn zeroed(what: &str, bytes: usize) -> Result<Self> {
        let out_of_memory = || Error::OutOfMemory {
            what: what.into(),
            bytes: bytes as u64,
        };
        let bytes = bytes
            .checked_next_multiple_of(64)
            .ok_or_else(out_of_memory)?
            .max(64);
        let huge = bytes >= HUGE_PAGE;
        let slack = if huge { HUGE_PAGE } else { 0 };
        let mapped = bytes.checked_add(slack).ok_or_else(out_of_memory)?;
        let map = MmapMut::map_anon(mapped).map_err(|_| out_of_memory())?;
        let start = if huge {
            map.as_ptr().align_offset(HUGE_PAGE)
        } else {
            0
        };
        #[cfg(target_os = "linux")]
        if huge {
            // A refusal costs speed only.
            let _ = map.advise_range(memmap2::Advice::HugePage, start, bytes);
        }
        Ok(Self {
            map,
            start,
            bytes,
            version: next_version(),
        })
    }

    /// Two buffers of the same version hold the same: another buffer has another version, and so has this one after it
    /// was lent to be written.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// The elements.
    pub fn as_slice(&self) -> &[f32] {
        bytemuck::cast_slice(&self.map[self.start..self.start + self.bytes])
    }

    /// The elements, to be written.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        self.version = next_version();
        bytemuck::cast_slice_mut(&mut self.map[self.start..self.start + self.bytes])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_zero() {
        for bytes in [0, 1, 4096, 3 << 20] {
            let mut buffer = Buffer::zeroed("test", bytes).unwrap();
            assert!(buffer.as_slice().len() * 4 >= bytes);
            assert!(buffer.as_slice().as_ptr().cast::<u8>().align_offset(64) == 0);
            assert!(buffer.as_slice().iter().all(|&x| x == 0.0));
            buffer.as_mut_slice().fill(1.0);
        }
    }

    #[test]
    fn impossible_sizes_are_errors() {
        for bytes in [usize::MAX, usize::MAX / 2, 1 << 60] {
            assert_eq!(Buffer::zeroed("test", bytes).unwrap_err().exit_code(), 5);
        }
    }
}
