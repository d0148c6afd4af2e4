//! Compressed bytes to RGB pixels: JPEG (libjpeg-turbo, or pure Rust without the feature `turbojpeg`) and PNG.
//!
//! Pixels are RGB, 8 bits, (height, width, 3) without padding. The settings are Pillow's defaults: accurate integer
//! inverse DCT, smooth chroma upsampling, `convert("RGB")`. The format is told by the content, never by the name, so
//! a PNG that poses as a JPEG decodes.

use std::fmt;

mod cmyk;
mod png;
#[cfg(feature = "turbojpeg")]
mod turbo;
#[cfg(not(feature = "turbojpeg"))]
mod zune;

#[cfg(feature = "turbojpeg")]
use turbo::Jpeg;
#[cfg(not(feature = "turbojpeg"))]
use zune::Jpeg;

/// Name and rules of the JPEG decoder of this build. Part of the equivalence class: other decoders give other bits.
#[cfg(feature = "turbojpeg")]
pub const DECODER: &str = "libjpeg-turbo 3.1 islow fancy-upsampling";
/// Name and rules of the JPEG decoder of this build. Part of the equivalence class: other decoders give other bits.
#[cfg(not(feature = "turbojpeg"))]
pub const DECODER: &str = "zune-jpeg 0.5";

/// The largest image that is decoded, in pixels: where Pillow, too, refuses with `DecompressionBombError`.
pub const MAX_PIXELS: usize = 178_956_970;

/// Why an image cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError(pub String);

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DecodeError {}

/// File formats that are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Baseline, extended and progressive JPEG; grey, YCbCr, RGB, CMYK, YCCK.
    Jpeg,
    /// PNG of every colour type and bit depth.
    Png,
}

/// What the first bytes of an image say about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Columns, at least 1.
    pub width: usize,
    /// Rows, at least 1.
    pub height: usize,
    /// By content.
    pub format: Format,
}

/// A whole decoded image; its pixels are in the caller's buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// What is odd about the file although it decoded, at least in part: a truncated end, damaged data.
    pub warning: Option<String>,
}

/// A rectangle of the source image, in source pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// First column.
    pub x: usize,
    /// First row.
    pub y: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl Region {
    /// Everything.
    pub const fn whole(width: usize, height: usize) -> Self {
        Self {
            x: 0,
            y: 0,
            width,
            height,
        }
    }
}

/// The part of an image that was decoded; its pixels are in the caller's buffer, rows of `region.width` pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Where the pixels lie in the source image.
    pub region: Region,
    /// As in [`Decoded`]; damage outside the part that was read goes unseen.
    pub warning: Option<String>,
}

/// Decodes images. One per thread: it holds scratch memory that is reused. What it decodes never depends on what it
/// decoded before.
#[derive(Debug, Default)]
pub struct Decoder {
    scratch: Vec<u8>,
}

/// An image whose header has been read and found acceptable.
pub struct Opened<'a> {
    bytes: &'a [u8],
    header: Header,
    /// The decompressor that has read the header; `None` for PNG.
    jpeg: Option<Jpeg<'a>>,
}

impl Decoder {
    /// A decoder that has allocated nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the header and refuses an image larger than [`MAX_PIXELS`]; reads no pixel and allocates nothing of the
    /// image's size.
    pub fn open<'a>(&mut self, bytes: &'a [u8]) -> Result<Opened<'a>, DecodeError> {
        let format = format_of(bytes)?;
        let jpeg = match format {
            Format::Jpeg => Some(Jpeg::open(bytes)?),
            Format::Png => None,
        };
        let (width, height) = match &jpeg {
            Some(jpeg) => jpeg.size(),
            None => png::size(bytes)?,
        };
        match width.checked_mul(height) {
            Some(1..=MAX_PIXELS) => Ok(Opened {
                bytes,
                header: Header {
                    width,
                    height,
                    format,
                },
                jpeg,
            }),
            _ => Err(DecodeError(format!(
                "expected an image of 1 to {MAX_PIXELS} pixels, found {width} x {height}"
            ))),
        }
    }

    /// Format and size of the image, with the checks of [`Decoder::open`].
    pub fn header(&mut self, bytes: &[u8]) -> Result<Header, DecodeError> {
        Ok(self.open(bytes)?.header)
    }

    /// Decodes the whole image into `rgb`, which is resized to (height, width, 3).
    pub fn decode(&mut self, bytes: &[u8], rgb: &mut Vec<u8>) -> Result<Decoded, DecodeError> {
        let opened = self.open(bytes)?;
        let Header { width, height, .. } = opened.header;
        let window = self.decode_region(opened, Region::whole(width, height), rgb)?;
        Ok(Decoded {
            width,
            height,
            warning: window.warning,
        })
    }

    /// Decodes at least `wanted` into `rgb`, and as little more as the format allows.
    ///
    /// The pixels of `wanted` are, to the bit, those of [`Decoder::decode`]; the ones around it, which the window
    /// may also hold, need not be (chroma upsampling lacks its neighbours at the window's edges).
    pub fn decode_region(
        &mut self,
        image: Opened<'_>,
        wanted: Region,
        rgb: &mut Vec<u8>,
    ) -> Result<Window, DecodeError> {
        let Header { width, height, .. } = image.header;
        let inside = |from: usize, len: usize, size: usize| len > 0 && from < size && len <= size - from;
        if !inside(wanted.x, wanted.width, width) || !inside(wanted.y, wanted.height, height) {
            return Err(DecodeError(format!(
                "expected a region inside {width} x {height}, found {wanted:?}"
            )));
        }
        match image.jpeg {
            Some(jpeg) => jpeg.decode(wanted, rgb, &mut self.scratch),
            None => {
                png::decode(image.bytes, rgb, &mut self.scratch)?;
                Ok(Window {
                    region: Region::whole(width, height),
                    warning: None,
                })
            }
        }
    }
}

impl Opened<'_> {
    /// What the header says.
    pub fn header(&self) -> Header {
        self.header
    }
}

/// The format that the first bytes announce.
fn format_of(bytes: &[u8]) -> Result<Format, DecodeError> {
    let other = match bytes {
        [0xFF, 0xD8, 0xFF, ..] => return Ok(Format::Jpeg),
        [0x89, b'P', b'N', b'G', ..] => return Ok(Format::Png),
        [] => "an empty file".to_string(),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "WebP".to_string(),
        [b'G', b'I', b'F', b'8', ..] => "GIF".to_string(),
        [b'B', b'M', ..] => "BMP".to_string(),
        _ => format!("bytes {:02x?}", &bytes[..bytes.len().min(4)]),
    };
    Err(DecodeError(format!(
        "expected a JPEG or PNG image, found {other}; convert it or leave it out"
    )))
}

#[cfg(test)]
mod tests;
