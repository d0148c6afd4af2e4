//! What a shard folder says about itself: `manifest.json` for this program, `_info.json` for others.

use std::collections::HashSet;
use std::fmt::Write;
use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::durable::write_atomically;
use crate::error::{Error, Result};

/// The manifest's file name.
pub const MANIFEST: &str = "manifest.json";
/// The file that timm and other readers of WebDataset folders look for.
pub const INFO: &str = "_info.json";

const FORMAT: &str = "verydeep shards 1";

/// One half of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// What is learnt from.
    Train,
    /// What is measured on.
    Validation,
}

impl Split {
    /// Both, in the order in which they are packed.
    pub const ALL: [Self; 2] = [Self::Train, Self::Validation];

    /// As it stands in file names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
        }
    }
}

/// Principal components of the training pixels: of the covariance of RGB in 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PcaRgb {
    /// Descending.
    pub eigenvalues: [f64; 3],
    /// `eigenvectors[i]` belongs to `eigenvalues[i]`, has length 1, and its largest component is positive.
    pub eigenvectors: [[f64; 3]; 3],
}

/// How the images lie in the shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stored {
    /// Byte for byte as they came.
    Original,
    /// Where the shorter side was longer than `max_short`, reduced to it and encoded again.
    Reencoded {
        /// Pixels.
        max_short: usize,
        /// JPEG quality, 1 to 100.
        quality: u8,
    },
}

/// One shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// File name within the folder.
    pub file: String,
    /// Which half it belongs to.
    pub split: Split,
    /// Number of samples.
    pub samples: usize,
    /// Length of the file.
    pub bytes: u64,
    /// Of the whole file, in hexadecimal.
    pub sha256: String,
    /// The class index of every sample, in order; a copy of the `.cls` members, so that opening a data set does not
    /// touch every page of it. In the file it is one string, which keeps a shard on a few lines.
    #[serde(serialize_with = "write_labels", deserialize_with = "read_labels")]
    pub labels: Vec<u32>,
    /// CRC-32 of the encoded image of every sample, so that damage is found where it is, sample by sample. In the file,
    /// eight hexadecimal digits each. Shards of versions that did not write it have none.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        serialize_with = "write_crcs",
        deserialize_with = "read_crcs"
    )]
    pub crc32: Vec<u32>,
}

/// A remark on one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Where the image came from: a path below the packed folder, or a member of an archive.
    pub source: String,
    /// Its key in the shards.
    pub key: String,
    /// What there is to say.
    pub reason: String,
}

/// Everything that training needs to know about a data set before it reads the first image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    format: String,
    /// What the shards' names start with.
    pub name: String,
    /// In index order, which is byte order.
    pub classes: Vec<String>,
    /// Mean of the training pixels, 0 to 255.
    pub mean_rgb: [f64; 3],
    /// For the colour shift.
    pub pca_rgb: PcaRgb,
    /// How the images are stored.
    pub images: Stored,
    /// What the training samples were shuffled with.
    pub seed: u64,
    /// Training first, each split in order.
    pub shards: Vec<ShardEntry>,
    /// Images whose key is not their name.
    pub renamed: Vec<Note>,
    /// Images that were packed although something is odd about them.
    pub odd: Vec<Note>,
    /// Images that could not be read and are in no shard.
    pub left_out: Vec<Note>,
}

impl Manifest {
    /// A manifest without shards yet.
    pub fn new(name: String, classes: Vec<String>, images: Stored, seed: u64) -> Self {
        Self {
            format: FORMAT.to_string(),
            name,
            classes,
            mean_rgb: [0.0; 3],
            pca_rgb: PcaRgb {
                eigenvalues: [0.0; 3],
                eigenvectors: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
            },
            images,
            seed,
            shards: Vec::new(),
            renamed: Vec::new(),
            odd: Vec::new(),
            left_out: Vec::new(),
        }
    }

