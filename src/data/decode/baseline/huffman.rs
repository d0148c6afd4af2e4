//! Huffman tables for decoding by look-up (ITU-T T.81, annex C and F.2.2).

use std::num::NonZeroU32;

/// Leading bits of the data that a look-up sees. Codes of more bits, which are rare, are searched.
pub(super) const PEEK: u32 = 11;

/// What [`Entry::advance`] adds where a block ends.
pub(super) const END_OF_BLOCK: usize = 128;

/// A decoded symbol, all its bits included: those of its code and those of the value behind it.
///
/// From the lowest bit on: bits in all (6), bits of the code (6), 0 (4), 63 less bits of the value (8), what is to be
/// added to the index of the last coefficient (8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry(NonZeroU32);

impl Entry {
    /// A symbol whose code has `code` bits. `None` for 0 bits, which no code has.
    fn new(kind: Kind, symbol: u8, code: u32) -> Option<Self> {
        let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        let advance = match (kind, run, size) {
            (Kind::Dc, ..) => 0,
            (Kind::Ac, 15, 0) => 16,
            // Only run 0 is in the standard; libjpeg takes all for the end of the block.
            (Kind::Ac, _, 0) => END_OF_BLOCK as u32,
            (Kind::Ac, run, _) => run + 1,
        };
        NonZeroU32::new((code + size) | code << 6 | (63 - size) << 16 | advance << 24)
            .filter(|_| code > 0)
            .map(Self)
    }

    /// Bits of the code and of the value.
    #[inline(always)]
    pub(super) fn bits(self) -> u32 {
        self.0.get() & 63
    }

    /// Steps from the coefficient before to this one; [`END_OF_BLOCK`] where there is none.
    #[inline(always)]
    pub(super) fn advance(self) -> usize {
        (self.0.get() >> 24) as usize
    }

    /// The value, whose code is at the top of `buffer` (EXTEND, figure F.12).
    #[inline(always)]
    pub(super) fn value(self, buffer: u64) -> i32 {
        let bits = buffer << (self.0.get() >> 6 & 63);
        // A value that starts with 0 is the negative of what its inverted bits say.
        let negative = !((bits as i64) >> 63) as u64;
        // Two shifts, as there may be no bits.
        let magnitude = ((bits ^ negative) >> 1) >> (self.0.get() >> 16 & 63);
        (magnitude ^ negative).wrapping_sub(negative) as i32
    }
}

/// One AC coefficient or two at once, with their values. 0 where a look-up sees not even one in whole.
///
/// From the lowest bit on: bits in all (16), steps to the first coefficient (8) and to the second (8), their values
/// (16 each). Of a single one, both are the same.
#[derive(Debug, Clone, Copy)]
pub(super) struct Twin(u64);

impl Twin {
    #[inline(always)]
    pub(super) fn is_some(self) -> bool {
        self.0 != 0
    }

    #[inline(always)]
    pub(super) fn bits(self) -> u32 {
        self.0 as u32 & 63
    }

    /// Steps to the first coefficient from the one before, as in [`Entry::advance`].
    #[inline(always)]
    pub(super) fn first(self) -> usize {
        self.0 as usize >> 16 & 255
    }

    /// Steps to the second one.
    #[inline(always)]
    pub(super) fn second(self) -> usize {
        self.0 as u32 as usize >> 24
    }

    #[inline(always)]
    pub(super) fn values(self) -> [i16; 2] {
        [(self.0 >> 32) as i16, (self.0 >> 48) as i16]
    }
}

/// Several symbols of the same block at once, for blocks of which nothing is wanted. 0 is none.
///
/// Bits in all (8) and the sum of their advances (8).
#[derive(Debug, Clone, Copy)]
pub(super) struct Group(u16);

impl Group {
    #[inline(always)]
    pub(super) fn is_some(self) -> bool {
        self.0 != 0
    }

    #[inline(always)]
    pub(super) fn bits(self) -> u32 {
        u32::from(self.0 & 63)
    }

    #[inline(always)]
    pub(super) fn advance(self) -> usize {
        usize::from(self.0 >> 8)
    }
}

/// What a table's symbols mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Bits of the difference of DC coefficients.
    Dc,
    /// Run of zeros and bits of the AC coefficient behind it.
    Ac,
}

/// A table made from its definition.
#[derive(Debug)]
pub(super) struct Table {
    kind: Kind,
    /// As in the DHT segment.
    definition: Vec<u8>,
    entries: [Option<Entry>; 1 << PEEK],
    twins: [Twin; 1 << PEEK],
    groups: [Group; 1 << PEEK],
    /// For each length, what the next 16 bits are below where the code is of that length or shorter.
    limits: [u32; 17],
    /// For each length, the index of a symbol less its code.
    offsets: [i32; 17],
}

