//! A file whose parts are read at random, through a memory map or with `pread`.

use std::fmt;
use std::fs::File;
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::map::{Map, shortened};
use crate::error::{Error, Result};

/// How the bytes of a shard reach the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IoMode {
    /// The file is mapped; reading is touching its pages. What is taken away meanwhile is told by [`RandomFile::confirm`].
    #[default]
    Mmap,
    /// Every sample is one `pread`. For network file systems, where a page fault can neither fail nor be batched.
    Pread,
}

impl FromStr for IoMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "mmap" => Ok(Self::Mmap),
            "pread" => Ok(Self::Pread),
            _ => Err(Error::invalid("--io", "mmap or pread", format_args!("'{text}'"))),
        }
    }
}

/// An open file with a length that was checked when it was opened.
pub struct RandomFile {
    path: PathBuf,
    len: u64,
    bytes: Bytes,
}

enum Bytes {
    Map(Map),
    File(File),
    Memory(Vec<u8>),
}

impl RandomFile {
    /// Opens `path`, which must be a regular file.
    pub fn open(path: &Path, io: IoMode) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let metadata = file.metadata().map_err(Error::io("examine", path))?;
        if !metadata.is_file() {
            return Err(Error::invalid(path.display(), "a regular file", "something else"));
        }
        let bytes = match io {
            IoMode::Mmap => Bytes::Map(Map::of(file, path)?),
            IoMode::Pread => Bytes::File(file),
        };
        let len = match &bytes {
            Bytes::Map(map) => map.len() as u64,
            Bytes::File(_) | Bytes::Memory(_) => metadata.len(),
        };
        Ok(Self {
            path: path.to_path_buf(),
            len,
            bytes,
        })
    }

    /// A file whose bytes are at hand; `path` is for the errors.
    pub fn in_memory(path: &Path, bytes: Vec<u8>) -> Self {
        Self {
            path: path.to_path_buf(),
            len: bytes.len() as u64,
            bytes: Bytes::Memory(bytes),
        }
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's name without its folder.
    pub fn name(&self) -> String {
        self.path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    /// Bytes in the file.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes of `range`: a slice of the map, or read into `scratch`. A range that leaves the file is refused
    /// before anything is allocated.
    pub fn read<'a>(&'a self, range: Range<u64>, scratch: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        if range.start > range.end || range.end > self.len {
            return Err(Error::invalid_hint(
                self.path.display(),
                format_args!("bytes {} to {}", range.start, range.end),
                format_args!("a file of {} bytes", self.len),
                "it is truncated, or its index belongs to another file",
            ));
        }
        // Both ends lie within a file that is mapped, or that must fit into memory to be read: usize holds them.
        let len = (range.end - range.start) as usize;
        match &self.bytes {
            Bytes::Map(map) => {
                let bytes = &map[range.start as usize..][..len];
                touch(bytes);
                Ok(bytes)
            }
            Bytes::Memory(bytes) => Ok(&bytes[range.start as usize..][..len]),
            Bytes::File(file) => {
                scratch.resize(len, 0);
                match file.read_exact_at(scratch, range.start) {
                    Ok(()) => Ok(scratch),
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                        let len = file.metadata().map_err(Error::io("examine", &self.path))?.len();
                        Err(shortened(&self.path, self.len, len))
                    }
                    Err(error) => Err(Error::io("read", &self.path)(error)),
                }
            }
        }
    }

    /// Whether everything that was read so far was the file's: a map that is taken away reads as zeros. To be asked after
    /// the bytes have been used, and before the result is.
    pub fn confirm(&self) -> Result<()> {
        match &self.bytes {
            Bytes::Map(map) => map.confirm(&self.path),
            Bytes::File(_) | Bytes::Memory(_) => Ok(()),
        }
    }
}

/// Brings in every page of a map here, so that reading is what waits for the disk, not what is done with the bytes.
fn touch(bytes: &[u8]) {
    /// No page of a map is smaller.
    const PAGE: usize = 4096;
    bytes.iter().step_by(PAGE).chain(bytes.last()).for_each(|byte| {
        std::hint::black_box(*byte);
    });
}

impl fmt::Debug for RandomFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RandomFile({}, {} bytes)", self.path.display(), self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_modes_read_the_same_bytes_and_refuse_the_same_ranges() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let content: Vec<u8> = (0..5000).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        for io in [IoMode::Mmap, IoMode::Pread] {
            let file = RandomFile::open(&path, io).unwrap();
            let mut scratch = Vec::new();
            assert_eq!(file.len(), 5000);
            assert_eq!(file.read(0..5000, &mut scratch).unwrap(), content);
            assert_eq!(file.read(4097..4100, &mut scratch).unwrap(), &content[4097..4100]);
            assert_eq!(file.read(5000..5000, &mut scratch).unwrap(), b"");
            assert!(matches!(
                file.read(4999..5001, &mut scratch),
                Err(Error::Invalid(_))
            ));
            assert!(matches!(
                file.read(0..u64::MAX, &mut scratch),
                Err(Error::Invalid(_))
            ));
        }
    }

    #[test]
    fn an_empty_file_and_a_folder_are_no_reason_to_panic() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty");
        std::fs::write(&path, b"").unwrap();
        for io in [IoMode::Mmap, IoMode::Pread] {
            let file = RandomFile::open(&path, io).unwrap();
            assert!(file.is_empty());
            assert!(file.read(0..1, &mut Vec::new()).is_err());
            assert!(RandomFile::open(folder.path(), io).is_err());
        }
    }
}
