//! From the loader's slot to the device: one block of pinned memory, copied on a stream of its own.

use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream, PinnedHostSlice, result};

use super::dnn::DevicePtr;
use super::launch::Launcher;
use super::memory::refused;
use crate::error::Result;
use crate::plan::Batch;

/// Where the parts of a micro-batch lie in a block of memory, on the host and on the device alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchLayout {
    pixels: usize,
    images: usize,
}

impl BatchLayout {
    /// For `images` images of `pixels` pixels each.
    pub(super) fn new(images: usize, pixels: usize) -> Self {
        Self { pixels, images }
    }

    fn colours(self) -> usize {
        (self.images * self.pixels * 3).next_multiple_of(16)
    }

    fn flips(self) -> usize {
        self.colours() + self.images * size_of::<[f32; 3]>()
    }

    /// Bytes of the whole block.
    pub(super) fn bytes(self) -> usize {
        (self.flips() + self.images).next_multiple_of(16)
    }

    /// Addresses of pixels, flips and colours.
    pub(super) fn input(self, block: DevicePtr) -> [DevicePtr; 3] {
        [0, self.flips(), self.colours()].map(|offset| block + offset as u64)
    }

    /// Fills a block.
    pub(super) fn write(self, batch: &Batch<'_>, block: &mut [u8]) {
        let mut put =
            |offset: usize, bytes: &[u8]| block[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(0, &batch.pixels[..self.images * self.pixels * 3]);
        put(
            self.colours(),
            bytemuck::cast_slice(&batch.colours[..self.images]),
        );
        let flips = &mut block[self.flips()..];
        flips
            .iter_mut()
            .zip(batch.flips)
            .take(self.images)
            .for_each(|(to, flip)| *to = *flip as u8);
    }
}

/// A pinned block that is filled and copied again and again.
pub(super) struct Staging {
    host: PinnedHostSlice<u8>,
    copy: Arc<CudaStream>,
    /// Recorded after the copy: the compute stream waits for it, and so does the next use of the block.
    copied: CudaEvent,
    /// Recorded before the copy: what the compute stream was asked before may still use the destination.
    consumed: CudaEvent,
}

impl Staging {
    fn new(launcher: &Launcher, copy: &Arc<CudaStream>, bytes: usize) -> Result<Self> {
        let context = copy.context();
        // SAFETY: the memory is written before it is read. Not write-combined: workers may read what they wrote.
        let host = unsafe { context.alloc_pinned_with_flags(bytes, 0) };
        let event = || launcher.check("creating an event", context.new_event(None));
        Ok(Self {
            host: host.map_err(|why| refused(copy, "pinned memory", bytes, &why))?,
            copy: Arc::clone(copy),
            copied: event()?,
            consumed: event()?,
        })
    }

    /// The block in `place`, made larger where it must be.
    pub(super) fn at_least<'a>(
        place: &'a mut Option<Self>,
        launcher: &'a Launcher,
        copy: &Arc<CudaStream>,
        bytes: usize,
    ) -> Result<(&'a mut Self, &'a Launcher)> {
        if place.as_ref().is_none_or(|staging| staging.host.len() < bytes) {
            *place = Some(Self::new(launcher, copy, bytes)?);
        }
        Ok((place.as_mut().expect("it has just been made"), launcher))
    }

    /// Fills the first `bytes` of the block and copies them to `to`; the launcher's stream sees them from here on.
    ///
    /// # Safety
    ///
    /// `to` must be as long.
    pub(super) unsafe fn send(
        &mut self,
        launcher: &Launcher,
        bytes: usize,
        to: DevicePtr,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<()> {
        launcher.check("waiting for the last copy", self.copied.synchronize())?;
        let host = launcher.check("writing pinned memory", self.host.as_mut_slice())?;
        let host = &mut host[..bytes];
        fill(host);
        launcher.check("ordering the copy", self.consumed.record(launcher.stream()))?;
        launcher.check("ordering the copy", self.copy.wait(&self.consumed))?;
        // SAFETY: the caller vouches for the destination; the block outlives the copy, which is waited for before the
        // next write and before the memory is freed.
        let copied = unsafe { result::memcpy_htod_async(to, host, self.copy.cu_stream()) };
        launcher.check("copying to the device", copied)?;
        self.order_after_copy(launcher).inspect_err(|_| self.settle())
    }

    fn order_after_copy(&self, launcher: &Launcher) -> Result<()> {
        launcher.check("recording the copy", self.copied.record(&self.copy))?;
        launcher.check("ordering the input", launcher.stream().wait(&self.copied))
    }

    /// Waits for a copy that nothing else waits for: its destination may be freed next. A failure at this point has
    /// nobody to tell.
    fn settle(&self) {
        let _ = self.copy.synchronize();
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.settle();
    }
}

/// Copies `values` into device memory and waits.
///
/// # Safety
///
/// `to` must have as many bytes.
pub(super) unsafe fn write<T: bytemuck::Pod>(launcher: &Launcher, to: DevicePtr, values: &[T]) -> Result<()> {
    let bytes: &[u8] = bytemuck::cast_slice(values);
    // SAFETY: the caller vouches for the device's memory; `values` lives until the stream is waited for.
    let done = unsafe { result::memcpy_htod_async(to, bytes, launcher.stream().cu_stream()) };
    launcher.check("copying to the device", done)?;
    launcher.synchronize()
}

/// Copies device memory into `values` and waits.
///
/// # Safety
///
/// `from` must have as many bytes.
pub(super) unsafe fn read<T: bytemuck::Pod>(
    launcher: &Launcher,
    from: DevicePtr,
    values: &mut [T],
) -> Result<()> {
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(values);
    // SAFETY: as above.
    let done = unsafe { result::memcpy_dtoh_async(bytes, from, launcher.stream().cu_stream()) };
    launcher.check("copying from the device", done)?;
    launcher.synchronize()
}
