//! WebP, lossy and lossless, to RGB8, as Pillow's `convert("RGB")` does it: alpha dropped (not composited); of an
//! animation the first frame.

use super::{DecodeError, MAX_PIXELS};
use image_webp::WebPDecoder;
use std::io::Cursor;

fn open(bytes: &[u8]) -> Result<WebPDecoder<Cursor<&[u8]>>, DecodeError> {
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(refuse)?;
    decoder.set_memory_limit(4 * MAX_PIXELS);
    Ok(decoder)
}

fn refuse(error: image_webp::DecodingError) -> DecodeError {
    DecodeError(format!("not a whole WebP image: {error}"))
}

/// Width and height, without the pixels.
pub(super) fn size(bytes: &[u8]) -> Result<(usize, usize), DecodeError> {
    let (width, height) = open(bytes)?.dimensions();
    Ok((width as usize, height as usize))
}

/// Decodes into `rgb` (height, width, 3). The caller has checked the size.
pub(super) fn decode(bytes: &[u8], rgb: &mut Vec<u8>, scratch: &mut Vec<u8>) -> Result<(), DecodeError> {
    let mut decoder = open(bytes)?;
    let (width, height) = decoder.dimensions();
    let pixels = width as usize * height as usize;
    rgb.resize(3 * pixels, 0);
    if !decoder.has_alpha() {
        return decoder.read_image(rgb).map_err(refuse);
    }
    scratch.resize(4 * pixels, 0);
    decoder.read_image(scratch).map_err(refuse)?;
    for (from, to) in scratch.chunks_exact(4).zip(rgb.chunks_exact_mut(3)) {
        to.copy_from_slice(&from[..3]);
    }
    Ok(())
}
