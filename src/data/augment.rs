//! Which part of an image is shown, and how: a pure function of (seed, stream position).
//!
//! Training draws, in this order, from `Stream(seed, position, Augment, layer 0)`:
//!
//! 1. the shorter side S, uniform in `min..=max`
//! 2. the crop's place along the width, 64 bits
//! 3. the crop's place along the height, 64 bits
//! 4. the flip, the lowest of 64 bits
//! 5. three standard normals, one for each principal component of colour
//!
//! All are drawn even where they change nothing (a fixed S), so that no choice moves another. The order is part of
//! the exactness contract.

use super::manifest::PcaRgb;
use super::preprocess::{Exif, Flip};
use crate::error::{Error, Result};
use crate::rng::{Purpose, Stream};
use std::fmt;
use std::str::FromStr;

/// Standard deviation of the colour shift along each principal component, in units of its eigenvalue.
const COLOUR_DEVIATION: f64 = 0.1;

/// The largest shorter side, in pixels: as long as the longest side of a JPEG.
pub const MAX_SCALE: usize = 65_535;

/// The shorter side S that images are rescaled to: one value, or any of `min..=max`. Written `256` or `256..512`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScaleRange {
    min: usize,
    max: usize,
}

impl ScaleRange {
    /// `min..=max` pixels.
    pub fn new(min: usize, max: usize) -> Result<Self> {
        if min == 0 || min > max || max > MAX_SCALE {
            return Err(Error::invalid_hint(
                "--scale",
                format!("1 <= smallest <= largest <= {MAX_SCALE} pixels"),
                format!("{min}..{max}"),
                "for example 256 or 256..512",
            ));
        }
        Ok(Self { min, max })
    }

    /// The smallest S.
    pub fn min(self) -> usize {
        self.min
    }

    /// The largest S; it is drawn too.
    pub fn max(self) -> usize {
        self.max
    }

    /// What an evaluation rescales to unless told otherwise: S, or the middle of the range.
    pub fn middle(self) -> usize {
        (self.min + self.max) / 2
    }
}

impl FromStr for ScaleRange {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (min, max) = text.split_once("..").unwrap_or((text, text));
        match (min.parse(), max.parse()) {
            (Ok(min), Ok(max)) => Self::new(min, max),
            _ => Err(Error::invalid_hint(
                "--scale",
                "a number of pixels or two of them with .. between",
                format!("{text:?}"),
                "for example 256 or 256..512",
            )),
        }
    }
}

impl fmt::Display for ScaleRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max {
            write!(f, "{}", self.min)
        } else {
            write!(f, "{}..{}", self.min, self.max)
        }
    }
}

/// Crops along each side of the grid of multi-crop evaluation: 5x5 and their mirror images are 50 (section 3.2).
pub const GRID: usize = 5;

/// Where the crop lies in the rescaled image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the middle, at `floor((side - crop) / 2)`.
    Centre,
    /// A point of the square grid of [`GRID`] by [`GRID`] crops: at `round(index * slack / (GRID - 1))`, halves up.
    Grid {
        /// Along the width, below [`GRID`].
        across: usize,
        /// Along the height, below [`GRID`].
        down: usize,
    },
    /// Anywhere that is inside: 64 random bits for each axis, which become an offset once the image's size is known.
    Random {
        /// Along the width.
        across: u64,
        /// Along the height.
        down: u64,
    },
}

impl Place {
    /// Column and row of the crop's first pixel, where the rescaled image exceeds the crop by `slack` columns and
    /// rows. Every offset in `0..=slack` is equally likely.
    pub fn offset(self, slack: (usize, usize)) -> (usize, usize) {
        let draw = |bits: u64, slack: usize| ((u128::from(bits) * (slack as u128 + 1)) >> 64) as usize;
        match self {
            Self::Centre => (slack.0 / 2, slack.1 / 2),
            Self::Grid { across, down } => (grid_offset(across, slack.0), grid_offset(down, slack.1)),
            Self::Random { across, down } => (draw(across, slack.0), draw(down, slack.1)),
        }
    }
}

/// `round(index * slack / (GRID - 1))`, halves up.
fn grid_offset(index: usize, slack: usize) -> usize {
    (2 * index * slack + GRID - 1) / (2 * (GRID - 1))
}

/// One way of looking at an image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct View {
    /// The shorter side after rescaling, in pixels.
    pub short_side: usize,
    /// Where the crop lies.
    pub place: Place,
    /// Mirrored or not.
    pub flip: Flip,
    /// Added to red, green and blue, in units of 8-bit levels.
    pub colour: [f32; 3],
}

