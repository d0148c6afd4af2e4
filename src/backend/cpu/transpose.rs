//! Transposition of matrices, in squares of 8x8 where the path has the registers for it.

use super::isa::Isa;

/// `to[j][i] = from[i][j]` for `rows` rows `i` and `columns` columns `j`; rows are `from_stride` and
/// `to_stride` apart.
pub(super) fn transpose(
    isa: Isa,
    (rows, columns): (usize, usize),
    (from, from_stride): (&[f32], usize),
    (to, to_stride): (&mut [f32], usize),
) {
    let (full_rows, full_columns) = (rows & !7, columns & !7);
    for i in (0..full_rows).step_by(8) {
        for j in (0..full_columns).step_by(8) {
            let from = &from[i * from_stride + j..][..7 * from_stride + 8];
            let to = &mut to[j * to_stride + i..][..7 * to_stride + 8];
            match isa {
                Isa::Portable => transpose_edge((8, 8), (from, from_stride), (to, to_stride)),
                // SAFETY: these paths are taken only where the processor has AVX2; the slices hold 8 rows of 8.
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 | Isa::Avx512 => unsafe { transpose8((from, from_stride), (to, to_stride)) },
            }
        }
        if full_columns < columns {
            let from = &from[i * from_stride + full_columns..];
            let to = &mut to[full_columns * to_stride + i..];
            transpose_edge((8, columns - full_columns), (from, from_stride), (to, to_stride));
        }
    }
    if full_rows < rows {
        let from = &from[full_rows * from_stride..];
        let to = &mut to[full_rows..];
        transpose_edge((rows - full_rows, columns), (from, from_stride), (to, to_stride));
    }
}

fn transpose_edge(
    (rows, columns): (usize, usize),
    (from, from_stride): (&[f32], usize),
    (to, to_stride): (&mut [f32], usize),
) {
    for i in 0..rows {
        for j in 0..columns {
            to[j * to_stride + i] = from[i * from_stride + j];
        }
    }
}

/// # Safety
/// AVX2; both slices hold 8 rows of 8 elements at their strides.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn transpose8((from, from_stride): (&[f32], usize), (to, to_stride): (&mut [f32], usize)) {
    use std::arch::x86_64::{
        _mm256_loadu_ps, _mm256_permute2f128_ps, _mm256_shuffle_ps, _mm256_storeu_ps, _mm256_unpackhi_ps,
        _mm256_unpacklo_ps,
    };
    // SAFETY: row i starts inside `from` and has 8 elements, says the caller.
    let r: [_; 8] = std::array::from_fn(|i| unsafe { _mm256_loadu_ps(from.as_ptr().add(i * from_stride)) });
    // Pairs of rows interleaved, then pairs of pairs, then the 128-bit halves exchanged.
    let lo: [_; 4] = std::array::from_fn(|i| _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]));
    let hi: [_; 4] = std::array::from_fn(|i| _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]));
    let quads = |half: usize| {
        let (a, b) = (2 * half, 2 * half + 1);
        [
            _mm256_shuffle_ps::<0x44>(lo[a], lo[b]),
            _mm256_shuffle_ps::<0xEE>(lo[a], lo[b]),
            _mm256_shuffle_ps::<0x44>(hi[a], hi[b]),
            _mm256_shuffle_ps::<0xEE>(hi[a], hi[b]),
        ]
    };
    let (top, bottom) = (quads(0), quads(1));
    let to = to.as_mut_ptr();
    for j in 0..4 {
        // SAFETY: rows j and j + 4 start inside `to` and have 8 elements, says the caller.
        unsafe {
            let upper = _mm256_permute2f128_ps::<0x20>(top[j], bottom[j]);
            let lower = _mm256_permute2f128_ps::<0x31>(top[j], bottom[j]);
            _mm256_storeu_ps(to.add(j * to_stride), upper);
            _mm256_storeu_ps(to.add((j + 4) * to_stride), lower);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposition_moves_every_element() {
        for isa in Isa::all() {
            for (rows, columns) in [(1, 1), (8, 8), (17, 9), (16, 30), (5, 40)] {
                let from: Vec<f32> = (0..rows * (columns + 3)).map(|i| i as f32).collect();
                let mut to = vec![-1.0; columns * (rows + 2)];
                transpose(isa, (rows, columns), (&from, columns + 3), (&mut to, rows + 2));
                for i in 0..rows {
                    for j in 0..columns {
                        assert_eq!(to[j * (rows + 2) + i], from[i * (columns + 3) + j]);
                    }
                }
            }
        }
    }
}
