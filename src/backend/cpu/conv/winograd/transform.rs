//! The transforms of F(4, 3), one-dimensional, and how two of them make a two-dimensional one.
//!
//! Interpolation points 0, a, -a, b, -b and infinity with `a = 1/sqrt 2`, `b = sqrt 2`: their squares are exact, and
//! the error is half of that of the usual 0, 1, -1, 2, -2 (docs/cpu.md). With `a^2 = 1/2` and `b^2 = 2`:
//!
//! ```text
//!         [ 1    0  -5/2   0   1  0 ]          [  1      0     0  ]          [ 1   1   1   1   1  0 ]
//!         [ 0  -2a   -2    a   1  0 ]          [-2/3  -2a/3  -1/3 ]          [ 0   a  -a   b  -b  0 ]
//!   B^T = [ 0   2a   -2   -a   1  0 ]      G = [-2/3   2a/3  -1/3 ]    A^T = [ 0  1/2 1/2  2   2  0 ]
//!         [ 0 -b/2  -1/2   b   1  0 ]          [ 1/6   b/6    1/3 ]          [ 0  a/2 -a/2 2b -2b 1 ]
//!         [ 0  b/2  -1/2  -b   1  0 ]          [ 1/6  -b/6    1/3 ]
//!         [ 0    1    0  -5/2  0  1 ]          [  0      0     1  ]
//! ```
//!
//! Rows of a point and of its negative share their even and odd parts.

use std::f32::consts::{FRAC_1_SQRT_2 as A, SQRT_2 as B};

use super::super::super::simd::Simd;
use super::{INPUTS, OUTPUTS};

/// Side of a filter.
pub(super) const FILTER: usize = 3;

/// `B^T d`.
#[inline(always)]
pub(super) fn input<S: Simd>(s: S, d: [S::V; INPUTS]) -> [S::V; INPUTS] {
    let minus_5_2 = s.splat(-2.5);
    let minus_2 = s.splat(-2.0);
    let minus_half = s.splat(-0.5);
    let a = s.splat(A);
    let minus_a = s.splat(-A);
    let b = s.splat(B);
    let minus_b = s.splat(-B);
    let even_a = s.mul_add(minus_2, d[2], d[4]);
    let odd_a = s.mul_add(minus_2, d[1], d[3]);
    let even_b = s.mul_add(minus_half, d[2], d[4]);
    let odd_b = s.mul_add(minus_half, d[1], d[3]);
    [
        s.add(d[0], s.mul_add(minus_5_2, d[2], d[4])),
        s.mul_add(a, odd_a, even_a),
        s.mul_add(minus_a, odd_a, even_a),
        s.mul_add(b, odd_b, even_b),
        s.mul_add(minus_b, odd_b, even_b),
        s.add(d[1], s.mul_add(minus_5_2, d[3], d[5])),
    ]
}

/// `A^T m`.
#[inline(always)]
pub(super) fn output<S: Simd>(s: S, m: [S::V; INPUTS]) -> [S::V; OUTPUTS] {
    let half = s.splat(0.5);
    let two = s.splat(2.0);
    let a = s.splat(A);
    let b = s.splat(B);
    let half_a = s.splat(0.5 * A);
    let two_b = s.splat(2.0 * B);
    let (sum_a, difference_a) = (s.add(m[1], m[2]), s.sub(m[1], m[2]));
    let (sum_b, difference_b) = (s.add(m[3], m[4]), s.sub(m[3], m[4]));
    [
        s.add(m[0], s.add(sum_a, sum_b)),
        s.mul_add(a, difference_a, s.mul(b, difference_b)),
        s.mul_add(half, sum_a, s.mul(two, sum_b)),
        s.mul_add(half_a, difference_a, s.mul_add(two_b, difference_b, m[5])),
    ]
}

/// `A dy`.
#[inline(always)]
pub(super) fn output_gradient<S: Simd>(s: S, dy: [S::V; OUTPUTS]) -> [S::V; INPUTS] {
    let half = s.splat(0.5);
    let two = s.splat(2.0);
    let a = s.splat(A);
    let b = s.splat(B);
    let even_a = s.mul_add(half, dy[2], dy[0]);
    let odd_a = s.mul(a, s.mul_add(half, dy[3], dy[1]));
    let even_b = s.mul_add(two, dy[2], dy[0]);
    let odd_b = s.mul(b, s.mul_add(two, dy[3], dy[1]));
    [
        dy[0],
        s.add(even_a, odd_a),
        s.sub(even_a, odd_a),
        s.add(even_b, odd_b),
        s.sub(even_b, odd_b),
        dy[3],
    ]
}

