//! What every command does that lets a network look at images: it opens the network, says what it may use, checks before the
//! first image what would fail after the last, and names what is wrong with images.

use std::path::Path;

use super::args::{ComputeArgs, LookArgs};
use super::output::note;
use crate::data::bad::MaxBad;
use crate::data::loader::{Action, BadEvent};
use crate::data::preprocess::Preprocess;
use crate::data::shards::Dataset;
use crate::durable::NewFile;
use crate::error::{BadSample, Error, Result};
use crate::eval::{Look, Protocol, Resources, ScoreAverage};
use crate::weights::{About, Model};

/// Opens weights and names what was passed over.
pub(super) fn open_model(path: &Path) -> Result<Model> {
    let model = Model::open(path)?;
    model
        .passed_over
        .iter()
        .for_each(|error| note(format_args!("passed over: {error}")));
    Ok(model)
}

/// What the weights say about themselves; a plain weights file says nothing.
pub(super) fn about_of<'a>(model: &'a Model, path: &Path) -> Result<&'a About> {
    model.about.as_ref().ok_or_else(|| {
        Error::invalid_hint(
            path.display(),
            "weights that say how their images are preprocessed",
            "a plain weights file",
            "use a run folder or a checkpoint, or convert the file first",
        )
    })
}

/// As the weights say, or the data set's mean.
pub(super) fn preprocess_of(model: &Model, data: &Dataset) -> Preprocess {
    match &model.about {
        Some(about) => about.preprocess.clone(),
        None => {
            note("the weights do not say how images are preprocessed: pixels minus the data set's mean RGB");
            Preprocess::subtract_mean(data.manifest().mean_rgb)
        }
    }
}

/// Views per batch and threads. Nothing is reduced where nothing is trained.
pub(super) fn resources(batch: usize, compute: &ComputeArgs) -> Result<Resources> {
    if batch == 0 {
        return Err(Error::invalid("--batch", "at least 1 image", 0));
    }
    if compute.reduce.is_some() {
        return Err(Error::Usage(
            "--reduce: expected with train, plan or bench: there are no gradients to add here".into(),
        ));
    }
    Ok(Resources {
        batch,
        threads: compute.threads()?,
    })
}

/// Refuses a file that could not be written in the end.
pub(super) fn check_output(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Err(Error::invalid(path.display(), "a file to write", "a folder"));
    }
    NewFile::create(path).map(drop)
}

/// Names on standard error what is wrong with images.
pub(super) fn name_bad<'a>(events: impl IntoIterator<Item = &'a BadEvent>) {
    for event in events {
        let what = match event.action {
            Action::LeftOut => "left out",
            Action::Kept | Action::Replaced => "kept, but odd",
        };
        note(format_args!("{what}: {}", event.sample));
    }
}

/// Too many images that are not counted are an error, after the result, which names them.
pub(super) fn check_bad<'a>(
    limit: Option<MaxBad>,
    left_out: impl Iterator<Item = &'a BadSample>,
    images: usize,
) -> Result<()> {
    let left_out: Vec<_> = left_out.collect();
    match (limit, left_out.first()) {
        (Some(limit), Some(first)) => limit.check(left_out.len() as u64, images as u64, first),
        _ => Ok(()),
    }
}

impl LookArgs {
    /// The protocol, centre crops where none was said.
    pub(super) fn protocol(&self) -> Protocol {
        self.protocol.map_or(Protocol::Center, Protocol::from)
    }

    /// How a score map becomes posteriors.
    pub(super) fn score_average(&self) -> ScoreAverage {
        self.score_average
            .map_or(ScoreAverage::Scores, ScoreAverage::from)
    }

    /// Refuses a word on score maps where `protocols` have none.
    pub(super) fn check_score_average(&self, protocols: impl IntoIterator<Item = Protocol>) -> Result<()> {
        if self.score_average.is_none() || protocols.into_iter().any(Protocol::is_dense) {
            return Ok(());
        }
        Err(Error::Usage(
            "--score-average: expected with --protocol dense or both, which have score maps, found neither"
                .into(),
        ))
    }

    /// Scales: the network's `own`, or as said for all, or what the weights say, or the paper's 256. They are checked.
    pub(super) fn decide(&self, own: &[usize], model: &Model) -> Result<Look> {
        let scales = match (own, self.scales.as_slice()) {
            ([], []) => vec![model.scale()],
            ([], said) => said.to_vec(),
            (own, _) => own.to_vec(),
        };
        let look = Look {
            protocol: self.protocol(),
            scales,
            flip: self.flip,
        };
        look.check(model.spec.crop)?;
        Ok(look)
    }
}
