//! What the factors of products are rounded to.

use std::borrow::Cow;

use super::Real;

/// The factors of convolutions and fully connected layers, as they are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Factors {
    AsTheyAre,
    /// Rounded to the 10 bits of fraction that TF32 keeps, ties away from zero.
    Tf32,
}

impl Factors {
    pub(super) fn of<T: Real>(self, values: &[T]) -> Cow<'_, [T]> {
        match self {
            Self::AsTheyAre => values.into(),
            Self::Tf32 => values
                .iter()
                .map(|&value| T::from(to_tf32(value.into() as f32)))
                .collect(),
        }
    }
}

/// Half of the last bit that is kept, then without the bits behind it: also right where that carries into the exponent.
fn to_tf32(value: f32) -> f32 {
    if value.is_finite() {
        f32::from_bits((value.to_bits() + 0x1000) & !0x1fff)
    } else {
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tf32_is_the_nearest_of_its_numbers() {
        let last = 2f32.powi(-10);
        for (value, expected) in [
            (1.0 + last, 1.0 + last),
            (1.0 + 0.49 * last, 1.0),
            (1.0 + 0.5 * last, 1.0 + last),
            (-1.0 - 0.5 * last, -1.0 - last),
            (2.0 - 0.25 * last, 2.0),
            (0.0, 0.0),
        ] {
            assert_eq!(to_tf32(value), expected, "{value}");
        }
        assert!(Factors::Tf32.of(&[f32::NAN])[0].is_nan());
        assert_eq!(Factors::AsTheyAre.of(&[1.0 + 0.1 * last])[0], 1.0 + 0.1 * last);
    }
}
