//! JPEG in pure Rust, for builds without the feature `turbojpeg`: always the whole image.

use super::{DecodeError, Region, Window, cmyk};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

fn refuse(error: zune_jpeg::errors::DecodeErrors) -> DecodeError {
    DecodeError(format!("not a JPEG image that can be decoded: {error}"))
}

/// A decoder that has read the header of `bytes`.
pub(super) struct Jpeg<'a> {
    bytes: &'a [u8],
    /// Boxed, as it is 29 kB.
    decoder: Box<JpegDecoder<ZCursor<&'a [u8]>>>,
    width: usize,
    height: usize,
}

impl<'a> Jpeg<'a> {
    /// Reads the header.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let options = DecoderOptions::new_fast()
            .set_max_width(usize::from(u16::MAX))
            .set_max_height(usize::from(u16::MAX))
            .jpeg_set_out_colorspace(ColorSpace::RGB);
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
        decoder.decode_headers().map_err(refuse)?;
        let (width, height) = decoder
            .dimensions()
            .ok_or_else(|| DecodeError("expected a JPEG image, found no frame header".into()))?;
        Ok(Self {
            bytes,
            decoder: Box::new(decoder),
            width,
            height,
        })
    }

    /// Width and height.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// Decodes the whole image, whatever is wanted of it.
    pub(super) fn decode(
        mut self,
        _wanted: Region,
        rgb: &mut Vec<u8>,
        scratch: &mut Vec<u8>,
    ) -> Result<Window, DecodeError> {
        let pixels = self.width * self.height;
        rgb.resize(3 * pixels, 0);
        if self.decoder.input_colorspace() == Some(ColorSpace::CMYK) {
            let options = self.decoder.options().jpeg_set_out_colorspace(ColorSpace::CMYK);
            self.decoder.set_options(options);
            scratch.resize(4 * pixels, 0);
            self.decoder.decode_into(scratch).map_err(refuse)?;
            cmyk::to_rgb(scratch, rgb);
        } else {
            self.decoder.decode_into(rgb).map_err(refuse)?;
        }
        Ok(Window {
            region: Region::whole(self.width, self.height),
            warning: truncation(self.bytes),
        })
    }
}

/// The library fills what is missing of a truncated file without a word; the end marker tells.
fn truncation(bytes: &[u8]) -> Option<String> {
    let end = bytes
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last + 1);
    let whole = bytes[..end].windows(2).any(|pair| pair == [0xFF, 0xD9]);
    (!whole).then(|| "no end-of-image marker: the file is truncated".to_string())
}
