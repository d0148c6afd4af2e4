//! CMYK to RGB as Pillow's `convert("RGB")` does it.

/// Converts (n, 4) samples as a JPEG stores them to (n, 3) RGB.
///
/// JPEG files hold CMYK inverted (Adobe's convention, which Pillow assumes for every CMYK file): 255 is no ink. With
/// k' = 255 - K stored, R = k' - k' * C / 255, and C / 255 is 1 - c' / 255.
pub(super) fn to_rgb(inverted_cmyk: &[u8], rgb: &mut [u8]) {
    for (ink, out) in inverted_cmyk.chunks_exact(4).zip(rgb.chunks_exact_mut(3)) {
        let light = ink[3];
        for (value, &stored) in out.iter_mut().zip(&ink[..3]) {
            *value = light - multiply_255(255 - stored, light);
        }
    }
}

/// `a * b / 255`, rounded; never more than `b`.
fn multiply_255(a: u8, b: u8) -> u8 {
    let product = u32::from(a) * u32::from(b) + 128;
    (((product >> 8) + product) >> 8) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_rounded_and_bounded() {
        for a in 0..=255u8 {
            for b in 0..=255u8 {
                let exact = (f64::from(a) * f64::from(b) / 255.0).round() as u8;
                assert_eq!(multiply_255(a, b), exact);
                assert!(multiply_255(a, b) <= b);
            }
        }
    }

    #[test]
    fn paper_is_white_and_ink_takes_light_away() {
        let mut rgb = [0; 12];
        to_rgb(
            &[
                255, 255, 255, 255, 0, 255, 255, 255, 255, 255, 255, 0, 128, 255, 0, 200,
            ],
            &mut rgb,
        );
        assert_eq!(rgb, [255, 255, 255, 0, 255, 255, 0, 0, 0, 100, 200, 0]);
    }
}
