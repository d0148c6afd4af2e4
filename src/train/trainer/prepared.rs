//! What a replica has before the loop begins: its part of every step, its memory, and the journal of the first one.

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::exec::{BitFlip, Shape, SharedParameters, Training};
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
    let planted = job.flip.as_ref().and_then(|flip| {
        let micro_batch = flip.micro_batch.checked_sub(share.first)?;
        (micro_batch < share.micro_batches).then(|| BitFlip {
            micro_batch,
            ..flip.clone()
        })
    });
    if let Some(flip) = planted {
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
