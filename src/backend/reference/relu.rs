//! The rectifier, and its mask in the data gradients of others. Any shape.

use super::Real;

/// `y = max(y, 0)` in place. NaN passes through, so that divergence stays visible.
pub(super) fn forward<T: Real>(y: &mut [T]) {
    let zero = T::default();
    for y in y {
        *y = if *y < zero { zero } else { *y };
    }
}

/// `dx = dx where y > 0, else 0`, in place; y is the rectifier's value.
pub(super) fn mask<T: Real>(y: &[T], dx: &mut [T]) {
    let zero = T::default();
    for (dx, y) in dx.iter_mut().zip(y) {
        *dx = if *y > zero { *dx } else { zero };
    }
}
