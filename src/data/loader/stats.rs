//! Where the time goes, on both sides of the ring.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a loader has done so far. The stages are summed over the threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Images rendered, replacements included.
    pub images: u64,
    /// Compressed bytes read.
    pub bytes: u64,
    /// Finding and reading the compressed bytes.
    pub read: Duration,
    /// Compressed bytes to source pixels.
    pub decode: Duration,
    /// Source pixels to the crop.
    pub resize: Duration,
    /// The consumer waited for a slot to be filled: loading is too slow.
    pub consumer_waited: Duration,
    /// Workers waited for a slot to be given back: the consumer is the slower one.
    pub workers_waited: Duration,
}

/// What one worker did for one row.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Work {
    pub(super) images: u64,
    pub(super) bytes: u64,
    pub(super) read: Duration,
    pub(super) decode: Duration,
    pub(super) resize: Duration,
}

/// The sums, in nanoseconds where they are times.
#[derive(Debug, Default)]
pub(super) struct Counters {
    images: AtomicU64,
    bytes: AtomicU64,
    read: AtomicU64,
    decode: AtomicU64,
    resize: AtomicU64,
    consumer_waited: AtomicU64,
    workers_waited: AtomicU64,
}

fn add(counter: &AtomicU64, time: Duration) {
    // Sums are read for display only; nothing is ordered by them.
    counter.fetch_add(
        u64::try_from(time.as_nanos()).unwrap_or(u64::MAX),
        Ordering::Relaxed,
    );
}

impl Counters {
    pub(super) fn add(&self, work: Work) {
        self.images.fetch_add(work.images, Ordering::Relaxed);
        self.bytes.fetch_add(work.bytes, Ordering::Relaxed);
        add(&self.read, work.read);
        add(&self.decode, work.decode);
        add(&self.resize, work.resize);
    }

    pub(super) fn consumer_waited(&self, time: Duration) {
        add(&self.consumer_waited, time);
    }

    pub(super) fn workers_waited(&self, time: Duration) {
        add(&self.workers_waited, time);
    }

    pub(super) fn stats(&self) -> Stats {
        let time = |counter: &AtomicU64| Duration::from_nanos(counter.load(Ordering::Relaxed));
        Stats {
            images: self.images.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            read: time(&self.read),
            decode: time(&self.decode),
            resize: time(&self.resize),
            consumer_waited: time(&self.consumer_waited),
            workers_waited: time(&self.workers_waited),
        }
    }
}