    /// Reads and checks the manifest of a shard folder.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(MANIFEST);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && folder.is_dir() => {
                return Err(Error::invalid_hint(
                    folder.display(),
                    "a folder of shards with a manifest.json",
                    "none",
                    "`verydeep pack --images DIR --out SHARDS` makes one, and of other tools' shards `verydeep pack --shards DIR \
                     --out SHARDS`",
                ));
            }
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        Self::parse(&text, &path)
    }

    /// Reads and checks the text of a manifest; `path` is for the errors.
    pub fn parse(text: &[u8], path: &Path) -> Result<Self> {
        let refuse = |expected: &str, found: String| {
            Error::invalid_hint(
                path.display(),
                expected,
                found,
                "pack the images again, or copy the folder again",
            )
        };
        let manifest: Self = serde_json::from_slice(text)
            .map_err(|error| refuse("the manifest of a shard folder", error.to_string()))?;
        manifest
            .check()
            .map_err(|(expected, found)| refuse(expected, found))?;
        Ok(manifest)
    }

    /// Writes `manifest.json` and `_info.json`, the manifest last: a folder that has it is whole.
    pub fn save(&self, folder: &Path) -> Result<()> {
        for (name, text) in [
            (INFO, serde_json::to_string_pretty(&self.info())),
            (MANIFEST, serde_json::to_string_pretty(self)),
        ] {
            let path = folder.join(name);
            let text = text
                .map_err(std::io::Error::from)
                .map_err(Error::io("encode", &path))?
                + "\n";
            write_atomically(&path, |file| file.write_all(text.as_bytes()))?;
        }
        Ok(())
    }

    /// The shards of one split.
    pub fn shards(&self, split: Split) -> impl Iterator<Item = &ShardEntry> {
        self.shards.iter().filter(move |shard| shard.split == split)
    }

    /// How many samples a split has.
    pub fn samples(&self, split: Split) -> usize {
        self.shards(split).map(|shard| shard.samples).sum()
    }

    /// Identifies the data set in a run's equivalence class: equal where training reads the same bytes in the same
    /// order with the same labels, classes and colour statistics. What was left out or renamed on the way does not
    /// count.
    pub fn sha256(&self) -> String {
        let mut text = format!("{FORMAT}\n");
        // Lengths go before whatever may hold a line end, so that no two data sets have the same text. Writing to a
        // String cannot fail.
        for class in &self.classes {
            let _ = writeln!(text, "class {} {class}", class.len());
        }
        let pca = &self.pca_rgb;
        for value in self
            .mean_rgb
            .iter()
            .chain(&pca.eigenvalues)
            .chain(pca.eigenvectors.as_flattened())
        {
            let _ = writeln!(text, "{:016x}", value.to_bits());
        }
        for ShardEntry {
            file,
            split,
            samples,
            bytes,
            sha256,
            labels,
            crc32: _, // of bytes that sha256 covers
        } in &self.shards
        {
            let split = split.as_str();
            let _ = writeln!(
                text,
                "{split} {} {file} {samples} {bytes} {sha256} {}",
                file.len(),
                labels_text(labels)
            );
        }
        hex(&Sha256::digest(text))
    }

    /// What `_info.json` holds.
    pub fn info(&self) -> serde_json::Value {
        let mut splits = serde_json::Map::new();
        for split in Split::ALL {
            if self.shards(split).next().is_none() {
                continue;
            }
            let description = serde_json::json!({
                "name": split.as_str(),
                "num_samples": self.samples(split),
                "filenames": self.shards(split).map(|shard| shard.file.as_str()).collect::<Vec<_>>(),
                "shard_lengths": self.shards(split).map(|shard| shard.samples).collect::<Vec<_>>(),
            });
            splits.insert(split.as_str().to_string(), description);
        }
        serde_json::json!({ "splits": splits })
    }

    /// What the types alone do not guarantee; the error is (expected, found).
    fn check(&self) -> Result<(), (&'static str, String)> {
        if self.format != FORMAT {
            return Err(("the format \"verydeep shards 1\"", format!("{:?}", self.format)));
        }
        if self.classes.is_empty() || !self.classes.is_sorted_by(|a, b| a < b) {
            return Err((
                "distinct classes in byte order",
                format!("{} classes that are not", self.classes.len()),
            ));
        }
        let pca = &self.pca_rgb;
        let numbers = self
            .mean_rgb
            .iter()
            .chain(&pca.eigenvalues)
            .chain(pca.eigenvectors.as_flattened());
        if !numbers.copied().all(f64::is_finite)
            || self.mean_rgb.iter().any(|mean| !(0.0..=255.0).contains(mean))
        {
            return Err((
                "a mean within 0 to 255 and finite components",
                format!("{:?}, {pca:?}", self.mean_rgb),
            ));
        }
        let mut files = HashSet::new();
        for shard in &self.shards {
            let file = Path::new(&shard.file);
            // The name is joined to the folder's path: it must not lead out of it.
            if file.file_name() != Some(file.as_os_str()) || !files.insert(&shard.file) {
                return Err(("distinct file names without folders", format!("{:?}", shard.file)));
            }
            if shard.labels.len() != shard.samples {
                return Err((
                    "as many labels as samples",
                    format!("{} in {}", shard.labels.len(), shard.file),
                ));
            }
            if !shard.crc32.is_empty() && shard.crc32.len() != shard.samples {
                return Err((
                    "as many CRCs as samples, or none",
                    format!("{} in {}", shard.crc32.len(), shard.file),
                ));
            }
            if let Some(label) = shard
                .labels
                .iter()
                .find(|&&label| label as usize >= self.classes.len())
            {
                let count = self.classes.len();
                return Err((
                    "labels below the number of classes",
                    format!("{label} of {count} in {}", shard.file),
                ));
            }
        }
        Ok(())
    }
}

fn labels_text(labels: &[u32]) -> String {
    let mut text = String::with_capacity(labels.len() * 4);
    for (i, label) in labels.iter().enumerate() {
        let _ = write!(text, "{}{label}", if i == 0 { "" } else { " " });
    }
    text
}

fn write_labels<S: Serializer>(labels: &[u32], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&labels_text(labels))
}

fn read_labels<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let labels = text.split_ascii_whitespace().map(str::parse);
    labels.collect::<Result<_, _>>().map_err(serde::de::Error::custom)
}

fn write_crcs<S: Serializer>(crcs: &[u32], serializer: S) -> Result<S::Ok, S::Error> {
    let mut text = String::with_capacity(crcs.len() * 8);
    for crc in crcs {
        let _ = write!(text, "{crc:08x}");
    }
    serializer.serialize_str(&text)
}

fn read_crcs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let crcs = text.as_bytes().chunks(8).map(|digits| {
        let digits = std::str::from_utf8(digits)
            .ok()
            .filter(|digits| digits.len() == 8)?;
        u32::from_str_radix(digits, 16).ok()
    });
    crcs.collect::<Option<_>>()
        .ok_or_else(|| serde::de::Error::custom("expected eight hexadecimal digits for each CRC"))
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests;
