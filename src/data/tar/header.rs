//! The 512-byte header that precedes every member: one table of fields for reading and writing.

use std::ops::Range;

use super::BLOCK;

const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const KIND: usize = 156;
const MAGIC: Range<usize> = 257..263;
const VERSION: Range<usize> = 263..265;
const PREFIX: Range<usize> = 345..500;

/// POSIX's magic. GNU's own is `ustar  `, without a prefix field.
const USTAR: &[u8] = b"ustar\0";

type Block = [u8; BLOCK as usize];

/// A header whose checksum is right.
pub(super) struct Header<'a>(&'a Block);

impl<'a> Header<'a> {
    /// Takes a block for a header; the error says what it is instead.
    pub(super) fn parse(block: &'a Block) -> Result<Self, &'static str> {
        let stored = number(&block[CHECKSUM]).ok_or("a block without a checksum")?;
        if stored != u64::from(checksum(block)) {
            return Err("a block with a wrong checksum");
        }
        Ok(Self(block))
    }

    /// The type flag: `0` and NUL are regular files.
    pub(super) fn kind(&self) -> u8 {
        self.0[KIND]
    }

    /// Bytes of data that follow.
    pub(super) fn size(&self) -> Result<u64, &'static str> {
        number(&self.0[SIZE]).ok_or("a header with an unreadable size")
    }

    /// The name, with the ustar prefix where there is one.
    pub(super) fn name(&self) -> String {
        let name = text(&self.0[NAME]);
        let prefix = if &self.0[MAGIC] == USTAR {
            text(&self.0[PREFIX])
        } else {
            String::new()
        };
        if prefix.is_empty() {
            name
        } else {
            format!("{prefix}/{name}")
        }
    }

    /// The header of a read-only file that belongs to nobody and was made at the beginning of time. `None` where
    /// plain ustar has no room for the name or the size.
    pub(super) fn write(name: &str, size: u64) -> Option<Block> {
        let mut block = [0; BLOCK as usize];
        if name.len() >= NAME.len() || name.contains('\0') || size >= 1 << 33 {
            return None;
        }
        block[..name.len()].copy_from_slice(name.as_bytes());
        octal(&mut block[MODE], 0o444);
        octal(&mut block[UID], 0);
        octal(&mut block[GID], 0);
        octal(&mut block[SIZE], size);
        octal(&mut block[MTIME], 0);
        block[KIND] = b'0';
        block[MAGIC].copy_from_slice(USTAR);
        block[VERSION].copy_from_slice(b"00");
        let sum = checksum(&block);
        block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        Some(block)
    }
}

/// The sum of all bytes, with the checksum field itself taken as spaces.
fn checksum(block: &Block) -> u32 {
    let spaces = u32::from(b' ') * CHECKSUM.len() as u32;
    let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    sum(&block[..CHECKSUM.start]) + spaces + sum(&block[CHECKSUM.end..])
}

/// Octal digits with a closing NUL.
fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    field[..digits].copy_from_slice(format!("{value:0digits$o}").as_bytes());
}

/// Octal digits between spaces or NULs, or GNU's base 256 (top bit set, the next bit is the sign). `None` where
/// it is neither, negative, or too large for 64 bits.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let sign_and_top = u64::from(field[0] & 0x7f);
        if sign_and_top & 0x40 != 0 {
            return None;
        }
        return field[1..].iter().try_fold(sign_and_top, |value, &byte| {
            value.checked_mul(256)?.checked_add(u64::from(byte))
        });
    }
    let text = std::str::from_utf8(field.split(|&byte| byte == 0).next()?)
        .ok()?
        .trim_matches(' ');
    if text.is_empty() {
        Some(0)
    } else {
        u64::from_str_radix(text, 8).ok()
    }
}

/// The bytes up to the first NUL.
pub(super) fn text(field: &[u8]) -> String {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back() {
        let block = Header::write("n01440764_1.jpg", 0o7_777_777).unwrap();
        let header = Header::parse(&block).unwrap();
        assert_eq!(
            (header.name().as_str(), header.size(), header.kind()),
            ("n01440764_1.jpg", Ok(0o7_777_777), b'0')
        );
    }

    #[test]
    fn what_plain_ustar_cannot_hold_is_refused() {
        assert!(Header::write(&"x".repeat(99), (1 << 33) - 1).is_some());
        assert!(Header::write(&"x".repeat(100), 0).is_none());
        assert!(Header::write("x", 1 << 33).is_none());
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let block = Header::write("a.jpg", 77).unwrap();
        for bit in 0..512 * 8 {
            let mut damaged = block;
            damaged[bit / 8] ^= 1 << (bit % 8);
            // Within the checksum's own field a flip may leave its value alone: a NUL that becomes a space, say.
            let in_checksum = CHECKSUM.contains(&(bit / 8));
            assert!(in_checksum || Header::parse(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn numbers() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"99999999"), None);
        assert_eq!(
            number(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1]),
            Some((2 << 32) + 1)
        );
        assert_eq!(number(&[0xff; 12]), None, "negative");
        assert_eq!(
            number(&[0x81, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
            None,
            "too large"
        );
    }
}
