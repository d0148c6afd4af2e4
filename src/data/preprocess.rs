//! From 8-bit pixels to the network's input: one affine map per channel, as named data that travels with the weights.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// The order in which the network sees the colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelOrder {
    /// Red first: this program, torchvision.
    Rgb,
    /// Blue first: Caffe's models.
    Bgr,
}

/// How the longer side follows from the shorter one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LongSide {
    /// `floor(short_side * long / short)`, as torchvision does.
    Floor,
}

/// The interpolation that rescales the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filter {
    /// A triangle as wide as two source or two target pixels, whichever are larger: Pillow's `BILINEAR`.
    BilinearAntialiased,
}

/// Where the centre crop lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CentreCrop {
    /// At `floor((side - crop) / 2)` on both axes.
    Floor,
}

/// What the EXIF orientation of a file does, which says how the camera was held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exif {
    /// Nothing: pixels are seen as they are stored, as torchvision and Pillow do.
    #[default]
    Ignore,
    /// The image is turned upright before anything else.
    Apply,
}

impl Exif {
    /// Whether it is left out of what is written: files of versions that did not know the choice stay as they are.
    pub fn is_ignored(&self) -> bool {
        *self == Self::Ignore
    }
}

impl FromStr for Exif {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "ignore" => Ok(Self::Ignore),
            "apply" => Ok(Self::Apply),
            _ => Err(Error::invalid(
                "--exif",
                "ignore or apply",
                format_args!("'{text}'"),
            )),
        }
    }
}

/// Whether an image is mirrored left to right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Flip {
    /// As it is.
    #[default]
    Keep = 0,
    /// Column `x` shows column `width - 1 - x`.
    Mirror = 1,
}

/// How pixels become the network's input. Stored as JSON with the weights.
///
/// `input[c] = fma(pixel[c] + colour[c], scale[c], shift[c])` in f32, where `c` counts channels in the order of
/// `channels`, pixels are 0..=255 and `colour` is the sample's colour shift in the same unit. The addition and the
/// fused multiply-add are each rounded once, on every back end, so that inputs are equal to the bit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// The order of the channels of the input, and of `scale` and `shift`.
    pub channels: ChannelOrder,
    /// Factor of each channel.
    pub scale: [f32; 3],
    /// Addend of each channel, after the factor.
    pub shift: [f32; 3],
    /// Rule for the longer side.
    pub long_side: LongSide,
    /// Interpolation.
    pub filter: Filter,
    /// Rule for the centre crop.
    pub centre_crop: CentreCrop,
    /// Whether files are turned as EXIF says.
    #[serde(default, skip_serializing_if = "Exif::is_ignored")]
    pub exif: Exif,
}

impl Preprocess {
    /// This program's default: pixels minus the training set's mean (RGB, 0..=255), not divided by anything.
    pub fn subtract_mean(mean_rgb: [f64; 3]) -> Self {
        Self {
            channels: ChannelOrder::Rgb,
            scale: [1.0; 3],
            shift: mean_rgb.map(|mean| -mean as f32),
            long_side: LongSide::Floor,
            filter: Filter::BilinearAntialiased,
            centre_crop: CentreCrop::Floor,
            exif: Exif::Ignore,
        }
    }

    /// Pixels brought to 0..=1, minus `mean`, divided by `std` (both RGB, in that unit), as torchvision's models
    /// want it.
    pub fn standardize(mean: [f64; 3], std: [f64; 3]) -> Self {
        Self {
            scale: std.map(|std| (1.0 / (255.0 * std)) as f32),
            shift: std::array::from_fn(|c| (-mean[c] / std[c]) as f32),
            ..Self::subtract_mean([0.0; 3])
        }
    }

    /// The colour (RGB, 0..=255) that becomes zero.
    pub fn mean_rgb(&self) -> [f64; 3] {
        std::array::from_fn(|rgb| {
            let c = self.channel_of(rgb);
            -f64::from(self.shift[c]) / f64::from(self.scale[c])
        })
    }

    /// Refuses factors and addends that no image survives: beside the addend, a step of a pixel must be left. `source` names the file they come from.
    pub fn check(&self, source: &str) -> Result<()> {
        let usable = |scale: f32, shift: f32| {
            let is_finite = scale.is_finite() && shift.is_finite();
            is_finite && scale != 0.0 && (shift + scale != shift || shift == 0.0)
        };
        if (0..3).all(|c| usable(self.scale[c], self.shift[c])) {
            return Ok(());
        }
        Err(Error::invalid_hint(
            format!("preprocess of {source}"),
            "finite scale and shift, no scale that vanishes beside its shift",
            format!("scale {:?}, shift {:?}", self.scale, self.shift),
            "take the values from the source of the weights",
        ))
    }

