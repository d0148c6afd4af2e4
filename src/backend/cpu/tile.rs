//! The kernel that multiplies many by many: a tile of a few rows by one or two panels of 16 lanes.
//!
//! `acc[p][r][l] += sum over the depth d of a[r * a_step + d] * b[p * b_step + d][l]`
//!
//! Convolutions and the gradients of fully connected layers differ in what they call rows, lanes and depth. The depth
//! is up to three nested loops with their own strides, so that rows are read in place: the channels of a group, then the
//! next group; or a row of pixels, then the next one. Every lane sums in the order of the depth, so that results depend
//! neither on the shape of the tile, which differs between paths, nor on where the depth is cut.

use super::isa::Isa;
use super::stream;

/// Lanes of a panel.
pub(super) const LANES: usize = 16;
/// Rows of a full tile on any path.
pub(super) const MOST_ROWS: usize = 14;

/// Sums of one panel of a tile; the first so many rows are in use.
pub(super) type Tile = [[f32; LANES]; MOST_ROWS];

impl Isa {
    /// Rows of a full tile: what leaves a register for a factor of a, and one for each register of b's lanes.
    pub(super) fn rows(self) -> usize {
        match self {
            // 6 rows of 2 of the 16 registers; portable code is compiled for as many.
            Self::Portable => 6,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 6,
            // 14 rows of 2 panels of the 32 registers.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => MOST_ROWS,
        }
    }
}

/// Nested loops over the depth, innermost first: how often, and by how many elements each operand advances.
#[derive(Debug, Clone, Copy)]
pub(super) struct Depth {
    pub(super) count: [usize; 3],
    pub(super) a: [usize; 3],
    pub(super) b: [usize; 3],
    /// What is fetched meanwhile.
    pub(super) ahead: [Ahead; 2],
}

/// Lines that a later tile needs, fetched round by round of the second loop, so that they do not hold up this one. Speed
/// only.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ahead {
    /// The first of them; an address that nothing is at does no harm.
    pub(super) at: *const f32,
    /// Neighbours of one round.
    pub(super) lines: usize,
    /// Elements from the first of one round to that of the next.
    pub(super) step: usize,
}

// SAFETY: nothing is read or written at the address.
unsafe impl Sync for Ahead {}

impl Ahead {
    /// Nothing.
    pub(super) const NONE: Self = Self {
        at: std::ptr::null(),
        lines: 0,
        step: 0,
    };

    #[inline(always)]
    fn fetch(&self, round: usize) {
        for line in 0..self.lines {
            stream::prefetch(self.at.wrapping_add(round * self.step + line * LANES));
        }
    }
}

impl Depth {
    /// One loop over `count`: `a` by `a_step`, `b` by whole rows of lanes.
    pub(super) fn flat(count: usize, a_step: usize) -> Self {
        Self {
            count: [count, 1, 1],
            a: [a_step, 0, 0],
            b: [LANES, 0, 0],
            ahead: [Ahead::NONE; 2],
        }
    }

    /// How far the last element lies behind the first.
    fn span(&self, step: [usize; 3]) -> usize {
        (0..3).map(|i| (self.count[i] - 1) * step[i]).sum()
    }
}

/// Cuts `total` rows into strips of at most [`Isa::rows`], as equal as possible: strip `index` is (first row, rows).
pub(super) fn strip(isa: Isa, total: usize, index: usize) -> (usize, usize) {
    let strips = strips(isa, total);
    let (small, larger) = (total / strips, total % strips);
    (
        index * small + index.min(larger),
        small + usize::from(index < larger),
    )
}

/// How many strips `total` rows are.
pub(super) fn strips(isa: Isa, total: usize) -> usize {
    total.div_ceil(isa.rows())
}

/// Where the sums of a tile begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// At zero: what the sums held is overwritten.
    Zero,
    /// At what they hold.
    Held,
}

/// An operand and how far its rows (of a) or panels (of b) are apart.
pub(super) type Spaced<'a> = (&'a [f32], usize);

