//! Compressed bytes to RGB pixels: JPEG (ordinary ones here, others by libjpeg-turbo; pure Rust without the feature
//! `turbojpeg`), PNG, WebP, and the first frame of a GIF.
//!
//! Pixels are RGB, 8 bits, (height, width, 3) without padding. The settings are Pillow's defaults: accurate integer
//! inverse DCT, smooth chroma upsampling, `convert("RGB")`. The format is told by the content, never by the name, so
//! a PNG that poses as a JPEG decodes.

use std::fmt;

#[cfg(all(feature = "turbojpeg", target_arch = "x86_64"))]
mod baseline;
mod cmyk;
mod gif;
mod orientation;
mod png;
#[cfg(feature = "turbojpeg")]
mod turbo;
mod webp;
#[cfg(not(feature = "turbojpeg"))]
mod zune;

use super::preprocess::Exif;
use orientation::Orientation;
#[cfg(feature = "turbojpeg")]
use turbo::Jpeg;
#[cfg(not(feature = "turbojpeg"))]
use zune::Jpeg;

pub(in crate::data) use orientation::{segment as exif_segment, tag_of_file as exif_orientation};

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
    /// WebP, lossy or lossless; of an animation the first frame.
    WebP,
    /// The first frame of a GIF.
    Gif,
}

impl Format {
    /// The usual end of a file's name.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Jpeg => "jpg",
            Self::Png => "png",
            Self::WebP => "webp",
            Self::Gif => "gif",
        }
    }

    /// As people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
        }
    }
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
    exif: Exif,
    scratch: Vec<u8>,
    /// Pixels as they are stored, where EXIF wants them turned.
    stored: Vec<u8>,
    #[cfg(all(feature = "turbojpeg", target_arch = "x86_64"))]
    ordinary: Ordinary,
}

/// Who decodes ordinary JPEGs. The pixels are the same.
#[cfg(all(feature = "turbojpeg", target_arch = "x86_64"))]
#[derive(Debug, Default)]
enum Ordinary {
    /// We, and there was none so far.
    #[default]
    None,
    /// We.
    Here(Box<baseline::Baseline>),
    /// libjpeg-turbo, as it does all others.
    Library,
}

/// An image whose header has been read and found acceptable.
pub struct Opened<'a> {
    /// As the image is seen: turned where EXIF says so and counts.
    header: Header,
    orientation: Orientation,
    file: File<'a>,
}

