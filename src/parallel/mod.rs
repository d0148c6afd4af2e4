//! Floor 5: several replicas of a network that train as one.
//!
//! The paper splits the batch among GPUs and says that "the result is exactly the same as when training on a single
//! GPU" (section 3.3). Here it is: each replica owns a subtree of the reduction tree over the batch's micro-batches, and
//! what replicas add to one another are the nodes above, in the same order (DESIGN section 3). A [`Group`] is how a
//! replica reaches the others.
//!
//! Every replica runs the same program: what one learns alone (a loss, a bad image, a signal, a failure) it says to all
//! before anybody acts on it.

mod agreement;
pub mod control;
mod local;
mod meeting;
mod member;
mod nccl;
mod talk;

pub use agreement::{agree, all_well};
pub use local::{Local, add_in_tree};
pub use member::{Initial, Member, Replicas, on_devices, on_one_device, run};
pub use nccl::Nccl;

use crate::backend::Backend;
pub use crate::backend::cuda::nccl::ExchangeTimes;
use crate::error::{Error, Result};
use crate::exec::Training;
use crate::plan::{Bucket, StepParams, UpdateRule};

/// Which replica of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Counted from 0. The first writes logs and checkpoints.
    pub rank: usize,
    /// All replicas of the run.
    pub replicas: usize,
    /// Those of this process.
    pub local: usize,
}

/// A replica's way to the others. All of them make the same calls in the same order.
pub trait Group<B: Backend> {
    /// Which of the replicas this is.
    fn place(&self) -> Place;

    /// A step begins.
    fn begin(&mut self, _step: u64) {}

    /// Says `message` to all, hears what each said, by rank. Errors where one of them is gone.
    fn exchange(&mut self, message: Vec<u8>) -> Result<Vec<Vec<u8>>>;

    /// What the others hear when they wait for this replica once it is gone.
    fn last_words(&mut self, error: &Error);

    /// Whether a step may be given up once it has begun, if all do.
    fn may_drop_steps(&self) -> bool {
        true
    }

    /// This replica's sum of a bucket is complete: it may be on its way to the others from now on.
    fn bucket_final(&mut self, _bucket: &Bucket, _sum: &mut B::Buffer) -> Result<()> {
        Ok(())
    }

    /// Adds what the replicas have summed, in the order of the tree, and applies the update rule. Where the gradient is
    /// not finite, no weight changes on any replica.
    fn update(
        &mut self,
        training: &mut Training<'_, B>,
        rule: &UpdateRule,
        params: &StepParams,
    ) -> Result<()>;

    /// How long the exchange of the last step took, where replicas exchange anything.
    fn exchange_times(&self) -> Option<ExchangeTimes> {
        None
    }

    /// Whether the parameters of this replica are always those of the whole run.
    fn holds_whole_state(&self) -> bool {
        true
    }

    /// Whether weights and momentum are this replica's alone; of those that share them, they are the first one's.
    fn has_own_state(&self) -> bool {
        self.place().rank == 0
    }

    /// Makes every replica's weights complete, where it has only kept the part that it updates and, of the others, what it
    /// computes with: before they are looked at. All replicas do it.
    fn complete_weights(&mut self, _training: &mut Training<'_, B>) -> Result<()> {
        Ok(())
    }

    /// Makes every replica's weights and momentum complete, likewise: before a checkpoint.
    fn complete_state(&mut self, _training: &mut Training<'_, B>) -> Result<()> {
        Ok(())
    }

    /// All replicas end here.
    fn leave(&mut self) -> Result<()> {
        Ok(())
    }
}
