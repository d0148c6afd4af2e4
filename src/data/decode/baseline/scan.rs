//! The scan: rows of MCUs, stored or passed over (ITU-T T.81, A.2 and F.2.1).

use super::bits::{self, Bits, Reader};
use super::entropy::{self, PAIR, Pair, Tables};
use super::header::Header;
use super::huffman::{Cache, Kind};
use super::idct;
use super::output::Plane;

/// The blocks of a component that are under way, two side by side: one pair, or two where an MCU has two rows of
/// blocks. All zero between rows of MCUs.
pub(super) type Pairs = [Pair; 2];

/// No blocks of any component.
pub(super) const NO_PAIRS: [Pairs; 3] = [[entropy::NONE; 2]; 3];

/// The marker that ends an image.
const EOI: u8 = 0xD9;

/// The first of eight markers that end restart intervals by turns.
const RST0: u8 = 0xD0;

/// A component of the scan.
pub(super) struct Component<'a> {
    /// Blocks across and down an MCU.
    pub(super) blocks: (usize, usize),
    tables: Tables<'a>,
    quantisers: [i16; PAIR],
    /// The DC coefficient of the block before.
    dc: i32,
}

impl<'a> Component<'a> {
    /// As many as the header has. `None` where it has a Huffman table that is none.
    pub(super) fn all(header: &Header<'_>, cache: &'a mut Cache) -> Option<[Self; 3]> {
        for component in &header.components {
            cache.provide(Kind::Dc, component.dc)?;
            cache.provide(Kind::Ac, component.ac)?;
        }
        let one = |i: usize| {
            let component = &header.components[i];
            Some(Self {
                blocks: if i == 0 { header.sampling.blocks() } else { (1, 1) },
                tables: Tables {
                    dc: cache.get(Kind::Dc, component.dc)?,
                    ac: cache.get(Kind::Ac, component.ac)?,
                },
                quantisers: idct::quantisers(component.quantisers),
                dc: 0,
            })
        };
        Some([one(0)?, one(1)?, one(2)?])
    }
}

/// Reads the scan, one row of MCUs after the other.
pub(super) struct Scan<'a> {
    reader: Reader<'a>,
    bits: Bits,
    restart_interval: usize,
    /// MCUs up to the next restart marker.
    to_restart: usize,
    /// Restart markers so far.
    restarts: u8,
}

impl<'a> Scan<'a> {
    /// A scan at its start, with `bytes` to work in.
    pub(super) fn new(header: &Header<'a>, bytes: &'a mut [u8; bits::SIZE]) -> Self {
        Self {
            reader: Reader::new(header.data, bytes),
            bits: Bits::default(),
            restart_interval: header.restart_interval,
            to_restart: header.restart_interval,
            restarts: 0,
        }
    }

    /// Passes over a row of `across` MCUs. False where the data is not ordinary.
    #[target_feature(enable = "avx2,bmi2")]
    pub(super) fn pass(&mut self, components: &mut [Component<'_>], across: usize) -> bool {
        let mut bits = self.bits;
        for _ in 0..across {
            match self.next_mcu(bits, components) {
                Some(next) => bits = next,
                None => return false,
            }
            if !self.pass_mcu(&mut bits, components) {
                return false;
            }
        }
        self.bits = bits;
        true
    }

    /// Decodes a row of `across` MCUs, of which it stores the samples of the columns from the first to the last that
    /// is given, in the rows of the planes that belong to row `row` of MCUs. False where the data is not ordinary.
    #[target_feature(enable = "avx2,bmi2")]
    pub(super) fn store(
        &mut self,
        components: &mut [Component<'_>],
        across: usize,
        (first, last): (usize, usize),
        row: usize,
        pairs: &mut [Pairs; 3],
        planes: &mut [Plane; 3],
    ) -> bool {
        let mut bits = self.bits;
        for column in 0..across {
            match self.next_mcu(bits, components) {
                Some(next) => bits = next,
                None => return false,
            }
            if column < first || column > last {
                if !self.pass_mcu(&mut bits, components) {
                    return false;
                }
                continue;
            }
            let column = column - first;
            let is_last = first + column == last;
            for ((component, pairs), plane) in components.iter_mut().zip(&mut *pairs).zip(&mut *planes) {
                let (wide, high) = component.blocks;
                for (y, pair) in pairs[..high].iter_mut().enumerate() {
                    for x in 0..wide {
                        let side = if wide == 2 { x } else { column % 2 };
                        let Some(block) = pair[8 * side..].first_chunk_mut() else {
                            return false;
                        };
                        let bytes = self.reader.bytes();
                        let whole =
                            entropy::store(&mut bits, bytes, component.tables, &mut component.dc, block);
                        if whole.is_none() {
                            return false;
                        }
                    }
                    if wide == 2 || column % 2 == 1 || is_last {
                        let at = if wide == 2 { column } else { column / 2 };
                        let (out, stride) = plane.from(idct::WIDTH * at, 8 * (row * high + y));
                        idct::transform(pair, &component.quantisers, out, stride);
                    }
                }
            }
            if !self.reader.holds(bits) {
                return false;
            }
        }
        self.bits = bits;
        true
    }

    /// Passes over an MCU. False where its data is not ordinary.
    #[inline(always)]
    fn pass_mcu(&mut self, bits: &mut Bits, components: &mut [Component<'_>]) -> bool {
        for component in components {
            let (wide, high) = component.blocks;
            for _ in 0..wide * high {
                if entropy::pass(bits, self.reader.bytes(), component.tables, &mut component.dc).is_none() {
                    return false;
                }
            }
        }
        self.reader.holds(*bits)
    }

    /// Makes the next MCU's data ready, past a restart marker where it is time for one. `None` where that is missing.
    #[inline(always)]
    fn next_mcu(&mut self, bits: Bits, components: &mut [Component<'_>]) -> Option<Bits> {
        let bits = self.reader.provide(bits);
        if self.restart_interval > 0 {
            if self.to_restart == 0 {
                return self.restart(bits, components);
            }
            self.to_restart -= 1;
        }
        Some(bits)
    }

    #[cold]
    fn restart(&mut self, bits: Bits, components: &mut [Component<'_>]) -> Option<Bits> {
        if !self.reader.ends_with(bits, RST0 + self.restarts % 8) {
            return None;
        }
        self.restarts = self.restarts.wrapping_add(1);
        self.to_restart = self.restart_interval - 1;
        components.iter_mut().for_each(|component| component.dc = 0);
        let bits = self.reader.restart();
        Some(self.reader.provide(bits))
    }

    /// Whether libjpeg finds nothing odd behind the last row that was read: where it reads to the end of the image,
    /// that must follow.
    pub(super) fn ends_well(&mut self, to_the_end: bool) -> bool {
        let bits = self.reader.provide(self.bits);
        if to_the_end {
            self.reader.ends_with(bits, EOI)
        } else {
            self.reader.goes_on(bits)
        }
    }
}