/// What is read further.
enum File<'a> {
    /// An ordinary JPEG.
    #[cfg(all(feature = "turbojpeg", target_arch = "x86_64"))]
    Baseline(Box<baseline::Jpeg<'a>>),
    /// The decompressor that has read the header.
    Jpeg(Jpeg<'a>),
    Png(&'a [u8]),
    WebP(&'a [u8]),
    Gif(&'a [u8]),
}

impl File<'_> {
    /// Width and height as stored.
    fn size(&self) -> Result<(usize, usize), DecodeError> {
        match self {
            #[cfg(all(feature = "turbojpeg", target_arch = "x86_64"))]
            Self::Baseline(jpeg) => Ok(jpeg.size()),
            Self::Jpeg(jpeg) => Ok(jpeg.size()),
            Self::Png(bytes) => png::size(bytes),
            Self::WebP(bytes) => webp::size(bytes),
            Self::Gif(bytes) => gif::size(bytes),
        }
    }
}

impl Decoder {
    /// A decoder that has allocated nothing yet. It shows images as they are stored, whatever EXIF says.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, with a rule for EXIF orientation.
    pub fn with_exif(exif: Exif) -> Self {
        Self {
            exif,
            ..Self::default()
        }
    }

    /// The same, which leaves every JPEG to the library: to compare with.
    pub fn with_library(exif: Exif) -> Self {
        Self {
            #[cfg(all(feature = "turbojpeg", target_arch = "x86_64"))]
            ordinary: Ordinary::Library,
            ..Self::with_exif(exif)
        }
    }

    /// Reads the header and refuses an image larger than [`MAX_PIXELS`]; reads no pixel and allocates nothing of the
    /// image's size.
    pub fn open<'a>(&mut self, bytes: &'a [u8]) -> Result<Opened<'a>, DecodeError> {
        let format = format_of(bytes)?;
        let file = match format {
            Format::Jpeg => self.open_jpeg(bytes)?,
            Format::Png => File::Png(bytes),
            Format::WebP => File::WebP(bytes),
            Format::Gif => File::Gif(bytes),
        };
        let (width, height) = file.size()?;
        if !width
            .checked_mul(height)
            .is_some_and(|pixels| (1..=MAX_PIXELS).contains(&pixels))
        {
            return Err(DecodeError(format!(
                "expected an image of 1 to {MAX_PIXELS} pixels, found {width} x {height}"
            )));
        }
        let orientation = match self.exif {
            Exif::Ignore => Orientation::default(),
            Exif::Apply => Orientation::of_file(bytes),
        };
        let (width, height) = orientation.size((width, height));
        Ok(Opened {
            header: Header {
                width,
                height,
                format,
            },
            orientation,
            file,
        })
    }

    fn open_jpeg<'a>(&self, bytes: &'a [u8]) -> Result<File<'a>, DecodeError> {
        #[cfg(all(feature = "turbojpeg", target_arch = "x86_64"))]
        if !matches!(self.ordinary, Ordinary::Library)
            && let Some(jpeg) = baseline::Jpeg::open(bytes)
        {
            return Ok(File::Baseline(Box::new(jpeg)));
        }
        Ok(File::Jpeg(Jpeg::open(bytes)?))
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
        let Opened {
            orientation, file, ..
        } = image;
        if orientation.is_upright() {
            return self.decode_stored(file, (width, height), wanted, rgb);
        }
        let stored = orientation.size((width, height));
        let wanted = orientation.to_stored(wanted, stored);
        let mut pixels = std::mem::take(&mut self.stored);
        let window = self.decode_stored(file, stored, wanted, &mut pixels);
        self.stored = pixels;
        let window = window?;
        orientation.apply(&self.stored, window.region, rgb);
        Ok(Window {
            region: orientation.to_upright(window.region, stored),
            ..window
        })
    }

    /// Decodes at least `wanted` of an image of `size`, both as they are stored.
    fn decode_stored(
        &mut self,
        file: File<'_>,
        (width, height): (usize, usize),
        wanted: Region,
        rgb: &mut Vec<u8>,
    ) -> Result<Window, DecodeError> {
        let scratch = &mut self.scratch;
        match file {
            #[cfg(all(feature = "turbojpeg", target_arch = "x86_64"))]
            File::Baseline(jpeg) => {
                if let Some(region) = self.ordinary.decode(&jpeg, wanted, rgb) {
                    return Ok(Window {
                        region,
                        warning: None,
                    });
                }
                return Jpeg::open(jpeg.bytes())?.decode(wanted, rgb, scratch);
            }
            File::Jpeg(jpeg) => return jpeg.decode(wanted, rgb, scratch),
            File::Png(bytes) => png::decode(bytes, rgb, scratch)?,
            File::WebP(bytes) => webp::decode(bytes, rgb, scratch)?,
            File::Gif(bytes) => gif::decode(bytes, rgb, scratch)?,
        }
        Ok(Window {
            region: Region::whole(width, height),
            warning: None,
        })
    }
}

#[cfg(all(feature = "turbojpeg", target_arch = "x86_64"))]
impl Ordinary {
    /// Decodes at least `wanted`, and returns where the window lies; `None` where that is left to the library.
    fn decode(&mut self, jpeg: &baseline::Jpeg<'_>, wanted: Region, rgb: &mut Vec<u8>) -> Option<Region> {
        match self {
            Self::Library => None,
            Self::Here(baseline) => baseline.decode(jpeg, wanted, rgb),
            Self::None => {
                *self = Self::Here(Box::default());
                self.decode(jpeg, wanted, rgb)
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
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => return Ok(Format::WebP),
        [b'G', b'I', b'F', b'8', ..] => return Ok(Format::Gif),
        [] => "an empty file".to_string(),
        [b'B', b'M', ..] => "BMP".to_string(),
        _ => format!("bytes {:02x?}", &bytes[..bytes.len().min(4)]),
    };
    Err(DecodeError(format!(
        "expected a JPEG, PNG, WebP or GIF image, found {other}; convert it or leave it out"
    )))
}

#[cfg(test)]
mod tests;
