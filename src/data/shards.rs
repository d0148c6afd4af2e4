//! Reading a shard folder: any sample at any time, from any thread.

use std::fmt::Display;
use std::ops::Range;
use std::path::Path;

use rayon::prelude::*;

use crate::data::file::RandomFile;
use crate::data::index;
use crate::data::tar::{BLOCK, Member};
use crate::error::{BadSample, Error, Result};

pub use crate::data::file::IoMode;
pub use crate::data::manifest::{Manifest, Split};

/// One split of a shard folder. Samples are numbered through all shards, in the order of the manifest.
#[derive(Debug)]
pub struct Dataset {
    manifest: Manifest,
    shards: Vec<RandomFile>,
    samples: Vec<Sample>,
    /// All keys, one after the other: a string each would cost more than the rest of a sample.
    keys: String,
}

#[derive(Debug)]
struct Sample {
    shard: u32,
    label: u32,
    /// Of the encoded image.
    offset: u64,
    size: u64,
    /// Of the encoded image, where the manifest says it.
    crc32: Option<u32>,
    /// Within `keys`.
    key: Range<usize>,
}

impl Dataset {
    /// Opens a split and checks each shard against the manifest and its index, without reading the images. A split
    /// without shards is an empty data set.
    pub fn open(root: &Path, split: Split, io: IoMode) -> Result<Self> {
        let manifest = Manifest::load(root)?;
        let entries: Vec<_> = manifest.shards(split).collect();
        allow_open_files(entries.len() as u64);
        let opened: Vec<_> = entries
            .par_iter()
            .map(|entry| {
                let shard = open_shard(&root.join(&entry.file), entry.bytes, io)?;
                let images = images_of(&shard, entry.samples)?;
                Ok((shard, images))
            })
            .collect::<Result<_>>()?;

        let (mut shards, mut samples, mut keys) = (Vec::new(), Vec::new(), String::new());
        for ((shard, images), entry) in opened.into_iter().zip(entries) {
            for (i, (image, &label)) in images.into_iter().zip(&entry.labels).enumerate() {
                let start = keys.len();
                keys.push_str(index::split_name(&image.name).map_or("", |(key, _)| key));
                let key = start..keys.len();
                samples.push(Sample {
                    shard: shards.len() as u32,
                    label,
                    offset: image.offset,
                    size: image.size,
                    crc32: entry.crc32.get(i).copied(),
                    key,
                });
            }
            shards.push(shard);
        }
        Ok(Self {
            manifest,
            shards,
            samples,
            keys,
        })
    }

    /// How many samples there are.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// The class index.
    pub fn label(&self, sample: usize) -> u32 {
        self.samples[sample].label
    }

    /// The sample's name within the data set.
    pub fn key(&self, sample: usize) -> &str {
        &self.keys[self.samples[sample].key.clone()]
    }

    /// The encoded image: a slice of the map, or read into `scratch`. The tar header before it is checked on the
    /// way, so that an index of another file cannot pass garbage for an image, and so is the image's CRC-32, where the
    /// manifest has it: a damaged JPEG usually decodes to something.
    pub fn read<'a>(&'a self, sample: usize, scratch: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        let Sample {
            shard,
            offset,
            size,
            crc32,
            ..
        } = self.samples[sample];
        let bytes = self.shards[shard as usize].read(offset - BLOCK..offset + size, scratch)?;
        let (header, image) = bytes.split_at(BLOCK as usize);
        let member = Member {
            name: String::new(),
            offset,
            size,
        };
        if let Err(reason) = member.check_header(header).and_then(|()| check_crc(crc32, image)) {
            self.confirm(sample)?;
            return Err(Error::Sample(Box::new(self.bad_sample(sample, reason))));
        }
        Ok(image)
    }

    /// Whether what was read of a sample's shard so far was in the file; to be asked after a sample has been used. Errors
    /// name the shard.
    pub fn confirm(&self, sample: usize) -> Result<()> {
        self.shards[self.samples[sample].shard as usize].confirm()
    }

    /// Names a sample that cannot be used: shard, byte offset of the image, key.
    pub fn bad_sample(&self, sample: usize, reason: impl Display) -> BadSample {
        let Sample { shard, offset, .. } = self.samples[sample];
        BadSample {
            shard: self.shards[shard as usize].name(),
            offset,
            key: self.key(sample).to_string(),
            reason: reason.to_string(),
        }
    }

    /// What the folder says about itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
}

