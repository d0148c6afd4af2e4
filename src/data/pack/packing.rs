//! The work: batches of images through the decoders and into the shards.

use std::path::Path;

use rayon::prelude::*;

use crate::data::bad::MaxBad;
use crate::data::manifest::{Manifest, Note, Split, Stored};
use crate::error::{BadSample, Error, Result};
use crate::rng::{Purpose, Stream};

use super::colour::ColourSums;
use super::prepare::{Outcome, Preparer};
use super::sources::{Item, Sources, Unusable};
use super::writer::SplitWriter;
use super::{OnBad, PackOptions, PackProgress, PackReport, SplitCounts};

/// Encoded bytes that are read before they are written: with the batch that is being written, about twice as much is
/// in memory.
const BATCH_BYTES: u64 = 64 << 20;
/// Images that are read before they are written; small images are many to the megabyte.
const BATCH_IMAGES: usize = 1024;

/// A folder of shards in the making.
pub(super) struct Packing<'a> {
    folder: &'a Path,
    manifest: Manifest,
    sources: &'a Sources,
    options: &'a PackOptions,
    progress: &'a (dyn Fn(PackProgress) + Sync),
    colours: ColourSums,
    bad: Vec<BadSample>,
    odd: Vec<BadSample>,
    /// Images that were found bad, whether written down in `bad` yet or not.
    left_out: u64,
    first_bad: Option<BadSample>,
}

impl<'a> Packing<'a> {
    pub(super) fn new(
        folder: &'a Path,
        sources: &'a Sources,
        options: &'a PackOptions,
        progress: &'a (dyn Fn(PackProgress) + Sync),
    ) -> Self {
        let Sources {
            name,
            classes,
            renamed,
            unusable,
            ..
        } = sources;
        let mut manifest = Manifest::new(name.clone(), classes.clone(), options.images, options.seed);
        manifest.renamed = renamed.clone();
        manifest.left_out = unusable
            .iter()
            .map(|Unusable { source, sample }| Note {
                source: source.clone(),
                key: sample.key.clone(),
                reason: sample.reason.clone(),
            })
            .collect();
        let bad: Vec<_> = unusable.iter().map(|unusable| unusable.sample.clone()).collect();
        Self {
            folder,
            manifest,
            sources,
            options,
            progress,
            colours: ColourSums::default(),
            left_out: bad.len() as u64,
            first_bad: bad.first().cloned(),
            bad,
            odd: Vec::new(),
        }
    }

    /// Reads and decodes a batch on all threads while the one before it is written in order.
    pub(super) fn pack_split(&mut self, split: Split) -> Result<()> {
        let items = self.sources.items(split);
        let order = match split {
            Split::Train => shuffled(items.len(), self.options.seed),
            Split::Validation => (0..items.len()).collect(),
        };
        let items: Vec<&Item> = order.into_iter().map(|i| &items[i]).collect();
        let mut writer = SplitWriter::new(self.folder, &self.manifest.name, split, self.options.shard_size);
        let (sources, images) = (self.sources, self.options.images);
        let mut waiting = Vec::new();
        let mut done = 0;
        for batch in batches(&items) {
            let (written, prepared) = rayon::join(
                || self.write(split, &waiting, &mut writer),
                || prepare(sources, images, batch),
            );
            written?;
            waiting = prepared;
            done += batch.len();
            self.stop_on_bad(&waiting)?;
            (self.progress)(PackProgress {
                split,
                done,
                total: items.len(),
            });
        }
        self.write(split, &waiting, &mut writer)?;
        self.manifest.shards.extend(writer.finish()?);
        Ok(())
    }

    /// Adds a batch to the shards and to the reports.
    fn write(&mut self, split: Split, batch: &[(&Item, Outcome)], writer: &mut SplitWriter) -> Result<()> {
        for (item, outcome) in batch {
            let note = |reason: &str| Note {
                source: item.source.clone(),
                key: item.key.clone(),
                reason: reason.to_string(),
            };
            match outcome {
                Outcome::Kept(image) => {
                    writer.append(&item.key, item.label, image.extension, &image.bytes)?;
                    match split {
                        Split::Train => self.colours.add(&image.colours),
                        Split::Validation => {}
                    }
                    if let Some(reason) = &image.odd {
                        self.odd.push(self.sources.remark(item, reason));
                        self.manifest.odd.push(note(reason));
                    }
                }
                Outcome::LeftOut(reason) => {
                    self.bad.push(self.sources.remark(item, reason));
                    self.manifest.left_out.push(note(reason));
                }
            }
        }
        Ok(())
    }

