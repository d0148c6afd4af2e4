//! F(2, 3), with the interpolation points 0, 1, -1 and infinity.
//!
//! ```text
//!         [ 1   0  -1   0 ]          [  1     0    0  ]
//!   B^T = [ 0   1   1   0 ]      G = [ 1/2   1/2  1/2 ]      A^T = [ 1   1   1   0 ]
//!         [ 0  -1   1   0 ]          [ 1/2  -1/2  1/2 ]            [ 0   1  -1   1 ]
//!         [ 0  -1   0   1 ]          [  0     0    1  ]
//! ```

use super::super::super::super::simd::Simd;
use super::{FILTER, Minimal};

/// F(2, 3).
pub(in super::super) struct F2;

impl Minimal<2, 4> for F2 {
    #[inline(always)]
    fn input<S: Simd>(s: S, d: [S::V; 4]) -> [S::V; 4] {
        [
            s.sub(d[0], d[2]),
            s.add(d[2], d[1]),
            s.sub(d[2], d[1]),
            s.sub(d[3], d[1]),
        ]
    }

    #[inline(always)]
    fn output<S: Simd>(s: S, m: [S::V; 4]) -> [S::V; 2] {
        let (sum, difference) = (s.add(m[1], m[2]), s.sub(m[1], m[2]));
        [s.add(m[0], sum), s.add(difference, m[3])]
    }

    #[inline(always)]
    fn output_gradient<S: Simd>(s: S, dy: [S::V; 2]) -> [S::V; 4] {
        [dy[0], s.add(dy[0], dy[1]), s.sub(dy[0], dy[1]), dy[1]]
    }

    #[inline(always)]
    fn filter<S: Simd>(s: S, w: [S::V; FILTER]) -> [S::V; 4] {
        let half = s.splat(0.5);
        let (even, odd) = (s.mul(half, s.add(w[0], w[2])), s.mul(half, w[1]));
        [w[0], s.add(even, odd), s.sub(even, odd), w[2]]
    }

    #[inline(always)]
    fn filter_gradient<S: Simd>(s: S, du: [S::V; 4]) -> [S::V; FILTER] {
        let half = s.splat(0.5);
        let even = s.mul(half, s.add(du[1], du[2]));
        let odd = s.mul(half, s.sub(du[1], du[2]));
        [s.add(du[0], even), odd, s.add(even, du[3])]
    }
}
