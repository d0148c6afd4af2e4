//! Micro-batches of rendered samples, ahead of their use: a ring of slots, filled by worker threads out of order and
//! taken in order.
//!
//! A slot holds one micro-batch. Its memory is allocated once (by the caller, where it must be pinned for a device)
//! and goes round: free, being filled, filled, lent to the consumer, free. Workers claim single samples, lowest
//! position first, so that one slot is filled by all of them and the first is ready as early as possible. What a slot
//! holds is a function of the configuration and its number, never of the threads.

mod fill;
mod ring;
mod slot;
mod source;
mod stats;

pub use fill::{Mode, OnBad};
pub use slot::{Action, BadEvent, NO_LABEL, Slot, ring_bytes, slot_pixels};
pub use source::{Positions, Source};
pub use stats::Stats;

use crate::data::augment::Views;
use crate::error::{Error, Result};
use fill::Filler;
use ring::Ring;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// What a loader loads, and with what.
#[derive(Debug)]
pub struct Config {
    /// Worker threads, at least 1.
    pub threads: usize,
    /// Slots of the ring, at least 1; with 2 or more, loading overlaps the use of what was loaded.
    pub slots: usize,
    /// Which stream positions this loader serves, slot by slot.
    pub positions: Positions,
    /// How each sample is looked at; also the size of the crop.
    pub views: Views,
    /// Training or evaluation, and what happens to images that cannot be read.
    pub mode: Mode,
}

/// Loads micro-batches. Dropping it, at any time, stops its threads after the samples that they are working on.
///
/// `B` is the memory of a slot's pixels.
#[derive(Debug)]
pub struct Loader<B: SlotMemory = Vec<u8>> {
    shared: Arc<Shared<B>>,
    /// Number of the slot that `next` returns next.
    next: u64,
    memory_bytes: u64,
    /// Last, so that the threads outlive everything that waits for them.
    _pool: rayon::ThreadPool,
}

/// Memory that pixels can be written to and read from: a vector, or pinned memory of a device.
pub trait SlotMemory: AsRef<[u8]> + AsMut<[u8]> + Send + 'static {}

impl<B: AsRef<[u8]> + AsMut<[u8]> + Send + 'static> SlotMemory for B {}

#[derive(Debug)]
struct Shared<B> {
    ring: Ring<B>,
    filler: Filler,
}

/// A filled slot. Dropping it gives the slot back to the ring.
#[derive(Debug)]
pub struct Filled<B: SlotMemory = Vec<u8>> {
    shared: Arc<Shared<B>>,
    number: u64,
    /// `Some` until it is given back.
    slot: Option<Slot<B>>,
}

impl Loader {
    /// Starts loading into memory of its own.
    pub fn new(source: Arc<dyn Source>, config: Config) -> Result<Self> {
        let bytes = slot_pixels(config.positions.micro_batch(), config.views.crop());
        let buffers = (0..config.slots).map(|_| vec![0; bytes]).collect();
        Loader::with_buffers(source, config, buffers)
    }
}

