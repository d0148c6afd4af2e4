//! What views are of, and the types of elements among that.

use std::fmt::Debug;

use bytemuck::{Pod, Zeroable};
use cudarc::driver::DeviceRepr;
use verydeep::backend::cuda::launch;

/// What a view can be of.
pub(crate) trait Stored: Pod + DeviceRepr + Debug {
    /// What guards hold, and outputs before the launch.
    const SENTINEL: Self;

    /// Equal to the bit; of NaN, any but the sentinel.
    fn same(self, expected: Self) -> bool;
}

macro_rules! stored {
    ($type:ty, $sentinel:expr, |$found:ident, $expected:ident| $same:expr) => {
        impl Stored for $type {
            const SENTINEL: Self = $sentinel;

            fn same(self, $expected: Self) -> bool {
                let $found = self;
                $same
            }
        }
    };
}

stored!(f32, f32::from_bits(0x7FC5_A5A5), |found, expected| {
    let (bits, sentinel) = (found.to_bits(), Self::SENTINEL.to_bits());
    bits == expected.to_bits() || (found.is_nan() && expected.is_nan() && bits != sentinel)
});
stored!(Bf16, Bf16(0x7FC5), |found, expected| {
    let nan = found.widen().is_nan() && expected.widen().is_nan();
    found.0 == expected.0 || (nan && found.0 != Self::SENTINEL.0)
});
stored!(f64, f64::from_bits(0x7FFC_5A5A_A5A5_A5A5), |found, expected| {
    found.to_bits() == expected.to_bits()
});
stored!(u8, 0xA5, |found, expected| found == expected);
stored!(u16, 0x7FC5, |found, expected| found == expected);
stored!(u32, 0x7FC5_A5A5, |found, expected| found == expected);
stored!(u64, 0x7FC5_A5A5_7FC5_A5A5, |found, expected| found == expected);

/// The upper half of an f32.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Bf16(pub(crate) u16);

// SAFETY: zeros are a value.
unsafe impl Zeroable for Bf16 {}

// SAFETY: any bits are a value, and there is no padding.
unsafe impl Pod for Bf16 {}

// SAFETY: a plain number.
unsafe impl DeviceRepr for Bf16 {}

/// A type that kernels read and write, and compute with in f32.
pub(crate) trait Element: Stored {
    /// As launchers want it.
    const TYPE: launch::Element;

    /// The nearest value, of two the even one; NaN made quiet.
    fn round(x: f32) -> Self;

    /// The same value.
    fn widen(self) -> f32;
}

impl Element for f32 {
    const TYPE: launch::Element = launch::Element::F32;

    fn round(x: f32) -> Self {
        x
    }

    fn widen(self) -> f32 {
        self
    }
}

impl Element for Bf16 {
    const TYPE: launch::Element = launch::Element::Bf16;

    fn round(x: f32) -> Self {
        let (upper, lower) = ((x.to_bits() >> 16) as u16, x.to_bits() & 0xFFFF);
        Self(match (x.is_nan(), lower) {
            (true, _) => upper | 0x40,
            (false, 0x8000) => upper + upper % 2,
            (false, _) => upper + u16::from(lower > 0x8000),
        })
    }

    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }
}

/// Of each number the nearest that `T` holds.
pub(crate) fn held<T: Element>(values: Vec<f32>) -> Vec<f32> {
    values.into_iter().map(|x| T::round(x).widen()).collect()
}

/// The kernel of that name whose elements are `T`.
pub(crate) fn kernel<T: Element>(name: &str) -> String {
    match T::TYPE {
        launch::Element::F32 => name.to_string(),
        launch::Element::Bf16 => format!("{name}_bf16"),
    }
}

/// The kernel of that name from `From` to `To`.
pub(crate) fn kernel_of_pair<From: Element, To: Element>(name: &str) -> String {
    match [From::TYPE, To::TYPE] {
        [launch::Element::F32, launch::Element::Bf16] => format!("{name}_f32_bf16"),
        [launch::Element::Bf16, launch::Element::F32] => format!("{name}_bf16_f32"),
        _ => kernel::<From>(name),
    }
}
