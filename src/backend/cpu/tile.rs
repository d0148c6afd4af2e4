//! The kernel that multiplies many by many: a tile of up to 6 rows by 16 lanes.
//!
//! `acc[r][l] += sum over the depth d of a[rows[r] + d] * b[d][l]`
//!
//! Convolutions and the gradients of fully connected layers differ in what they call rows, lanes and depth. The depth
//! is up to three nested loops with their own strides, so that rows are read in place: the channels of a group, then the
//! next group; or a row of pixels, then the next one. Every lane sums in the order of the depth: results depend on where
//! the caller cuts the depth, and on nothing else.

use super::isa::Isa;

/// Rows of a full tile: 6 rows of 2 AVX registers, and 4 of the 16 registers are left for operands.
pub(super) const ROWS: usize = 6;
/// Lanes of a tile.
pub(super) const LANES: usize = 16;

/// Sums of one tile; the first so many rows are in use.
pub(super) type Tile = [[f32; LANES]; ROWS];

/// Nested loops over the depth, innermost first: how often, and by how many elements each operand advances.
#[derive(Debug, Clone, Copy)]
pub(super) struct Depth {
    pub(super) count: [usize; 3],
    pub(super) a: [usize; 3],
    pub(super) b: [usize; 3],
}

impl Depth {
    /// One loop over `count`: `a` by `a_step`, `b` by whole rows of lanes.
    pub(super) fn flat(count: usize, a_step: usize) -> Self {
        Self {
            count: [count, 1, 1],
            a: [a_step, 0, 0],
            b: [LANES, 0, 0],
        }
    }

    /// How far the last element lies behind the first.
    fn span(&self, step: [usize; 3]) -> usize {
        (0..3).map(|i| (self.count[i] - 1) * step[i]).sum()
    }
}

/// Cuts `total` rows into strips of at most [`ROWS`], as equal as possible: strip `index` is (first row,
/// rows).
pub(super) fn strip(total: usize, index: usize) -> (usize, usize) {
    let strips = strips(total);
    let (small, larger) = (total / strips, total % strips);
    (
        index * small + index.min(larger),
        small + usize::from(index < larger),
    )
}

/// How many strips `total` rows are.
pub(super) fn strips(total: usize) -> usize {
    total.div_ceil(ROWS)
}

/// Where the sums of a tile begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// At zero: what the sums held is overwritten.
    Zero,
    /// At what they hold.
    Held,
}

/// `acc[r][l] = start + sum over d of a[rows[r] + d] * b[d][l]` for every `r` below `rows.len()`, at most [`ROWS`];
/// `acc` has as many rows.
pub(super) fn multiply(
    isa: Isa,
    depth: &Depth,
    (a, rows): (&[f32], &[usize]),
    b: &[f32],
    start: Start,
    acc: &mut [[f32; LANES]],
) {
    match *rows {
        [r0] => sized(isa, depth, (a, [r0]), b, start, acc),
        [r0, r1] => sized(isa, depth, (a, [r0, r1]), b, start, acc),
        [r0, r1, r2] => sized(isa, depth, (a, [r0, r1, r2]), b, start, acc),
        [r0, r1, r2, r3] => sized(isa, depth, (a, [r0, r1, r2, r3]), b, start, acc),
        [r0, r1, r2, r3, r4] => sized(isa, depth, (a, [r0, r1, r2, r3, r4]), b, start, acc),
        [r0, r1, r2, r3, r4, r5] => sized(isa, depth, (a, [r0, r1, r2, r3, r4, r5]), b, start, acc),
        _ => assert!(rows.is_empty(), "a tile of {} rows", rows.len()),
    }
}

#[inline(always)]
fn sized<const R: usize>(
    isa: Isa,
    depth: &Depth,
    (a, rows): (&[f32], [usize; R]),
    b: &[f32],
    start: Start,
    acc: &mut [[f32; LANES]],
) {
    let acc: &mut [[f32; LANES]; R] = acc.try_into().expect("sums for every row");
    if depth.count.contains(&0) {
        if start == Start::Zero {
            *acc = [[0.0; LANES]; R];
        }
        return;
    }
    let last_row = rows.iter().copied().max().unwrap_or(0);
    assert!(last_row + depth.span(depth.a) < a.len(), "rows end inside a");
    assert!(depth.span(depth.b) + LANES <= b.len(), "lanes end inside b");
    match isa {
        Isa::Portable => portable(depth, (a, rows), b, start, acc),
        // SAFETY: `Isa::Avx2` is made only where the processor has AVX2 and FMA; the assertions above keep
        // every element that `avx2` reads inside `a` and `b`.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2(depth, (a.as_ptr(), rows), b.as_ptr(), start, acc) },
    }
}

