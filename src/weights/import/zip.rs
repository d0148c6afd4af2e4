//! Zip archives as PyTorch writes them: members stored, not compressed, in one file of less than 4 GB.
//!
//! Only the directory at the end is believed, after it has been checked: every member lies inside the file, no two overlap,
//! and its checksum is that of its bytes. Names are compared, never opened.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;

use crate::error::Result;
use crate::weights::damaged;
use crate::weights::shown::shown;

const END: [u8; 4] = *b"PK\x05\x06";
const ENTRY: [u8; 4] = *b"PK\x01\x02";
const LOCAL: [u8; 4] = *b"PK\x03\x04";
const END_LEN: usize = 22;
const ENTRY_LEN: usize = 46;
const LOCAL_LEN: usize = 30;
/// The longest comment behind the end record.
const COMMENT: usize = 0xffff;

/// An archive in memory.
pub(super) struct Zip<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    members: Vec<Member>,
    /// Their places among the members.
    by_name: BTreeMap<String, usize>,
}

struct Member {
    name: String,
    start: usize,
    len: usize,
    crc: u32,
    /// Whether the checksum has been compared: once, however many tensors share a storage.
    is_checked: Cell<bool>,
}

const WHOLE: &str = "a whole zip archive of stored members, below 4 GB";

impl<'a> Zip<'a> {
    pub(super) fn open(path: &'a Path, bytes: &'a [u8]) -> Result<Self> {
        let members = members(bytes).map_err(|why| damaged(path, WHOLE, why))?;
        let named = members.iter().enumerate();
        let by_name = named.map(|(at, member)| (member.name.clone(), at)).collect();
        Ok(Self {
            path,
            bytes,
            members,
            by_name,
        })
    }

    /// Names of all members.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| member.name.as_str())
    }

    /// The bytes of a member, with their checksum compared.
    pub(super) fn read(&self, name: &str) -> Result<&'a [u8]> {
        let Some(&at) = self.by_name.get(name) else {
            let expected = format!("a member {}", shown(name));
            return Err(damaged(self.path, &expected, "an archive without it"));
        };
        let member = &self.members[at];
        let content = &self.bytes[member.start..member.start + member.len];
        if !member.is_checked.get() && crc32(content) != member.crc {
            let expected = format!("member {} with its checksum", shown(name));
            return Err(damaged(self.path, &expected, "other bytes"));
        }
        member.is_checked.set(true);
        Ok(content)
    }
}

/// A little-endian number of two or four bytes.
fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    let number = bytes.get(at..)?.first_chunk()?;
    Some(usize::from(u16::from_le_bytes(*number)))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    let number = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*number) as usize)
}

/// The members that the directory lists, checked.
fn members(bytes: &[u8]) -> Result<Vec<Member>, String> {
    let cut = || String::from("a directory that is cut short");
    let first = bytes.len().saturating_sub(END_LEN + COMMENT);
    let end = (first..=bytes.len().saturating_sub(END_LEN))
        .rev()
        .find(|at| bytes[*at..].starts_with(&END))
        .ok_or("no directory at its end")?;
    let record = &bytes[end..];
    let (count, directory) = (
        u16_at(record, 10).ok_or_else(cut)?,
        u32_at(record, 16).ok_or_else(cut)?,
    );
    if count == 0xffff || directory == 0xffff_ffff {
        return Err("a zip64 archive".into());
    }
    let mut at = directory;
    let mut members = Vec::new();
    for _ in 0..count {
        let entry = bytes.get(at..end).ok_or_else(cut)?;
        let (member, len) = member(bytes, entry).ok_or_else(cut)??;
        members.push(member);
        at += len;
    }
    check_apart(&members)?;
    Ok(members)
}

/// One entry of the directory and its length. `None` where it is cut short.
fn member(bytes: &[u8], entry: &[u8]) -> Option<Result<(Member, usize), String>> {
    let field = |at| u16_at(entry, at);
    let (flags, method) = (field(8)?, field(10)?);
    let (crc, stored, len) = (u32_at(entry, 16)?, u32_at(entry, 20)?, u32_at(entry, 24)?);
    let (name_len, extra, comment) = (field(28)?, field(30)?, field(32)?);
    let local = u32_at(entry, 42)?;
    let name = entry.get(ENTRY_LEN..ENTRY_LEN + name_len)?;
    if !entry.starts_with(&ENTRY) {
        return Some(Err("an entry without its signature".into()));
    }
    let name = match std::str::from_utf8(name) {
        Ok(name) if !name.split('/').any(|part| part == "..") && !name.starts_with('/') => name,
        _ => {
            return Some(Err(format!(
                "a member called {}",
                shown(&String::from_utf8_lossy(name))
            )));
        }
    };
    if method != 0 || stored != len || flags & 1 != 0 {
        return Some(Err(format!("member {} compressed or encrypted", shown(name))));
    }
    // The header before the content has lengths of its own.
    let header = bytes.get(local..).filter(|header| header.starts_with(&LOCAL));
    let Some(header) = header else {
        return Some(Err(format!(
            "no header where member {} should begin",
            shown(name)
        )));
    };
    let start = local + LOCAL_LEN + u16_at(header, 26)? + u16_at(header, 28)?;
    if start.checked_add(len).is_none_or(|end| end > bytes.len()) {
        return Some(Err(format!(
            "member {} of {len} bytes, more than the file has",
            shown(name)
        )));
    }
    let member = Member {
        name: name.into(),
        start,
        len,
        crc: crc as u32,
        is_checked: Cell::new(false),
    };
    Some(Ok((member, ENTRY_LEN + name_len + extra + comment)))
}

/// Members share no bytes and no names.
fn check_apart(members: &[Member]) -> Result<(), String> {
    let mut sorted: Vec<&Member> = members.iter().collect();
    sorted.sort_by_key(|member| member.start);
    for pair in sorted.windows(2) {
        if pair[0].start + pair[0].len > pair[1].start {
            return Err(format!(
                "members {} and {} that overlap",
                shown(&pair[0].name),
                shown(&pair[1].name)
            ));
        }
    }
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    match sorted.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => Err(format!("two members called {}", shown(&pair[0].name))),
        None => Ok(()),
    }
}

/// CRC-32 (IEEE 802.3, reflected), as zip has it: eight bytes at a time (Intel's "slicing by 8").
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    static TABLES: [[u32; 256]; 8] = tables();
    let mut crc = !0;
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let low = u32::from_le_bytes([word[0], word[1], word[2], word[3]]) ^ crc;
        let low = low.to_le_bytes();
        let bytes = [low[0], low[1], low[2], low[3], word[4], word[5], word[6], word[7]];
        crc = (0..8).fold(0, |sum, i| sum ^ TABLES[7 - i][usize::from(bytes[i])]);
    }
    let step = |crc: u32, byte: &u8| crc >> 8 ^ TABLES[0][usize::from(crc as u8 ^ byte)];
    !rest.iter().fold(crc, step)
}

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0xedb8_8320
            } else {
                crc >> 1
            };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut slice = 1;
    while slice < 8 {
        byte = 0;
        while byte < 256 {
            let before: u32 = tables[slice - 1][byte];
            tables[slice][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        slice += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }
}
