//! One network over all images, as a protocol says: its posteriors.

use super::averages::Averages;
use super::look::{Kind, Look};
use super::replicas::{Dealt, on_each};
use super::views::{Pass, Rendered};
use crate::backend::Backend;
use crate::data::loader::{Action, Source};
use crate::data::preprocess::{Flip, Preprocess};
use crate::error::{BadSample, Error, Result};
use crate::exec::Scorer;
use crate::network::{Network, adaptive, dense};
use crate::plan::Batch;
use crate::weights::Model;

/// Pixels of a micro-batch of whole images at most, unless one has more: memory stays bounded, and products stay long
/// enough.
const MICRO_BATCH_PIXELS: usize = 1 << 20;

/// What an evaluation may use; results do not depend on it.
#[derive(Debug, Clone, Copy)]
pub struct Resources {
    /// Views per micro-batch at most.
    pub batch: usize,
    /// Threads that decode; replicas share them.
    pub threads: usize,
}

/// The mean posteriors of `model` over all views of every image of `source`.
///
/// Images are dealt to `backends` in turn. On the CPU the result does not depend on how many those are, nor on the batch or
/// the threads, to the bit: a view's scores do not depend on who is computed beside it, and views are added in the order of
/// scales, kinds and mirrorings. Images that cannot be read are noted and left out; scores that are not finite are an error.
/// Memory is bounded: images larger than a limit are left out of a dense evaluation.
pub fn posteriors<B: Backend>(
    backends: &[B],
    model: &Model,
    preprocess: &Preprocess,
    source: &dyn Source,
    look: &Look,
    resources: Resources,
) -> Result<Averages> {
    model.check_classifier()?;
    look.check(model.spec.crop)?;
    if source.is_empty() {
        return Err(Error::invalid("the data set", "images to evaluate", "none"));
    }
    let parts = on_each(backends, |part, backend| {
        let resources = Resources {
            threads: (resources.threads / part.replicas).max(1),
            ..resources
        };
        one_part(backend, model, preprocess, &part.of(source), look, resources)
    })?;
    Ok(Averages::of_turns(parts))
}

/// The mean posteriors of one replica's images.
fn one_part<B: Backend>(
    backend: &B,
    model: &Model,
    preprocess: &Preprocess,
    source: &Dealt<'_>,
    look: &Look,
    resources: Resources,
) -> Result<Averages> {
    let networks = Networks::new(&model.network, |network| Ok(network.clone()))?;
    let mut averages = Averages::new(source.len(), model.spec.classes);
    let mut views = Views {
        name: name_of(model),
        crop: model.spec.crop,
        preprocess,
        source,
        look,
        networks,
        batch: resources.batch,
        pool: decoders(resources)?,
        scorer: Scorer::new(backend, &model.weights)?,
    };
    for &scale in &look.scales {
        views.walk(scale, &mut averages)?;
    }
    Ok(averages)
}

/// Refuses a network without scores, and one of another number of classes than the data set's.
pub fn check_classes(model: &Model, classes: usize) -> Result<()> {
    model.check_classifier()?;
    if classes == model.spec.classes {
        return Ok(());
    }
    Err(Error::invalid_hint(
        "the data set",
        format_args!("{} classes, as the weights have", model.spec.classes),
        classes,
        "weights and shards belong to different data sets",
    ))
}

/// What a network is called by those who do not know its file.
pub(super) fn name_of(model: &Model) -> String {
    format!(
        "net {} of weights_sha256 {}",
        model.spec.config, model.weights_sha256
    )
}

/// What views go through, kind by kind.
pub(super) struct Networks {
    plain: Network,
    /// With its last map averaged down to the trained size.
    pooled: Network,
}

impl Networks {
    /// What `part` takes of `network`, one way and the other.
    pub(super) fn new(network: &Network, part: impl Fn(&Network) -> Result<Network>) -> Result<Self> {
        Ok(Self {
            plain: part(network)?,
            pooled: part(&adaptive(network))?,
        })
    }

    /// The one for a kind of views.
    pub(super) fn of(&self, kind: Kind) -> &Network {
        match kind {
            Kind::Pooled => &self.pooled,
            Kind::Centre | Kind::Whole | Kind::Grid => &self.plain,
        }
    }
}

/// A network, and all views of the images of a source.
pub(super) struct Views<'a, B: Backend> {
    pub(super) name: String,
    /// Side of the crops.
    pub(super) crop: usize,
    pub(super) preprocess: &'a Preprocess,
    pub(super) source: &'a dyn Source,
    pub(super) look: &'a Look,
    pub(super) networks: Networks,
    /// Views per micro-batch at most.
    pub(super) batch: usize,
    pub(super) pool: rayon::ThreadPool,
    pub(super) scorer: Scorer<'a, B>,
}

