//! The bytes of a pickle, one after the other.

use super::{LONGEST_TEXT, Result};

/// What is left to read.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How many bytes have been read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let found = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk());
        self.at += N;
        found.copied().ok_or_else(|| "a pickle that is cut short".into())
    }

    pub(super) fn slice(&mut self, len: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(len);
        let found = end.and_then(|end| self.bytes.get(self.at..end));
        let found = found.ok_or("a pickle that is cut short")?;
        self.at += len;
        Ok(found)
    }

    pub(super) fn line(&mut self) -> Result<String> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let len = rest.iter().take(LONGEST_TEXT + 1).position(|byte| *byte == b'\n');
        let len =
            len.ok_or_else(|| format!("a name without an end, or of more than {LONGEST_TEXT} bytes"))?;
        self.at += len + 1;
        String::from_utf8(rest[..len].to_vec()).map_err(|_| "a name that is no text".into())
    }
}
