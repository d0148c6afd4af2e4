//! Blocks of coefficients out of their bits (ITU-T T.81, F.2.2), stored or passed over.

use super::bits::{Bits, SIZE};
use super::huffman::{END_OF_BLOCK, Table, Twin};

/// Coefficients of two blocks side by side: (8 rows, 2 blocks, 8 columns), and room for what is not wanted.
pub(super) type Pair = [i16; PAIR + SLACK];

/// Coefficients of two blocks.
pub(super) const PAIR: usize = 128;

/// Where the ends of blocks are written, as coefficients of no use.
const SLACK: usize = 136;

/// No coefficients.
pub(super) const NONE: Pair = [0; PAIR + SLACK];

/// The place in a [`Pair`] of each coefficient of its first block, by its index in zigzag order (figure A.6). What is
/// beyond the last coefficient goes behind the pair.
const PLACES: [u8; 256] = {
    let mut places = [PAIR as u8; 256];
    let (mut row, mut column) = (0, 0);
    let mut index = 0;
    while index < 64 {
        places[index] = 16 * row + column;
        let up = (row + column).is_multiple_of(2);
        match (up, row, column) {
            (true, _, 7) => row += 1,
            (true, 0, _) => column += 1,
            (true, ..) => (row, column) = (row - 1, column + 1),
            (false, 7, _) => column += 1,
            (false, _, 0) => row += 1,
            (false, ..) => (row, column) = (row + 1, column - 1),
        }
        index += 1;
    }
    places
};

/// The place of a coefficient in a [`Pair`], as [`PLACES`] has it.
pub(super) fn place(zigzag: usize) -> usize {
    usize::from(PLACES[zigzag])
}

/// The tables of a component.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tables<'a> {
    pub(super) dc: &'a Table,
    pub(super) ac: &'a Table,
}

/// The last coefficient, or, from [`END_OF_BLOCK`] on, an end before it; anything else runs over the block.
#[inline(always)]
fn is_whole(last: usize) -> bool {
    last == 63 || last >= END_OF_BLOCK
}

/// The difference of a DC coefficient to the one before. Leaves at least 25 bits that count.
#[inline(always)]
fn difference(bits: &mut Bits, bytes: &[u8; SIZE], table: &Table) -> Option<i32> {
    bits.refill(bytes);
    let entry = table.symbol(bits.buffer)?;
    let value = entry.value(bits.buffer);
    bits.skip(entry.bits());
    Some(value)
}

/// Decodes a block into the first half of a [`Pair`], or into the second where `pair` starts 8 coefficients later. All
/// were zero before. `None` where a code is none, or coefficients run over the block, which libjpeg does in silence.
#[inline(always)]
pub(super) fn store(
    bits: &mut Bits,
    bytes: &[u8; SIZE],
    tables: Tables<'_>,
    dc: &mut i32,
    pair: &mut [i16; 256],
) -> Option<()> {
    *dc = dc.wrapping_add(difference(bits, bytes, tables.dc)?);
    pair[0] = *dc as i16;
    let mut last = 0;
    'block: while last < 63 {
        bits.refill(bytes);
        // 56 bits hold five times what a look-up sees.
        for _ in 0..4 {
            let twin = tables.ac.twin(bits.buffer);
            let (first, second) = (last + twin.first(), last + twin.second());
            if second >= 63 && ends_once(second) {
                put_both(twin, first, second, pair);
                bits.skip(twin.bits());
                return Some(());
            }
            if second >= 63 || !twin.is_some() {
                bits.refill(bytes);
                let entry = tables.ac.symbol(bits.buffer)?;
                last += entry.advance();
                pair[usize::from(PLACES[last & 255])] = entry.value(bits.buffer) as i16;
                bits.skip(entry.bits());
                continue 'block;
            }
            put_both(twin, first, second, pair);
            bits.skip(twin.bits());
            last = second;
        }
    }
    is_whole(last).then_some(())
}

/// Stores what a look-up gave.
#[inline(always)]
fn put_both(twin: Twin, first: usize, second: usize, pair: &mut [i16; 256]) {
    let values = twin.values();
    pair[usize::from(PLACES[first & 255])] = values[0];
    pair[usize::from(PLACES[second & 255])] = values[1];
}

/// Passes over a block; only its DC coefficient counts.
#[inline(always)]
pub(super) fn pass(bits: &mut Bits, bytes: &[u8; SIZE], tables: Tables<'_>, dc: &mut i32) -> Option<()> {
    *dc = dc.wrapping_add(difference(bits, bytes, tables.dc)?);
    let mut last = 0;
    while last < 63 {
        bits.refill(bytes);
        // Twice what a look-up may take.
        for _ in 0..2 {
            let group = tables.ac.group_at(bits.buffer);
            let sum = last + group.advance();
            if sum >= 63 && ends_once(sum) {
                bits.skip(group.bits());
                return Some(());
            }
            if sum >= 63 || !group.is_some() {
                bits.refill(bytes);
                let entry = tables.ac.symbol(bits.buffer)?;
                last += entry.advance();
                bits.skip(entry.bits());
                break;
            }
            last = sum;
            bits.skip(group.bits());
        }
    }
    is_whole(last).then_some(())
}

/// Whether a group that leads to `sum` ends the block with its last symbol and not before.
#[inline(always)]
fn ends_once(sum: usize) -> bool {
    sum == 63 || (END_OF_BLOCK..END_OF_BLOCK + 63).contains(&sum)
}
