//! What a data set is, without decoding anything.

use std::collections::HashSet;
use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;

use crate::data::file::{IoMode, RandomFile};
use crate::data::index;
use crate::data::manifest::{PcaRgb, Split, Stored};
use crate::data::pack::SplitCounts;
use crate::data::shard_set::ShardSet;
use crate::error::{Error, Result};

/// A summary of shards: the object that `inspect --json` prints. What only a manifest knows is absent without one.
#[derive(Debug, Clone, Serialize)]
pub struct ShardSummary {
    /// Samples in all shards.
    pub samples: usize,
    /// Shards.
    pub shards: usize,
    /// Classes; without a manifest, the distinct ones that occur.
    pub classes: usize,
    /// Of all shards together.
    pub bytes: u64,
    /// What the manifest adds.
    #[serde(flatten)]
    pub packed: Option<PackedSummary>,
}

/// What a manifest says about its data set.
#[derive(Debug, Clone, Serialize)]
pub struct PackedSummary {
    /// What the shards' names start with.
    pub name: String,
    /// Samples of each split.
    pub splits: SplitCounts,
    /// In index order.
    pub class_names: Vec<String>,
    /// Of the training pixels, 0 to 255.
    pub mean_rgb: [f64; 3],
    /// Of the training pixels in 0 to 1.
    pub pca_rgb: PcaRgb,
    /// How the images are stored.
    pub images: Stored,
    /// Identifies the data set in a run's equivalence class.
    pub data_sha256: String,
    /// Images that were packed although something is odd about them.
    pub odd: usize,
    /// Images that could not be read when the shards were made.
    pub left_out: usize,
}

/// Summarises a shard folder, a folder of tars without a manifest, or one tar.
pub fn inspect(path: &Path) -> Result<ShardSummary> {
    let ShardSet { manifest, shards } = ShardSet::find(path)?;
    if let Some(manifest) = manifest {
        let [train, validation] = Split::ALL.map(|split| manifest.samples(split));
        return Ok(ShardSummary {
            samples: train + validation,
            shards: shards.len(),
            classes: manifest.classes.len(),
            bytes: manifest.shards.iter().map(|shard| shard.bytes).sum(),
            packed: Some(PackedSummary {
                splits: SplitCounts { train, validation },
                mean_rgb: manifest.mean_rgb,
                pca_rgb: manifest.pca_rgb,
                images: manifest.images,
                data_sha256: manifest.sha256(),
                odd: manifest.odd.len(),
                left_out: manifest.left_out.len(),
                name: manifest.name,
                class_names: manifest.classes,
            }),
        });
    }
    let contents: Vec<Contents> = shards
        .par_iter()
        .map(|shard| Contents::of(shard))
        .collect::<Result<_>>()?;
    let classes: HashSet<&str> = contents
        .iter()
        .flat_map(|shard| &shard.classes)
        .map(String::as_str)
        .collect();
    Ok(ShardSummary {
        samples: contents.iter().map(|shard| shard.samples).sum(),
        shards: shards.len(),
        classes: classes.len(),
        bytes: contents.iter().map(|shard| shard.bytes).sum(),
        packed: None,
    })
}

struct Contents {
    samples: usize,
    bytes: u64,
    /// As they stand in the `.cls` members.
    classes: HashSet<String>,
}

impl Contents {
    fn of(path: &Path) -> Result<Self> {
        /// A class index is a few digits; a longer member is something else.
        const MAX_CLASS: u64 = 64;
        let file = RandomFile::open(path, IoMode::Mmap)?;
        let samples = index::load(&file)?;
        let mut scratch = Vec::new();
        let mut classes = HashSet::new();
        for class in samples.iter().filter_map(index::Sample::class) {
            if class.size > MAX_CLASS {
                return Err(Error::invalid(
                    format_args!("{} at byte {}, {}", path.display(), class.offset, class.name),
                    "a class index",
                    format_args!("{} bytes", class.size),
                ));
            }
            let text = file.read(class.offset..class.offset + class.size, &mut scratch)?;
            classes.insert(String::from_utf8_lossy(text).trim().to_string());
        }
        Ok(Self {
            samples: samples.len(),
            bytes: file.len(),
            classes,
        })
    }
}
