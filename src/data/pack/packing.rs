//! The work: batches of images through the decoders and into the shards.

use rayon::prelude::*;

use crate::data::bad::MaxBad;
use crate::data::manifest::{Manifest, Note, ShardEntry, Split, Stored};
use crate::durable::{Journal, NewFolder};
use crate::error::{BadSample, Error, Result};
use crate::rng::{Purpose, Stream};

use super::colour::ColourSums;
use super::prepare::{Outcome, Preparer};
use super::progress::{PackProgress, Tell};
use super::resume::{self, Done, Finished, Learnt, Remark};
use super::sources::{Item, Sources, Unusable};
use super::writer::SplitWriter;
use super::{OnBad, PackOptions, PackReport, SplitCounts};

/// Encoded bytes that are read before they are written: with the batch that is being written, about twice as much is
/// in memory.
const BATCH_BYTES: u64 = 64 << 20;
/// Images that are read before they are written; small images are many to the megabyte.
const BATCH_IMAGES: usize = 1024;

/// A folder of shards in the making.
pub(super) struct Packing<'a> {
    folder: &'a mut NewFolder,
    journal: Journal,
    manifest: Manifest,
    sources: &'a Sources,
    options: &'a PackOptions,
    tell: Tell<'a>,
    /// Shards of a `pack` before, as long as their split has not begun.
    taken_over: Vec<Finished>,
    taken_over_count: usize,
    colours: ColourSums,
    bad: Vec<BadSample>,
    odd: Vec<BadSample>,
    /// Images that were found bad, whether written down in `bad` yet or not.
    left_out: u64,
    first_bad: Option<BadSample>,
}

/// How far a split is.
struct Part {
    split: Split,
    writer: SplitWriter,
    /// Images that are written or left out.
    looked_at: usize,
    /// Since the last finished shard.
    learnt: Learnt,
}

impl<'a> Packing<'a> {
    /// Goes on after what is `done`.
    pub(super) fn new(
        folder: &'a mut NewFolder,
        sources: &'a Sources,
        options: &'a PackOptions,
        tell: Tell<'a>,
        done: Done,
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
            journal: done.journal,
            manifest,
            sources,
            options,
            tell,
            taken_over_count: done.finished.len(),
            taken_over: done.finished,
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
        let mut part = self.take_over(split, &items)?;
        let (sources, images) = (self.sources, self.options.images);
        let mut waiting = Vec::new();
        let mut done = part.looked_at;
        for batch in batches(&items[done..]) {
            let (written, prepared) = rayon::join(
                || self.write(&items, &waiting, &mut part),
                || prepare(sources, images, batch),
            );
            written?;
            waiting = prepared;
            done += batch.len();
            for (item, outcome) in &waiting {
                if let Outcome::LeftOut(reason) = outcome {
                    self.count_bad(item, reason);
                }
            }
            self.stop_on_bad()?;
            (self.tell)(PackProgress::Packed {
                split,
                done,
                total: items.len(),
            });
        }
        self.write(&items, &waiting, &mut part)?;
        if let Some(shard) = part.writer.finish_shard()? {
            self.record(&items, shard, &mut part)?;
        }
        self.enter(&items, part.learnt);
        Ok(())
    }

    /// Enters what a `pack` before has finished of a split, and goes on after that.
    fn take_over(&mut self, split: Split, items: &[&Item]) -> Result<Part> {
        let of_split = |finished: &Finished| finished.shard.split == split;
        let (finished, later): (Vec<_>, _) = std::mem::take(&mut self.taken_over)
            .into_iter()
            .partition(of_split);
        self.taken_over = later;
        let name = &self.manifest.name;
        let shard_size = self.options.shard_size;
        let part = Part {
            split,
            writer: SplitWriter::new(self.folder.path(), name, split, shard_size, finished.len()),
            looked_at: finished.last().map_or(0, |last| last.looked_at),
            learnt: Learnt::default(),
        };
        for Finished { shard, learnt, .. } in finished {
            for remark in &learnt.left_out {
                self.count_bad(items[remark.position], &remark.reason);
            }
            self.manifest.shards.push(shard);
            self.enter(items, learnt);
        }
        self.stop_on_bad()?;
        Ok(part)
    }

    /// Adds a batch to the shards.
    fn write(&mut self, items: &[&Item], batch: &[(&Item, Outcome)], part: &mut Part) -> Result<()> {
        for (item, outcome) in batch {
            let position = part.looked_at;
            let remark = |reason: &String| Remark {
                position,
                reason: reason.clone(),
            };
            part.looked_at += 1;
            match outcome {
                Outcome::Kept(image) => {
                    match part.split {
                        Split::Train => part.learnt.colours.add(&image.colours),
                        Split::Validation => {}
                    }
                    part.learnt.odd.extend(image.odd.as_ref().map(remark));
                    let full = part
                        .writer
                        .append(&item.key, item.label, image.extension, &image.bytes)?;
                    if let Some(shard) = full {
                        self.record(items, shard, part)?;
                    }
                }
                Outcome::LeftOut(reason) => part.learnt.left_out.push(remark(reason)),
            }
        }
        Ok(())
    }

    /// Puts a finished shard into the journal, and enters what was learnt on the way to it.
    fn record(&mut self, items: &[&Item], shard: ShardEntry, part: &mut Part) -> Result<()> {
        let finished = Finished {
            shard,
            looked_at: part.looked_at,
            learnt: std::mem::take(&mut part.learnt),
        };
        resume::record(&mut self.journal, self.folder, &finished)?;
        self.manifest.shards.push(finished.shard);
        self.enter(items, finished.learnt);
        Ok(())
    }

    /// Adds what was learnt to the sums and reports.
    fn enter(&mut self, items: &[&Item], learnt: Learnt) {
        let Learnt {
            colours,
            odd,
            left_out,
        } = learnt;
        self.colours.add(&colours);
        for (remarks, samples, notes) in [
            (odd, &mut self.odd, &mut self.manifest.odd),
            (left_out, &mut self.bad, &mut self.manifest.left_out),
        ] {
            for Remark { position, reason } in remarks {
                let item = items[position];
                samples.push(self.sources.remark(item, &reason));
                notes.push(Note {
                    source: item.source.clone(),
                    key: item.key.clone(),
                    reason,
                });
            }
        }
    }

    fn count_bad(&mut self, item: &Item, reason: &str) {
        self.left_out += 1;
        let sources = self.sources;
        self.first_bad.get_or_insert_with(|| sources.remark(item, reason));
    }

    /// One bad image too many ends it, where that was asked for. They are counted before their batch is written.
    fn stop_on_bad(&self) -> Result<()> {
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
        self.manifest.save(self.folder.path())?;
        let manifest = self.manifest;
        Ok(PackReport {
            samples: SplitCounts {
                train: manifest.samples(Split::Train),
                validation: manifest.samples(Split::Validation),
            },
            shards: manifest.shards.len(),
            taken_over: self.taken_over_count,
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
