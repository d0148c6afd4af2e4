//! Finishing the input. The preprocessing that it applies is still the placeholder, so the input is zero.

use super::Real;

/// y: (N, 3, H, W). Overwrites y.
pub(super) fn forward<T: Real>(y: &mut [T]) {
    y.fill(T::default());
}
