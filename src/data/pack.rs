//! Packing images into shards.
//!
//! Every image is decoded once: what cannot be read is left out and named, and the training pixels give mean and
//! principal colours. The same images and options give the same bytes, whatever the number of threads. The folder
//! grows under another name beside its destination and is renamed when it is whole. Where that ends too early, the same
//! `pack` goes on after the last shard that is whole, and gives the same bytes.

mod colour;
mod folder;
mod ilsvrc;
mod keys;
mod labels;
mod packing;
mod prepare;
mod progress;
mod resume;
mod shards;
mod sources;
mod writer;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::data::bad::MaxBad;
use crate::data::loader::OnBad;
use crate::data::manifest::{Note, PcaRgb, Split, Stored};
use crate::durable::NewFolder;
use crate::error::{BadSample, Error, Result};

use packing::Packing;
use progress::Tell;
use sources::Sources;

pub use progress::PackProgress;

pub(in crate::data) use writer::OpenShard;

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
    /// Shards of any tool: samples with an image and a `.cls` member.
    Shards {
        /// A shard folder, a folder of tars, or one tar.
        shards: PathBuf,
        /// Class names in index order, one a line; numbers where absent.
        class_names: Option<PathBuf>,
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
    /// The most images of both splits that may not decode.
    pub max_bad: Option<MaxBad>,
}

impl Default for PackOptions {
    fn default() -> Self {
        Self {
            shard_size: 1000,
            seed: 1,
            images: Stored::Original,
            on_bad: OnBad::Skip,
            max_bad: None,
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
    /// Those of them that a `pack` before had finished.
    pub taken_over: usize,
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
    /// [`Manifest::sha256`](crate::data::manifest::Manifest::sha256).
    pub data_sha256: String,
    /// Left out, because they do not decode.
    pub bad: Vec<BadSample>,
    /// Packed, although something is odd about them.
    pub odd: Vec<BadSample>,
    /// Packed under a key that is not the image's name.
    pub renamed: Vec<Note>,
}

/// Packs all images of `source` into the new folder `out`; goes on where a `pack` of the same images and options has
/// died or failed.
pub fn pack(
    source: &Source,
    out: &Path,
    options: &PackOptions,
    progress: &(dyn Fn(PackProgress) + Sync),
) -> Result<PackReport> {
    options.check()?;
    let mut folder = NewFolder::take(out)?;
    let report = fill(&mut folder, source, options, progress).inspect_err(|_| {
        if folder.stays() {
            progress(PackProgress::Stays {
                folder: folder.path().into(),
            });
        }
    })?;
    folder.finish()?;
    Ok(report)
}

fn fill(folder: &mut NewFolder, source: &Source, options: &PackOptions, tell: Tell) -> Result<PackReport> {
    let sources = Sources::open(source, tell)?;
    let done = resume::take_over(folder, &sources, options, tell)?;
    let mut packing = Packing::new(folder, &sources, options, tell, done);
    for split in Split::ALL {
        packing.pack_split(split)?;
    }
    packing.finish()
}
