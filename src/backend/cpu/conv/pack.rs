//! Pixels as the lanes of a tile: one panel of the matrix that convolution multiplies by (im2col), made where
//! it is used.

use super::super::isa::multiversion;
use super::super::tile::LANES;
use super::Shape;

/// Filter elements whose masks are kept at a time: all of a 3x3 filter.
const BLOCK_TAPS: usize = 9;

/// Which of a panel's lanes are inside the image after a shift.
#[derive(Clone, Copy)]
enum Inside {
    All,
    None,
    /// All bits set, or none.
    Some([u32; LANES]),
}

/// The 16 pixels of a panel.
struct Pixels {
    height: i32,
    width: i32,
    /// Row and column of every lane.
    rows: [i32; LANES],
    columns: [i32; LANES],
}

impl Pixels {
    #[inline(always)]
    fn new(shape: Shape, first: usize) -> Self {
        let (height, width) = (shape.height as i32, shape.width as i32);
        let (mut row, mut column) = ((first / shape.width) as i32, (first % shape.width) as i32);
        let (mut rows, mut columns) = ([0; LANES], [0; LANES]);
        for l in 0..LANES {
            (rows[l], columns[l]) = (row, column);
            column += 1;
            if column == width {
                (row, column) = (row + 1, 0);
            }
        }
        Self {
            height,
            width,
            rows,
            columns,
        }
    }

    /// The lanes whose pixel, moved by `r` rows and `s` columns, is inside.
    #[inline(always)]
    fn inside(&self, r: i32, s: i32) -> Inside {
        let (first, last) = (0, LANES - 1);
        if self.rows[first] == self.rows[last] {
            if !(0..self.height).contains(&(self.rows[first] + r)) {
                return Inside::None;
            }
            if self.columns[first] + s >= 0 && self.columns[last] + s < self.width {
                return Inside::All;
            }
        }
        let mut mask = [0; LANES];
        for (l, mask) in mask.iter_mut().enumerate() {
            // As unsigned, negative numbers are beyond every size.
            let row = ((self.rows[l] + r) as u32) < self.height as u32;
            let column = ((self.columns[l] + s) as u32) < self.width as u32;
            *mask = if row & column { !0 } else { 0 };
        }
        Inside::Some(mask)
    }
}

multiversion! {
    /// Writes the panel of the 16 pixels from `first` on, of image `n` and channels `channels.0..channels.1`
    /// of x: `panel[(c, r, s)][l] = x[n, c, i + r - P, j + s - P]` where (i, j) is pixel `first + l`; 0
    /// outside the image.
    ///
    /// A shifted row of pixels is a row of pixels: every lane group is one contiguous load, and lanes that
    /// the shift took across an edge of the image are masked.
    pub(super) fn pack_panel(
        shape: Shape,
        x: &[f32],
        n: usize,
        channels: (usize, usize),
        first: usize,
        panel: &mut [[f32; LANES]],
    ) {
        let (plane, taps) = (shape.plane(), shape.taps());
        let pixels = Pixels::new(shape, first);
        let place = ((n * shape.inputs + channels.0) * plane + first) as isize;
        for tap in (0..taps).step_by(BLOCK_TAPS) {
            let block = BLOCK_TAPS.min(taps - tap);
            let mut shifts = [(0, Inside::None); BLOCK_TAPS];
            for (i, shift) in shifts[..block].iter_mut().enumerate() {
                let r = ((tap + i) / shape.kernel) as i32 - shape.pad() as i32;
                let s = ((tap + i) % shape.kernel) as i32 - shape.pad() as i32;
                *shift = (place + (r * pixels.width + s) as isize, pixels.inside(r, s));
            }
            // Channel by channel: its few rows of pixels stay in the L1 cache for all taps.
            for c in 0..channels.1 - channels.0 {
                let panel = &mut panel[c * taps + tap..][..block];
                for (lanes, (start, inside)) in panel.iter_mut().zip(&shifts) {
                    shifted(x, start + (c * plane) as isize, inside, lanes);
                }
            }
        }
    }
}

/// `lanes[l] = x[start + l]`, 0 where that is not inside.
#[inline(always)]
fn shifted(x: &[f32], start: isize, inside: &Inside, lanes: &mut [f32; LANES]) {
    let source: Option<&[f32; LANES]> = usize::try_from(start)
        .ok()
        .and_then(|start| x.get(start..start + LANES))
        .and_then(|x| x.first_chunk());
    match (inside, source) {
        (Inside::None, _) => *lanes = [0.0; LANES],
        (Inside::All, Some(source)) => *lanes = *source,
        (Inside::Some(mask), Some(source)) => {
            for l in 0..LANES {
                lanes[l] = f32::from_bits(source[l].to_bits() & mask[l]);
            }
        }
        // Some lanes are before the first or behind the last element of x.
        (Inside::All, None) => unreachable!("pixels inside the image are elements of x"),
        (Inside::Some(mask), None) => {
            for l in 0..LANES {
                let index = usize::try_from(start + l as isize).ok().filter(|_| mask[l] != 0);
                lanes[l] = index.and_then(|index| x.get(index)).copied().unwrap_or(0.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::isa::Isa;
    use super::*;

    #[test]
    fn a_panel_holds_shifted_pixels() {
        for (height, width, kernel) in [(5, 4, 3), (1, 1, 3), (3, 40, 3), (7, 7, 1), (6, 3, 5)] {
            let shape = Shape {
                batch: 2,
                inputs: 3,
                outputs: 1,
                height,
                width,
                kernel,
            };
            let x: Vec<f32> = (0..6 * shape.plane()).map(|i| i as f32 + 1.0).collect();
            for isa in [Isa::Portable, Isa::best()] {
                for (n, first) in (0..2).flat_map(|n| (0..shape.plane()).step_by(LANES).map(move |f| (n, f)))
                {
                    let mut panel = vec![[-1.0; LANES]; 3 * shape.taps()];
                    pack_panel(isa, shape, &x, n, (0, 3), first, &mut panel);
                    for (index, lanes) in panel.iter().enumerate() {
                        let (c, tap) = (index / shape.taps(), index % shape.taps());
                        for (l, &found) in lanes.iter().enumerate().take(shape.plane() - first) {
                            let row = (first + l) / width + tap / kernel;
                            let column = (first + l) % width + tap % kernel;
                            let (row, column) =
                                (row.wrapping_sub(shape.pad()), column.wrapping_sub(shape.pad()));
                            let inside = row < height && column < width;
                            let index = (n * 3 + c) * shape.plane();
                            let expected = if inside {
                                x[index + row * width + column]
                            } else {
                                0.0
                            };
                            assert_eq!(found, expected, "{shape:?} {n} {first} {index} {l}");
                        }
                    }
                }
            }
        }
    }
}