impl Table {
    /// `None` where libjpeg refuses the definition (`jpeg_make_d_derived_tbl` in jdhuff.c).
    fn new(kind: Kind, definition: &[u8]) -> Option<Box<Self>> {
        let (counts, symbols) = definition.split_first_chunk::<16>()?;
        if symbols.len() > 256 || kind == Kind::Dc && symbols.iter().any(|&symbol| symbol > 15) {
            return None;
        }
        let mut table = Box::new(Self {
            kind,
            definition: definition.to_vec(),
            entries: [None; 1 << PEEK],
            twins: [Twin(0); 1 << PEEK],
            groups: [Group(0); 1 << PEEK],
            limits: [0; 17],
            offsets: [0; 17],
        });
        // Figures C.1 and C.2: codes of one length are consecutive, and no code is all ones.
        let (mut code, mut index) = (0u32, 0);
        for length in 1..=16u32 {
            let count = usize::from(counts[length as usize - 1]);
            table.offsets[length as usize] = index as i32 - code as i32;
            for &symbol in &symbols[index..index + count] {
                if length <= PEEK {
                    let first = (code << (PEEK - length)) as usize;
                    table
                        .entries
                        .get_mut(first..first + (1 << (PEEK - length)))?
                        .fill(Entry::new(kind, symbol, length));
                }
                code += 1;
            }
            if code >= 1 << length && count > 0 {
                return None;
            }
            index += count;
            table.limits[length as usize] = code << (16 - length);
            code <<= 1;
        }
        if kind == Kind::Ac {
            table.pair();
            table.group();
        }
        Some(table)
    }

    /// Puts two symbols together where they fit.
    fn pair(&mut self) {
        for at in 0..1 << PEEK {
            let buffer = (at as u64) << (64 - PEEK);
            let Some(first) = self.seen(buffer, 0) else {
                continue;
            };
            let behind = buffer << first.bits();
            let second = match self.seen(behind, first.bits()) {
                Some(second) if first.advance() < END_OF_BLOCK => Some(second),
                _ => None,
            };
            let value = |entry: Entry, buffer| u64::from(entry.value(buffer) as u16);
            let (bits, advance, last) = match second {
                Some(second) => (second.bits(), second.advance(), value(second, behind)),
                None => (0, 0, value(first, buffer)),
            };
            let (to_first, to_second) = (first.advance() as u64, (first.advance() + advance) as u64);
            self.twins[at] = Twin(
                u64::from(first.bits() + bits)
                    | to_first << 16
                    | to_second << 24
                    | value(first, buffer) << 32
                    | last << 48,
            );
        }
    }

    /// Puts as many symbols together as fit.
    fn group(&mut self) {
        for at in 0..1 << PEEK {
            let buffer = (at as u64) << (64 - PEEK);
            // The value of the first may end further on.
            let Some(first) = self.entry(buffer) else {
                continue;
            };
            let (mut bits, mut advance) = (first.bits(), first.advance());
            while bits < PEEK && advance < END_OF_BLOCK {
                match self.seen(buffer << bits, bits) {
                    Some(next) if (advance + next.advance()) % END_OF_BLOCK <= 63 => {
                        (bits, advance) = (bits + next.bits(), advance + next.advance());
                    }
                    _ => break,
                }
            }
            self.groups[at] = Group(bits as u16 | (advance as u16) << 8);
        }
    }

    /// The symbol at the top of `buffer`, if a look-up that began `before` bits earlier sees the whole of it.
    fn seen(&self, buffer: u64, before: u32) -> Option<Entry> {
        self.entry(buffer).filter(|entry| before + entry.bits() <= PEEK)
    }

    /// The symbol at the top of `buffer`. `None` where no code is there.
    #[inline(always)]
    pub(super) fn symbol(&self, buffer: u64) -> Option<Entry> {
        match self.entry(buffer) {
            Some(entry) => Some(entry),
            None => self.long(buffer),
        }
    }

    /// The symbol at the top of `buffer`, if its code has no more than [`PEEK`] bits.
    #[inline(always)]
    fn entry(&self, buffer: u64) -> Option<Entry> {
        self.entries[(buffer >> (64 - PEEK)) as usize]
    }

    /// One symbol or two at the top of `buffer`.
    #[inline(always)]
    pub(super) fn twin(&self, buffer: u64) -> Twin {
        self.twins[(buffer >> (64 - PEEK)) as usize]
    }

    /// Symbols at the top of `buffer`, if the first one's code has no more than [`PEEK`] bits.
    #[inline(always)]
    pub(super) fn group_at(&self, buffer: u64) -> Group {
        self.groups[(buffer >> (64 - PEEK)) as usize]
    }

    /// The symbol at the top of `buffer`, whose code has more than [`PEEK`] bits or is none.
    #[cold]
    fn long(&self, buffer: u64) -> Option<Entry> {
        let bits = (buffer >> 48) as u32;
        for length in PEEK + 1..=16 {
            if bits < self.limits[length as usize] {
                let index = (bits >> (16 - length)) as i32 + self.offsets[length as usize];
                let symbol = *self.definition.get(16 + index as usize)?;
                return Entry::new(self.kind, symbol, length);
            }
        }
        None
    }
}

/// Tables by their definition: most files use the same ones.
#[derive(Debug, Default)]
pub(super) struct Cache {
    /// The last that was asked for comes first.
    tables: Vec<Box<Table>>,
}

impl Cache {
    /// More than one file has.
    const MOST: usize = 8;

    /// Makes the table of a definition, unless it is there.
    pub(super) fn provide(&mut self, kind: Kind, definition: &[u8]) -> Option<()> {
        let found = self
            .tables
            .iter()
            .position(|table| table.kind == kind && table.definition == definition);
        let table = match found {
            Some(at) => self.tables.remove(at),
            None => Table::new(kind, definition)?,
        };
        self.tables.truncate(Self::MOST - 1);
        self.tables.insert(0, table);
        Some(())
    }

    /// A table that was provided for this file.
    pub(super) fn get(&self, kind: Kind, definition: &[u8]) -> Option<&Table> {
        self.tables
            .iter()
            .find(|table| table.kind == kind && table.definition == definition)
            .map(|table| &**table)
    }
}
