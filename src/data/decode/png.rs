//! PNG of any colour type and depth to RGB8, as Pillow's `convert("RGB")` does it: palette looked up, grey repeated,
//! alpha dropped (not composited), the high byte of 16-bit samples.

use super::{DecodeError, MAX_PIXELS};
use png::{ColorType, Decoder, Limits, Transformations};
use std::io::Cursor;

fn open(bytes: &[u8]) -> Decoder<Cursor<&[u8]>> {
    // Covers the one row that the library buffers and the ancillary chunks; the pixels are in our own buffer.
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: MAX_PIXELS });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    decoder
}

fn refuse(error: png::DecodingError) -> DecodeError {
    DecodeError(format!("not a whole PNG image: {error}"))
}

/// Width and height, without the pixels.
pub(super) fn size(bytes: &[u8]) -> Result<(usize, usize), DecodeError> {
    let mut decoder = open(bytes);
    let info = decoder.read_header_info().map_err(refuse)?;
    Ok((info.width as usize, info.height as usize))
}

/// The library panics where a palette is not one of whole colours.
fn check_palette(info: &png::Info<'_>) -> Result<(), DecodeError> {
    let Some(palette) = &info.palette else {
        return Ok(());
    };
    if palette.len().is_multiple_of(3) && (3..=3 * 256).contains(&palette.len()) {
        return Ok(());
    }
    Err(DecodeError(format!(
        "not a whole PNG image: expected a palette of 1 to 256 colours, found {} bytes",
        palette.len()
    )))
}

/// Decodes into `rgb` (height, width, 3). The caller has checked the size.
pub(super) fn decode(bytes: &[u8], rgb: &mut Vec<u8>, scratch: &mut Vec<u8>) -> Result<(), DecodeError> {
    let mut reader = open(bytes).read_info().map_err(refuse)?;
    check_palette(reader.info())?;
    let pixels = reader.info().width as usize * reader.info().height as usize;
    let (color, _) = reader.output_color_type();
    let samples = color.samples();
    if samples == 3 {
        rgb.resize(3 * pixels, 0);
        reader.next_frame(rgb).map_err(refuse)?;
        return Ok(());
    }
    scratch.resize(samples * pixels, 0);
    reader.next_frame(scratch).map_err(refuse)?;
    rgb.resize(3 * pixels, 0);
    for (from, to) in scratch.chunks_exact(samples).zip(rgb.chunks_exact_mut(3)) {
        match color {
            ColorType::Grayscale | ColorType::GrayscaleAlpha => to.fill(from[0]),
            ColorType::Rgb | ColorType::Rgba => to.copy_from_slice(&from[..3]),
            ColorType::Indexed => {
                return Err(DecodeError(
                    "expected a PNG palette to be expanded, found indices".into(),
                ));
            }
        }
    }
    Ok(())
}
