//! The first frame of a GIF to RGB8, as Pillow's `convert("RGB")` does it: indices looked up in the frame's palette,
//! transparent ones too; what the frame does not cover is the transparent colour, or else the first.

use super::{DecodeError, MAX_PIXELS};
use gif::{ColorOutput, DecodeOptions, Decoder, MemoryLimit};
use std::io::Cursor;
use std::num::NonZeroU64;

fn open(bytes: &[u8]) -> Result<Decoder<Cursor<&[u8]>>, DecodeError> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(
        NonZeroU64::new(MAX_PIXELS as u64).map_or(MemoryLimit::Unlimited, MemoryLimit::Bytes),
    );
    options.read_info(Cursor::new(bytes)).map_err(refuse)
}

fn refuse(error: gif::DecodingError) -> DecodeError {
    DecodeError(format!("not a whole GIF image: {error}"))
}

/// Width and height of the canvas, without the pixels.
pub(super) fn size(bytes: &[u8]) -> Result<(usize, usize), DecodeError> {
    let decoder = open(bytes)?;
    Ok((usize::from(decoder.width()), usize::from(decoder.height())))
}

/// Decodes into `rgb` (height, width, 3). The caller has checked the size.
pub(super) fn decode(bytes: &[u8], rgb: &mut Vec<u8>, scratch: &mut Vec<u8>) -> Result<(), DecodeError> {
    let mut decoder = open(bytes)?;
    let (width, height) = (usize::from(decoder.width()), usize::from(decoder.height()));
    let missing = |what: &str| DecodeError(format!("expected a GIF with {what}, found none"));
    let frame = decoder
        .next_frame_info()
        .map_err(refuse)?
        .ok_or_else(|| missing("a frame"))?;
    let transparent = frame.transparent.unwrap_or(0);
    let [left, top, columns, rows] = [frame.left, frame.top, frame.width, frame.height].map(usize::from);
    if left + columns > width || top + rows > height {
        return Err(DecodeError(format!(
            "expected a GIF frame within {width} x {height}, found {columns} x {rows} at {left}, {top}"
        )));
    }
    scratch.resize(decoder.buffer_size(), 0);
    decoder.read_into_buffer(scratch).map_err(refuse)?;
    let palette = decoder.palette().map_err(|_| missing("a palette"))?;
    // Indices beyond a short palette are black, as in Pillow.
    let colour = |index: u8| {
        palette
            .get(3 * usize::from(index)..)
            .and_then(<[u8]>::first_chunk)
            .copied()
            .unwrap_or([0; 3])
    };
    rgb.clear();
    rgb.resize(3 * width * height, 0);
    rgb.chunks_exact_mut(3)
        .for_each(|pixel| pixel.copy_from_slice(&colour(transparent)));
    for (y, row) in scratch.chunks_exact(columns.max(1)).enumerate() {
        let start = 3 * ((top + y) * width + left);
        for (pixel, &index) in rgb[start..start + 3 * columns].chunks_exact_mut(3).zip(row) {
            pixel.copy_from_slice(&colour(index));
        }
    }
    Ok(())
}
