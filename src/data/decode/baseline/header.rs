//! The segments of a JPEG up to its compressed data (ITU-T T.81, annex B), read only where libjpeg-turbo would read
//! the same without a word.

/// The largest side that libjpeg decodes (`JPEG_MAX_DIMENSION`).
const MAX_SIDE: usize = 65_500;

/// How the components of a frame are sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sampling {
    /// One component.
    Grey,
    /// Y, Cb and Cr at the same size.
    Full,
    /// Cb and Cr at half the width (4:2:2).
    HalfWidth,
    /// Cb and Cr at half the width and half the height (4:2:0).
    HalfBoth,
}

impl Sampling {
    /// Blocks of the first component across and down an MCU; the others have one.
    pub(super) fn blocks(self) -> (usize, usize) {
        match self {
            Self::Grey | Self::Full => (1, 1),
            Self::HalfWidth => (2, 1),
            Self::HalfBoth => (2, 2),
        }
    }

    /// Components.
    pub(super) fn components(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::Full | Self::HalfWidth | Self::HalfBoth => 3,
        }
    }
}

/// A quantisation table as a DQT segment holds it: 64 elements in zigzag order.
#[derive(Debug, Clone, Copy)]
pub(super) enum Quantisers<'a> {
    Bytes(&'a [u8; 64]),
    Words(&'a [u8; 128]),
}

impl Quantisers<'_> {
    /// The element at a position of the zigzag order. It multiplies modulo 2^16, so the sign is no matter.
    pub(super) fn at(&self, zigzag: usize) -> i16 {
        match self {
            Self::Bytes(bytes) => i16::from(bytes[zigzag]),
            Self::Words(bytes) => i16::from_be_bytes([bytes[2 * zigzag], bytes[2 * zigzag + 1]]),
        }
    }
}

/// What decodes one component. Huffman tables are as a DHT segment holds them: the number of codes of each length
/// from 1 to 16, then their symbols.
#[derive(Debug, Clone, Copy)]
pub(super) struct Component<'a> {
    pub(super) quantisers: Quantisers<'a>,
    pub(super) dc: &'a [u8],
    pub(super) ac: &'a [u8],
}

/// Everything in front of the compressed data of the only scan.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header<'a> {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) sampling: Sampling,
    /// As many as the sampling says; the rest repeat the first.
    pub(super) components: [Component<'a>; 3],
    /// MCUs between restart markers; 0 for none.
    pub(super) restart_interval: usize,
    /// The compressed data, and whatever follows it.
    pub(super) data: &'a [u8],
}

/// A component as the frame header names it.
#[derive(Clone, Copy, Default)]
struct Named {
    id: u8,
    sampling: u8,
    quantisers: usize,
}