    /// The input channel that shows colour `rgb` (0 red, 1 green, 2 blue); the same map goes the other way.
    pub fn channel_of(&self, rgb: usize) -> usize {
        match self.channels {
            ChannelOrder::Rgb => rgb,
            ChannelOrder::Bgr => 2 - rgb,
        }
    }
}

/// One image to the network's input: `pixels` (height, width, 3) RGB8 to `out` (3, height, width).
///
/// `colour` is the sample's shift of red, green and blue. The same bits on every processor.
pub fn finish(
    pixels: &[u8],
    width: usize,
    flip: Flip,
    colour: [f32; 3],
    preprocess: &Preprocess,
    out: &mut [f32],
) {
    assert!(pixels.len().is_multiple_of(3 * width), "pixels of whole rows");
    assert_eq!(out.len(), pixels.len(), "an input of the size of the image");
    let maps: [Affine; 3] = std::array::from_fn(|rgb| {
        let c = preprocess.channel_of(rgb);
        Affine {
            colour: colour[rgb],
            scale: preprocess.scale[c],
            shift: preprocess.shift[c],
        }
    });
    let plane = pixels.len() / 3;
    let (first, rest) = out.split_at_mut(plane);
    let (second, third) = rest.split_at_mut(plane);
    let planes = match preprocess.channels {
        ChannelOrder::Rgb => [first, second, third],
        ChannelOrder::Bgr => [third, second, first],
    };
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        // SAFETY: the processor has AVX2 and FMA, which is all that the function asks for.
        return unsafe { finish_fma(pixels, width, flip, &maps, planes) };
    }
    finish_by_table(pixels, width, flip, &maps, planes);
}

/// What happens to one colour.
#[derive(Clone, Copy)]
struct Affine {
    colour: f32,
    scale: f32,
    shift: f32,
}

impl Affine {
    #[inline(always)]
    fn of(self, pixel: u8) -> f32 {
        (f32::from(pixel) + self.colour).mul_add(self.scale, self.shift)
    }
}

/// For processors with a fused multiply-add: arithmetic on every pixel.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn finish_fma(pixels: &[u8], width: usize, flip: Flip, maps: &[Affine; 3], planes: [&mut [f32]; 3]) {
    // Splitting the colours first, a block at a time, leaves loops that the compiler vectorises.
    const BLOCK: usize = 64;
    let mut split = [[0u8; BLOCK]; 3];
    let [red, green, blue] = planes;
    for (y, row) in pixels.chunks_exact(3 * width).enumerate() {
        for (block, source) in row.chunks(3 * BLOCK).enumerate() {
            let len = source.len() / 3;
            for (x, pixel) in source.chunks_exact(3).enumerate() {
                for c in 0..3 {
                    split[c][x] = pixel[c];
                }
            }
            let start = match flip {
                Flip::Keep => block * BLOCK,
                Flip::Mirror => width - block * BLOCK - len,
            };
            for (c, plane) in [&mut *red, &mut *green, &mut *blue].into_iter().enumerate() {
                let target = &mut plane[y * width + start..][..len];
                match flip {
                    Flip::Keep => target
                        .iter_mut()
                        .zip(&split[c][..len])
                        .for_each(|(out, &pixel)| *out = maps[c].of(pixel)),
                    Flip::Mirror => target
                        .iter_mut()
                        .zip(split[c][..len].iter().rev())
                        .for_each(|(out, &pixel)| *out = maps[c].of(pixel)),
                }
            }
        }
    }
}

