//! F(4, 3), with the interpolation points 0, a, -a, b, -b and infinity.
//!
//! `a = 1/sqrt 2` and `b = sqrt 2`: their squares are exact, and the error is half of that of the usual 0, 1, -1, 2, -2
//! (docs/cpu.md). With `a^2 = 1/2` and `b^2 = 2`:
//!
//! ```text
//!         [ 1    0  -5/2   0   1  0 ]          [  1      0     0  ]          [ 1   1   1   1   1  0 ]
//!         [ 0  -2a   -2    a   1  0 ]          [-2/3  -2a/3  -1/3 ]          [ 0   a  -a   b  -b  0 ]
//!   B^T = [ 0   2a   -2   -a   1  0 ]      G = [-2/3   2a/3  -1/3 ]    A^T = [ 0  1/2 1/2  2   2  0 ]
//!         [ 0 -b/2  -1/2   b   1  0 ]          [ 1/6   b/6    1/3 ]          [ 0  a/2 -a/2 2b -2b 1 ]
//!         [ 0  b/2  -1/2  -b   1  0 ]          [ 1/6  -b/6    1/3 ]
//!         [ 0    1    0  -5/2  0  1 ]          [  0      0     1  ]
//! ```

use std::f32::consts::{FRAC_1_SQRT_2 as A, SQRT_2 as B};

use super::super::super::super::simd::Simd;
use super::{FILTER, Minimal};

/// F(4, 3).
pub(in super::super) struct F4;

impl Minimal<4, 6> for F4 {
    #[inline(always)]
    fn input<S: Simd>(s: S, d: [S::V; 6]) -> [S::V; 6] {
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

    #[inline(always)]
    fn output<S: Simd>(s: S, m: [S::V; 6]) -> [S::V; 4] {
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

    #[inline(always)]
    fn output_gradient<S: Simd>(s: S, dy: [S::V; 4]) -> [S::V; 6] {
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

    #[inline(always)]
    fn filter<S: Simd>(s: S, w: [S::V; FILTER]) -> [S::V; 6] {
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

    #[inline(always)]
    fn filter_gradient<S: Simd>(s: S, du: [S::V; 6]) -> [S::V; FILTER] {
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
}
