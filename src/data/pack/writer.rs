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
    /// `imagenet1k-train`
    prefix: String,
    split: Split,
    shard_size: usize,
    open: Option<OpenShard>,
    finished: Vec<ShardEntry>,
}

impl SplitWriter {
    pub(super) fn new(folder: &Path, name: &str, split: Split, shard_size: usize) -> Self {
        Self {
            folder: folder.to_path_buf(),
            prefix: format!("{name}-{}", split.as_str()),
            split,
            shard_size,
            open: None,
            finished: Vec::new(),
        }
    }

    /// Adds a sample: its class, then its image.
    pub(super) fn append(&mut self, key: &str, label: u32, extension: &str, image: &[u8]) -> Result<()> {
        let shard = match &mut self.open {
            Some(shard) => shard,
            closed => {
                let path = self
                    .folder
                    .join(format!("{}-{:04}.tar", self.prefix, self.finished.len()));
                closed.insert(OpenShard::create(path)?)
            }
        };
        shard.append(format!("{key}.cls"), label.to_string().as_bytes())?;
        shard.append(format!("{key}.{extension}"), image)?;
        shard.end_sample(label, image);
        if shard.labels.len() == self.shard_size {
            self.close()?;
        }
        Ok(())
    }

    /// Ends the last shard and lists all.
    pub(super) fn finish(mut self) -> Result<Vec<ShardEntry>> {
        self.close()?;
        Ok(self.finished)
    }

    fn close(&mut self) -> Result<()> {
        if let Some(shard) = self.open.take() {
            self.finished.push(shard.finish(self.split)?);
        }
        Ok(())
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
