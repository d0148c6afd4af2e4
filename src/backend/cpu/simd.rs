//! A pixel of 16 f32 in one or two registers, for code that is written once and compiled for every instruction-set path.
//!
//! A [`Simd`] is a token: whoever holds an [`Avx2`] is on a processor that has AVX2 and FMA, so that its operations are
//! safe to call; so it is with [`Avx512`]. Code generic over it must end in a function that is compiled for the path, or
//! every operation is a call: [`vectorised`] makes such functions, and what they call is `#[inline(always)]`. Closures
//! cannot be that, so none of them may hold a register.

use super::tile::LANES;

/// The operations of one path.
pub(super) trait Simd: Copy {
    /// One register of a pixel.
    type V: Copy;
    /// Registers that a pixel fills.
    const REGISTERS: usize;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, pixel: &[f32; LANES], register: usize) -> Self::V;
    fn store(self, x: Self::V, pixel: &mut [f32; LANES], register: usize);
    /// [`Simd::store`] past the caches, where the pixel starts on a multiple of the register's size: what is there is not
    /// read first. Other threads may read it after a [`fence`](super::stream::fence) of this one.
    fn stream(self, x: Self::V, pixel: &mut [f32; LANES], register: usize);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, fused where the path has it.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `x < 0 ? 0 : x`: NaN passes.
    fn relu(self, x: Self::V) -> Self::V;
    /// `y > 0 ? x : 0`.
    fn where_positive(self, x: Self::V, y: Self::V) -> Self::V;

    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }
}

/// Registers of a pixel at most.
pub(super) const MOST_REGISTERS: usize = 2;

/// The sum of a pixel's lanes: the two halves, then their halves, and so on. The same on every path.
#[inline(always)]
pub(super) fn sum(pixel: &[f32; LANES]) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|l| pixel[l] + pixel[l + 8]);
    let four: [f32; 4] = std::array::from_fn(|l| eight[l] + eight[l + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}

/// Lanes of half a pixel, which fill a register of AVX.
const HALF: usize = LANES / 2;

/// Plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Plain;

#[inline(always)]
fn map2(a: [f32; HALF], b: [f32; HALF], f: impl Fn(f32, f32) -> f32) -> [f32; HALF] {
    std::array::from_fn(|l| f(a[l], b[l]))
}

#[inline(always)]
fn half(pixel: &[f32; LANES], register: usize) -> &[f32; HALF] {
    &bytemuck::cast_ref::<_, [[f32; HALF]; 2]>(pixel)[register]
}

#[inline(always)]
fn half_mut(pixel: &mut [f32; LANES], register: usize) -> &mut [f32; HALF] {
    &mut bytemuck::cast_mut::<_, [[f32; HALF]; 2]>(pixel)[register]
}

impl Simd for Plain {
    type V = [f32; HALF];
    const REGISTERS: usize = 2;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; HALF]
    }
    #[inline(always)]
    fn load(self, pixel: &[f32; LANES], register: usize) -> Self::V {
        *half(pixel, register)
    }
    #[inline(always)]
    fn store(self, x: Self::V, pixel: &mut [f32; LANES], register: usize) {
        *half_mut(pixel, register) = x;
    }
    #[inline(always)]
    fn stream(self, x: Self::V, pixel: &mut [f32; LANES], register: usize) {
        self.store(x, pixel, register);
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
}

