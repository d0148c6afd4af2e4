//! The images to pack, wherever they come from.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::data::file::{IoMode, RandomFile};
use crate::data::manifest::{Note, Split, hex};
use crate::error::{BadSample, Error, Result};

use super::keys::Keys;
use super::progress::Tell;
use super::{Source, folder, ilsvrc, shards};

/// A larger file is no photograph, and would not fit into memory next to others.
const MAX_IMAGE_BYTES: u64 = 1 << 30;

/// An image that was found.
#[derive(Debug)]
pub(super) struct Found {
    /// Its class.
    pub(super) label: u32,
    /// What its key should be.
    pub(super) wanted_key: String,
    /// Path below the packed folder, or archive and member, for people.
    pub(super) source: String,
    /// Where its bytes are.
    pub(super) place: Place,
    /// Bytes.
    pub(super) size: u64,
}

/// Where the bytes of an image are.
#[derive(Debug)]
pub(super) enum Place {
    /// A file of its own, and its times, if it has any.
    File(PathBuf, Option<Times>),
    /// Part of `Sources::archives[archive]`.
    Archived { archive: usize, offset: u64 },
}

/// When a file's content and what else is known of it were changed last: seconds and nanoseconds of both.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times([i64; 4]);

impl Times {
    pub(super) fn of(file: &Metadata) -> Self {
        Self([file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()])
    }
}

/// What a source holds, before keys are given.
#[derive(Debug)]
pub(super) struct Listing {
    /// What the shards are called.
    pub(super) name: String,
    /// In byte order.
    pub(super) classes: Vec<String>,
    /// Training images, class after class.
    pub(super) train: Vec<Found>,
    /// Validation images.
    pub(super) validation: Vec<Found>,
    /// Samples that are no labelled image.
    pub(super) unusable: Vec<Unusable>,
    /// Open archives.
    pub(super) archives: Vec<RandomFile>,
}

/// A sample of existing shards that cannot be packed, whatever its image looks like.
#[derive(Debug)]
pub(super) struct Unusable {
    /// As in [`Found`].
    pub(super) source: String,
    /// Where it lies, and why.
    pub(super) sample: BadSample,
}

/// An image with its key.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) label: u32,
    pub(super) key: String,
    pub(super) source: String,
    pub(super) size: u64,
    place: Place,
}

/// All images to pack.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) name: String,
    pub(super) classes: Vec<String>,
    /// Images whose key is not the one that their name suggests.
    pub(super) renamed: Vec<Note>,
    /// Samples that are no labelled image.
    pub(super) unusable: Vec<Unusable>,
    train: Vec<Item>,
    validation: Vec<Item>,
    archives: Vec<RandomFile>,
}

impl Sources {
    /// Finds all images and gives them keys, without reading any.
    pub(super) fn open(source: &Source, tell: Tell) -> Result<Self> {
        let listing = match source {
            Source::Folder { images } => folder::list(images, tell)?,
            Source::Ilsvrc {
                train,
                val,
                val_labels,
            } => ilsvrc::list(train, val, val_labels, tell)?,
            Source::Shards { shards, class_names } => shards::list(shards, class_names.as_deref(), tell)?,
        };
        let Listing {
            name,
            classes,
            train,
            validation,
            unusable,
            archives,
        } = listing;
        let mut keys = Keys::default();
        let mut renamed = Vec::new();
        let [train, validation] = [train, validation].map(|found| {
            let give_key = |found| with_key(found, &mut keys, &mut renamed);
            found.into_iter().map(give_key).collect()
        });
        Ok(Self {
            name,
            classes,
            renamed,
            unusable,
            train,
            validation,
            archives,
        })
    }

    /// The images of a split, in the order of the source.
    pub(super) fn items(&self, split: Split) -> &[Item] {
        match split {
            Split::Train => &self.train,
            Split::Validation => &self.validation,
        }
    }

    /// All there is to pack, whether it can be or not.
    pub(super) fn samples(&self) -> u64 {
        (self.train.len() + self.validation.len() + self.unusable.len()) as u64
    }

