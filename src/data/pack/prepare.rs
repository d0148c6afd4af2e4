//! One image on its way into a shard: decoded, looked at, and perhaps reduced.

use crate::data::decode::{Decoder, Format, Region, exif_orientation, exif_segment};
use crate::data::image_files::image_name;
use crate::data::manifest::Stored;
use crate::data::resample::{Part, Resampler, Span};

use super::colour::ColourSums;

#[cfg(feature = "turbojpeg")]
pub(super) use with_encoder::{check_encoder, encode};
#[cfg(not(feature = "turbojpeg"))]
pub(super) use without_encoder::{check_encoder, encode};

/// What becomes of an image.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It goes into a shard.
    Kept(Prepared),
    /// It does not decode, and why.
    LeftOut(String),
}

/// An image that goes into a shard.
#[derive(Debug)]
pub(super) struct Prepared {
    /// The encoded image.
    pub(super) bytes: Vec<u8>,
    /// By its content.
    pub(super) extension: &'static str,
    /// Of the pixels that these bytes decode to.
    pub(super) colours: ColourSums,
    /// What is odd about the image as it came.
    pub(super) odd: Option<String>,
}

/// Prepares one image after the other; one per thread.
pub(super) struct Preparer {
    decoder: Decoder,
    resampler: Resampler,
    rgb: Vec<u8>,
    reduced: Vec<u8>,
    stored: Stored,
}

impl Preparer {
    pub(super) fn new(stored: Stored) -> Self {
        Self {
            decoder: Decoder::new(),
            resampler: Resampler::new(),
            rgb: Vec::new(),
            reduced: Vec::new(),
            stored,
        }
    }

    /// Decodes the image that was called `name`.
    pub(super) fn prepare(&mut self, bytes: Result<Vec<u8>, String>, name: &str) -> Outcome {
        match bytes.and_then(|bytes| self.try_prepare(bytes, name)) {
            Ok(prepared) => Outcome::Kept(prepared),
            Err(reason) => Outcome::LeftOut(reason),
        }
    }

    fn try_prepare(&mut self, mut bytes: Vec<u8>, name: &str) -> Result<Prepared, String> {
        let mut format = self
            .decoder
            .header(&bytes)
            .map_err(|error| error.to_string())?
            .format;
        let decoded = self
            .decoder
            .decode(&bytes, &mut self.rgb)
            .map_err(|error| error.to_string())?;
        let odd = decoded.warning.or_else(|| oddity(&bytes, format, name));
        if let Stored::Reencoded { max_short, quality } = self.stored {
            let size = (decoded.width, decoded.height);
            if let Some(smaller) = reduced_size(size, max_short) {
                let orientation = exif_orientation(&bytes);
                bytes = self.reencode(size, smaller, quality)?;
                keep_orientation(&mut bytes, orientation);
                format = Format::Jpeg;
                // The colour statistics are those of what training will see.
                self.decoder
                    .decode(&bytes, &mut self.rgb)
                    .map_err(|error| error.to_string())?;
            }
        }
        Ok(Prepared {
            colours: ColourSums::of(&self.rgb),
            bytes,
            extension: format.extension(),
            odd,
        })
    }

    /// The decoded pixels, reduced by the resampler that training uses, as a JPEG.
    fn reencode(&mut self, from: (usize, usize), to: (usize, usize), quality: u8) -> Result<Vec<u8>, String> {
        let part = Part {
            across: Span::whole(from.0, to.0),
            down: Span::whole(from.1, to.1),
        };
        self.reduced.resize(3 * to.0 * to.1, 0);
        self.resampler
            .resample(&self.rgb, Region::whole(from.0, from.1), part, &mut self.reduced);
        encode(&self.reduced, to, quality)
    }
}

/// The size with a shorter side of `max_short`, where the image is larger than that.
fn reduced_size((width, height): (usize, usize), max_short: usize) -> Option<(usize, usize)> {
    let short = width.min(height);
    let scaled = |side: usize| side * max_short / short;
    (short > max_short).then(|| (scaled(width), scaled(height)))
}

/// Whether EXIF counts is decided in training: what says it stays in the file, right after its first marker.
fn keep_orientation(jpeg: &mut Vec<u8>, orientation: u16) {
    if orientation != 1 {
        jpeg.splice(2..2, exif_segment(orientation));
    }
}

/// What a tool that trusts the name, or expects three channels, would stumble over.
fn oddity(bytes: &[u8], format: Format, name: &str) -> Option<String> {
    let (_, extension) = image_name(name.rsplit('/').next().unwrap_or(name))?;
    let named = format_named(extension);
    if named != Some(format) {
        return Some(format!("a {} that is called .{extension}", format.name()));
    }
    (format == Format::Jpeg && jpeg_channels(bytes) == Some(4))
        .then(|| "a JPEG with four channels (CMYK or YCCK)".to_string())
}

/// The format that a file name announces, if it is one that is decoded.
fn format_named(extension: &str) -> Option<Format> {
    match extension.to_ascii_lowercase().as_str() {
        "jpg" | "jpeg" | "jpe" | "jfif" => Some(Format::Jpeg),
        "png" => Some(Format::Png),
        "webp" => Some(Format::WebP),
        "gif" => Some(Format::Gif),
        _ => None,
    }
}

