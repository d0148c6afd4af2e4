use super::*;
use crate::data::testing::{between, fresh_seed, picture, stream};
use crate::rng::Stream;

/// Hundredths of a level that rounding on the way may cost, beyond half a level for the result itself.
const ROUNDING: f64 = 0.06;

fn resampled(path: Path, pixels: &[u8], window: Region, part: Part) -> Vec<u8> {
    let mut out = vec![0; 3 * part.across.len * part.down.len];
    Resampler::with(path).resample(pixels, window, part, &mut out);
    out
}

fn random_span(stream: &mut Stream, source: usize, largest: usize) -> Span {
    let target = between(stream, 1, largest);
    let first = between(stream, 0, target - 1);
    Span {
        source,
        target,
        first,
        len: between(stream, 1, target - first),
    }
}

fn random_part(stream: &mut Stream, width: usize, height: usize, largest: usize) -> Part {
    Part {
        across: random_span(stream, width, largest),
        down: random_span(stream, height, largest),
    }
}

/// Sizes from one pixel on, thin ones often among them.
fn random_size(stream: &mut Stream, largest: usize) -> (usize, usize) {
    let mut side = || match between(stream, 0, 3) {
        0 => between(stream, 1, 9),
        _ => between(stream, 1, largest),
    };
    (side(), side())
}

/// Waves and edges, or levels of 0 and 255 only, which no rounding error escapes.
fn random_picture(stream: &mut Stream, width: usize, height: usize) -> Vec<u8> {
    match between(stream, 0, 1) {
        0 => picture(stream, width, height),
        _ => (0..3 * width * height)
            .map(|_| {
                if stream.next_u32().is_multiple_of(2) {
                    0
                } else {
                    255
                }
            })
            .collect(),
    }
}

/// Pillow's definition in f64 for one axis: the weight of every source pixel in output pixel `index` of `target`.
fn exact_weights(source: usize, target: usize, index: usize) -> Vec<f64> {
    let scale = source as f64 / target as f64;
    let support = scale.max(1.0);
    let centre = (index as f64 + 0.5) * scale;
    let weights: Vec<f64> = (0..source)
        .map(|pixel| (1.0 - ((pixel as f64 + 0.5 - centre) / support).abs()).max(0.0))
        .collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

/// The real-valued result, (rows, columns, 3).
fn exact(pixels: &[u8], width: usize, part: Part) -> Vec<f64> {
    let weights = |span: Span| -> Vec<Vec<f64>> {
        (span.first..span.first + span.len)
            .map(|index| exact_weights(span.source, span.target, index))
            .collect()
    };
    let rows: Vec<Vec<f64>> = weights(part.down)
        .iter()
        .map(|down| {
            let mut sums = vec![0.0; 3 * width];
            for (&weight, row) in down.iter().zip(pixels.chunks_exact(3 * width)) {
                if weight > 0.0 {
                    for (sum, &value) in sums.iter_mut().zip(row) {
                        *sum += weight * f64::from(value);
                    }
                }
            }
            sums
        })
        .collect();
    let across = weights(part.across);
    let mut out = Vec::new();
    for row in &rows {
        for weights in &across {
            for c in 0..3 {
                let terms = weights.iter().zip(row.iter().skip(c).step_by(3));
                out.push(terms.map(|(weight, value)| weight * value).sum());
            }
        }
    }
    out
}

#[test]
fn the_definition_is_met() {
    let seed = fresh_seed();
    let mut stream = stream(seed);
    let mut resampler = Resampler::new();
    for case in 0..40 {
        let (width, height) = random_size(&mut stream, 150);
        let pixels = random_picture(&mut stream, width, height);
        let part = random_part(&mut stream, width, height, 120);
        let mut out = vec![0; 3 * part.across.len * part.down.len];
        resampler.resample(&pixels, Region::whole(width, height), part, &mut out);
        let exact = exact(&pixels, width, part);
        let deviations = out
            .iter()
            .zip(exact)
            .map(|(&ours, exact)| (f64::from(ours) - exact).abs());
        let largest = deviations.fold(0.0, f64::max);
        assert!(
            largest <= 0.5 + ROUNDING,
            "seed {seed}, case {case}, {part:?}: off by {largest}"
        );
    }
}

#[test]
fn every_path_gives_the_same_bits() {
    let seed = fresh_seed();
    let mut stream = stream(seed);
    let best = Path::best();
    for case in 0..150 {
        let (width, height) = random_size(&mut stream, 400);
        let pixels = random_picture(&mut stream, width, height);
        let part = random_part(&mut stream, width, height, 260);
        let whole = Region::whole(width, height);
        assert!(
            resampled(best, &pixels, whole, part) == resampled(Path::Portable, &pixels, whole, part),
            "seed {seed}, case {case}: {best:?}, {part:?}"
        );
    }
}

#[test]
fn a_window_and_a_part_give_the_bits_of_the_whole() {
    let seed = fresh_seed();
    let mut stream = stream(seed);
    for case in 0..100 {
        let (width, height) = random_size(&mut stream, 200);
        let pixels = random_picture(&mut stream, width, height);
        let part = random_part(&mut stream, width, height, 150);
        let all = Part {
            across: Span::whole(width, part.across.target),
            down: Span::whole(height, part.down.target),
        };
        let window = part.reach();
        let cut: Vec<u8> = (window.y..window.y + window.height)
            .flat_map(|y| &pixels[(y * width + window.x) * 3..][..window.width * 3])
            .copied()
            .collect();
        let whole = resampled(Path::best(), &pixels, Region::whole(width, height), all);
        let expected: Vec<u8> = (part.down.first..part.down.first + part.down.len)
            .flat_map(|y| &whole[(y * all.across.len + part.across.first) * 3..][..part.across.len * 3])
            .copied()
            .collect();
        assert!(
            resampled(Path::best(), &cut, window, part) == expected,
            "seed {seed}, case {case}: {part:?}"
        );
    }
}

#[test]
fn one_resampler_serves_every_shape() {
    let seed = fresh_seed();
    let mut stream = stream(seed);
    let mut resampler = Resampler::new();
    for case in 0..50 {
        let (width, height) = random_size(&mut stream, 200);
        let pixels = random_picture(&mut stream, width, height);
        let part = random_part(&mut stream, width, height, 150);
        let whole = Region::whole(width, height);
        let mut out = vec![0; 3 * part.across.len * part.down.len];
        resampler.resample(&pixels, whole, part, &mut out);
        assert!(
            out == resampled(Path::best(), &pixels, whole, part),
            "seed {seed}, case {case}: what was resampled before shows"
        );
    }
}

#[test]
fn sizes_of_one_and_levels_of_one_colour_stay_what_they_are() {
    for (width, height) in [(1, 1), (1, 3000), (3000, 1), (65_500, 2), (2, 65_500)] {
        for level in [0, 1, 128, 255] {
            let pixels = vec![level; 3 * width * height];
            for target in [1, 2, 7, 224] {
                let part = Part {
                    across: Span::whole(width, target),
                    down: Span::whole(height, target),
                };
                let out = resampled(Path::best(), &pixels, Region::whole(width, height), part);
                assert!(
                    out.iter().all(|&value| value == level),
                    "{width} x {height} to {target}"
                );
            }
        }
    }
    let part = Part {
        across: Span::whole(5, 5),
        down: Span::whole(4, 4),
    };
    let pixels: Vec<u8> = (0..60).map(|i| i * 4).collect();
    assert_eq!(
        resampled(Path::best(), &pixels, Region::whole(5, 4), part),
        pixels
    );
}
