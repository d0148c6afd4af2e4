//! Packing images into shards.
//!
//! Every image is decoded once: what cannot be read is left out and named, and the training pixels give mean and
//! principal colours. The same images and options give the same bytes, whatever the number of threads. The folder
//! grows under another name beside its destination and is renamed when it is whole.

mod colour;
mod folder;
mod ilsvrc;
mod keys;
mod labels;
mod prepare;
mod sources;
mod writer;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;

use crate::data::loader::OnBad;
use crate::data::manifest::{Manifest, Note, PcaRgb, Split, Stored};
use crate::error::{BadSample, Error, Result};
use crate::rng::{Purpose, Stream};

use colour::ColourSums;
use prepare::{Outcome, Preparer};
use sources::{Item, Sources};
use writer::SplitWriter;

/// Encoded bytes that are read before they are written: with the batch that is being written, about twice as much is
/// in memory.
const BATCH_BYTES: u64 = 64 << 20;
/// Images that are read before they are written; small images are many to the megabyte.
const BATCH_IMAGES: usize = 1024;

/// Where images come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// `images/train/<class>/...` and, where it exists, `images/val/<class>/...`.
    Folder {
        /// The folder that holds `train`.
        images: PathBuf,
    },
    /// ImageNet's archives as they are downloaded; neither is unpacked.
    Ilsvrc {
        /// `ILSVRC2012_img_train.tar`, an archive of one archive per class.
        train: PathBuf,
        /// `ILSVRC2012_img_val.tar`.
        val: PathBuf,
        /// A list of wnids, Caffe's `val.txt` or Kaggle's `LOC_val_solution.csv`; told by the content.
        val_labels: PathBuf,
    },
}

/// How images are packed.
#[derive(Debug, Clone)]
pub struct PackOptions {
    /// Samples in a shard; the last one of a split may have fewer.
    pub shard_size: usize,
    /// Shuffles the training samples, so that a shard holds many classes.
    pub seed: u64,
    /// Whether large images are reduced.
    pub images: Stored,
    /// What happens when an image does not decode.
    pub on_bad: OnBad,
}

impl Default for PackOptions {
    fn default() -> Self {
        Self {
            shard_size: 1000,
            seed: 1,
            images: Stored::Original,
            on_bad: OnBad::Skip,
        }
    }
}

impl PackOptions {
    fn check(&self) -> Result<()> {
        if self.shard_size == 0 {
            return Err(Error::invalid("--shard-size", "at least 1 sample", 0));
        }
        if let Stored::Reencoded { max_short, quality } = self.images {
            if max_short == 0 || !(1..=100).contains(&quality) {
                let found = format!("{max_short} pixels, quality {quality}");
                return Err(Error::invalid(
                    "--max-short",
                    "at least 1 pixel and a quality of 1 to 100",
                    found,
                ));
            }
            prepare::check_encoder()?;
        }
        Ok(())
    }
}

/// How far packing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackProgress {
    /// The split that is being packed.
    pub split: Split,
    /// Images of it that have been looked at.
    pub done: usize,
    /// Images that it has.
    pub total: usize,
}

/// How many samples each split has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SplitCounts {
    /// To learn from.
    pub train: usize,
    /// To measure on.
    pub validation: usize,
}

/// What was packed: the object that `pack --json` prints.
#[derive(Debug, Clone, Serialize)]
pub struct PackReport {
    /// What the shards' names start with.
    pub name: String,
    /// Images in the shards.
    pub samples: SplitCounts,
    /// Files.
    pub shards: usize,
    /// Classes.
    pub classes: usize,
    /// Of all shards together.
    pub bytes: u64,
    /// Of the training pixels, 0 to 255.
    pub mean_rgb: [f64; 3],
    /// Of the training pixels in 0 to 1.
    pub pca_rgb: PcaRgb,
    /// How the images are stored.
    pub images: Stored,
    /// [`Manifest::sha256`].
    pub data_sha256: String,
    /// Left out, because they do not decode.
    pub bad: Vec<BadSample>,
    /// Packed, although something is odd about them.
    pub odd: Vec<BadSample>,
    /// Packed under a key that is not the image's name.
    pub renamed: Vec<Note>,
}