/// Compares an encoded image with what was packed.
pub(super) fn check_crc(expected: Option<u32>, image: &[u8]) -> Result<(), String> {
    let Some(expected) = expected else {
        return Ok(());
    };
    let found = crc32fast::hash(image);
    if found == expected {
        return Ok(());
    }
    Err(format!(
        "expected the bytes that were packed (CRC-32 {expected:08x}), found others ({found:08x})"
    ))
}

fn open_shard(path: &Path, bytes: u64, io: IoMode) -> Result<RandomFile> {
    let shard = RandomFile::open(path, io)?;
    if shard.len() != bytes {
        return Err(Error::invalid_hint(
            path.display(),
            format_args!("{bytes} bytes, as the manifest says"),
            format_args!("{} bytes", shard.len()),
            "copy the shard again; `verydeep verify` shows what else differs",
        ));
    }
    Ok(shard)
}

/// The image of every sample of a shard, within its bounds.
fn images_of(shard: &RandomFile, expected: usize) -> Result<Vec<Member>> {
    let samples = index::load(shard)?;
    let path = shard.path().display();
    if samples.len() != expected {
        return Err(Error::invalid_hint(
            format_args!("{path} and its index"),
            format_args!("{expected} samples, as the manifest says"),
            format_args!("{} samples", samples.len()),
            "the index belongs to another shard: delete it, or copy both again",
        ));
    }
    samples
        .iter()
        .map(|sample| {
            sample.image().cloned().ok_or_else(|| {
                let found = sample
                    .members()
                    .iter()
                    .map(|member| member.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", ");
                Error::invalid(
                    format_args!("{path}, sample {}", sample.key()),
                    "a jpg, png, webp or gif member",
                    found,
                )
            })
        })
        .collect()
}