/// The views of a whole stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Views {
    crop: usize,
    exif: Exif,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Centred {
        short_side: usize,
    },
    Augmented {
        seed: u64,
        scales: ScaleRange,
        colours: PcaRgb,
    },
}

impl Views {
    /// The centre crop of the image rescaled to `short_side`: evaluation, and training without augmentation.
    pub fn centred(crop: usize, short_side: usize) -> Result<Self> {
        let scales = ScaleRange::new(short_side, short_side)?;
        check_crop(crop, scales)?;
        Ok(Self {
            crop,
            exif: Exif::Ignore,
            kind: Kind::Centred { short_side },
        })
    }

    /// The paper's augmentation: a random crop of the image at a random scale, flipped half of the time, its colour
    /// shifted along the principal components.
    pub fn augmented(seed: u64, crop: usize, scales: ScaleRange, colours: PcaRgb) -> Result<Self> {
        check_crop(crop, scales)?;
        Ok(Self {
            crop,
            exif: Exif::Ignore,
            kind: Kind::Augmented {
                seed,
                scales,
                colours,
            },
        })
    }

    /// The same views, of files that are turned as EXIF says, or are not.
    pub fn with_exif(self, exif: Exif) -> Self {
        Self { exif, ..self }
    }

    /// Whether files are turned as EXIF says.
    pub fn exif(&self) -> Exif {
        self.exif
    }

    /// Side of the square that the network sees, in pixels.
    pub fn crop(&self) -> usize {
        self.crop
    }

    /// The view of the sample at an absolute stream position.
    pub fn at(&self, position: u64) -> View {
        match &self.kind {
            Kind::Centred { short_side } => View {
                short_side: *short_side,
                place: Place::Centre,
                flip: Flip::Keep,
                colour: [0.0; 3],
            },
            Kind::Augmented {
                seed,
                scales,
                colours,
            } => {
                let mut stream = Stream::new(*seed, position, Purpose::Augment, 0);
                let choices = (scales.max - scales.min + 1) as u64;
                View {
                    short_side: scales.min + stream.below(choices) as usize,
                    place: Place::Random {
                        across: stream.next_u64(),
                        down: stream.next_u64(),
                    },
                    flip: match stream.next_u64() & 1 {
                        0 => Flip::Keep,
                        _ => Flip::Mirror,
                    },
                    colour: colour_shift(&mut stream, colours),
                }
            }
        }
    }
}

/// Krizhevsky's colour shift in 8-bit levels: `255 * sum of alpha_i * eigenvalue_i * eigenvector_i`,
/// alpha_i ~ N(0, 0.1). About three levels on photographs.
fn colour_shift(stream: &mut Stream, colours: &PcaRgb) -> [f32; 3] {
    let weights = colours
        .eigenvalues
        .map(|eigenvalue| 255.0 * COLOUR_DEVIATION * stream.normal() * eigenvalue);
    std::array::from_fn(|rgb| {
        let parts: [f64; 3] = std::array::from_fn(|i| weights[i] * colours.eigenvectors[i][rgb]);
        (parts[0] + parts[1] + parts[2]) as f32
    })
}

