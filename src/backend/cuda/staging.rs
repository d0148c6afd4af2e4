//! From the loader's slot to the device: copied on a stream of its own into one of two places, while the micro-batch in
//! the other one is computed.
//!
//! Pixels are copied from where the loader has them ([`HostMemory`], pinned); what else there is to a micro-batch, its
//! labels, flips, colours and the step's parameters, is little, and goes through pinned memory of the slot's own. All of it
//! has the same layout in both slots; what reads it on the device is told its address.

use std::sync::Arc;

use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, result};

use super::dnn::DevicePtr;
use super::launch::{DeviceStepParams, Launcher};
use super::memory::{Buffer, refused};
use crate::error::Result;
use crate::plan::{Batch, Plan, StepParams};

/// Pinned memory of the host: what a device copies from without the processor's help.
pub struct HostMemory {
    /// From the driver; `len` bytes, all of them written.
    start: *mut u8,
    len: usize,
    context: Arc<CudaContext>,
}

// SAFETY: plain memory, owned; the driver frees it from any thread that is bound to the context.
unsafe impl Send for HostMemory {}
// SAFETY: shared references only read.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// `bytes` bytes, all 0.
    pub(super) fn zeroed(stream: &CudaStream, bytes: usize) -> Result<Self> {
        let context = Arc::clone(stream.context());
        let bound = context.bind_to_thread();
        // Not write-combined: workers may read what they wrote. The driver refuses to allocate nothing.
        // SAFETY: the context is bound.
        let start = bound.and_then(|()| unsafe { result::malloc_host(bytes.max(1), 0) });
        let start = start
            .map_err(|why| refused(stream, "pinned memory", bytes, &why))?
            .cast::<u8>();
        // SAFETY: the driver has just given as many bytes.
        unsafe { start.write_bytes(0, bytes) };
        Ok(Self {
            start,
            len: bytes,
            context,
        })
    }
}

impl AsRef<[u8]> for HostMemory {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `len` bytes that were written when they were allocated.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl AsMut<[u8]> for HostMemory {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // A failure at this point has nobody to tell.
        let _ = self.context.bind_to_thread();
        // SAFETY: given by malloc_host and not freed yet; every copy from it has been waited for (`Inbox::put`).
        let _ = unsafe { result::free_host(self.start.cast()) };
    }
}

/// Where the parts of a micro-batch lie in a slot: pixels, then what goes through the slot's pinned memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchLayout {
    /// Pixels of one image.
    plane: usize,
    images: usize,
}

impl BatchLayout {
    /// For the micro-batches of a plan.
    pub(super) fn of(plan: &Plan) -> Self {
        Self {
            plane: plan.input.plane(),
            images: plan.batch,
        }
    }

    fn pixel_bytes(self) -> usize {
        self.images * self.plane * 3
    }

    fn params(self) -> usize {
        self.pixel_bytes().next_multiple_of(16)
    }

    fn colours(self) -> usize {
        self.params() + size_of::<DeviceStepParams>()
    }

    fn labels(self) -> usize {
        self.colours() + self.images * size_of::<[f32; 3]>()
    }

    fn flips(self) -> usize {
        self.labels() + self.images * size_of::<u32>()
    }

    /// Bytes of the whole slot.
    pub(super) fn bytes(self) -> usize {
        (self.flips() + self.images).next_multiple_of(16)
    }

    /// Bytes of what is not pixels.
    fn rest_bytes(self) -> usize {
        self.bytes() - self.params()
    }

    /// Writes what is not pixels.
    fn write_rest(self, batch: &Batch<'_>, params: &StepParams, rest: &mut [u8]) {
        let mut put = |offset: usize, bytes: &[u8]| {
            rest[offset - self.params()..][..bytes.len()].copy_from_slice(bytes);
        };
        put(
            self.params(),
            bytemuck::cast_slice(&DeviceStepParams::from(params).words()),
        );
        put(
            self.colours(),
            bytemuck::cast_slice(&batch.colours[..self.images]),
        );
        put(self.labels(), bytemuck::cast_slice(&batch.labels[..self.images]));
        let flips = &mut rest[self.flips() - self.params()..];
        flips
            .iter_mut()
            .zip(batch.flips)
            .take(self.images)
            .for_each(|(to, flip)| *to = *flip as u8);
    }
}

/// One of the places that micro-batches take turns in.
struct Slot {
    /// What is not pixels, on its way.
    rest: HostMemory,
    device: Buffer,
    /// Recorded after the copy: the compute stream waits for it, and so does whoever owns the pixels.
    copied: CudaEvent,
    /// Recorded on the compute stream when the next micro-batch is put into the other slot: what was asked of it before
    /// is all that reads this one.
    consumed: CudaEvent,
}

impl Slot {
    fn new(launcher: &Launcher, copy: &CudaStream, layout: BatchLayout) -> Result<Self> {
        // The host waits for the copy asleep: the cores belong to those who decode.
        let asleep = Some(CUevent_flags::CU_EVENT_BLOCKING_SYNC);
        let event = |flags| launcher.check("creating an event", copy.context().new_event(flags));
        let slot = Self {
            rest: HostMemory::zeroed(copy, layout.rest_bytes())?,
            device: Buffer::new(launcher.stream(), "the images of a micro-batch", layout.bytes())?,
            copied: event(asleep)?,
            consumed: event(None)?,
        };
        // The place on the device is there for the copy stream, too, from here on.
        launcher.check("ordering the copy", slot.consumed.record(launcher.stream()))?;
        Ok(slot)
    }
}