/// `acc[p][r][l] = start + sum over d of a[r * a_step + d] * b[p * b_step + d][l]` for every panel p, of `P`, and every
/// row r of it. All panels have as many rows, at most [`Isa::rows`].
pub(super) fn multiply<const P: usize>(
    isa: Isa,
    depth: &Depth,
    a: Spaced<'_>,
    b: Spaced<'_>,
    start: Start,
    acc: [&mut [[f32; LANES]]; P],
) {
    match acc.first().map_or(0, |panel| panel.len()) {
        0 => {}
        1 => sized::<P, 1>(isa, depth, a, b, start, acc),
        2 => sized::<P, 2>(isa, depth, a, b, start, acc),
        3 => sized::<P, 3>(isa, depth, a, b, start, acc),
        4 => sized::<P, 4>(isa, depth, a, b, start, acc),
        5 => sized::<P, 5>(isa, depth, a, b, start, acc),
        6 => sized::<P, 6>(isa, depth, a, b, start, acc),
        7 => sized::<P, 7>(isa, depth, a, b, start, acc),
        8 => sized::<P, 8>(isa, depth, a, b, start, acc),
        9 => sized::<P, 9>(isa, depth, a, b, start, acc),
        10 => sized::<P, 10>(isa, depth, a, b, start, acc),
        11 => sized::<P, 11>(isa, depth, a, b, start, acc),
        12 => sized::<P, 12>(isa, depth, a, b, start, acc),
        13 => sized::<P, 13>(isa, depth, a, b, start, acc),
        14 => sized::<P, 14>(isa, depth, a, b, start, acc),
        rows => panic!("a tile of {rows} rows"),
    }
}

#[inline(always)]
fn sized<const P: usize, const R: usize>(
    isa: Isa,
    depth: &Depth,
    (a, a_step): Spaced<'_>,
    (b, b_step): Spaced<'_>,
    start: Start,
    acc: [&mut [[f32; LANES]]; P],
) {
    let mut acc: [&mut [[f32; LANES]; R]; P] = acc.map(|panel| panel.try_into().expect("as many rows"));
    if depth.count.contains(&0) {
        if start == Start::Zero {
            acc.into_iter().for_each(|panel| *panel = [[0.0; LANES]; R]);
        }
        return;
    }
    let last = |count: usize, step: usize| (count - 1) * step;
    assert!(
        last(R, a_step) + depth.span(depth.a) < a.len(),
        "rows end inside a"
    );
    assert!(
        last(P, b_step) + depth.span(depth.b) + LANES <= b.len(),
        "lanes end inside b"
    );
    // The paths with fewer registers have a tile of one panel.
    match isa {
        Isa::Portable => {
            for (p, acc) in acc.into_iter().enumerate() {
                portable(depth, (a, a_step), &b[p * b_step..], start, acc);
            }
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => {
            for (p, acc) in acc.into_iter().enumerate() {
                let b = b[p * b_step..].as_ptr();
                // SAFETY: `Isa::Avx2` is made only where the processor has AVX2 and FMA; the assertions above keep
                // every element that `avx2` reads inside `a` and `b`.
                unsafe { avx2(depth, (a.as_ptr(), a_step), b, start, acc) }
            }
        }
        // SAFETY: `Isa::Avx512` is made only where the processor has AVX-512; for the rest, as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe {
            avx512(depth, (a.as_ptr(), a_step), (b.as_ptr(), b_step), start, &mut acc);
        },
    }
}

