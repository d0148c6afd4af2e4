//! What packing tells while it goes on.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::data::manifest::Split;

/// How far packing is, and what it has decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PackProgress {
    /// Classes, or shards of other tools, whose images have been found.
    Listed {
        /// So many.
        done: usize,
        /// Of so many.
        total: usize,
    },
    /// Shards of a `pack` before that have been read again, to see whether they are whole.
    Checked {
        /// So many.
        done: usize,
        /// Of so many.
        total: usize,
    },
    /// It goes on after what a `pack` before has finished.
    TakenOver {
        /// Whole shards.
        shards: usize,
        /// Images of both splits that need not be looked at again.
        images: usize,
    },
    /// Shards of a `pack` before are not used.
    NotUsed {
        /// So many.
        shards: usize,
        /// Why.
        reason: String,
    },
    /// Images of a split that have been looked at.
    Packed {
        /// The split that is being packed.
        split: Split,
        /// So many.
        done: usize,
        /// Images that it has.
        total: usize,
    },
    /// It has failed, and the shards that are whole stay: the same `pack` goes on after them.
    Stays {
        /// Where they are.
        folder: PathBuf,
    },
}

/// Whom it is told, by any thread.
pub(super) type Tell<'a> = &'a (dyn Fn(PackProgress) + Sync);

/// Counts what several threads do, and tells.
pub(super) struct Count<F> {
    done: AtomicUsize,
    total: usize,
    tell: F,
}

impl<F: Fn(usize, usize)> Count<F> {
    /// `tell` gets how many are done, of how many.
    pub(super) fn new(total: usize, tell: F) -> Self {
        Self {
            done: AtomicUsize::new(0),
            total,
            tell,
        }
    }

    pub(super) fn one_more(&self) {
        (self.tell)(self.done.fetch_add(1, Ordering::Relaxed) + 1, self.total);
    }
}
