//! Shards that exist already, ours or those of other tools, as a source of images.

use std::path::Path;

use rayon::prelude::*;

use crate::data::file::RandomFile;
use crate::data::index;
use crate::data::manifest::Split;
use crate::data::shard_set::ShardSet;
use crate::error::{BadSample, Error, Result};

use super::folder::name_of;
use super::progress::{Count, PackProgress, Tell};
use super::sources::{Found, Listing, Place, Unusable, open_archive};

/// A class index is a few digits; a longer member is something else.
const MAX_CLASS: u64 = 64;

/// Lists the labelled images of a shard folder, of a folder of tars, or of one tar. The classes are the manifest's, or
/// `class_names` in index order, or else numbers.
pub(super) fn list(path: &Path, class_names: Option<&Path>, tell: Tell) -> Result<Listing> {
    let set = ShardSet::find(path)?;
    let archives: Vec<RandomFile> = set
        .shards
        .iter()
        .map(|shard| open_archive(shard))
        .collect::<Result<_>>()?;
    let splits: Vec<Split> = match &set.manifest {
        Some(manifest) => manifest.shards.iter().map(|shard| shard.split).collect(),
        None => set.shards.iter().map(|shard| split_of(shard)).collect(),
    };
    let count = Count::new(archives.len(), |done, total| {
        tell(PackProgress::Listed { done, total })
    });
    let contents: Vec<Contents> = archives
        .par_iter()
        .enumerate()
        .map(|(number, archive)| Contents::of(number, archive).inspect(|_| count.one_more()))
        .collect::<Result<_>>()?;
    let most = contents
        .iter()
        .flat_map(|shard| &shard.found)
        .map(|found| found.label)
        .max();
    let count = most.map_or(0, |label| label as usize + 1);
    let classes = match (class_names, set.manifest) {
        (Some(file), _) => named(file, count)?,
        (None, Some(manifest)) => manifest.classes,
        (None, None) => numbered(count),
    };
    let mut listing = Listing {
        name: name_of(path),
        classes,
        train: Vec::new(),
        validation: Vec::new(),
        unusable: Vec::new(),
        archives,
    };
    for (contents, split) in contents.into_iter().zip(splits) {
        match split {
            Split::Train => listing.train.extend(contents.found),
            Split::Validation => listing.validation.extend(contents.found),
        }
        listing.unusable.extend(contents.unusable);
    }
    Ok(listing)
}

/// By the file's name, where there is no manifest.
fn split_of(shard: &Path) -> Split {
    let name = shard
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    if !name.contains("train") && (name.contains("val") || name.contains("test")) {
        Split::Validation
    } else {
        Split::Train
    }
}

/// Numbers of equal width, so that they are in byte order.
fn numbered(count: usize) -> Vec<String> {
    let width = count.saturating_sub(1).to_string().len();
    (0..count).map(|class| format!("{class:0width$}")).collect()
}

/// The lines of a file, one name each.
fn named(file: &Path, count: usize) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(file).map_err(Error::io("read", file))?;
    let names: Vec<String> = text
        .lines()
        .map(|line| line.trim().to_string())
        .filter(|line| !line.is_empty())
        .collect();
    if names.len() < count || !names.is_sorted_by(|a, b| a < b) {
        return Err(Error::invalid_hint(
            file.display(),
            format_args!("at least {count} distinct names in byte order, one a line"),
            format_args!("{} names", names.len()),
            "the shards' class indices must be the ranks of the names",
        ));
    }
    Ok(names)
}

/// What one shard holds.
struct Contents {
    found: Vec<Found>,
    unusable: Vec<Unusable>,
}

impl Contents {
    fn of(number: usize, archive: &RandomFile) -> Result<Self> {
        let mut contents = Self {
            found: Vec::new(),
            unusable: Vec::new(),
        };
        for sample in index::load(archive)? {
            let key = sample.key().to_string();
            let image = sample.image().unwrap_or(&sample.members()[0]);
            let source = format!("{}: {}", archive.name(), image.name);
            match label_of(archive, &sample) {
                Ok(label) => contents.found.push(Found {
                    label,
                    wanted_key: key,
                    source,
                    place: Place::Archived {
                        archive: number,
                        offset: image.offset,
                    },
                    size: image.size,
                }),
                Err(reason) => contents.unusable.push(Unusable {
                    source,
                    sample: BadSample {
                        shard: archive.name(),
                        offset: image.offset,
                        key,
                        reason,
                    },
                }),
            }
        }
        Ok(contents)
    }
}

/// The class index of a sample that has an image.
fn label_of(archive: &RandomFile, sample: &index::Sample) -> Result<u32, String> {
    if sample.image().is_none() {
        return Err("expected a jpg, jpeg, png, webp or gif member, found none".to_string());
    }
    let class = sample
        .class()
        .ok_or("expected a .cls member with the class index, found none")?;
    let mut scratch = Vec::new();
    let text = archive
        .read(
            class.offset..class.offset + class.size.min(MAX_CLASS),
            &mut scratch,
        )
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(text);
    text.trim()
        .parse()
        .map_err(|_| format!("expected a class index in the .cls member, found {text:.40?}"))
}
