//! Finding the members of an archive.

use std::ops::Range;
use std::path::Path;

use super::header::{self, Header};
use super::{BLOCK, Member};
use crate::data::file::RandomFile;
use crate::error::Error;

/// Name and attribute records longer than this are no names: an archive cannot make us allocate more.
const MAX_RECORD: u64 = 1 << 20;

/// Compressed archives by their first bytes, with the tool that unpacks them. They cannot be read at random.
const COMPRESSED: [(&[u8], &str); 6] = [
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"LZIP", "lzip"),
];

/// What an archive holds.
#[derive(Debug)]
pub struct Scan {
    /// The regular files, in order, up to the first damage.
    pub members: Vec<Member>,
    /// What ended the scan before the end of the archive, if anything did.
    pub damage: Option<Damage>,
}

impl Scan {
    /// The members of an archive that must be whole.
    pub fn whole(self, path: &Path) -> Result<Vec<Member>, Error> {
        match self.damage {
            None => Ok(self.members),
            Some(damage) => Err(Error::invalid_hint(
                format_args!("{} at byte {}", path.display(), damage.offset),
                damage.expected,
                damage.found,
                damage.hint,
            )),
        }
    }
}

/// Why an archive cannot be read any further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Where: the header of the member that is at fault.
    pub offset: u64,
    /// What should have been there.
    pub expected: String,
    /// What was there.
    pub found: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

/// Lists the regular files of the archive that fills `range` of `file`. Never fails: what is found before the first
/// damage stands, and the damage with it.
pub fn scan(file: &RandomFile, range: Range<u64>) -> Scan {
    let mut scanner = Scanner {
        file,
        position: range.start,
        end: range.end,
        next_member: Overrides::default(),
        all_members: Overrides::default(),
        scratch: Vec::new(),
    };
    let mut members = Vec::new();
    let damage = loop {
        match scanner.next() {
            Ok(Some(member)) => members.push(member),
            Ok(None) => break None,
            Err(damage) if damage.offset == range.start => {
                break Some(compressed(file, &range).unwrap_or(damage));
            }
            Err(damage) => break Some(damage),
        }
    };
    Scan { members, damage }
}

/// What is wrong with an archive that does not even start like one, if it is compression.
fn compressed(file: &RandomFile, range: &Range<u64>) -> Option<Damage> {
    let mut scratch = Vec::new();
    let start = file
        .read(range.start..range.end.min(range.start + 8), &mut scratch)
        .ok()?;
    let (_, tool) = COMPRESSED.iter().find(|(magic, _)| start.starts_with(magic))?;
    let path = file.path().display();
    let damage = damage(
        range.start,
        "an uncompressed tar archive",
        format_args!("{tool} data"),
    );
    Some(damage.advise(format_args!("unpack it with: {tool} -dc {path} > NEW.tar")))
}

/// What extension headers say in place of a member's own header.
#[derive(Debug, Default, Clone)]
struct Overrides {
    path: Option<String>,
    size: Option<u64>,
    sparse: bool,
}

struct Scanner<'a> {
    file: &'a RandomFile,
    /// The next header.
    position: u64,
    end: u64,
    /// From `x` and `L`: for the member that follows.
    next_member: Overrides,
    /// From `g`: for all that follow.
    all_members: Overrides,
    scratch: Vec<u8>,
}