/// The tables that have been defined, by their destination.
#[derive(Default)]
struct Tables<'a> {
    quantisers: [Option<Quantisers<'a>>; 4],
    dc: [Option<&'a [u8]>; 4],
    ac: [Option<&'a [u8]>; 4],
}

/// What the APP0 and APP14 segments say about colours.
#[derive(Default)]
struct Colour {
    jfif: bool,
    adobe_transform: Option<u8>,
}

impl Colour {
    /// Whether three components are YCbCr: the rules of libjpeg (`default_decompress_parms` in jdapimin.c) where they
    /// lead there without a warning.
    fn is_ycc(&self, ids: [u8; 3]) -> bool {
        match self.adobe_transform {
            _ if self.jfif => true,
            Some(transform) => transform == 1,
            None => ids != *b"RGB",
        }
    }
}

impl<'a> Header<'a> {
    /// Reads up to the compressed data. `None` where anything is not ordinary.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(&[0xFF, 0xD8])?;
        let (mut tables, mut colour) = (Tables::default(), Colour::default());
        let (mut frame, mut restart_interval) = (None, 0);
        loop {
            let (&[0xFF, marker, high, low], _) = rest.split_first_chunk()? else {
                return None;
            };
            let (segment, after) =
                rest[2..].split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
            let segment = segment.get(2..)?;
            rest = after;
            match marker {
                0xC0 | 0xC1 if frame.is_none() => frame = Some(read_frame(segment)?),
                0xC4 => tables.define_huffman(segment)?,
                0xDB => tables.define_quantisers(segment)?,
                0xDD => restart_interval = usize::from(u16::from_be_bytes(*segment.as_array()?)),
                0xE0 => {
                    if let Some([b'J', b'F', b'I', b'F', 0, major, ..]) = segment.first_chunk::<14>() {
                        colour.jfif = true;
                        if *major != 1 {
                            return None;
                        }
                    }
                }
                0xEE => {
                    if let Some([b'A', b'd', b'o', b'b', b'e', .., transform]) = segment.first_chunk::<12>() {
                        colour.adobe_transform = Some(*transform);
                    }
                }
                0xE1..=0xEF | 0xFE => {}
                0xDA => {
                    let (width, height, named, count) = frame?;
                    return Some(Self {
                        width,
                        height,
                        sampling: sampling(&named[..count], &colour)?,
                        components: tables.of_scan(segment, &named[..count])?,
                        restart_interval,
                        data: rest,
                    });
                }
                _ => return None,
            }
        }
    }
}

/// A frame header (B.2.2): width, height, components and how many of them there are.
fn read_frame(segment: &[u8]) -> Option<(usize, usize, [Named; 3], usize)> {
    let (&[8, y0, y1, x0, x1, count], rest) = segment.split_first_chunk()? else {
        return None;
    };
    let (width, height) = (u16::from_be_bytes([x0, x1]), u16::from_be_bytes([y0, y1]));
    let (width, height) = (usize::from(width), usize::from(height));
    let count = usize::from(count);
    let sides = 1..=MAX_SIDE;
    if !sides.contains(&width)
        || !sides.contains(&height)
        || !matches!(count, 1 | 3)
        || rest.len() != 3 * count
    {
        return None;
    }
    let mut named = [Named::default(); 3];
    for (named, bytes) in named.iter_mut().zip(rest.chunks_exact(3)) {
        *named = Named {
            id: bytes[0],
            sampling: bytes[1],
            quantisers: usize::from(bytes[2]),
        };
    }
    Some((width, height, named, count))
}

/// The sampling, if it is one of ours and the colours are.
fn sampling(components: &[Named], colour: &Colour) -> Option<Sampling> {
    match *components {
        [y] => (y.sampling == 0x11).then_some(Sampling::Grey),
        [y, cb, cr] => {
            if cb.sampling != 0x11 || cr.sampling != 0x11 || !colour.is_ycc([y.id, cb.id, cr.id]) {
                return None;
            }
            match y.sampling {
                0x11 => Some(Sampling::Full),
                0x21 => Some(Sampling::HalfWidth),
                0x22 => Some(Sampling::HalfBoth),
                _ => None,
            }
        }
        _ => None,
    }
}

impl<'a> Tables<'a> {
    /// A DHT segment (B.2.4.2).
    fn define_huffman(&mut self, mut segment: &'a [u8]) -> Option<()> {
        while let Some((&destination, table)) = segment.split_first() {
            let symbols: usize = table
                .first_chunk::<16>()?
                .iter()
                .map(|&count| usize::from(count))
                .sum();
            let (table, rest) = table.split_at_checked(16 + symbols)?;
            if symbols > 256 {
                return None;
            }
            let tables = match destination >> 4 {
                0 => &mut self.dc,
                1 => &mut self.ac,
                _ => return None,
            };
            *tables.get_mut(usize::from(destination & 15))? = Some(table);
            segment = rest;
        }
        Some(())
    }

    /// A DQT segment (B.2.4.1).
    fn define_quantisers(&mut self, mut segment: &'a [u8]) -> Option<()> {
        while let Some((&destination, table)) = segment.split_first() {
            let (quantisers, rest) = match destination >> 4 {
                0 => {
                    let (table, rest) = table.split_first_chunk()?;
                    (Quantisers::Bytes(table), rest)
                }
                1 => {
                    let (table, rest) = table.split_first_chunk()?;
                    (Quantisers::Words(table), rest)
                }
                _ => return None,
            };
            *self.quantisers.get_mut(usize::from(destination & 15))? = Some(quantisers);
            segment = rest;
        }
        Some(())
    }

    /// A scan header (B.2.3) that names all components of the frame in their order, and the tables of each.
    fn of_scan(&self, segment: &[u8], frame: &[Named]) -> Option<[Component<'a>; 3]> {
        let (&count, rest) = segment.split_first()?;
        let (selectors, parameters) = rest.split_at_checked(2 * usize::from(count))?;
        if usize::from(count) != frame.len() || parameters != [0, 63, 0] {
            return None;
        }
        let distinct = |i: usize| frame[..i].iter().all(|before| before.id != frame[i].id);
        let component = |i: usize| {
            let (named, selector) = (frame[i], &selectors[2 * i..2 * i + 2]);
            let table = |tables: &[Option<&'a [u8]>; 4], at: u8| *tables.get(usize::from(at))?;
            (named.id == selector[0] && distinct(i)).then_some(Component {
                quantisers: (*self.quantisers.get(named.quantisers)?)?,
                dc: table(&self.dc, selector[1] >> 4)?,
                ac: table(&self.ac, selector[1] & 15)?,
            })
        };
        let mut components = [component(0)?; 3];
        for (i, place) in components.iter_mut().enumerate().take(frame.len()).skip(1) {
            *place = component(i)?;
        }
        Some(components)
    }
}