impl<B: SlotMemory> Loader<B> {
    /// Starts loading into the caller's memory: one buffer of [`slot_pixels`] bytes for each slot.
    pub fn with_buffers(source: Arc<dyn Source>, config: Config, buffers: Vec<B>) -> Result<Self> {
        let (samples, crop) = (config.positions.micro_batch(), config.views.crop());
        if config.threads == 0 || config.slots == 0 {
            return Err(Error::invalid(
                "the loader",
                "at least 1 thread and 1 slot",
                format!("{} threads, {} slots", config.threads, config.slots),
            ));
        }
        let sizes: Vec<usize> = buffers.iter().map(|buffer| buffer.as_ref().len()).collect();
        if sizes != vec![slot_pixels(samples, crop); config.slots] {
            return Err(Error::invalid(
                "the loader's buffers",
                format!("{} of {} bytes each", config.slots, slot_pixels(samples, crop)),
                format!("{sizes:?}"),
            ));
        }
        let order_bytes = match &config.mode {
            Mode::Train { order, .. } => order.memory_bytes(),
            Mode::Evaluate { .. } => 0,
        };
        let scratch_bytes = (config.threads * slot_pixels(1, crop)) as u64;
        let memory_bytes = ring_bytes(config.slots, samples, crop) + order_bytes + scratch_bytes;
        let slots = buffers
            .into_iter()
            .map(|buffer| Slot::new(buffer, samples))
            .collect();
        let shared = Arc::new(Shared {
            ring: Ring::new(slots, config.positions, config.threads),
            filler: Filler::new(source, config.views, config.mode),
        });
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(config.threads)
            .thread_name(|number| format!("loader {number}"))
            .build()
            .map_err(|error| {
                Error::invalid_hint(
                    "the loader",
                    format!("{} threads", config.threads),
                    error,
                    "fewer --threads may help",
                )
            })?;
        let workers = Arc::clone(&shared);
        pool.spawn_broadcast(move |_| workers.work());
        Ok(Self {
            shared,
            next: 0,
            memory_bytes,
            _pool: pool,
        })
    }

    /// The next micro-batch of the stream, waiting for it where need be; `None` after the last one.
    ///
    /// Fails where the stream holds what `--on-bad fail` forbids, where a shard cannot be read any more, and where a
    /// worker has panicked; the loader is of no use afterwards. It fails, too, rather than wait for ever, where the
    /// caller still holds the slot that would have to be filled.
    pub fn next_slot(&mut self) -> Result<Option<Filled<B>>> {
        let Some(slot) = self.shared.ring.take(self.next)? else {
            return Ok(None);
        };
        let mut filled = Filled {
            shared: Arc::clone(&self.shared),
            number: self.next,
            slot: Some(slot),
        };
        self.next += 1;
        match filled.take_failure() {
            Some(error) => {
                self.shared.ring.close();
                Err(error)
            }
            None => Ok(Some(filled)),
        }
    }

    /// What has been done and waited for so far.
    pub fn stats(&self) -> Stats {
        self.shared.ring.counters.stats()
    }

    /// Bytes that this loader keeps, besides each thread's decoded image: the ring, the order, the threads' crops.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }
}

impl<B: SlotMemory> Drop for Loader<B> {
    fn drop(&mut self) {
        self.shared.ring.close();
        self.shared.ring.wait_for_workers();
    }
}

impl<B: SlotMemory> Shared<B> {
    /// The life of one worker.
    fn work(&self) {
        let _leaving = self.ring.worker();
        let mut painter = self.filler.painter();
        while let Some(claim) = self.ring.claim() {
            let painted = catch_unwind(AssertUnwindSafe(|| {
                self.filler.fill(&mut painter, claim.position)
            }));
            match painted {
                Ok(row) => {
                    self.ring.counters.add(painter.take_work());
                    self.ring.finish(claim, row, painter.pixels());
                }
                Err(panic) => return self.ring.fail(&*panic),
            }
        }
    }
}

impl<B: SlotMemory> Filled<B> {
    fn take_failure(&mut self) -> Option<Error> {
        self.slot.as_mut()?.take_failure()
    }
}

impl<B: SlotMemory> Deref for Filled<B> {
    type Target = Slot<B>;

    fn deref(&self) -> &Slot<B> {
        self.slot.as_ref().expect("a slot is here until it is dropped")
    }
}

impl<B: SlotMemory> DerefMut for Filled<B> {
    fn deref_mut(&mut self) -> &mut Slot<B> {
        self.slot.as_mut().expect("a slot is here until it is dropped")
    }
}

impl<B: SlotMemory> Drop for Filled<B> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.shared.ring.give_back(self.number, slot);
        }
    }
}

#[cfg(test)]
mod tests;
