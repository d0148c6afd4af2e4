//! Eight f32 in one register, for code that is written once and compiled for every instruction-set path.
//!
//! A [`Simd`] is a token: whoever holds an [`Avx2`] is on a processor that has AVX2 and FMA, so that its operations are
//! safe to call. Code generic over it must end in a function that is compiled for the path, or every operation is a
//! call: [`vectorised`] makes such functions, and what they call is `#[inline(always)]`. Closures cannot be that, so
//! none of them may hold a register.

use super::tile::LANES;

/// Lanes of a register: half a group of channels.
pub(super) const WIDTH: usize = LANES / 2;

/// The two registers of a pixel of a group.
#[inline(always)]
pub(super) fn halves(pixel: &[f32; LANES]) -> &[[f32; WIDTH]; 2] {
    bytemuck::cast_ref(pixel)
}

/// As [`halves`], to be written.
#[inline(always)]
pub(super) fn halves_mut(pixel: &mut [f32; LANES]) -> &mut [[f32; WIDTH]; 2] {
    bytemuck::cast_mut(pixel)
}

/// The operations of one path.
pub(super) trait Simd: Copy {
    /// Eight f32.
    type V: Copy;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, from: &[f32; WIDTH]) -> Self::V;
    fn store(self, x: Self::V, to: &mut [f32; WIDTH]);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, fused where the path has it.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `x < 0 ? 0 : x`: NaN passes.
    fn relu(self, x: Self::V) -> Self::V;
    /// `y > 0 ? x : 0`.
    fn where_positive(self, x: Self::V, y: Self::V) -> Self::V;

    /// The sum of the lanes: the two halves, then their halves, then the two that are left.
    fn sum(self, x: Self::V) -> f32;

    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }
}

/// Plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Plain;

#[inline(always)]
fn map2(a: [f32; WIDTH], b: [f32; WIDTH], f: impl Fn(f32, f32) -> f32) -> [f32; WIDTH] {
    std::array::from_fn(|l| f(a[l], b[l]))
}

impl Simd for Plain {
    type V = [f32; WIDTH];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; WIDTH]
    }
    #[inline(always)]
    fn load(self, from: &[f32; WIDTH]) -> Self::V {
        *from
    }
    #[inline(always)]
    fn store(self, x: Self::V, to: &mut [f32; WIDTH]) {
        *to = x;
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        map2(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        self.add(self.mul(a, b), c)
    }
    #[inline(always)]
    fn relu(self, x: Self::V) -> Self::V {
        x.map(|x| if x < 0.0 { 0.0 } else { x })
    }
    #[inline(always)]
    fn where_positive(self, x: Self::V, y: Self::V) -> Self::V {
        map2(x, y, |x, y| if y > 0.0 { x } else { 0.0 })
    }
    #[inline(always)]
    fn sum(self, x: Self::V) -> f32 {
        let quad: [f32; WIDTH / 2] = std::array::from_fn(|l| x[l] + x[l + WIDTH / 2]);
        (quad[0] + quad[2]) + (quad[1] + quad[3])
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use avx2::Avx2;

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256, _CMP_GT_OQ, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_movehdup_ps, _mm_movehl_ps,
        _mm256_add_ps, _mm256_and_ps, _mm256_castps256_ps128, _mm256_cmp_ps, _mm256_extractf128_ps,
        _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_max_ps, _mm256_mul_ps, _mm256_set1_ps, _mm256_setzero_ps,
        _mm256_storeu_ps, _mm256_sub_ps,
    };

    use super::{Simd, WIDTH};

    /// The processor has AVX2 and FMA.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2(());

    impl Avx2 {
        /// # Safety
        /// The processor has AVX2 and FMA.
        #[inline(always)]
        pub(in super::super) unsafe fn new() -> Self {
            Self(())
        }
    }

    impl Simd for Avx2 {
        type V = __m256;

        #[inline(always)]
        fn splat(self, x: f32) -> __m256 {
            // SAFETY: there is an `Avx2`, so the processor has the instruction; the same in every function below.
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        fn load(self, from: &[f32; WIDTH]) -> __m256 {
            // SAFETY: as above; eight elements are borrowed.
            unsafe { _mm256_loadu_ps(from.as_ptr()) }
        }
        #[inline(always)]
        fn store(self, x: __m256, to: &mut [f32; WIDTH]) {
            // SAFETY: as above; eight elements are borrowed.
            unsafe { _mm256_storeu_ps(to.as_mut_ptr(), x) }
        }
        #[inline(always)]
        fn add(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        fn sub(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_sub_ps(a, b) }
        }
        #[inline(always)]
        fn mul(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn relu(self, x: __m256) -> __m256 {
            // SAFETY: as above. The instruction is `0 > x ? 0 : x`, which is x where x is NaN.
            unsafe { _mm256_max_ps(_mm256_setzero_ps(), x) }
        }
        #[inline(always)]
        fn where_positive(self, x: __m256, y: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_and_ps(x, _mm256_cmp_ps::<_CMP_GT_OQ>(y, _mm256_setzero_ps())) }
        }
        #[inline(always)]
        fn sum(self, x: __m256) -> f32 {
            // SAFETY: as above.
            unsafe {
                let quad = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
                let pair = _mm_add_ps(quad, _mm_movehl_ps(quad, quad));
                _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)))
            }
        }
    }
}

/// Compiles a function once per path: `fn f<S>(simd: S, a: A)` becomes `fn f(isa: Isa, a: A)`.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$simd:ident>($token:ident $(, $arg:ident: $ty:ty)* $(,)?) $body:block) => {
        $(#[$meta])*
        $vis fn $name(isa: $crate::backend::cpu::isa::Isa, $($arg: $ty),*) {
            #[inline(always)]
            fn body<$simd: $crate::backend::cpu::simd::Simd>($token: $simd, $($arg: $ty),*) $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) {
                // SAFETY: this function is compiled for, and called on, a processor with AVX2 and FMA.
                body(unsafe { $crate::backend::cpu::simd::Avx2::new() }, $($arg),*);
            }

            match isa {
                $crate::backend::cpu::isa::Isa::Portable => body($crate::backend::cpu::simd::Plain, $($arg),*),
                // SAFETY: `Isa::Avx2` is made only where the processor has AVX2 and FMA.
                #[cfg(target_arch = "x86_64")]
                $crate::backend::cpu::isa::Isa::Avx2 => unsafe { avx2($($arg),*) },
            }
        }
    };
}
pub(super) use vectorised;