/// Without fused multiply-adds, which are library calls here.
fn portable<const R: usize>(
    depth: &Depth,
    (a, a_step): Spaced<'_>,
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
                for (r, sums) in sums.iter_mut().enumerate() {
                    let a = a[r * a_step + at_a];
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
/// AVX2 and FMA; `a[r * a_step + ..]` and `b[..][0..16]` lie inside their allocations for the whole depth.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn avx2<const R: usize>(
    depth: &Depth,
    (a, a_step): (*const f32, usize),
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
    for i2 in 0..count2 {
        for i1 in 0..count1 {
            depth.ahead.iter().for_each(|ahead| ahead.fetch(i1));
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
                    // SAFETY: as above.
                    let a = unsafe { _mm256_broadcast_ss(&*a.add(r * a_step)) };
                    low[r] = _mm256_fmadd_ps(a, b_low, low[r]);
                    high[r] = _mm256_fmadd_ps(a, b_high, high[r]);
                }
                // Past the last element the pointers are not used; `wrapping_add` allows them to exist.
                (a, b) = (a.wrapping_add(depth.a[0]), b.wrapping_add(depth.b[0]));
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

/// # Safety
/// AVX-512F; `a[r * a_step + ..]` and `b[p * b_step + ..][0..16]` lie inside their allocations for the whole depth.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn avx512<const P: usize, const R: usize>(
    depth: &Depth,
    (a, a_step): (*const f32, usize),
    (b, b_step): (*const f32, usize),
    start: Start,
    acc: &mut [&mut [[f32; LANES]; R]; P],
) {
    use std::arch::x86_64::{
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };
    /// Rows of a whose addresses are made of one pointer: it and once, twice or thrice the step. Pointers for all rows
    /// would not find room in registers.
    const ROWS_OF_POINTER: usize = 4;
    let mut sums = [[_mm512_setzero_ps(); P]; R];
    if start == Start::Held {
        for r in 0..R {
            for p in 0..P {
                // SAFETY: rows of 16 elements.
                sums[r][p] = unsafe { _mm512_loadu_ps(acc[p][r].as_ptr()) };
            }
        }
    }
    let [count, count1, count2] = depth.count;
    for i2 in 0..count2 {
        for i1 in 0..count1 {
            depth.ahead.iter().for_each(|ahead| ahead.fetch(i1));
            let at = i2 * depth.a[2] + i1 * depth.a[1];
            // SAFETY: the start of a loop lies inside what the caller promised.
            let mut b = unsafe { b.add(i2 * depth.b[2] + i1 * depth.b[1]) };
            let mut pointers: [*const f32; MOST_ROWS.div_ceil(ROWS_OF_POINTER)] =
                std::array::from_fn(|i| a.wrapping_add(at + i * ROWS_OF_POINTER * a_step));
            for _ in 0..count {
                let mut lanes = [_mm512_setzero_ps(); P];
                for (p, lanes) in lanes.iter_mut().enumerate() {
                    // SAFETY: the caller promised every element of the depth.
                    *lanes = unsafe { _mm512_loadu_ps(b.add(p * b_step)) };
                }
                for r in 0..R {
                    let pointer = pointers[r / ROWS_OF_POINTER];
                    // SAFETY: as above.
                    let a = _mm512_set1_ps(unsafe { *pointer.add(r % ROWS_OF_POINTER * a_step) });
                    for p in 0..P {
                        sums[r][p] = _mm512_fmadd_ps(a, lanes[p], sums[r][p]);
                    }
                }
                // Past the last element the pointers are not used; `wrapping_add` allows them to exist.
                pointers.iter_mut().for_each(|a| *a = a.wrapping_add(depth.a[0]));
                b = b.wrapping_add(depth.b[0]);
            }
        }
    }
    for r in 0..R {
        for p in 0..P {
            // SAFETY: rows of 16 elements.
            unsafe { _mm512_storeu_ps(acc[p][r].as_mut_ptr(), sums[r][p]) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_cover_the_rows() {
        for isa in Isa::all() {
            for total in 1..200 {
                let mut next = 0;
                for index in 0..strips(isa, total) {
                    let (first, rows) = strip(isa, total, index);
                    assert!(first == next && (1..=isa.rows()).contains(&rows));
                    next += rows;
                }
                assert_eq!(next, total);
            }
        }
    }

    #[test]
    fn tiles_are_sums_of_products() {
        let a: Vec<f32> = (0..900).map(|i| ((i * 7) % 11) as f32 - 5.0).collect();
        let b: Vec<f32> = (0..2000).map(|i| ((i * 5) % 13) as f32 - 6.0).collect();
        let depth = Depth {
            count: [3, 4, 2],
            a: [2, 11, 60],
            b: [16, 50, 300],
            ahead: [Ahead::NONE; 2],
        };
        let (a_step, b_step) = (41, 700);
        for isa in Isa::all() {
            for n in 1..=isa.rows() {
                let mut acc: [Tile; 2] = [[[1.0; LANES]; MOST_ROWS]; 2];
                let [first, second] = acc.each_mut().map(|panel| &mut panel[..n]);
                let (a, b) = ((&a[..], a_step), (&b[..], b_step));
                multiply(isa, &depth, a, b, Start::Held, [first, second]);
                let mut alone: Tile = [[7.0; LANES]; MOST_ROWS];
                multiply(isa, &depth, a, b, Start::Zero, [&mut alone[..n]]);
                for (p, panel) in acc.iter().enumerate() {
                    for (r, sums) in panel.iter().enumerate() {
                        for (l, &sum) in sums.iter().enumerate() {
                            let mut expected = 1.0;
                            for i in 0..if r < n { 24 } else { 0 } {
                                let at = [i % 3, i / 3 % 4, i / 12];
                                let index = |step: [usize; 3]| (0..3).map(|k| at[k] * step[k]).sum::<usize>();
                                let b = b.0[p * b_step + index(depth.b) + l];
                                expected += a.0[r * a_step + index(depth.a)] * b;
                            }
                            assert_eq!(sum, expected, "{isa:?} {n} {p} {r} {l}"); // small integers: exact in any order
                            if p == 0 {
                                let expected = if r < n { expected - 1.0 } else { 7.0 };
                                assert_eq!(alone[r][l], expected, "{isa:?} {n} {r} {l}");
                            }
                        }
                    }
                }
            }
        }
    }
}
