//! Pixels as the lanes of a tile: one panel of the matrix that convolution multiplies by (im2col), made where it is used.

use super::super::isa::multiversion;
use super::super::tile::LANES;
use super::Shape;

multiversion! {
    /// Writes the panel of the 16 pixels from `first` on, of image `n` and channels `channels.0..channels.1` of x:
    /// `panel[(c, r, s)][l] = x[n, c, i + r - P, j + s - P]` where (i, j) is pixel `first + l`; 0 outside the image.
    ///
    /// A shifted row of pixels is a row of pixels: every lane group is one contiguous load, and lanes that the shift
    /// took across an edge of the image are masked.
    pub(super) fn pack_panel(
        shape: Shape,
        x: &[f32],
        n: usize,
        channels: (usize, usize),
        first: usize,
        panel: &mut [[f32; LANES]],
    ) {
        let plane = shape.plane();
        let (height, width, pad) = (shape.height as i32, shape.width as i32, shape.pad() as i32);
        let mut rows = [0; LANES];
        let mut columns = [0; LANES];
        let (mut row, mut column) = ((first / shape.width) as i32, (first % shape.width) as i32);
        for l in 0..LANES {
            (rows[l], columns[l]) = (row, column);
            column += 1;
            if column == width {
                (row, column) = (row + 1, 0);
            }
        }
        for tap in 0..shape.taps() {
            let r = (tap / shape.kernel) as i32 - pad;
            let s = (tap % shape.kernel) as i32 - pad;
            let mut mask = [0u32; LANES];
            let mut all = !0;
            for l in 0..LANES {
                let inside = ((rows[l] + r) as u32) < height as u32 && ((columns[l] + s) as u32) < width as u32;
                mask[l] = if inside { !0 } else { 0 };
                all &= mask[l];
            }
            let shift = (r * width + s) as isize;
            for c in channels.0..channels.1 {
                let lanes = &mut panel[(c - channels.0) * shape.taps() + tap];
                let start = ((n * shape.inputs + c) * plane + first) as isize + shift;
                let source: Option<&[f32; LANES]> = usize::try_from(start)
                    .ok()
                    .and_then(|start| x.get(start..start + LANES))
                    .and_then(|x| x.first_chunk());
                match source {
                    Some(source) if all != 0 => *lanes = *source,
                    Some(source) => {
                        for l in 0..LANES {
                            lanes[l] = f32::from_bits(source[l].to_bits() & mask[l]);
                        }
                    }
                    // Before the first or behind the last element of x.
                    None => {
                        for l in 0..LANES {
                            let index = usize::try_from(start + l as isize).ok().filter(|_| mask[l] != 0);
                            lanes[l] = index.and_then(|index| x.get(index)).copied().unwrap_or(0.0);
                        }
                    }
                }
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
