//! Samples into shards: archives, indexes, hashes.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::data::index;
use crate::data::manifest::{ShardEntry, Split, hex};
use crate::data::tar::{Member, TarWriter};
use crate::durable::{NewFile, write_atomically};
use crate::error::{Error, Result};

/// Writes the samples of one split, in order, into as many shards as they need.
pub(super) struct SplitWriter {
    folder: PathBuf,
    name: String,
    split: Split,
    shard_size: usize,
    /// Shards that are finished.
    finished: usize,
    open: Option<OpenShard>,
}

/// The file of a shard: `imagenet1k-train-0000.tar`.
pub(super) fn shard_file(name: &str, split: Split, number: usize) -> String {
    format!("{name}-{}-{number:04}.tar", split.as_str())
}

impl SplitWriter {
    /// A writer that goes on after `finished` shards.
    pub(super) fn new(folder: &Path, name: &str, split: Split, shard_size: usize, finished: usize) -> Self {
        Self {
            folder: folder.to_path_buf(),
            name: name.to_string(),
            split,
            shard_size,
            finished,
            open: None,
        }
    }

    /// Adds a sample: its class, then its image. Gives the shard that is full with it.
    pub(super) fn append(
        &mut self,
        key: &str,
        label: u32,
        extension: &str,
        image: &[u8],
    ) -> Result<Option<ShardEntry>> {
        let shard = match &mut self.open {
            Some(shard) => shard,
            closed => {
                let file = shard_file(&self.name, self.split, self.finished);
                closed.insert(OpenShard::create(self.folder.join(file))?)
            }
        };
        shard.append(format!("{key}.cls"), label.to_string().as_bytes())?;
        shard.append(format!("{key}.{extension}"), image)?;
        shard.end_sample(label, image);
        if shard.labels.len() < self.shard_size {
            return Ok(None);
        }
        self.finish_shard()
    }

    /// Ends the shard that is not full yet, if there is one.
    pub(super) fn finish_shard(&mut self) -> Result<Option<ShardEntry>> {
        let Some(shard) = self.open.take() else {
            return Ok(None);
        };
        self.finished += 1;
        shard.finish(self.split).map(Some)
    }
}

/// A shard that is being written, with its index.
pub(in crate::data) struct OpenShard {
    path: PathBuf,
    archive: TarWriter<HashingFile>,
    members: Vec<Member>,
    labels: Vec<u32>,
    crc32: Vec<u32>,
}

impl OpenShard {
    /// Starts a new file.
    pub(in crate::data) fn create(path: PathBuf) -> Result<Self> {
        let archive = TarWriter::new(HashingFile {
            file: NewFile::create(&path)?,
            hash: Sha256::new(),
            bytes: 0,
        });
        Ok(Self {
            path,
            archive,
            members: Vec::new(),
            labels: Vec::new(),
            crc32: Vec::new(),
        })
    }

    /// Adds a member of the sample under way.
    pub(in crate::data) fn append(&mut self, name: String, data: &[u8]) -> Result<()> {
        let offset = self
            .archive
            .append(&name, data)
            .map_err(Error::io("write", &self.path))?;
        self.members.push(Member {
            name,
            offset,
            size: data.len() as u64,
        });
        Ok(())
    }

    /// Ends the sample whose members were added: its class, and its image again.
    pub(in crate::data) fn end_sample(&mut self, label: u32, image: &[u8]) {
        self.labels.push(label);
        self.crc32.push(crc32fast::hash(image));
    }

    /// Ends the archive, writes the index beside it, and describes both.
    pub(in crate::data) fn finish(self, split: Split) -> Result<ShardEntry> {
        let Self {
            path,
            archive,
            members,
            labels,
            crc32,
        } = self;
        let HashingFile { file, hash, bytes } = archive.finish().map_err(Error::io("write", &path))?;
        // A shard that is there has its index.
        let index = index::to_text(&index::group(members));
        write_atomically(&index::path_of(&path), |file| file.write_all(index.as_bytes()))?;
        file.commit()?;
        Ok(ShardEntry {
            file: path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            split,
            samples: labels.len(),
            bytes,
            sha256: hex(&hash.finalize()),
            labels,
            crc32,
        })
    }
}

/// A file that is hashed as it is written.
struct HashingFile {
    file: NewFile,
    hash: Sha256,
    bytes: u64,
}

impl Write for HashingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