/// For all others, where a fused multiply-add is a slow call: one per possible pixel value, then lookups.
fn finish_by_table(pixels: &[u8], width: usize, flip: Flip, maps: &[Affine; 3], planes: [&mut [f32]; 3]) {
    for (c, plane) in planes.into_iter().enumerate() {
        let table: [f32; 256] = std::array::from_fn(|pixel| maps[c].of(pixel as u8));
        for (row, target) in pixels.chunks_exact(3 * width).zip(plane.chunks_exact_mut(width)) {
            let source = row.chunks_exact(3).map(|pixel| table[usize::from(pixel[c])]);
            match flip {
                Flip::Keep => target
                    .iter_mut()
                    .zip(source)
                    .for_each(|(out, value)| *out = value),
                Flip::Mirror => target
                    .iter_mut()
                    .rev()
                    .zip(source)
                    .for_each(|(out, value)| *out = value),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::{between, fresh_seed, stream};

    #[test]
    fn json_keeps_every_bit_and_refuses_unknown_rules() {
        let mut preprocess = Preprocess::standardize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        preprocess.channels = ChannelOrder::Bgr;
        let json = serde_json::to_string(&preprocess).expect("plain data");
        assert_eq!(
            serde_json::from_str::<Preprocess>(&json).expect("what was written"),
            preprocess
        );
        assert!(
            json.contains(r#""channels":"bgr""#) && json.contains(r#""filter":"bilinear-antialiased""#),
            "{json}"
        );
        assert!(serde_json::from_str::<Preprocess>(&json.replace("floor", "round")).is_err());
        assert!(serde_json::from_str::<Preprocess>(&json.replace("scale", "skale")).is_err());
    }

    #[test]
    fn the_mean_is_what_becomes_zero() {
        let mean = [123.68, 116.779, 103.939];
        let ours = Preprocess::subtract_mean(mean);
        assert!(ours.check("test").is_ok());
        let torch = Preprocess::standardize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        for c in 0..3 {
            assert!((ours.mean_rgb()[c] - mean[c]).abs() < 1e-5);
            assert!((torch.mean_rgb()[c] - 255.0 * [0.485, 0.456, 0.406][c]).abs() < 1e-4);
        }
        let bgr = Preprocess {
            channels: ChannelOrder::Bgr,
            shift: [-103.0, -116.0, -123.0],
            ..ours.clone()
        };
        assert_eq!(bgr.mean_rgb(), [123.0, 116.0, 103.0]);
        let broken = Preprocess {
            scale: [1.0, 0.0, 1.0],
            ..ours
        };
        let error = broken
            .check("vgg.caffemodel")
            .expect_err("a scale of 0")
            .to_string();
        assert!(error.contains("vgg.caffemodel"), "{error}");
    }

    #[test]
    fn both_ways_give_the_same_bits_as_the_definition() {
        let seed = fresh_seed();
        let mut stream = stream(seed);
        for crop in [1, 2, 15, 16, 63, 64, 65, 130] {
            let pixels: Vec<u8> = (0..crop * crop * 3).map(|_| stream.next_u32() as u8).collect();
            let colour: [f32; 3] = std::array::from_fn(|_| (stream.normal() * 3.0) as f32);
            let mut preprocess = Preprocess::standardize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
            if between(&mut stream, 0, 1) == 1 {
                preprocess.channels = ChannelOrder::Bgr;
            }
            for flip in [Flip::Keep, Flip::Mirror] {
                let mut out = vec![f32::NAN; pixels.len()];
                finish(&pixels, crop, flip, colour, &preprocess, &mut out);
                let mut by_table = vec![f32::NAN; pixels.len()];
                let maps: [Affine; 3] = std::array::from_fn(|rgb| {
                    let c = preprocess.channel_of(rgb);
                    Affine {
                        colour: colour[rgb],
                        scale: preprocess.scale[c],
                        shift: preprocess.shift[c],
                    }
                });
                let mut planes: Vec<&mut [f32]> = by_table.chunks_exact_mut(crop * crop).collect();
                if preprocess.channels == ChannelOrder::Bgr {
                    planes.reverse();
                }
                let planes: [&mut [f32]; 3] = planes.try_into().expect("three planes");
                finish_by_table(&pixels, crop, flip, &maps, planes);
                for c in 0..3 {
                    for (i, x) in (0..crop * crop).map(|i| (i, i % crop)) {
                        let source = match flip {
                            Flip::Keep => x,
                            Flip::Mirror => crop - 1 - x,
                        };
                        let rgb = preprocess.channel_of(c);
                        let pixel = pixels[(i / crop * crop + source) * 3 + rgb];
                        let sum = f32::from(pixel) + colour[rgb];
                        let expected = sum.mul_add(preprocess.scale[c], preprocess.shift[c]).to_bits();
                        let at = c * crop * crop + i;
                        assert_eq!(out[at].to_bits(), expected, "seed {seed}, crop {crop}, {flip:?}");
                        assert_eq!(
                            by_table[at].to_bits(),
                            expected,
                            "seed {seed}, crop {crop}, {flip:?}"
                        );
                    }
                }
            }
        }
    }
}
