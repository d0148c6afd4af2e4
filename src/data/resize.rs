//! The geometry of "shorter side S, then a crop".
//!
//! The crop is resampled straight from the source pixels under it, so neither the rescaled image nor the rest of the
//! source is ever made.

use super::augment::View;
use super::resample::{Part, Span};

/// Name and rules of the resampler. Part of the equivalence class: other rules give other bits.
pub const RESIZER: &str = "verydeep triangle 1";

/// Width and height after rescaling so that the shorter side is `short_side`: the longer one is
/// `floor(short_side * long / short)`, or `usize::MAX` where that is more than a number can be.
pub fn rescaled(width: usize, height: usize, short_side: usize) -> (usize, usize) {
    let long_side = |long: usize, short: usize| {
        let side = short_side as u128 * long as u128 / short as u128;
        usize::try_from(side).unwrap_or(usize::MAX)
    };
    if width <= height {
        (short_side, long_side(height, width))
    } else {
        (long_side(width, height), short_side)
    }
}

/// All of an image of `width` x `height` rescaled to `short_side`.
pub fn whole(short_side: usize, width: usize, height: usize) -> Part {
    let (new_width, new_height) = rescaled(width, height, short_side);
    Part {
        across: Span::whole(width, new_width),
        down: Span::whole(height, new_height),
    }
}

/// `view`'s square of `crop` pixels in an image of `width` x `height`. The view's shorter side is at least `crop`.
pub fn square(view: &View, crop: usize, width: usize, height: usize) -> Part {
    let (new_width, new_height) = rescaled(width, height, view.short_side);
    let (x, y) = view.place.offset((new_width - crop, new_height - crop));
    let span = |source, target, first| Span {
        source,
        target,
        first,
        len: crop,
    };
    Part {
        across: span(width, new_width, x),
        down: span(height, new_height, y),
    }
}