/// Where micro-batches arrive.
pub(super) struct Inbox {
    slots: [Slot; Self::SLOTS],
    /// Of the micro-batch that was put last.
    current: usize,
    layout: BatchLayout,
    /// Its labels and its step's parameters.
    sent: (Vec<u32>, Option<StepParams>),
    copy: Arc<CudaStream>,
}

impl Inbox {
    /// One that is computed on, one that is copied into.
    pub(super) const SLOTS: usize = 2;

    /// Room for micro-batches of a layout.
    pub(super) fn new(launcher: &Launcher, copy: &Arc<CudaStream>, layout: BatchLayout) -> Result<Self> {
        let slot = || Slot::new(launcher, copy, layout);
        Ok(Self {
            slots: [slot()?, slot()?],
            current: 0,
            layout,
            sent: (Vec::with_capacity(layout.images), None),
            copy: Arc::clone(copy),
        })
    }

    /// Whether micro-batches of a layout fit in.
    pub(super) fn has_room_for(&self, layout: BatchLayout) -> bool {
        let slot = &self.slots[0];
        slot.device.bytes() >= layout.bytes() && slot.rest.len >= layout.rest_bytes()
    }

    /// Puts a micro-batch into the next slot and waits until it has been read; the launcher's stream sees it from here
    /// on. That stream goes on meanwhile with the micro-batch in the other slot.
    pub(super) fn put(
        &mut self,
        launcher: &Launcher,
        layout: BatchLayout,
        batch: &Batch<'_>,
        params: &StepParams,
    ) -> Result<()> {
        let consumed = self.slots[self.current].consumed.record(launcher.stream());
        launcher.check("ordering the copy", consumed)?;
        self.current = (self.current + 1) % Self::SLOTS;
        self.layout = layout;
        self.sent.0.clear();
        self.sent.1 = None;
        let slot = &mut self.slots[self.current];
        let rest = &mut slot.rest.as_mut()[..layout.rest_bytes()];
        layout.write_rest(batch, params, rest);
        self.copy(launcher, batch).inspect_err(|_| self.settle())?;
        self.sent.0.extend_from_slice(&batch.labels[..layout.images]);
        self.sent.1 = Some(*params);
        Ok(())
    }

    /// Copies into the current slot, and waits for it.
    fn copy(&self, launcher: &Launcher, batch: &Batch<'_>) -> Result<()> {
        let (slot, layout) = (&self.slots[self.current], self.layout);
        launcher.check("ordering the copy", self.copy.wait(&slot.consumed))?;
        let pixels = &batch.pixels[..layout.pixel_bytes()];
        let rest = &slot.rest.as_ref()[..layout.rest_bytes()];
        for (offset, from) in [(0, pixels), (layout.params(), rest)] {
            // SAFETY: the places are as long; what is copied from lives until the copies are waited for, below or by
            // the caller after an error.
            let copied =
                unsafe { result::memcpy_htod_async(slot.device.at(offset), from, self.copy.cu_stream()) };
            launcher.check("copying to the device", copied)?;
        }
        launcher.check("recording the copy", slot.copied.record(&self.copy))?;
        launcher.check("ordering the input", launcher.stream().wait(&slot.copied))?;
        launcher.check("waiting for the copy", slot.copied.synchronize())
    }

    /// Waits for copies that nothing else waits for: what they read or write may be freed next. A failure at this point
    /// has nobody to tell.
    fn settle(&self) {
        let _ = self.copy.synchronize();
    }

    /// Whether the last micro-batch that was put has this one's labels.
    pub(super) fn has_labels_of(&self, layout: BatchLayout, batch: &Batch<'_>) -> bool {
        self.layout == layout && self.sent.1.is_some() && self.sent.0 == batch.labels[..layout.images]
    }

    /// Whether the last micro-batch that was put came with these parameters.
    pub(super) fn has_params(&self, params: &StepParams) -> bool {
        self.sent.1.as_ref() == Some(params)
    }

    /// Which slot the last micro-batch is in.
    pub(super) fn current(&self) -> usize {
        self.current
    }

    fn part(&self, offset: usize) -> DevicePtr {
        self.slots[self.current].device.at(offset)
    }

    /// Addresses of the last micro-batch's pixels, flips and colours.
    pub(super) fn images(&self) -> [DevicePtr; 3] {
        [0, self.layout.flips(), self.layout.colours()].map(|offset| self.part(offset))
    }

    /// Address of its labels.
    pub(super) fn labels(&self) -> DevicePtr {
        self.part(self.layout.labels())
    }

    /// Address of its step's parameters, a [`DeviceStepParams`].
    pub(super) fn params(&self) -> DevicePtr {
        self.part(self.layout.params())
    }
}

impl Drop for Inbox {
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