impl<B: Backend> Views<'_, B> {
    /// Computes the views at one scale and gives their values to `sink`, in an order that does not depend on the batch.
    pub(super) fn walk(&mut self, scale: usize, sink: &mut impl Sink) -> Result<()> {
        for kind in self.look.protocol.kinds() {
            let pass = Pass {
                source: self.source,
                kind,
                scale,
                crop: self.crop,
                exif: self.preprocess.exif,
                pool: &self.pool,
            };
            let batcher = Batcher {
                scorer: &mut self.scorer,
                name: &self.name,
                network: self.networks.of(kind),
                preprocess: self.preprocess,
                source: self.source,
                kind,
                most: self.batch,
                weight: self.look.weight(kind),
                sink: &mut *sink,
                planned: None,
                size: (0, 0),
                images: Vec::new(),
                flips: Vec::new(),
                pixels: Vec::new(),
            };
            batcher.walk(&pass, kind.flips(self.look))?;
        }
        Ok(())
    }
}

/// The threads that decode.
pub(super) fn decoders(resources: Resources) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(resources.threads)
        .build()
        .map_err(|error| Error::invalid("--threads", "threads that the system can start", error))
}

/// Where the values of views go.
pub(super) trait Sink {
    /// The values (windows, classes) of one view of an image, and its weight in the mean over all of the network's views.
    fn add(&mut self, image: usize, values: &[f32], weight: f64);

    /// What is wrong with an image.
    fn note(&mut self, image: usize, sample: BadSample, action: Action);

    /// Whether an image is not looked at any more.
    fn is_left_out(&self, image: usize) -> bool;
}

/// Collects views of one size into micro-batches, and hands out their values.
struct Batcher<'a, 'b, B: Backend, S: Sink> {
    scorer: &'a mut Scorer<'b, B>,
    name: &'a str,
    network: &'a Network,
    preprocess: &'a Preprocess,
    source: &'a dyn Source,
    kind: Kind,
    most: usize,
    weight: f64,
    sink: &'a mut S,
    /// Size and number of views that the scorer is planned for.
    planned: Option<((usize, usize), usize)>,
    /// Rows and columns of the views that wait.
    size: (usize, usize),
    /// Which image each is of.
    images: Vec<usize>,
    flips: Vec<Flip>,
    /// (views, rows, columns, 3).
    pixels: Vec<u8>,
}

impl<B: Backend, S: Sink> Batcher<'_, '_, B, S> {
    fn walk(mut self, pass: &Pass<'_>, flips: &[Flip]) -> Result<()> {
        let (mut wanted, unusable) = pass.order()?;
        for (image, bad) in unusable {
            self.sink.note(image, bad, Action::LeftOut);
        }
        wanted.retain(|wanted| !self.sink.is_left_out(wanted.image));
        pass.each(&wanted, |rendered| self.take(rendered, flips))?;
        self.flush()
    }

    /// The views of one image.
    fn take(&mut self, rendered: Rendered, flips: &[Flip]) -> Result<()> {
        let image = rendered.wanted.image;
        if let Some(bad) = rendered.unusable {
            self.sink.note(image, bad, Action::LeftOut);
            return Ok(());
        }
        if let Some(odd) = rendered.warning {
            self.sink.note(image, odd, Action::Kept);
        }
        if rendered.wanted.size != self.size {
            self.flush()?;
            self.size = rendered.wanted.size;
        }
        let pixels = 3 * self.size.0 * self.size.1;
        let most = match self.kind {
            Kind::Whole | Kind::Pooled => self.most.min(3 * MICRO_BATCH_PIXELS / pixels).max(1),
            Kind::Centre | Kind::Grid => self.most,
        };
        for view in rendered.pixels.chunks_exact(pixels) {
            for &flip in flips {
                self.images.push(image);
                self.flips.push(flip);
                self.pixels.extend_from_slice(view);
                if self.images.len() == most {
                    self.flush()?;
                }
            }
        }
        Ok(())
    }

    /// Computes what waits. The last views of a size may be fewer: they get a plan of their own, nothing is padded.
    fn flush(&mut self) -> Result<()> {
        let views = self.images.len();
        if views == 0 {
            return Ok(());
        }
        if self.planned != Some((self.size, views)) {
            self.plan(views)?;
        }
        let scores = self.scorer.run(Batch {
            pixels: &self.pixels,
            flips: &self.flips,
            colours: &vec![[0.0; 3]; views],
            labels: &vec![0; views],
        })?;
        for (&image, scores) in self.images.iter().zip(scores.chunks_exact(scores.len() / views)) {
            if !scores.iter().all(|score| score.is_finite()) {
                let image = self.source.bad_sample(image, String::new()).place();
                let network = self.name.into();
                return Err(Error::Overflow { network, image });
            }
            self.sink.add(image, scores, self.weight);
        }
        self.images.clear();
        self.flips.clear();
        self.pixels.clear();
        Ok(())
    }

    fn plan(&mut self, views: usize) -> Result<()> {
        self.planned = None;
        let (rows, columns) = self.size;
        match self.kind {
            Kind::Whole | Kind::Pooled => {
                let network = dense(self.network, rows, columns)?;
                self.scorer.plan(&network, self.preprocess, views)?;
            }
            Kind::Centre | Kind::Grid => self.scorer.plan(self.network, self.preprocess, views)?,
        }
        self.planned = Some((self.size, views));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
