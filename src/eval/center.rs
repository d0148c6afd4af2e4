//! The `center` protocol: the middle training-size crop of the image rescaled to Q.

use std::sync::Arc;

use super::network::{check_classes, name_of};
use super::replicas::on_each;
use super::tally::{Tally, tally};
use crate::backend::Backend;
use crate::data::augment::Views;
use crate::data::loader::{Config, Mode, OnBad, Positions};
use crate::data::preprocess::Preprocess;
use crate::data::shards::Dataset;
use crate::error::{Error, Result};
use crate::exec::{Inference, load};
use crate::weights::Model;

/// How images are looked at.
#[derive(Debug, Clone, Copy)]
pub struct Center {
    /// The shorter side Q, in pixels.
    pub scale: usize,
    /// Images per micro-batch; results do not depend on it.
    pub batch: usize,
    /// Threads that decode; replicas share them.
    pub threads: usize,
}

/// Slots of the ring, as in training.
const LOADER_SLOTS: usize = 3;

/// Scores every image of `data` exactly once. Images that cannot be read are listed and not counted; where that is all of
/// them, or a loss is not finite, it is an error. Micro-batches are dealt to `backends` in turn; how many there are changes no bit.
pub fn evaluate<B: Backend>(
    backends: &[B],
    model: &Model,
    preprocess: &Preprocess,
    data: Arc<Dataset>,
    center: Center,
) -> Result<Tally> {
    check_classes(model, data.manifest().classes.len())?;
    if data.is_empty() {
        return Err(Error::invalid(
            "the validation split",
            "images to evaluate",
            "none",
        ));
    }
    let scored = on_each(backends, |part, backend| {
        let (network, weights) = (&model.network, &model.weights);
        let mut inference = Inference::new(backend, network, preprocess, center.batch, weights)?;
        let batch = center.batch as u64;
        let (first, turn) = (part.rank as u64 * batch, part.replicas as u64 * batch);
        let config = Config {
            threads: (center.threads / part.replicas).max(1),
            slots: LOADER_SLOTS,
            positions: Positions::share(first, turn, 1, center.batch)?.until(data.len() as u64),
            views: Views::centred(model.spec.crop, center.scale)?.with_exif(preprocess.exif),
            mode: Mode::Evaluate { on_bad: OnBad::Skip },
        };
        let mut loader = load(backend, data.clone(), config)?;
        tally(&mut loader, &mut inference, || part.is_wanted())
    })?;
    let tally = Tally::of_turns(scored);
    if let Some(position) = tally.not_finite {
        let image = data.bad_sample(position as usize, "").place();
        let network = name_of(model);
        return Err(Error::Overflow { network, image });
    }
    tally.check_counted()?;
    Ok(tally)
}
