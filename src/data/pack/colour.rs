//! Mean and principal components of the training pixels, exactly: integer sums do not depend on their order.

use serde::{Deserialize, Serialize};

use crate::data::manifest::PcaRgb;

/// The upper triangle of a symmetric 3x3 matrix.
const PAIRS: [(usize, usize); 6] = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)];

/// Sums over pixels of the channels and of their products.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ColourSums {
    pixels: u128,
    sums: [u128; 3],
    products: [u128; 6],
}

impl ColourSums {
    /// The sums of one image, RGB 8 bits.
    pub(super) fn of(rgb: &[u8]) -> Self {
        /// So many products of two bytes fit into 32 bits.
        const CHUNK: usize = 1 << 16;
        let mut total = Self {
            pixels: (rgb.len() / 3) as u128,
            ..Self::default()
        };
        for chunk in rgb.chunks(3 * CHUNK) {
            let (mut sums, mut products) = ([0u32; 3], [0u32; 6]);
            for pixel in chunk.chunks_exact(3) {
                let pixel = [u32::from(pixel[0]), u32::from(pixel[1]), u32::from(pixel[2])];
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += value;
                }
                for (product, (i, j)) in products.iter_mut().zip(PAIRS) {
                    *product += pixel[i] * pixel[j];
                }
            }
            total.sums = std::array::from_fn(|i| total.sums[i] + u128::from(sums[i]));
            total.products = std::array::from_fn(|i| total.products[i] + u128::from(products[i]));
        }
        total
    }

    /// Adds the sums of other pixels.
    pub(super) fn add(&mut self, other: &Self) {
        self.pixels += other.pixels;
        self.sums = std::array::from_fn(|i| self.sums[i] + other.sums[i]);
        self.products = std::array::from_fn(|i| self.products[i] + other.products[i]);
    }

    /// Whether there was no pixel.
    pub(super) fn is_empty(&self) -> bool {
        self.pixels == 0
    }

    /// Mean, 0 to 255. Nine decimals: far more than matters, and few enough that every JSON reader gives back the
    /// same bits.
    pub(super) fn mean(&self) -> [f64; 3] {
        self.sums.map(|sum| round(sum as f64 / self.pixels as f64, 1e9))
    }

    /// Principal components of the covariance in the unit 0 to 1.
    pub(super) fn pca(&self) -> PcaRgb {
        // n^2 cov = n * sum(xy) - sum(x) * sum(y) stays in integers: below 2^127 for 10^16 pixels.
        let scale = self.pixels as f64 * self.pixels as f64 * 255.0 * 255.0;
        let mut covariance = [[0.0; 3]; 3];
        for (&product, (i, j)) in self.products.iter().zip(PAIRS) {
            let exact = (self.pixels * product) as i128 - (self.sums[i] * self.sums[j]) as i128;
            covariance[i][j] = exact as f64 / scale;
            covariance[j][i] = covariance[i][j];
        }
        principal_components(covariance)
    }
}

/// Eigenvalues, descending, and eigenvectors of a covariance matrix, rounded to twelve decimals.
fn principal_components(covariance: [[f64; 3]; 3]) -> PcaRgb {
    let (values, vectors) = jacobi(covariance);
    let mut order = [0, 1, 2];
    order.sort_by(|&i, &j| values[j].total_cmp(&values[i]));
    PcaRgb {
        // A covariance has no negative eigenvalues, but rounding may make some.
        eigenvalues: order.map(|i| round(values[i].max(0.0), 1e12)),
        eigenvectors: order.map(|i| {
            let vector = vectors[i].map(|component| round(component, 1e12));
            let largest = vector
                .iter()
                .fold(0.0f64, |a, &b| if b.abs() > a.abs() { b } else { a });
            // Adding zero turns -0 into 0.
            vector.map(|component| if largest < 0.0 { -component } else { component } + 0.0)
        }),
    }
}

