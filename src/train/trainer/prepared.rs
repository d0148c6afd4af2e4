//! What a replica has before the loop begins: its part of every step, its memory, and the journal of the first one.

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::exec::{BitFlip, Flipped, Shape, SharedParameters, Training};
use crate::parallel::Place;
use crate::plan::Tree;
use crate::train::event::Observer;
use crate::train::job::Job;
use crate::train::journal::Journal;

/// Consecutive micro-batches of every step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    pub(super) first: usize,
    pub(super) micro_batches: usize,
}

impl Share {
    /// A replica's subtree of the reduction tree over `micro_batches`.
    fn of(place: Place, micro_batches: usize) -> Result<(Self, Tree)> {
        let whole = Tree::new(micro_batches);
        let tree = whole.subtree(place.replicas).ok_or_else(|| {
            let owners = format!("owners of a subtree of {micro_batches} micro-batches each");
            Error::invalid("--replicas", owners, place.replicas)
        })?;
        let micro_batches = tree.leaves();
        let first = place.rank * micro_batches;
        Ok((Self { first, micro_batches }, tree))
    }

    /// The flip as the replica sees it, if it is this one's.
    fn planted(self, rank: usize, flip: &BitFlip) -> Option<BitFlip> {
        let flipped = match flip.flipped {
            Flipped::Leaf { micro_batch } => {
                let micro_batch = micro_batch.checked_sub(self.first)?;
                (micro_batch < self.micro_batches).then_some(Flipped::Leaf { micro_batch })
            }
            Flipped::Weights { replica } | Flipped::Momentum { replica } => {
                (replica == rank).then_some(flip.flipped)
            }
        };
        flipped.map(|flipped| BitFlip {
            flipped,
            ..flip.clone()
        })
    }
}

/// What a replica needs before it can say that it is ready.
pub(in crate::train) struct Prepared<'a, B: Backend> {
    pub(super) share: Share,
    pub(super) state: Training<'a, B>,
    pub(super) journal: Option<Journal<'a>>,
}

/// Plans and allocates for the replica at `place`; the first one has an observer.
pub(in crate::train) fn prepare<'a, B: Backend>(
    backend: &'a B,
    place: Place,
    parameters: SharedParameters<B>,
    job: &'a Job,
    observer: Option<&'a mut dyn Observer>,
) -> Result<Prepared<'a, B>> {
    let (share, tree) = Share::of(place, job.recipe.micro_batches())?;
    let shape = Shape {
        micro_batch: job.recipe.micro_batch,
        tree,
        order: job.walk,
    };
    let mut state = Training::new(backend, &job.network, &job.preprocess, shape, parameters)?;
    if let Some(flip) = job.flip.as_ref().and_then(|flip| share.planted(place.rank, flip)) {
        state.plant(flip);
    }
    let journal = observer
        .map(|observer| Journal::open(&job.run, job.start.progress.step, observer))
        .transpose()?;
    Ok(Prepared {
        share,
        state,
        journal,
    })
}