/// Packs all images of `source` into the new folder `out`.
pub fn pack(
    source: &Source,
    out: &Path,
    options: &PackOptions,
    progress: &(dyn Fn(PackProgress) + Sync),
) -> Result<PackReport> {
    options.check()?;
    let parent = refuse_to_overwrite(out)?;
    let sources = Sources::open(source)?;

    fs::create_dir_all(&parent).map_err(Error::io("create", &parent))?;
    let folder = tempfile::Builder::new()
        .prefix(&format!(
            ".{}.packing-",
            out.file_name().unwrap_or_default().to_string_lossy()
        ))
        .permissions(Permissions::from_mode(0o777)) // less the umask, like any folder
        .tempdir_in(&parent)
        .map_err(Error::io("create a folder in", &parent))?;

    let mut manifest = Manifest::new(
        sources.name.clone(),
        sources.classes.clone(),
        options.images,
        options.seed,
    );
    manifest.renamed = sources.renamed.clone();
    let mut packing = Packing {
        folder: folder.path(),
        manifest,
        sources: &sources,
        options,
        progress,
        colours: ColourSums::default(),
        bad: Vec::new(),
        odd: Vec::new(),
    };
    for split in Split::ALL {
        packing.pack_split(split)?;
    }
    let report = packing.finish()?;

    sync(folder.path())?;
    // An empty folder in the way is replaced.
    fs::rename(folder.path(), out).map_err(Error::io("rename the finished folder to", out))?;
    // It has another name now, and nothing is left to clean up.
    let _ = folder.keep();
    sync(&parent)?;
    Ok(report)
}

/// The folder that `out` will be made in, which need not exist yet.
fn refuse_to_overwrite(out: &Path) -> Result<PathBuf> {
    let refuse = |found| {
        Err(Error::invalid_hint(
            out.display(),
            "a new or an empty folder",
            found,
            "choose another --out",
        ))
    };
    match fs::read_dir(out).map(Iterator::count) {
        Ok(0) => {}
        Ok(_) => return refuse("one with files in it"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => return refuse("a file"),
        Err(error) => return Err(Error::io("examine", out)(error)),
    }
    match (out.file_name(), out.parent()) {
        (Some(_), Some(parent)) if parent.as_os_str().is_empty() => Ok(PathBuf::from(".")),
        (Some(_), Some(parent)) => Ok(parent.to_path_buf()),
        _ => refuse("a path that ends in no name"),
    }
}

/// Makes the names in a folder survive a power failure.
fn sync(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(Error::io("sync", folder))
}

struct Packing<'a> {
    folder: &'a Path,
    manifest: Manifest,
    sources: &'a Sources,
    options: &'a PackOptions,
    progress: &'a (dyn Fn(PackProgress) + Sync),
    colours: ColourSums,
    bad: Vec<BadSample>,
    odd: Vec<BadSample>,
}

impl Packing<'_> {
    /// Reads and decodes a batch on all threads while the one before it is written in order.
    fn pack_split(&mut self, split: Split) -> Result<()> {
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
            self.stop_on_bad(&waiting, done)?;
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

    /// With [`OnBad::Fail`], the first batch with a bad image is the last.
    fn stop_on_bad(&self, batch: &[(&Item, Outcome)], done: usize) -> Result<()> {
        let bad = || {
            batch.iter().filter_map(|(item, outcome)| match outcome {
                Outcome::LeftOut(reason) => Some(self.sources.remark(item, reason)),
                Outcome::Kept(_) => None,
            })
        };
        match (self.options.on_bad, bad().next()) {
            (OnBad::Fail, Some(first)) => Err(Error::BadData {
                bad: bad().count() as u64,
                samples: done as u64,
                first: Box::new(first),
            }),
            (OnBad::Fail, None) | (OnBad::Skip, _) => Ok(()),
        }
    }

    /// Writes what the folder says about itself.
    fn finish(mut self) -> Result<PackReport> {
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