    /// The bytes of an image; the error is the reason for people.
    pub(super) fn read(&self, item: &Item) -> Result<Vec<u8>, String> {
        if item.size > MAX_IMAGE_BYTES {
            return Err(format!(
                "expected an image of at most {MAX_IMAGE_BYTES} bytes, found {}",
                item.size
            ));
        }
        match &item.place {
            Place::File(path, _) => std::fs::read(path).map_err(|error| format!("cannot be read: {error}")),
            Place::Archived { archive, offset } => self.archives[*archive]
                .read(*offset..offset + item.size, &mut Vec::new())
                .map(<[u8]>::to_vec)
                .and_then(|bytes| self.archives[*archive].confirm().map(|()| bytes))
                .map_err(|error| error.to_string()),
        }
    }

    /// Identifies what there is to pack: equal where names, labels, places, sizes and times of all images are.
    pub(super) fn sha256(&self) -> Result<String> {
        let mut hash = Fingerprint(Sha256::new());
        hash.text(&self.name);
        hash.number(self.classes.len() as u64);
        self.classes.iter().for_each(|class| hash.text(class));
        hash.number(self.archives.len() as u64);
        for archive in &self.archives {
            let metadata = std::fs::metadata(archive.path()).map_err(Error::io("examine", archive.path()))?;
            hash.text(&archive.name());
            hash.number(archive.len());
            hash.times(Some(Times::of(&metadata)));
        }
        for items in [&self.train, &self.validation] {
            hash.number(items.len() as u64);
            for Item {
                label,
                key,
                source,
                size,
                place,
            } in items
            {
                hash.number(u64::from(*label));
                hash.text(key);
                hash.text(source);
                hash.number(*size);
                match place {
                    Place::File(_, times) => hash.times(*times),
                    Place::Archived { archive, offset } => {
                        hash.number(*archive as u64);
                        hash.number(*offset);
                    }
                }
            }
        }
        for Unusable { source, sample } in &self.unusable {
            hash.text(source);
            hash.text(&sample.to_string());
        }
        Ok(hex(&hash.0.finalize()))
    }

    /// Names an image in a report.
    pub(super) fn remark(&self, item: &Item, reason: &str) -> BadSample {
        let (shard, offset) = match &item.place {
            Place::File(..) => (item.source.clone(), 0),
            Place::Archived { archive, offset } => (self.archives[*archive].name(), *offset),
        };
        BadSample {
            shard,
            offset,
            key: item.key.clone(),
            reason: reason.to_string(),
        }
    }
}

/// A hash of values that cannot run into each other.
struct Fingerprint(Sha256);

impl Fingerprint {
    fn number(&mut self, number: u64) {
        self.0.update(number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.update(text);
    }

    fn times(&mut self, times: Option<Times>) {
        self.number(u64::from(times.is_some()));
        for number in times.map_or([0; 4], |Times(numbers)| numbers) {
            self.0.update(number.to_le_bytes());
        }
    }
}

fn with_key(found: Found, keys: &mut Keys, renamed: &mut Vec<Note>) -> Item {
    let Found {
        label,
        wanted_key,
        source,
        place,
        size,
    } = found;
    let (key, reason) = keys.assign(&wanted_key);
    if let Some(reason) = reason {
        renamed.push(Note {
            source: source.clone(),
            key: key.clone(),
            reason: reason.to_string(),
        });
    }
    Item {
        label,
        key,
        source,
        size,
        place,
    }
}

/// Opens an archive in which images will be read in place.
pub(super) fn open_archive(path: &Path) -> Result<RandomFile> {
    RandomFile::open(path, IoMode::Mmap)
}

/// The class numbers are ranks in byte order: `classes` must be sorted, distinct, and fit into a label.
pub(super) fn check_classes(classes: &[String], what: &Path) -> Result<()> {
    if classes.is_empty() || u32::try_from(classes.len()).is_err() || !classes.is_sorted_by(|a, b| a < b) {
        let found = format!("{} folders or archives", classes.len());
        return Err(Error::invalid(
            what.display(),
            "one folder or archive for each class, all distinct",
            found,
        ));
    }
    Ok(())
}