/// Raises the soft limit on open files where that many more would not fit, as far as the hard limit allows: the usual
/// soft limit of 1024 is less than ImageNet has shards. Where it cannot be raised, opening says so.
fn allow_open_files(more: u64) {
    /// For everything that is not a shard.
    const OTHERS: u64 = 256;
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to a live rlimit, which the call fills.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 || limit.rlim_cur >= more + OTHERS {
        return;
    }
    limit.rlim_cur = limit.rlim_max.min(limit.rlim_cur + more + OTHERS);
    // SAFETY: the pointer is to a live rlimit, which the call only reads. A failure leaves the old limit.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::manifest::{ShardEntry, Stored};
    use crate::data::tar::TarWriter;

    /// Two classes, three samples in two shards; the images are no images, which the reader does not mind.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let mut manifest = Manifest::new("x".into(), vec!["a".into(), "b".into()], Stored::Original, 1);
        for (i, samples) in [&[("k0", 1u32), ("k1", 0)][..], &[("k2", 1)]].iter().enumerate() {
            let file = format!("x-train-{i:04}.tar");
            let mut writer = TarWriter::new(Vec::new());
            for (key, label) in *samples {
                writer
                    .append(&format!("{key}.cls"), label.to_string().as_bytes())
                    .unwrap();
                writer
                    .append(&format!("{key}.jpg"), format!("image of {key}").as_bytes())
                    .unwrap();
            }
            let archive = writer.finish().unwrap();
            std::fs::write(folder.path().join(&file), &archive).unwrap();
            manifest.shards.push(ShardEntry {
                file,
                split: Split::Train,
                samples: samples.len(),
                bytes: archive.len() as u64,
                sha256: String::new(),
                labels: samples.iter().map(|(_, label)| *label).collect(),
                crc32: Vec::new(),
            });
        }
        manifest.save(folder.path()).unwrap();
        folder
    }

    fn write_indexes(folder: &Path) {
        for i in 0..2 {
            let shard = RandomFile::open(&folder.join(format!("x-train-{i:04}.tar")), IoMode::Mmap).unwrap();
            let text = index::to_text(&index::load(&shard).unwrap());
            std::fs::write(index::path_of(shard.path()), text).unwrap();
        }
    }

    fn check_samples(folder: &Path, io: IoMode) {
        let dataset = Dataset::open(folder, Split::Train, io).unwrap();
        assert_eq!(dataset.len(), 3);
        let mut scratch = Vec::new();
        for (i, label) in [1, 0, 1].into_iter().enumerate() {
            assert_eq!(
                (dataset.label(i), dataset.key(i)),
                (label, format!("k{i}").as_str())
            );
            assert_eq!(
                dataset.read(i, &mut scratch).unwrap(),
                format!("image of k{i}").as_bytes()
            );
        }
        let bad = dataset.bad_sample(2, "green");
        assert_eq!(bad.to_string(), "x-train-0001.tar at byte 1536, key k2: green");
        assert!(Dataset::open(folder, Split::Validation, io).unwrap().is_empty());
    }

    #[test]
    fn samples_are_found_with_and_without_an_index_mapped_and_read() {
        let folder = folder();
        for io in [IoMode::Mmap, IoMode::Pread] {
            check_samples(folder.path(), io);
        }
        write_indexes(folder.path());
        for io in [IoMode::Mmap, IoMode::Pread] {
            check_samples(folder.path(), io);
        }
    }

    #[test]
    fn a_shard_or_an_index_that_is_not_the_manifests_is_refused() {
        let folder = folder();
        write_indexes(folder.path());
        let [first, second] = [0, 1].map(|i| folder.path().join(format!("x-train-{i:04}.tar")));
        let refused = || match Dataset::open(folder.path(), Split::Train, IoMode::Mmap) {
            Err(Error::Invalid(mismatch)) => mismatch.to_string(),
            other => panic!("{other:?}"),
        };

        std::fs::copy(index::path_of(&second), index::path_of(&first)).unwrap();
        assert!(refused().contains("x-train-0000"));
        write_indexes_again(&first);
        let whole = std::fs::read(&second).unwrap();
        std::fs::write(&second, &whole[..whole.len() - 512]).unwrap();
        assert!(refused().contains("10240 bytes, as the manifest says"));
        std::fs::remove_file(&second).unwrap();
        assert!(matches!(
            Dataset::open(folder.path(), Split::Train, IoMode::Mmap),
            Err(Error::Io { .. })
        ));
    }

    fn write_indexes_again(shard: &Path) {
        std::fs::remove_file(index::path_of(shard)).unwrap();
        let shard = RandomFile::open(shard, IoMode::Mmap).unwrap();
        std::fs::write(
            index::path_of(shard.path()),
            index::to_text(&index::load(&shard).unwrap()),
        )
        .unwrap();
    }

    #[test]
    fn a_damaged_header_names_the_sample() {
        let folder = folder();
        write_indexes(folder.path());
        let shard = folder.path().join("x-train-0000.tar");
        let mut bytes = std::fs::read(&shard).unwrap();
        bytes[1024 + 130] ^= 1; // in the header of k0.jpg, which is neither the first nor the last member
        std::fs::write(&shard, bytes).unwrap();
        for io in [IoMode::Mmap, IoMode::Pread] {
            let dataset = Dataset::open(folder.path(), Split::Train, io).unwrap();
            let mut scratch = Vec::new();
            match dataset.read(0, &mut scratch) {
                Err(Error::Sample(bad)) => assert_eq!((bad.key.as_str(), bad.offset), ("k0", 1536)),
                other => panic!("{other:?}"),
            }
            assert_eq!(dataset.read(1, &mut scratch).unwrap(), b"image of k1");
        }
    }
}
