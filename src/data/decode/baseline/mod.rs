//! The ordinary JPEG, decoded faster than by libjpeg-turbo and to the same bits: baseline or extended sequential with
//! Huffman codes, 8 bits, one scan, grey or YCbCr at 4:4:4, 4:2:2 or 4:2:0 (ITU-T T.81, annex F).
//!
//! Most of a decoder's time goes into Huffman codes. Here one look-up gives one coefficient or two with their values,
//! and runs of zeros and ends of blocks are no cases of their own; blocks outside the window are passed over several
//! symbols at a time; stuffed zeros are removed beforehand.
//!
//! Everything else is declined, and libjpeg-turbo decodes it: other kinds of JPEG, and every file about which it
//! would warn or do something odd in silence, as far as the window makes it read. So warnings, errors and what is
//! made of damaged data stay its own.

mod bits;
mod colour;
mod entropy;
mod header;
mod huffman;
mod idct;
mod output;
mod scan;
mod upsample;

use super::{Region, turbo};
use header::{Header, Sampling};
use output::{Plane, Rows};
use scan::{Component, Pairs, Scan};

/// An ordinary JPEG, as far as its header tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Jpeg<'a> {
    bytes: &'a [u8],
    header: Header<'a>,
}

/// What decoding needs, reused from image to image. What it decodes never depends on what it decoded before.
#[derive(Debug)]
pub(super) struct Baseline {
    tables: huffman::Cache,
    bytes: Box<[u8; bits::SIZE]>,
    pairs: Box<[Pairs; 3]>,
    planes: [Plane; 3],
    rows: Rows,
}

impl Default for Baseline {
    fn default() -> Self {
        Self {
            tables: huffman::Cache::default(),
            bytes: Box::new([0; bits::SIZE]),
            pairs: Box::new(scan::NO_PAIRS),
            planes: Default::default(),
            rows: Rows::default(),
        }
    }
}

/// The MCUs of an image, and those of them that are stored.
#[derive(Debug, Clone, Copy)]
struct Grid {
    /// MCUs in a row of the image.
    across: usize,
    /// Rows that are read, from the first on.
    read: usize,
    /// First and last column that is stored.
    columns: (usize, usize),
    /// First and last row that is stored.
    rows: (usize, usize),
}

impl Grid {
    fn new(header: &Header<'_>, region: Region) -> Self {
        let (across, down) = header.sampling.blocks();
        let (width, height) = (8 * across, 8 * down);
        let (right, bottom) = (region.x + region.width - 1, region.y + region.height - 1);
        let rows = (region.y / height, bottom / height);
        // libjpeg reads on for the chroma below before it makes the last two rows of a row of MCUs.
        let reads_on = header.sampling == Sampling::HalfBoth && bottom % height >= height - 2;
        Self {
            across: header.width.div_ceil(width),
            read: (rows.1 + 1 + usize::from(reads_on)).min(header.height.div_ceil(height)),
            columns: (region.x / width, right / width),
            rows,
        }
    }
}

impl<'a> Jpeg<'a> {
    /// Reads the header. `None` where the image is not ordinary, or the processor lacks what decoding it needs.
    pub(super) fn open(bytes: &'a [u8]) -> Option<Self> {
        if !is_x86_feature_detected!("avx2") || !is_x86_feature_detected!("bmi2") {
            return None;
        }
        let header = Header::read(bytes)?;
        // libjpeg makes no triangle of two columns of chroma or fewer.
        let narrow = header.sampling.blocks().0 == 2 && header.width <= 4;
        (!narrow).then_some(Self { bytes, header })
    }

    /// The whole file.
    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Width and height.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.header.width, self.header.height)
    }
}

impl Baseline {
    /// Decodes the window that [`turbo::Jpeg::decode`] would, with the same conditions, and returns where it lies.
    /// `None` where the data is not ordinary; what is in `rgb` then is of no use.
    pub(super) fn decode(&mut self, jpeg: &Jpeg<'_>, wanted: Region, rgb: &mut Vec<u8>) -> Option<Region> {
        let header = &jpeg.header;
        let region = turbo::grow(
            wanted,
            header.width,
            header.height,
            8 * header.sampling.blocks().0,
        );
        rgb.resize(3 * region.width * region.height, 0);
        // SAFETY: `Jpeg::open` has asked the processor.
        let ordinary = unsafe { self.decode_region(header, region, rgb) };
        ordinary.then_some(region)
    }

    /// Whether `rgb` now has the pixels of the region, whose edges are treated as those of the image.
    #[target_feature(enable = "avx2,bmi2")]
    fn decode_region(&mut self, header: &Header<'_>, region: Region, rgb: &mut [u8]) -> bool {
        let Self {
            tables,
            bytes,
            pairs,
            planes,
            rows,
        } = self;
        let Some(mut components) = Component::all(header, tables) else {
            return false;
        };
        let components = &mut components[..header.sampling.components()];
        let grid = Grid::new(header, region);
        for (plane, component) in planes.iter_mut().zip(&*components) {
            let (across, down) = component.blocks;
            let columns = grid.columns.1 + 1 - grid.columns.0;
            plane.resize(8 * across * columns, 2 * 8 * down);
        }
        **pairs = scan::NO_PAIRS;
        let mut scan = Scan::new(header, bytes);
        let mut next = region.y;
        for row in 0..grid.read {
            if row < grid.rows.0 || row > grid.rows.1 {
                if !scan.pass(components, grid.across) {
                    return false;
                }
                continue;
            }
            if !scan.store(components, grid.across, grid.columns, row, pairs, planes) {
                return false;
            }
            let end = output::ready(header.sampling, row, row == grid.rows.1, region);
            rows.convert(header.sampling, planes, region, next..end, rgb);
            next = end;
        }
        scan.ends_well(region.y + region.height == header.height)
    }
}

#[cfg(test)]
mod tests;
