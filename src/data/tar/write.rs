//! Writing an archive.

use std::io::{self, Write};

use super::BLOCK;
use super::header::Header;

/// GNU tar's default record: archives are padded to a multiple of it.
const RECORD: u64 = 20 * BLOCK;

/// Writes plain ustar: the same members give the same bytes on every machine at every time.
pub struct TarWriter<W: Write> {
    out: W,
    position: u64,
}

impl<W: Write> TarWriter<W> {
    /// An archive without members yet.
    pub fn new(out: W) -> Self {
        Self { out, position: 0 }
    }

    /// Adds a file and returns the offset of its data. The name must be shorter than 100 bytes.
    pub fn append(&mut self, name: &str, data: &[u8]) -> io::Result<u64> {
        let size = data.len() as u64;
        let header = Header::write(name, size).ok_or_else(|| {
            let reason = format!(
                "a tar member needs a name under 100 bytes and less than 8 GiB, not {name}, {size} bytes"
            );
            io::Error::new(io::ErrorKind::InvalidInput, reason)
        })?;
        self.out.write_all(&header)?;
        self.out.write_all(data)?;
        let offset = self.position + BLOCK;
        self.position = offset + size;
        self.pad_to(BLOCK)?;
        Ok(offset)
    }

    /// Ends the archive and hands back what it was written to.
    pub fn finish(mut self) -> io::Result<W> {
        self.zeros(2 * BLOCK)?;
        self.pad_to(RECORD)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn pad_to(&mut self, multiple: u64) -> io::Result<()> {
        self.zeros(self.position.next_multiple_of(multiple) - self.position)
    }

    fn zeros(&mut self, count: u64) -> io::Result<()> {
        io::copy(&mut io::Read::take(io::repeat(0), count), &mut self.out)?;
        self.position += count;
        Ok(())
    }
}
