//! Rendered views of images, ahead of their use, in a given order.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rayon::prelude::*;

use super::look::Kind;
use crate::data::augment::View;
use crate::data::loader::Source;
use crate::data::preprocess::Exif;
use crate::data::render::Worker;
use crate::error::{BadSample, Error, Result};

/// Images that are rendered together by each thread: decoding is as long as computing at most, seldom longer.
const PER_THREAD: usize = 2;

/// The largest rescaled image that is evaluated densely, in pixels: a square of 2048. What a network of the paper needs
/// for it is about 2 GB.
pub(super) const MOST_PIXELS: usize = 2048 * 2048;

/// An image to render, and the size of each of its views: (rows, columns).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) image: usize,
    pub(super) size: (usize, usize),
}

/// What became of it.
pub(super) struct Rendered {
    pub(super) wanted: Wanted,
    /// (views, rows, columns, 3), RGB8.
    pub(super) pixels: Vec<u8>,
    /// What is odd about an image that was rendered nevertheless.
    pub(super) warning: Option<BadSample>,
    /// What makes it unusable.
    pub(super) unusable: Option<BadSample>,
}

/// An image that cannot be evaluated, and why.
pub(super) type Unusable = (usize, BadSample);

/// One pass over images.
pub(super) struct Pass<'a> {
    pub(super) source: &'a dyn Source,
    pub(super) kind: Kind,
    /// Shorter side Q.
    pub(super) scale: usize,
    /// Side of the crops.
    pub(super) crop: usize,
    /// Whether files are turned as EXIF says.
    pub(super) exif: Exif,
    pub(super) pool: &'a rayon::ThreadPool,
}

/// What a thread keeps from image to image.
struct Painter {
    worker: Worker,
    compressed: Vec<u8>,
}

impl Pass<'_> {
    fn painter(&self) -> Painter {
        Painter {
            worker: Worker::with_exif(self.exif),
            compressed: Vec::new(),
        }
    }

    /// The images in the order in which they are computed, with the sizes of their views; and those that cannot be.
    /// Whole images are sorted by size, so that those of one size follow each other.
    pub(super) fn order(&self) -> Result<(Vec<Wanted>, Vec<Unusable>)> {
        let images = 0..self.source.len();
        if !self.kind.is_whole() {
            let size = (self.crop, self.crop);
            return Ok((images.map(|image| Wanted { image, size }).collect(), Vec::new()));
        }
        let measured: Vec<Result<(usize, usize)>> = self.pool.install(|| {
            images
                .into_par_iter()
                .map_init(|| self.painter(), |painter, image| self.size(painter, image))
                .collect()
        });
        let (mut wanted, mut unusable) = (Vec::new(), Vec::new());
        for (image, size) in measured.into_iter().enumerate() {
            match size {
                Ok(size) => wanted.push(Wanted { image, size }),
                Err(Error::Sample(bad)) => unusable.push((image, *bad)),
                Err(error) => return Err(error),
            }
        }
        wanted.sort_by_key(|wanted| wanted.size); // stable: equal sizes stay in the order of the data set
        Ok((wanted, unusable))
    }

    /// Rows and columns of a rescaled image.
    fn size(&self, painter: &mut Painter, image: usize) -> Result<(usize, usize)> {
        let bad = |reason: String| Error::Sample(Box::new(self.source.bad_sample(image, reason)));
        let bytes = self.source.read(image, &mut painter.compressed)?;
        let size = painter.worker.rescaled_size(bytes, self.scale);
        self.source.confirm(image)?;
        let (width, height) = size.map_err(|error| bad(error.0))?;
        match width.checked_mul(height) {
            Some(..=MOST_PIXELS) => Ok((height, width)),
            _ => Err(bad(format!(
                "expected at most {MOST_PIXELS} pixels after rescaling, found {width} x {height}; \
                 a smaller --scales or --protocol multi-crop"
            ))),
        }
    }

    /// Renders `wanted` on the pool's threads while `consume` takes what is ready, in order.
    pub(super) fn each(
        &self,
        wanted: &[Wanted],
        mut consume: impl FnMut(Rendered) -> Result<()>,
    ) -> Result<()> {
        std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel(1);
            scope.spawn(move || self.produce(wanted, &sender));
            self.drain(receiver, &mut consume)
        })
    }

    fn produce(&self, wanted: &[Wanted], sender: &SyncSender<Result<Vec<Rendered>>>) {
        let crops = self.kind.crops(self.scale);
        for chunk in wanted.chunks(PER_THREAD * self.pool.current_num_threads()) {
            let rendered = self.pool.install(|| {
                let images = chunk.par_iter();
                images
                    .map_init(
                        || self.painter(),
                        |painter, wanted| self.render(painter, *wanted, &crops),
                    )
                    .collect()
            });
            if sender.send(rendered).is_err() {
                return; // nobody wants it any more
            }
        }
    }

    fn drain(
        &self,
        receiver: Receiver<Result<Vec<Rendered>>>,
        consume: &mut impl FnMut(Rendered) -> Result<()>,
    ) -> Result<()> {
        receiver
            .into_iter()
            .try_for_each(|rendered| rendered?.into_iter().try_for_each(&mut *consume))
    }

    fn render(&self, painter: &mut Painter, wanted: Wanted, crops: &[View]) -> Result<Rendered> {
        let (rows, columns) = wanted.size;
        let mut rendered = Rendered {
            wanted,
            pixels: Vec::new(),
            warning: None,
            unusable: None,
        };
        let bytes = match self.source.read(wanted.image, &mut painter.compressed) {
            Ok(bytes) => bytes,
            Err(Error::Sample(bad)) => {
                rendered.unusable = Some(*bad);
                return Ok(rendered);
            }
            Err(error) => return Err(error),
        };
        let (worker, scale) = (&mut painter.worker, self.scale);
        rendered.pixels = vec![0; crops.len().max(1) * rows * columns * 3];
        let pixels = &mut rendered.pixels;
        let outcome = match crops {
            [] => worker.render_whole(bytes, scale, pixels),
            [view] => worker.render(bytes, view, self.crop, pixels),
            views => worker.render_views(bytes, views, self.crop, pixels),
        };
        self.source.confirm(wanted.image)?;
        let named = |reason| self.source.bad_sample(wanted.image, reason);
        match outcome {
            Ok(warning) => rendered.warning = warning.map(named),
            Err(error) => rendered.unusable = Some(named(error.0)),
        }
        Ok(rendered)
    }
}