    /// Counts the bad images of a batch before it is written; one too many ends it, where that was asked for.
    fn stop_on_bad(&mut self, batch: &[(&Item, Outcome)]) -> Result<()> {
        for (item, outcome) in batch {
            if let Outcome::LeftOut(reason) = outcome {
                self.left_out += 1;
                let sources = self.sources;
                self.first_bad.get_or_insert_with(|| sources.remark(item, reason));
            }
        }
        let limit = match self.options.on_bad {
            OnBad::Fail => Some(MaxBad::Count(0)),
            OnBad::Skip => self.options.max_bad,
        };
        match (limit, &self.first_bad) {
            (Some(limit), Some(first)) => limit.check(self.left_out, self.sources.samples(), first),
            _ => Ok(()),
        }
    }

    /// Writes what the folder says about itself.
    pub(super) fn finish(mut self) -> Result<PackReport> {
        if self.colours.is_empty() {
            let first = self
                .bad
                .first()
                .map_or("no image".to_string(), ToString::to_string);
            return Err(Error::invalid(
                "the training images",
                "at least one that decodes",
                first,
            ));
        }
        let (mean_rgb, pca_rgb) = (self.colours.mean(), self.colours.pca());
        self.manifest.mean_rgb = mean_rgb;
        self.manifest.pca_rgb = pca_rgb;
        // The training images come in shuffled order; people look for them by name.
        for notes in [&mut self.manifest.odd, &mut self.manifest.left_out] {
            notes.sort_by(|a, b| a.source.cmp(&b.source));
        }
        for samples in [&mut self.bad, &mut self.odd] {
            samples.sort_by(|a, b| (&a.shard, a.offset).cmp(&(&b.shard, b.offset)));
        }
        self.manifest.save(self.folder)?;
        let manifest = self.manifest;
        Ok(PackReport {
            samples: SplitCounts {
                train: manifest.samples(Split::Train),
                validation: manifest.samples(Split::Validation),
            },
            shards: manifest.shards.len(),
            classes: manifest.classes.len(),
            bytes: manifest.shards.iter().map(|shard| shard.bytes).sum(),
            mean_rgb,
            pca_rgb,
            images: manifest.images,
            data_sha256: manifest.sha256(),
            bad: self.bad,
            odd: self.odd,
            renamed: manifest.renamed,
            name: manifest.name,
        })
    }
}

/// Reads and decodes on all threads; the result is in the order of the batch.
fn prepare<'a>(sources: &Sources, images: Stored, batch: &[&'a Item]) -> Vec<(&'a Item, Outcome)> {
    batch
        .par_iter()
        .map_init(
            || Preparer::new(images),
            |preparer, item| (*item, preparer.prepare(sources.read(item), &item.source)),
        )
        .collect()
}

/// A permutation of `0..count` (Fisher and Yates) that depends on the seed and the count only.
fn shuffled(count: usize, seed: u64) -> Vec<usize> {
    let mut stream = Stream::new(seed, 0, Purpose::Pack, 0);
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        order.swap(last, stream.below(last as u64 + 1) as usize);
    }
    order
}

/// Cuts a list of images where one more would exceed what a batch may hold; a batch has at least one.
fn batches<'a>(items: &'a [&'a Item]) -> impl Iterator<Item = &'a [&'a Item]> {
    let mut rest = items;
    std::iter::from_fn(move || {
        let mut bytes = 0u64;
        let fits = rest.iter().take(BATCH_IMAGES).take_while(|item| {
            bytes = bytes.saturating_add(item.size);
            bytes <= BATCH_BYTES
        });
        let len = fits.count().max(1).min(rest.len());
        let (batch, after) = rest.split_at(len);
        rest = after;
        (!batch.is_empty()).then_some(batch)
    })
}