/// Without fused multiply-adds, which are library calls here.
fn portable<const R: usize>(
    depth: &Depth,
    (a, rows): (&[f32], [usize; R]),
    b: &[f32],
    start: Start,
    acc: &mut [[f32; LANES]; R],
) {
    let mut sums = match start {
        Start::Zero => [[0.0; LANES]; R],
        Start::Held => *acc,
    };
    for i2 in 0..depth.count[2] {
        for i1 in 0..depth.count[1] {
            let (mut at_a, mut at_b) = (
                i2 * depth.a[2] + i1 * depth.a[1],
                i2 * depth.b[2] + i1 * depth.b[1],
            );
            for _ in 0..depth.count[0] {
                let b: &[f32; LANES] = b[at_b..].first_chunk().expect("checked by `sized`");
                for (sums, row) in sums.iter_mut().zip(rows) {
                    let a = a[row + at_a];
                    for (sum, b) in sums.iter_mut().zip(b) {
                        *sum += a * b;
                    }
                }
                at_a += depth.a[0];
                at_b += depth.b[0];
            }
        }
    }
    *acc = sums;
}

/// # Safety
/// AVX2 and FMA; `a[rows[r] + ..]` and `b[..][0..16]` lie inside their allocations for the whole depth.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn avx2<const R: usize>(
    depth: &Depth,
    (a, rows): (*const f32, [usize; R]),
    b: *const f32,
    start: Start,
    acc: &mut [[f32; LANES]; R],
) {
    use std::arch::x86_64::{
        _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    };
    let mut low = [_mm256_setzero_ps(); R];
    let mut high = [_mm256_setzero_ps(); R];
    if start == Start::Held {
        for r in 0..R {
            // SAFETY: rows of 16 elements.
            (low[r], high[r]) = unsafe {
                (
                    _mm256_loadu_ps(acc[r].as_ptr()),
                    _mm256_loadu_ps(acc[r].as_ptr().add(8)),
                )
            };
        }
    }
    let [count, count1, count2] = depth.count;
    let (a_step, b_step) = (depth.a[0], depth.b[0]);
    for i2 in 0..count2 {
        for i1 in 0..count1 {
            // SAFETY: the start of a loop lies inside what the caller promised.
            let (mut a, mut b) = unsafe {
                (
                    a.add(i2 * depth.a[2] + i1 * depth.a[1]),
                    b.add(i2 * depth.b[2] + i1 * depth.b[1]),
                )
            };
            // Not unrolled: 23 instructions for 12 multiply-adds, which need 6 cycles, are no bottleneck, and what the
            // compiler would load ahead has no register left to wait in.
            for _ in 0..count {
                // SAFETY: the caller promised every element of the depth.
                let (b_low, b_high) = unsafe { (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8))) };
                for r in 0..R {
                    // SAFETY: as above; the row is a valid element.
                    let a = unsafe { _mm256_broadcast_ss(&*a.add(rows[r])) };
                    low[r] = _mm256_fmadd_ps(a, b_low, low[r]);
                    high[r] = _mm256_fmadd_ps(a, b_high, high[r]);
                }
                // Past the last element the pointers are not used; `wrapping_add` allows them to exist.
                (a, b) = (a.wrapping_add(a_step), b.wrapping_add(b_step));
            }
        }
    }
    for r in 0..R {
        // SAFETY: rows of 16 elements.
        unsafe {
            _mm256_storeu_ps(acc[r].as_mut_ptr(), low[r]);
            _mm256_storeu_ps(acc[r].as_mut_ptr().add(8), high[r]);
        }
    }
}

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
                // SAFETY: `Isa::Avx2` is made only where the processor has AVX2; the slices hold 8 rows of 8.
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => unsafe { transpose8((from, from_stride), (to, to_stride)) },
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
    fn strips_cover_the_rows() {
        for total in 1..200 {
            let mut next = 0;
            for index in 0..strips(total) {
                let (first, rows) = strip(total, index);
                assert!(first == next && (1..=ROWS).contains(&rows));
                next += rows;
            }
            assert_eq!(next, total);
        }
    }

    #[test]
    fn tiles_are_sums_of_products() {
        let a: Vec<f32> = (0..500).map(|i| ((i * 7) % 11) as f32 - 5.0).collect();
        let b: Vec<f32> = (0..2000).map(|i| ((i * 5) % 13) as f32 - 6.0).collect();
        let depth = Depth {
            count: [3, 4, 2],
            a: [2, 11, 60],
            b: [16, 50, 300],
        };
        for isa in [Isa::Portable, Isa::best()] {
            for n in 1..=ROWS {
                let rows = &[0, 40, 81, 123, 160, 201][..n];
                let mut acc: Tile = [[1.0; LANES]; ROWS];
                multiply(isa, &depth, (&a, rows), &b, Start::Held, &mut acc[..n]);
                for (r, sums) in acc.iter().enumerate() {
                    for (l, &sum) in sums.iter().enumerate() {
                        let mut expected = 1.0;
                        for i in 0..if r < n { 24 } else { 0 } {
                            let at = [i % 3, i / 3 % 4, i / 12];
                            let index = |step: [usize; 3]| (0..3).map(|k| at[k] * step[k]).sum::<usize>();
                            expected += a[rows[r] + index(depth.a)] * b[index(depth.b) + l];
                        }
                        assert_eq!(sum, expected); // small integers: exact in any order
                    }
                }
            }
        }
    }

    #[test]
    fn transposition_moves_every_element() {
        for isa in [Isa::Portable, Isa::best()] {
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