/// Eigenvalues and eigenvectors (rows) of a symmetric matrix, by Jacobi's rotations: additions, products and square
/// roots only, so every host finds the same.
fn jacobi(mut a: [[f64; 3]; 3]) -> ([f64; 3], [[f64; 3]; 3]) {
    /// It converges quadratically; five sweeps are usual.
    const SWEEPS: usize = 30;
    let mut v = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    for _ in 0..SWEEPS {
        for (p, q) in [(0, 1), (0, 2), (1, 2)] {
            if a[p][q] == 0.0 {
                continue;
            }
            let theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
            let tangent = theta.signum() / (theta.abs() + libm::sqrt(theta * theta + 1.0));
            let cosine = 1.0 / libm::sqrt(tangent * tangent + 1.0);
            let sine = tangent * cosine;
            for row in &mut a {
                (row[p], row[q]) = (cosine * row[p] - sine * row[q], sine * row[p] + cosine * row[q]);
            }
            for matrix in [&mut a, &mut v] {
                let (x, y) = (matrix[p], matrix[q]);
                matrix[p] = std::array::from_fn(|k| cosine * x[k] - sine * y[k]);
                matrix[q] = std::array::from_fn(|k| sine * x[k] + cosine * y[k]);
            }
            (a[p][q], a[q][p]) = (0.0, 0.0);
        }
    }
    ([a[0][0], a[1][1], a[2][2]], v)
}

/// To the nearest multiple of `1 / per_unit`.
fn round(value: f64, per_unit: f64) -> f64 {
    (value * per_unit).round() / per_unit
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Stream};

    #[test]
    fn sums_do_not_depend_on_order_or_chunks() {
        let mut stream = Stream::new(3, 0, Purpose::Synthetic, 0);
        let rgb: Vec<u8> = (0..3 * 70_000).map(|_| stream.next_u32() as u8).collect();
        let whole = ColourSums::of(&rgb);
        let (first, second) = rgb.split_at(3 * 12_345);
        let mut parts = ColourSums::of(second);
        parts.add(&ColourSums::of(first));
        assert_eq!(parts, whole);
        let white = ColourSums::of(&[255; 3 * 70_000]);
        assert_eq!(white.mean(), [255.0; 3]);
        assert_eq!(white.pca().eigenvalues, [0.0; 3]);
    }

    #[test]
    fn statistics_equal_the_textbook_formulas() {
        let mut stream = Stream::new(4, 0, Purpose::Synthetic, 0);
        let pixels: Vec<[u8; 3]> = (0..5000)
            .map(|_| {
                let light = stream.below(200) as u8;
                [light, light / 2 + stream.below(50) as u8, stream.below(30) as u8]
            })
            .collect();
        let sums = ColourSums::of(pixels.as_flattened());
        let n = pixels.len() as f64;
        let mean: [f64; 3] = std::array::from_fn(|c| pixels.iter().map(|p| f64::from(p[c])).sum::<f64>() / n);
        assert!(
            sums.mean()
                .iter()
                .zip(mean)
                .all(|(found, mean)| (found - mean).abs() < 1e-8)
        );
        let covariance = |i: usize, j: usize| {
            pixels
                .iter()
                .map(|p| (f64::from(p[i]) - mean[i]) * (f64::from(p[j]) - mean[j]))
                .sum::<f64>()
                / n
                / 65025.0
        };
        let PcaRgb {
            eigenvalues,
            eigenvectors,
        } = sums.pca();
        assert!(
            eigenvalues.is_sorted_by(|a, b| a >= b) && eigenvalues[2] > 0.0,
            "{eigenvalues:?}"
        );
        for (value, vector) in eigenvalues.iter().zip(&eigenvectors) {
            for i in 0..3 {
                let product: f64 = (0..3).map(|j| covariance(i, j) * vector[j]).sum();
                assert!((product - value * vector[i]).abs() < 1e-10, "{value} {vector:?}");
            }
            let length: f64 = vector.iter().map(|x| x * x).sum();
            assert!((length - 1.0).abs() < 1e-10);
            let largest = vector.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs()));
            assert!(largest > Some(0.0), "{vector:?}");
        }
    }

    #[test]
    fn grey_images_have_one_component() {
        let rgb: Vec<u8> = (0..=255u8).flat_map(|v| [v; 3]).collect();
        let pca = ColourSums::of(&rgb).pca();
        assert_eq!(pca.eigenvalues[1..], [0.0, 0.0]);
        for component in pca.eigenvectors[0] {
            assert!((component - 1.0 / 3f64.sqrt()).abs() < 1e-9, "{pca:?}");
        }
    }
}