impl Scanner<'_> {
    /// The next regular file; `None` at the end of the archive.
    fn next(&mut self) -> Result<Option<Member>, Damage> {
        loop {
            let at = self.position;
            let mut block = [0; BLOCK as usize];
            block.copy_from_slice(self.bytes(at, BLOCK, "a member or the end-of-archive marker")?);
            if block == [0; BLOCK as usize] {
                return Ok(None);
            }
            let header =
                Header::parse(&block).map_err(|found| damage(at, "the tar header of a member", found))?;
            let stored_size = header
                .size()
                .map_err(|found| damage(at, "a header with the size of its data", found))?;
            let data = at + BLOCK;
            match header.kind() {
                b'x' | b'g' => {
                    let record = self.record(at, stored_size)?;
                    let overrides = if header.kind() == b'x' {
                        &mut self.next_member
                    } else {
                        &mut self.all_members
                    };
                    read_pax(&record, overrides)
                        .map_err(|found| damage(at, "a PAX header of \"length key=value\" records", found))?;
                    self.skip(at, stored_size)?;
                }
                b'L' => {
                    self.next_member.path = Some(header::text(&self.record(at, stored_size)?));
                    self.skip(at, stored_size)?;
                }
                // The target of a long link: links are not read.
                b'K' => self.skip(at, stored_size)?,
                // Links, devices, folders and pipes have no data, whatever their size field says.
                b'1'..=b'6' => {
                    self.next_member = Overrides::default();
                    self.skip(at, 0)?;
                }
                kind => {
                    let said = std::mem::take(&mut self.next_member);
                    if kind == b'S' || said.sparse || self.all_members.sparse {
                        return Err(
                            damage(at, "whole files", "a sparse file").advise("pack it without --sparse")
                        );
                    }
                    let size = said.size.or(self.all_members.size).unwrap_or(stored_size);
                    let path = said.path.or_else(|| self.all_members.path.clone());
                    let name = path.unwrap_or_else(|| header.name());
                    self.skip(at, size)?;
                    // Other letters are vendors' own. Before ustar a folder was a file whose name ends in a slash.
                    if matches!(kind, b'0' | 0 | b'7') && !name.ends_with('/') {
                        return Ok(Some(Member {
                            name,
                            offset: data,
                            size,
                        }));
                    }
                }
            }
        }
    }

    /// Moves to the header after a member with `size` bytes of data, which must lie within the archive.
    fn skip(&mut self, at: u64, size: u64) -> Result<(), Damage> {
        let data = at + BLOCK;
        let left = self.end - data;
        if size > left {
            return Err(damage(
                at,
                format_args!("{size} bytes of data after the header"),
                format_args!("the end of the archive after {left}"),
            )
            .advise("it is truncated: copy or download it again"));
        }
        // The padding of the last member may be missing; the header after it then is, too, and says so.
        self.position = self.end.min(data + size.next_multiple_of(BLOCK));
        Ok(())
    }

    /// The data of an extension header.
    fn record(&mut self, at: u64, size: u64) -> Result<Vec<u8>, Damage> {
        if size > MAX_RECORD {
            return Err(damage(
                at,
                format_args!("an extension header of at most {MAX_RECORD} bytes"),
                format_args!("{size} bytes"),
            ));
        }
        Ok(self
            .bytes(at + BLOCK, size, "the data of an extension header")?
            .to_vec())
    }

    fn bytes(&mut self, at: u64, len: u64, expected: &str) -> Result<&[u8], Damage> {
        let left = self.end.saturating_sub(at);
        if len > left {
            return Err(damage(
                at,
                expected,
                format_args!("the end of the file, {left} bytes further on"),
            )
            .advise("it is truncated: copy or download it again"));
        }
        self.file
            .read(at..at + len, &mut self.scratch)
            .map_err(|error| damage(at, expected, error))
    }
}

fn damage(offset: u64, expected: impl ToString, found: impl ToString) -> Damage {
    Damage {
        offset,
        expected: expected.to_string(),
        found: found.to_string(),
        hint: String::new(),
    }
}

impl Damage {
    fn advise(self, hint: impl ToString) -> Self {
        Self {
            hint: hint.to_string(),
            ..self
        }
    }
}

/// Records `<length> <key>=<value>\n`, the length counting itself.
fn read_pax(mut record: &[u8], overrides: &mut Overrides) -> Result<(), &'static str> {
    while !record.is_empty() && record[0] != 0 {
        let space = record
            .iter()
            .position(|&byte| byte == b' ')
            .ok_or("a record without a length")?;
        let length = std::str::from_utf8(&record[..space])
            .ok()
            .and_then(|text| text.parse::<usize>().ok());
        let length = length.filter(|&length| length > space + 1 && length <= record.len());
        let (entry, rest) = record.split_at(length.ok_or("a record with a wrong length")?);
        record = rest;
        let entry = entry[space + 1..]
            .strip_suffix(b"\n")
            .ok_or("a record without a line end")?;
        let equals = entry
            .iter()
            .position(|&byte| byte == b'=')
            .ok_or("a record without a value")?;
        let value = String::from_utf8_lossy(&entry[equals + 1..]);
        match &entry[..equals] {
            b"path" => overrides.path = Some(value.into_owned()),
            b"size" => overrides.size = Some(value.parse().map_err(|_| "a size that is no number")?),
            key if key.starts_with(b"GNU.sparse.") => overrides.sparse = true,
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
