//! From the loader's slot to the device: pinned memory that a micro-batch is put into, copied on a stream of its own.
//!
//! There are two slots, so that one micro-batch can be copied while another is computed; whoever reads the losses after
//! every micro-batch waits for each, and gets nothing of that. A slot has a place on the host and one on the device, of the same layout; what reads the place on the device is told its address.

use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream, PinnedHostSlice, result};

use super::dnn::DevicePtr;
use super::launch::Launcher;
use super::memory::{Buffer, refused};
use crate::error::Result;
use crate::plan::{Batch, Plan};

/// Where the parts of a micro-batch lie in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchLayout {
    pixels: usize,
    images: usize,
}

impl BatchLayout {
    /// For the micro-batches of a plan.
    pub(super) fn of(plan: &Plan) -> Self {
        Self {
            pixels: plan.input.plane(),
            images: plan.batch,
        }
    }

    fn colours(self) -> usize {
        (self.images * self.pixels * 3).next_multiple_of(16)
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

    /// Fills a slot.
    fn write(self, batch: &Batch<'_>, slot: &mut [u8]) {
        let mut put = |offset: usize, bytes: &[u8]| slot[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(0, &batch.pixels[..self.images * self.pixels * 3]);
        put(
            self.colours(),
            bytemuck::cast_slice(&batch.colours[..self.images]),
        );
        put(self.labels(), bytemuck::cast_slice(&batch.labels[..self.images]));
        let flips = &mut slot[self.flips()..];
        flips
            .iter_mut()
            .zip(batch.flips)
            .take(self.images)
            .for_each(|(to, flip)| *to = *flip as u8);
    }
}

/// One of the places that micro-batches take turns in.
struct Slot {
    host: PinnedHostSlice<u8>,
    device: Buffer,
    /// Recorded after the copy: the compute stream waits for it, and so does the next use of the slot on the host.
    copied: CudaEvent,
    /// Recorded on the compute stream when the next micro-batch is put into the other slot: what was asked of it before
    /// is all that reads this one.
    consumed: CudaEvent,
}

impl Slot {
    fn new(launcher: &Launcher, copy: &CudaStream, bytes: usize) -> Result<Self> {
        let context = copy.context();
        // SAFETY: the memory is written before it is read. Not write-combined: workers may read what they wrote.
        let host = unsafe { context.alloc_pinned_with_flags(bytes, 0) };
        let event = || launcher.check("creating an event", context.new_event(None));
        let slot = Self {
            host: host.map_err(|why| refused(copy, "pinned memory", bytes, &why))?,
            device: Buffer::new(launcher.stream(), "the images of a micro-batch", bytes)?,
            copied: event()?,
            consumed: event()?,
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
    /// Its labels.
    sent: Vec<u32>,
    copy: Arc<CudaStream>,
}

impl Inbox {
    /// One that is computed on, one that is copied into.
    pub(super) const SLOTS: usize = 2;

    /// Room for micro-batches of a layout.
    pub(super) fn new(launcher: &Launcher, copy: &Arc<CudaStream>, layout: BatchLayout) -> Result<Self> {
        let slot = || Slot::new(launcher, copy, layout.bytes());
        Ok(Self {
            slots: [slot()?, slot()?],
            current: 0,
            layout,
            sent: Vec::new(),
            copy: Arc::clone(copy),
        })
    }

    /// Whether micro-batches of a layout fit in.
    pub(super) fn has_room_for(&self, layout: BatchLayout) -> bool {
        self.slots[0].host.len() >= layout.bytes()
    }

    /// Puts a micro-batch into the next slot; the launcher's stream sees it from here on.
    pub(super) fn put(&mut self, launcher: &Launcher, layout: BatchLayout, batch: &Batch<'_>) -> Result<()> {
        let compute = launcher.stream();
        let consumed = self.slots[self.current].consumed.record(compute);
        launcher.check("ordering the copy", consumed)?;
        self.current = (self.current + 1) % Self::SLOTS;
        self.layout = layout;
        self.sent.clear();
        let slot = &mut self.slots[self.current];
        launcher.check("waiting for the last copy", slot.copied.synchronize())?;
        let host = launcher.check("writing pinned memory", slot.host.as_mut_slice())?;
        let host = &mut host[..layout.bytes()];
        layout.write(batch, host);
        launcher.check("ordering the copy", self.copy.wait(&slot.consumed))?;
        // SAFETY: both places are as long; the one on the host outlives the copy, which is waited for before the next
        // write and before the memory is freed.
        let copied = unsafe { result::memcpy_htod_async(slot.device.at(0), host, self.copy.cu_stream()) };
        launcher.check("copying to the device", copied)?;
        self.order_after_copy(launcher).inspect_err(|_| self.settle())?;
        self.sent.extend_from_slice(&batch.labels[..layout.images]);
        Ok(())
    }

    fn order_after_copy(&self, launcher: &Launcher) -> Result<()> {
        let copied = &self.slots[self.current].copied;
        launcher.check("recording the copy", copied.record(&self.copy))?;
        launcher.check("ordering the input", launcher.stream().wait(copied))
    }

    /// Waits for copies that nothing else waits for: their destination may be freed next. A failure at this point has
    /// nobody to tell.
    fn settle(&self) {
        let _ = self.copy.synchronize();
    }

    /// Whether the last micro-batch that was put has this one's labels.
    pub(super) fn has_labels_of(&self, layout: BatchLayout, batch: &Batch<'_>) -> bool {
        self.layout == layout && self.sent == batch.labels[..layout.images]
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
