//! The number types that the reference computes in.

use std::ops::{Add, Div, Mul, Neg, Sub};

/// f32 or f64. Element-wise operations run in the type itself, so that f32 results can be compared by equality; sums
/// run in f64 and are rounded once.
pub trait Real:
    Copy
    + Default
    + PartialOrd
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + Into<f64>
    + From<f32>
    + 'static
{
    /// "f32" or "f64".
    const NAME: &'static str;

    /// The nearest value.
    fn round(value: f64) -> Self;

    /// `self * factor + summand`, rounded once. From the crate `libm`: correctly rounded on every host.
    fn fma(self, factor: Self, summand: Self) -> Self;
}

impl Real for f32 {
    const NAME: &'static str = "f32";

    fn round(value: f64) -> Self {
        value as Self
    }

    fn fma(self, factor: Self, summand: Self) -> Self {
        libm::fmaf(self, factor, summand)
    }
}

impl Real for f64 {
    const NAME: &'static str = "f64";

    fn round(value: f64) -> Self {
        value
    }

    fn fma(self, factor: Self, summand: Self) -> Self {
        libm::fma(self, factor, summand)
    }
}