#[cfg(target_arch = "x86_64")]
pub(super) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(super) use avx512::Avx512;

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256, _CMP_GT_OQ, _mm256_add_ps, _mm256_and_ps, _mm256_cmp_ps, _mm256_fmadd_ps, _mm256_loadu_ps,
        _mm256_max_ps, _mm256_mul_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps, _mm256_stream_ps,
        _mm256_sub_ps,
    };

    use super::{LANES, Simd, half, half_mut};

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
        const REGISTERS: usize = 2;

        #[inline(always)]
        fn splat(self, x: f32) -> __m256 {
            // SAFETY: there is an `Avx2`, so the processor has the instruction; the same in every function below.
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        fn load(self, pixel: &[f32; LANES], register: usize) -> __m256 {
            // SAFETY: as above; eight elements are borrowed.
            unsafe { _mm256_loadu_ps(half(pixel, register).as_ptr()) }
        }
        #[inline(always)]
        fn store(self, x: __m256, pixel: &mut [f32; LANES], register: usize) {
            // SAFETY: as above; eight elements are borrowed.
            unsafe { _mm256_storeu_ps(half_mut(pixel, register).as_mut_ptr(), x) }
        }
        #[inline(always)]
        fn stream(self, x: __m256, pixel: &mut [f32; LANES], register: usize) {
            let to = half_mut(pixel, register).as_mut_ptr();
            if to.cast::<__m256>().is_aligned() {
                // SAFETY: as above, and the address has just been looked at.
                unsafe { _mm256_stream_ps(to, x) }
            } else {
                self.store(x, pixel, register);
            }
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
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512, _CMP_GT_OQ, _mm512_add_ps, _mm512_cmp_ps_mask, _mm512_fmadd_ps, _mm512_loadu_ps,
        _mm512_maskz_mov_ps, _mm512_max_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps,
        _mm512_storeu_ps, _mm512_stream_ps, _mm512_sub_ps,
    };

    use super::{LANES, Simd};

    /// The processor has AVX-512.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx512(());

    impl Avx512 {
        /// # Safety
        /// The processor has AVX-512 F, BW, DQ and VL.
        #[inline(always)]
        pub(in super::super) unsafe fn new() -> Self {
            Self(())
        }
    }

    impl Simd for Avx512 {
        type V = __m512;
        const REGISTERS: usize = 1;

        #[inline(always)]
        fn splat(self, x: f32) -> __m512 {
            // SAFETY: there is an `Avx512`, so the processor has the instruction; the same in every function below.
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        fn load(self, pixel: &[f32; LANES], _: usize) -> __m512 {
            // SAFETY: as above; 16 elements are borrowed.
            unsafe { _mm512_loadu_ps(pixel.as_ptr()) }
        }
        #[inline(always)]
        fn store(self, x: __m512, pixel: &mut [f32; LANES], _: usize) {
            // SAFETY: as above; 16 elements are borrowed.
            unsafe { _mm512_storeu_ps(pixel.as_mut_ptr(), x) }
        }
        #[inline(always)]
        fn stream(self, x: __m512, pixel: &mut [f32; LANES], register: usize) {
            let to = pixel.as_mut_ptr();
            if to.cast::<__m512>().is_aligned() {
                // SAFETY: as above, and the address has just been looked at.
                unsafe { _mm512_stream_ps(to, x) }
            } else {
                self.store(x, pixel, register);
            }
        }
        #[inline(always)]
        fn add(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        fn sub(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        fn mul(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn relu(self, x: __m512) -> __m512 {
            // SAFETY: as above. The instruction is `0 > x ? 0 : x`, which is x where x is NaN.
            unsafe { _mm512_max_ps(_mm512_setzero_ps(), x) }
        }
        #[inline(always)]
        fn where_positive(self, x: __m512, y: __m512) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(y, _mm512_setzero_ps()), x) }
        }
    }
}

/// Compiles a function once per path: `fn f<S>(simd: S, a: A)` becomes `fn f(isa: Isa, a: A)`. After S there may be one
/// more type, and numbers: `fn f<S, T: Bound<N>, const N: usize>(simd: S, a: A)` becomes
/// `fn f<T: Bound<N>, const N: usize>(isa: Isa, a: A)`.
macro_rules! vectorised {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident<$simd:ident $(, $type:ident: $bound:path, $(const $number:ident: usize),+)?>(
            $token:ident $(, $arg:ident: $ty:ty)* $(,)?
        ) $body:block
    ) => {
        $(#[$meta])*
        $vis fn $name<$($type: $bound, $(const $number: usize),+)?>(
            isa: $crate::backend::cpu::isa::Isa,
            $($arg: $ty),*
        ) {
            #[inline(always)]
            fn body<$simd: $crate::backend::cpu::simd::Simd $(, $type: $bound, $(const $number: usize),+)?>(
                $token: $simd,
                $($arg: $ty),*
            ) $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2<$($type: $bound, $(const $number: usize),+)?>($($arg: $ty),*) {
                // SAFETY: this function is compiled for, and called on, a processor with AVX2 and FMA.
                body::<_ $(, $type, $($number),+)?>(unsafe { $crate::backend::cpu::simd::Avx2::new() }, $($arg),*);
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512<$($type: $bound, $(const $number: usize),+)?>($($arg: $ty),*) {
                // SAFETY: this function is compiled for, and called on, a processor with AVX-512.
                body::<_ $(, $type, $($number),+)?>(unsafe { $crate::backend::cpu::simd::Avx512::new() }, $($arg),*);
            }

            match isa {
                $crate::backend::cpu::isa::Isa::Portable => {
                    body::<_ $(, $type, $($number),+)?>($crate::backend::cpu::simd::Plain, $($arg),*)
                }
                // SAFETY: `Isa::Avx2` is made only where the processor has AVX2 and FMA.
                #[cfg(target_arch = "x86_64")]
                $crate::backend::cpu::isa::Isa::Avx2 => unsafe { avx2::<$($type, $($number),+)?>($($arg),*) },
                // SAFETY: `Isa::Avx512` is made only where the processor has AVX-512.
                #[cfg(target_arch = "x86_64")]
                $crate::backend::cpu::isa::Isa::Avx512 => unsafe { avx512::<$($type, $($number),+)?>($($arg),*) },
            }
        }
    };
}
pub(super) use vectorised;
