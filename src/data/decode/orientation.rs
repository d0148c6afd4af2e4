//! EXIF orientation: the turn or reflection that a camera asks for.

use exif::{In, Reader, Tag};
use std::io::Cursor;

use super::Region;

/// How a stored image becomes an upright one. With (a, b) = (y, x) where `transpose`, else (x, y), the upright pixel
/// (x, y) is the stored one in column `a` or `width - 1 - a` and row `b` or `height - 1 - b`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Orientation {
    transpose: bool,
    /// Columns of the stored image run backwards.
    mirror_columns: bool,
    /// Rows of the stored image run backwards.
    mirror_rows: bool,
}

impl Orientation {
    /// By the tag of the EXIF data in a JPEG, PNG or WebP file; as it is stored where there is none that can be read.
    pub(super) fn of_file(bytes: &[u8]) -> Self {
        Self::of_tag(tag_of_file(bytes))
    }

    /// EXIF 2.3, tag 0x0112: where the stored first row and first column belong. 0 and what is above 8 mean nothing.
    pub(super) fn of_tag(tag: u16) -> Self {
        let [transpose, mirror_columns, mirror_rows] = match tag {
            2 => [false, true, false],
            3 => [false, true, true],
            4 => [false, false, true],
            5 => [true, false, false],
            6 => [true, false, true],
            7 => [true, true, true],
            8 => [true, true, false],
            _ => [false; 3],
        };
        Self {
            transpose,
            mirror_columns,
            mirror_rows,
        }
    }

    /// Whether nothing is to be done.
    pub(super) fn is_upright(self) -> bool {
        self == Self::default()
    }

    /// Width and height of the upright image, from those of the stored one; and the reverse.
    pub(super) fn size(self, (width, height): (usize, usize)) -> (usize, usize) {
        if self.transpose {
            (height, width)
        } else {
            (width, height)
        }
    }

    /// Where a region of the upright image lies in the stored one, whose size is `stored`.
    pub(super) fn to_stored(self, region: Region, stored: (usize, usize)) -> Region {
        self.mirrored(self.transposed(region), stored)
    }

    /// Where a region of the stored image, whose size is `stored`, lies in the upright one.
    pub(super) fn to_upright(self, region: Region, stored: (usize, usize)) -> Region {
        self.transposed(self.mirrored(region, stored))
    }

    /// Turns the stored pixels (height, width, 3) of `region` into those of the upright one.
    pub(super) fn apply(self, stored: &[u8], region: Region, upright: &mut Vec<u8>) {
        let (width, height) = self.size((region.width, region.height));
        upright.clear();
        upright.reserve(stored.len());
        for y in 0..height {
            for x in 0..width {
                let (a, b) = self.size((x, y));
                let column = if self.mirror_columns {
                    region.width - 1 - a
                } else {
                    a
                };
                let row = if self.mirror_rows {
                    region.height - 1 - b
                } else {
                    b
                };
                let at = 3 * (row * region.width + column);
                upright.extend_from_slice(&stored[at..at + 3]);
            }
        }
    }

    fn transposed(self, region: Region) -> Region {
        let (x, y) = self.size((region.x, region.y));
        let (width, height) = self.size((region.width, region.height));
        Region { x, y, width, height }
    }

    fn mirrored(self, region: Region, (width, height): (usize, usize)) -> Region {
        let from_end = |mirror: bool, start: usize, len: usize, side: usize| {
            if mirror { side - start - len } else { start }
        };
        Region {
            x: from_end(self.mirror_columns, region.x, region.width, width),
            y: from_end(self.mirror_rows, region.y, region.height, height),
            ..region
        }
    }
}

/// The orientation tag of a JPEG, PNG or WebP file, 1 to 8; 1, upright, where there is none that can be read.
pub(crate) fn tag_of_file(bytes: &[u8]) -> u16 {
    let exif = Reader::new().read_from_container(&mut Cursor::new(bytes)).ok();
    let tag = exif.and_then(|exif| exif.get_field(Tag::Orientation, In::PRIMARY)?.value.get_uint(0));
    tag.and_then(|tag| u16::try_from(tag).ok())
        .filter(|tag| (1..=8).contains(tag))
        .unwrap_or(1)
}

/// The EXIF segment of a JPEG that says nothing but its orientation.
pub(crate) fn segment(tag: u16) -> Vec<u8> {
    let field = exif::Field {
        tag: Tag::Orientation,
        ifd_num: In::PRIMARY,
        value: exif::Value::Short(vec![tag]),
    };
    let mut writer = exif::experimental::Writer::new();
    writer.push_field(&field);
    let mut tiff = Cursor::new(Vec::new());
    // Writing one short field to memory cannot fail.
    let _ = writer.write(&mut tiff, false);
    let data = [b"Exif\0\0", &tiff.into_inner()[..]].concat();
    let length = (data.len() as u16 + 2).to_be_bytes();
    [&[0xFF, 0xE1], &length[..], &data].concat()
}
