//! Tar archives: what a shard is made of.
//!
//! A member is a 512-byte header (name, size, kind, checksum), its data, and zeros up to the next multiple of 512.
//! Two blocks of zeros end the archive. The writer knows plain `ustar` and nothing else, so that equal input gives
//! equal bytes. The scanner also reads what other tools put in front of a member: PAX headers `x` and `g`, GNU
//! `L` and `K`, the ustar prefix, and sizes in base 256.

mod header;
mod scan;
mod write;

pub use scan::{Damage, Scan, scan};
pub use write::TarWriter;

/// Headers and data start at multiples of this.
pub const BLOCK: u64 = 512;

/// A regular file within an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its whole name, folders included.
    pub name: String,
    /// Where its data starts in the file that holds the archive.
    pub offset: u64,
    /// Bytes of data.
    pub size: u64,
}

impl Member {
    /// Checks the 512 bytes that lie right before the data of this member: they must be a header with the member's
    /// size. They lie on the page that is read anyway, and tell at once when an index belongs to another file.
    pub fn check_header(&self, block: &[u8]) -> Result<(), String> {
        let stored = block
            .try_into()
            .map_err(|_| "nothing".to_string())
            .and_then(|block| header::Header::parse(block).map_err(|found| found.to_string()))
            .and_then(|header| header.size().map_err(|found| found.to_string()));
        let found = match stored {
            Ok(size) if size == self.size => return Ok(()),
            Ok(size) => format!("the header of {size} bytes"),
            Err(found) => found,
        };
        Err(format!(
            "expected the tar header of a member of {} bytes before it, found {found}; the shard is damaged, or its \
             .idx belongs to another file",
            self.size
        ))
    }
}