/// The number of channels in the frame header of a JPEG.
fn jpeg_channels(bytes: &[u8]) -> Option<u8> {
    let mut at = 2;
    loop {
        let segment = bytes.get(at..)?;
        match *segment {
            // Markers may be preceded by any number of fill bytes.
            [0xFF, 0xFF, ..] => at += 1,
            // Start of frame; C4, C8 and CC are other things.
            [0xFF, 0xC0..=0xCF, ..] if !matches!(segment[1], 0xC4 | 0xC8 | 0xCC) => {
                return segment.get(9).copied();
            }
            [0xFF, _, high, low, ..] => at += 2 + usize::from(u16::from_be_bytes([high, low])),
            _ => return None,
        }
    }
}

#[cfg(feature = "turbojpeg")]
mod with_encoder {
    use crate::error::Result;

    /// This build can encode.
    pub(in super::super) fn check_encoder() -> Result<()> {
        Ok(())
    }

    /// A JPEG with the usual halved chroma.
    pub(in super::super) fn encode(
        rgb: &[u8],
        (width, height): (usize, usize),
        quality: u8,
    ) -> Result<Vec<u8>, String> {
        let format = turbojpeg::PixelFormat::RGB;
        let image = turbojpeg::Image {
            pixels: rgb,
            width,
            pitch: width * format.size(),
            height,
            format,
        };
        turbojpeg::compress(image, i32::from(quality), turbojpeg::Subsamp::Sub2x2)
            .map(|jpeg| jpeg.to_vec())
            .map_err(|error| format!("cannot be encoded again: {error}"))
    }
}

#[cfg(not(feature = "turbojpeg"))]
mod without_encoder {
    use crate::error::{Error, Result};

    /// This build cannot encode, and says so before it starts.
    pub(in super::super) fn check_encoder() -> Result<()> {
        let reason =
            "--max-short needs a build with the feature turbojpeg, which encodes JPEG; this one only decodes";
        Err(Error::Usage(reason.to_string()))
    }

    /// Never reached after `check_encoder`; the reason is the same.
    pub(in super::super) fn encode(_: &[u8], _: (usize, usize), _: u8) -> Result<Vec<u8>, String> {
        check_encoder()
            .map(|()| Vec::new())
            .map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing;

    fn prepare(bytes: Vec<u8>, name: &str, stored: Stored) -> Outcome {
        Preparer::new(stored).prepare(Ok(bytes), name)
    }

    #[test]
    fn a_png_keeps_its_bytes_and_gets_its_own_extension() {
        let seed = testing::fresh_seed();
        let rgb = testing::picture(&mut testing::stream(seed), 40, 30);
        let png = testing::png(&rgb, 40, 30, png::ColorType::Rgb);
        for (name, odd) in [("x.png", false), ("x.JPEG", true)] {
            match prepare(png.clone(), name, Stored::Original) {
                Outcome::Kept(prepared) => {
                    assert_eq!(
                        (prepared.extension, prepared.odd.is_some()),
                        ("png", odd),
                        "seed {seed}"
                    );
                    assert!(
                        prepared.bytes == png && prepared.colours == ColourSums::of(&rgb),
                        "seed {seed}"
                    );
                }
                Outcome::LeftOut(reason) => panic!("seed {seed}: {reason}"),
            }
        }
    }

    #[test]
    fn what_does_not_decode_is_left_out() {
        for bytes in [&b""[..], b"no image", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"] {
            let outcome = prepare(bytes.to_vec(), "x.jpg", Stored::Original);
            assert!(matches!(outcome, Outcome::LeftOut(reason) if !reason.is_empty()));
        }
        let unread = Preparer::new(Stored::Original).prepare(Err("cannot be read".into()), "x.jpg");
        assert!(matches!(unread, Outcome::LeftOut(reason) if reason == "cannot be read"));
    }

    #[test]
    fn sizes_keep_the_aspect() {
        assert_eq!(reduced_size((500, 375), 512), None);
        assert_eq!(reduced_size((1024, 512), 512), None);
        assert_eq!(reduced_size((1000, 750), 512), Some((682, 512)));
        assert_eq!(reduced_size((750, 1000), 375), Some((375, 500)));
    }

    #[cfg(feature = "turbojpeg")]
    #[test]
    fn large_images_are_reduced_and_cmyk_is_noticed() {
        let seed = testing::fresh_seed();
        let rgb = testing::picture(&mut testing::stream(seed), 200, 100);
        let png = testing::png(&rgb, 200, 100, png::ColorType::Rgb);
        match prepare(
            png,
            "x.png",
            Stored::Reencoded {
                max_short: 50,
                quality: 90,
            },
        ) {
            Outcome::Kept(prepared) => {
                let mut decoder = Decoder::new();
                let mut pixels = Vec::new();
                let decoded = decoder.decode(&prepared.bytes, &mut pixels).unwrap();
                assert_eq!(
                    (decoded.width, decoded.height, prepared.extension),
                    (100, 50, "jpg")
                );
                assert_eq!(prepared.colours, ColourSums::of(&pixels), "seed {seed}");
                let (before, after) = (ColourSums::of(&rgb).mean(), prepared.colours.mean());
                assert!(
                    (0..3).all(|c| (before[c] - after[c]).abs() < 3.0),
                    "seed {seed}: {before:?} {after:?}"
                );
            }
            Outcome::LeftOut(reason) => panic!("seed {seed}: {reason}"),
        }
        let kind = testing::JpegKind {
            subsampling: turbojpeg::Subsamp::None,
            progressive: false,
            pixels: turbojpeg::PixelFormat::CMYK,
        };
        let cmyk = testing::jpeg(&vec![100; 4 * 16 * 16], 16, 16, kind);
        let outcome = prepare(cmyk, "x.jpg", Stored::Original);
        assert!(
            matches!(&outcome, Outcome::Kept(Prepared { odd: Some(odd), .. }) if odd.contains("four")),
            "{outcome:?}"
        );
    }
}