/// `G w`.
#[inline(always)]
pub(super) fn filter<S: Simd>(s: S, w: [S::V; FILTER]) -> [S::V; INPUTS] {
    let third = s.splat(1.0 / 3.0);
    let minus_third = s.splat(-1.0 / 3.0);
    let sixth = s.splat(1.0 / 6.0);
    let minus_two_thirds = s.splat(-2.0 / 3.0);
    let even_a = s.mul_add(minus_two_thirds, w[0], s.mul(minus_third, w[2]));
    let odd_a = s.mul(s.splat(-2.0 / 3.0 * A), w[1]);
    let even_b = s.mul_add(sixth, w[0], s.mul(third, w[2]));
    let odd_b = s.mul(s.splat(B / 6.0), w[1]);
    [
        w[0],
        s.add(even_a, odd_a),
        s.sub(even_a, odd_a),
        s.add(even_b, odd_b),
        s.sub(even_b, odd_b),
        w[2],
    ]
}

/// `G^T du`.
#[inline(always)]
pub(super) fn filter_gradient<S: Simd>(s: S, du: [S::V; INPUTS]) -> [S::V; FILTER] {
    let third = s.splat(1.0 / 3.0);
    let sixth = s.splat(1.0 / 6.0);
    let minus_two_thirds = s.splat(-2.0 / 3.0);
    let (sum_a, difference_a) = (s.add(du[1], du[2]), s.sub(du[1], du[2]));
    let (sum_b, difference_b) = (s.add(du[3], du[4]), s.sub(du[3], du[4]));
    let odd_a = s.mul(s.splat(-2.0 / 3.0 * A), difference_a);
    [
        s.add(du[0], s.mul_add(minus_two_thirds, sum_a, s.mul(sixth, sum_b))),
        s.mul_add(s.splat(B / 6.0), difference_b, odd_a),
        s.mul_add(third, s.sub(sum_b, sum_a), du[5]),
    ]
}

/// `$transform`, a function of `$from` registers to `$to`, down the columns and then along the rows of a matrix:
/// `T X T^T` of `T x`.
///
/// A macro, because what it is given must end in the function that is compiled for the path, and closures need not.
macro_rules! both_ways {
    (
        $s:ident, $transform:path, $from:ident to $to:ident,
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
        for $k in 0..$to {
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

#[cfg(test)]
mod tests {
    use super::super::super::super::simd::{Plain, Simd};
    use super::*;

    /// A one-dimensional transform of lane 0.
    fn one<const F: usize, const T: usize>(
        f: impl Fn([<Plain as Simd>::V; F]) -> [<Plain as Simd>::V; T],
        x: [f32; F],
    ) -> [f32; T] {
        f(x.map(|x| Plain.splat(x))).map(|y| y[0])
    }

    #[test]
    fn a_tile_is_a_correlation() {
        let d = [0.3, -1.0, 2.0, 0.7, -0.2, 1.5];
        let w = [1.0, -0.5, 0.25];
        let v = one(|d| input(Plain, d), d);
        let u = one(|w| filter(Plain, w), w);
        let y = one(|m| output(Plain, m), std::array::from_fn(|t| v[t] * u[t]));
        for (i, y) in y.into_iter().enumerate() {
            let expected: f32 = (0..3).map(|r| w[r] * d[i + r]).sum();
            assert!((y - expected).abs() < 1e-5, "{y} {expected}");
        }
    }

    #[test]
    fn gradients_are_transposed() {
        // <A^T m, dy> = <m, A dy> and <G w, du> = <w, G^T du>.
        let m = [0.3, -1.0, 2.0, 0.7, -0.2, 1.5];
        let (dy, w) = ([0.5, -2.0, 1.0, 0.1], [1.0, -0.5, 0.25]);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let (y, dm) = (
            one(|m| output(Plain, m), m),
            one(|y| output_gradient(Plain, y), dy),
        );
        assert!((dot(&y, &dy) - dot(&m, &dm)).abs() < 1e-4);
        let (u, dw) = (
            one(|w| filter(Plain, w), w),
            one(|u| filter_gradient(Plain, u), m),
        );
        assert!((dot(&u, &m) - dot(&w, &dw)).abs() < 1e-4);
    }
}