fn check_crop(crop: usize, scales: ScaleRange) -> Result<()> {
    if (1..=scales.min).contains(&crop) {
        return Ok(());
    }
    Err(Error::invalid_hint(
        "--crop",
        format!(
            "1 to {} pixels, the shorter side that images are rescaled to",
            scales.min
        ),
        crop,
        "a larger --scale or a smaller --crop",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::fresh_seed;

    const COLOURS: PcaRgb = PcaRgb {
        eigenvalues: [0.2175, 0.0188, 0.0045],
        eigenvectors: [
            [-0.5675, -0.5808, -0.5836],
            [0.7192, -0.0045, -0.6948],
            [0.4009, -0.8140, 0.4203],
        ],
    };

    fn scales(text: &str) -> ScaleRange {
        text.parse().expect("a scale")
    }

    #[test]
    fn scales_are_read_and_written() {
        for text in ["256", "256..512", "1..65535"] {
            assert_eq!(scales(text).to_string(), text);
        }
        assert_eq!((scales("256..512").middle(), scales("384").middle()), (384, 384));
        for text in [
            "",
            "0",
            "512..256",
            "256-512",
            "1..65536",
            "..",
            "256..",
            "-1",
            "99999999999999999999",
        ] {
            let error = text.parse::<ScaleRange>().expect_err(text).to_string();
            assert!(error.starts_with("--scale: expected"), "{error}");
        }
    }

    #[test]
    fn a_crop_larger_than_the_image_is_refused() {
        for result in [
            Views::centred(257, 256),
            Views::centred(0, 256),
            Views::augmented(1, 257, scales("256..512"), COLOURS),
        ] {
            let error = result.expect_err("no image is large enough").to_string();
            assert!(error.starts_with("--crop: expected 1 to 256 pixels"), "{error}");
        }
        assert!(Views::centred(256, 256).is_ok());
    }

    #[test]
    fn a_view_depends_on_seed_and_position_only() {
        let seed = fresh_seed();
        let views = Views::augmented(seed, 224, scales("256..512"), COLOURS).expect("a good crop");
        let forwards: Vec<View> = (0..50).map(|position| views.at(position)).collect();
        for position in (0..50).rev() {
            assert_eq!(views.at(position), forwards[position as usize], "seed {seed}");
        }
        assert_ne!(forwards[0], forwards[1], "seed {seed}");
        let other = Views::augmented(seed ^ 1, 224, scales("256..512"), COLOURS).expect("a good crop");
        assert_ne!(other.at(0), forwards[0], "seed {seed}");
    }

    #[test]
    fn the_scale_does_not_move_the_other_draws() {
        let seed = fresh_seed();
        let fixed = Views::augmented(seed, 224, scales("256"), COLOURS).expect("a good crop");
        let jittered = Views::augmented(seed, 224, scales("256..512"), COLOURS).expect("a good crop");
        let strip = |view: View| (view.place, view.flip, view.colour);
        assert_eq!(strip(fixed.at(7)), strip(jittered.at(7)), "seed {seed}");
    }

    #[test]
    fn both_ends_of_every_range_are_drawn() {
        let seed = fresh_seed();
        let views = Views::augmented(seed, 4, scales("4..7"), COLOURS).expect("a good crop");
        let (mut sides, mut offsets, mut flips) = ([0u32; 4], [0u32; 3], [0u32; 2]);
        for position in 0..12_000 {
            let view = views.at(position);
            sides[view.short_side - 4] += 1;
            let (x, y) = view.place.offset((2, 0));
            offsets[x] += 1;
            assert_eq!(y, 0);
            flips[view.flip as usize] += 1;
        }
        assert!(
            sides.iter().all(|&n| (2_700..3_300).contains(&n)),
            "seed {seed}: {sides:?}"
        );
        assert!(
            offsets.iter().all(|&n| (3_700..4_300).contains(&n)),
            "seed {seed}: {offsets:?}"
        );
        assert!(
            flips.iter().all(|&n| (5_700..6_300).contains(&n)),
            "seed {seed}: {flips:?}"
        );
        assert_eq!(
            Place::Random {
                across: 0,
                down: u64::MAX
            }
            .offset((9, 9)),
            (0, 9)
        );
        assert_eq!(Place::Centre.offset((5, 0)), (2, 0));
    }

    #[test]
    fn colours_shift_along_the_components() {
        let seed = fresh_seed();
        let views = Views::augmented(seed, 224, scales("256"), COLOURS).expect("a good crop");
        let n = 20_000;
        let mut variance = [0.0f64; 3];
        for position in 0..n {
            let colour = views.at(position).colour.map(f64::from);
            for (i, sum) in variance.iter_mut().enumerate() {
                let along: f64 = (0..3).map(|c| colour[c] * COLOURS.eigenvectors[i][c]).sum();
                *sum += along * along / f64::from(n as u32);
            }
        }
        for (i, eigenvalue) in COLOURS.eigenvalues.into_iter().enumerate() {
            let ratio = variance[i].sqrt() / (25.5 * eigenvalue);
            assert!(
                (0.95..1.05).contains(&ratio),
                "seed {seed}, component {i}: {ratio}"
            );
        }
    }

    #[test]
    fn the_grid_reaches_both_edges() {
        for slack in [0, 1, 2, 3, 32, 117, 288] {
            let offsets: [usize; GRID] = std::array::from_fn(|i| {
                let place = Place::Grid { across: i, down: 0 };
                place.offset((slack, 9)).0
            });
            let expected = std::array::from_fn(|i| (i as f64 * slack as f64 / 4.0).round() as usize);
            assert_eq!(offsets, expected, "slack {slack}");
        }
        assert_eq!(Place::Grid { across: 4, down: 2 }.offset((32, 117)), (32, 59));
    }

    #[test]
    fn evaluation_looks_at_the_centre() {
        let view = Views::centred(224, 256).expect("a good crop").at(99);
        let expected = View {
            short_side: 256,
            place: Place::Centre,
            flip: Flip::Keep,
            colour: [0.0; 3],
        };
        assert_eq!(view, expected);
    }
}
