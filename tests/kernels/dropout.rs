//! Dropout against the draws of `verydeep::rng`.

use verydeep::backend::cuda::launch::{Dropout, Nhwc};
use verydeep::rng::{Purpose, Stream};

use super::device::{Bench, launch};
use super::element::{Element, held};
use super::numbers::numbers;

/// Value and gradient: element (pixel, channel) of a sample is draw `channel * plane + pixel`, dropped below
/// `floor(p * 2^32)`, else divided by `1 - p`.
pub(crate) fn dropout<T: Element>(bench: &mut Bench) {
    let mut shapes = vec![
        (0, 1, 1, 8),
        (1, 1, 1, 1),
        (2, 1, 1, 33),
        (3, 1, 1, 128),
        (5, 1, 1, 4099),
        (1, 1, 3, 1),
        (2, 3, 3, 7),
        (1, 7, 5, 129),
        (3, 4, 4, 32),
    ];
    let draw = &mut bench.draw;
    let mut random = |side: usize| {
        let [n, h, w] = [4, side, side].map(|most| draw.integer(1..=most));
        (n, h, w, draw.integer(1..=200))
    };
    shapes.extend([random(1), random(9), random(9)]);
    for (n, h, w, c) in shapes {
        for p in [0.0, 0.5, bench.draw.integer(1..=999) as f32 / 1000.0] {
            bench.everywhere(|bench| of_shape::<T>(bench, Nhwc { n, h, w, c }, p));
        }
    }
}

fn of_shape<T: Element>(bench: &mut Bench, shape: Nhwc, p: f32) {
    let what = &format!("{shape:?}, p = {p}");
    let (plane, count) = (shape.h * shape.w, shape.n * shape.h * shape.w * shape.c);
    let [seed, position, step, rate] = [0; 4].map(|_| bench.draw.bits());
    let layer = bench.draw.bits() as u16;
    let threshold = (f64::from(p) * 2f64.powi(32)).floor();
    let x = held::<T>(numbers(&mut bench.draw, count));
    let element = |(i, &x): (usize, &f32)| {
        let (pixel, channel) = (i / shape.c, i % shape.c);
        let sample = position.wrapping_add((pixel / plane) as u64);
        let stream = Stream::new(seed, sample, Purpose::Dropout, layer);
        let draw = channel * plane + pixel % plane;
        let bits = stream.block((draw / 4) as u32)[draw % 4];
        if f64::from(bits) < threshold {
            0.0
        } else {
            x * (1.0 / (1.0 - p))
        }
    };
    let expected: Vec<f32> = x.iter().enumerate().map(element).collect();
    // StepParams of common.cuh; neither the step nor the learning rate counts.
    let params = bench.input(&[seed, step, position, rate]);
    let dropout = Dropout {
        p,
        layer,
        params: params.at(),
    };
    let [from, both] = [0; 2].map(|_| bench.elements::<T>(&x));
    let [y, dx] = [0; 2].map(|_| bench.output::<T>(count));
    launch!(bench, dropout_forward(T::TYPE, shape, dropout, from.at(), y.at()));
    launch!(
        bench,
        dropout_backward(T::TYPE, shape, dropout, from.at(), dx.at())
    );
    y.rounds(&expected, what);
    dx.rounds(&expected, what);
    from.unchanged(what);
    let both_at = both.at();
    if bench.draw.integer(0..=1) == 0 {
        launch!(bench, dropout_forward(T::TYPE, shape, dropout, both_at, both_at));
    } else {
        launch!(bench, dropout_backward(T::TYPE, shape, dropout, both_at, both_at));
    }
    both.rounds(&expected, what);
    params.unchanged(what);
}
