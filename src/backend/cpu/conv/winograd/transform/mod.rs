//! The transforms of a tile: one-dimensional, and how two of them make a two-dimensional one.
//!
//! Winograd's minimal filtering F(m, 3) makes m outputs of `m + 2` inputs with as many products:
//!
//! ```text
//! y = A^T [ (G w) . (B^T d) ]          . is element by element
//! ```
//!
//! The matrices interpolate polynomials at `m + 1` points and at infinity. Rows of a point and of its negative share their
//! even and odd parts.

mod f2;
mod f4;

pub(super) use f2::F2;
pub(super) use f4::F4;

use super::super::super::simd::Simd;

/// Side of a filter.
pub(super) const FILTER: usize = 3;

/// F(O, 3): O outputs of I inputs, one-dimensional. Each size is a type.
pub(super) trait Minimal<const O: usize, const I: usize> {
    /// `B^T d`.
    fn input<S: Simd>(s: S, d: [S::V; I]) -> [S::V; I];
    /// `A^T m`.
    fn output<S: Simd>(s: S, m: [S::V; I]) -> [S::V; O];
    /// `A dy`.
    fn output_gradient<S: Simd>(s: S, dy: [S::V; O]) -> [S::V; I];
    /// `G w`.
    fn filter<S: Simd>(s: S, w: [S::V; FILTER]) -> [S::V; I];
    /// `G^T du`.
    fn filter_gradient<S: Simd>(s: S, du: [S::V; I]) -> [S::V; FILTER];
}

/// `$call`, in which `$f` is the type of the tiles' size.
macro_rules! for_size {
    ($size:expr, $f:ident => $call:expr) => {
        match $size {
            $crate::backend::cpu::conv::winograd::TileSize::Two => {
                type $f = $crate::backend::cpu::conv::winograd::transform::F2;
                $call
            }
            $crate::backend::cpu::conv::winograd::TileSize::Four => {
                type $f = $crate::backend::cpu::conv::winograd::transform::F4;
                $call
            }
        }
    };
}
pub(super) use for_size;

/// `$transform`, a function of `$from` registers to `$to`, down the columns and then along the rows of a matrix:
/// `T X T^T` of `T x`.
///
/// A macro, because what it is given must end in the function that is compiled for the path, and closures need not.
macro_rules! both_ways {
    (
        $s:ident, $transform:path, $from:ident to $to:ident,
        ($i:ident, $j:ident) => $load:expr,
        ($k:ident, $l:ident, $value:ident) => $store:expr $(,)?
    ) => {
        $crate::backend::cpu::conv::winograd::transform::both_ways!(
            $s, $transform, $from to $to, rows 0..$to, ($i, $j) => $load, ($k, $l, $value) => $store,
        )
    };
    // Some rows of the result.
    (
        $s:ident, $transform:path, $from:ident to $to:ident, rows $rows:expr,
        ($i:ident, $j:ident) => $load:expr,
        ($k:ident, $l:ident, $value:ident) => $store:expr $(,)?
    ) => {{
        let zero = $s.zero();
        let mut columns = [[zero; $to]; $from];
        for $j in 0..$from {
            let mut column = [zero; $from];
            for $i in 0..$from {
                column[$i] = $load;
            }
            columns[$j] = $transform($s, column);
        }
        for $k in $rows {
            let mut row = [zero; $from];
            for j in 0..$from {
                row[j] = columns[j][$k];
            }
            let row = $transform($s, row);
            for $l in 0..$to {
                let $value = row[$l];
                $store;
            }
        }
    }};
}
pub(super) use both_ways;

/// [`both_ways`] for half of the rows, and then for the others with everything loaded again from `$source`, which is hidden
/// from the compiler in between: it would keep what it has loaded, and 36 values do not find room in the registers.
macro_rules! in_halves {
    (
        $s:ident, $transform:path, $from:ident to $to:ident, $source:ident,
        ($i:ident, $j:ident) => $load:expr,
        ($k:ident, $l:ident, $value:ident) => $store:expr $(,)?
    ) => {
        $crate::backend::cpu::conv::winograd::transform::both_ways!(
            $s, $transform, $from to $to, rows 0..$to / 2, ($i, $j) => $load, ($k, $l, $value) => $store,
        );
        let $source = std::hint::black_box($source);
        $crate::backend::cpu::conv::winograd::transform::both_ways!(
            $s, $transform, $from to $to, rows $to / 2..$to, ($i, $j) => $load, ($k, $l, $value) => $store,
        );
    };
}
pub(super) use in_halves;

#[cfg(test)]
mod tests {
    use super::super::super::super::simd::{Plain, Simd};
    use super::*;

    const D: [f32; 6] = [0.3, -1.0, 2.0, 0.7, -0.2, 1.5];
    const DY: [f32; 4] = [0.5, -2.0, 1.0, 0.1];
    const W: [f32; FILTER] = [1.0, -0.5, 0.25];

    /// A one-dimensional transform of lane 0.
    fn one<const F: usize, const T: usize>(
        f: impl Fn(Plain, [<Plain as Simd>::V; F]) -> [<Plain as Simd>::V; T],
        x: [f32; F],
    ) -> [f32; T] {
        f(Plain, x.map(|x| Plain.splat(x))).map(|y| y[0])
    }

    /// The first of some numbers.
    fn first<const N: usize>(x: &[f32]) -> [f32; N] {
        *x.first_chunk().unwrap()
    }

    fn is_a_correlation<F: Minimal<O, I>, const O: usize, const I: usize>() {
        let (v, u) = (one(F::input, first::<I>(&D)), one(F::filter, W));
        let y = one(F::output, std::array::from_fn(|t| v[t] * u[t]));
        for (i, y) in y.into_iter().enumerate() {
            let expected: f32 = (0..FILTER).map(|r| W[r] * D[i + r]).sum();
            assert!((y - expected).abs() < 1e-5, "F({O}, 3), {i}: {y} {expected}");
        }
    }

    #[test]
    fn a_tile_is_a_correlation() {
        is_a_correlation::<F2, _, _>();
        is_a_correlation::<F4, _, _>();
    }

    /// `<A^T m, dy> = <m, A dy>` and `<G w, du> = <w, G^T du>`.
    fn gradient_is_transposed<F: Minimal<O, I>, const O: usize, const I: usize>() {
        let (m, dy) = (first::<I>(&D), first::<O>(&DY));
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let (y, dm) = (one(F::output, m), one(F::output_gradient, dy));
        assert!((dot(&y, &dy) - dot(&m, &dm)).abs() < 1e-4, "F({O}, 3)");
        let (u, dw) = (one(F::filter, W), one(F::filter_gradient, m));
        assert!((dot(&u, &m) - dot(&W, &dw)).abs() < 1e-4, "F({O}, 3)");
    }

    #[test]
    fn gradients_are_transposed() {
        gradient_is_transposed::<F2, _, _>();
        gradient_is_transposed::<F4, _, _>();
    }
}
