//! The `center` protocol: the middle training-size crop of the image rescaled to Q.

use std::sync::Arc;

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
    /// Threads that decode.
    pub threads: usize,
}

/// Slots of the ring, as in training.
const LOADER_SLOTS: usize = 3;

/// Scores every image of `data` exactly once. Images that cannot be read are listed and not counted.
pub fn evaluate<B: Backend>(
    backend: &B,
    model: &Model,
    preprocess: &Preprocess,
    data: Arc<Dataset>,
    center: Center,
) -> Result<Tally> {
    model.check_classifier()?;
    let classes = data.manifest().classes.len();
    if classes != model.spec.classes {
        return Err(Error::invalid_hint(
            "the data set",
            format_args!("{} classes, as the weights have", model.spec.classes),
            classes,
            "weights and shards belong to different data sets",
        ));
    }
    if data.is_empty() {
        return Err(Error::invalid(
            "the validation split",
            "images to evaluate",
            "none",
        ));
    }
    let mut inference = Inference::new(backend, &model.network, preprocess, center.batch, &model.weights)?;
    let config = Config {
        threads: center.threads,
        slots: LOADER_SLOTS,
        positions: Positions::from(0, center.batch)?.until(data.len() as u64),
        views: Views::centred(model.spec.crop, center.scale)?.with_exif(preprocess.exif),
        mode: Mode::Evaluate { on_bad: OnBad::Skip },
    };
    let mut loader = load(backend, data, config)?;
    Ok(Tally::total(tally(&mut loader, &mut inference, || true)?))
}
