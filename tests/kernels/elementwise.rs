//! Kernels that treat elements one by one in storage order.

use verydeep::backend::cuda::launch::{SLOTS, UpdateFactors};
use verydeep::backend::fold_element;

use super::device::{Bench, View, launch};
use super::element::{Bf16, Element, held};
use super::numbers::{normals, numbers, on_lengths};

/// The gradient passes where the value is positive.
fn where_positive(y: f32, d: f32) -> f32 {
    if y > 0.0 { d } else { 0.0 }
}

pub(crate) fn relu<T: Element>(bench: &mut Bench) {
    on_lengths(bench, |bench, n, what| {
        let x = held::<T>(numbers(&mut bench.draw, n));
        let expected: Vec<f32> = x.iter().map(|&x| if x < 0.0 { 0.0 } else { x }).collect();
        let [from, both] = [0; 2].map(|_| bench.elements::<T>(&x));
        let to = bench.output::<T>(n);
        launch!(bench, relu_forward(T::TYPE, from.at(), to.at(), n));
        launch!(bench, relu_forward(T::TYPE, both.at(), both.at(), n));
        to.rounds(&expected, what);
        both.rounds(&expected, what);
        from.unchanged(what);
    });
}

/// Both gradients that are masked by a value: of the ReLU, and of a dropout after one.
pub(crate) fn masked_gradients<T: Element>(bench: &mut Bench) {
    on_lengths(bench, |bench, n, what| {
        let p = bench.draw.integer(0..=99) as f32 / 100.0;
        let [y, d] = [0; 2].map(|_| held::<T>(numbers(&mut bench.draw, n)));
        let masked = |scale: f32| -> Vec<f32> {
            let pairs = y.iter().zip(&d);
            pairs.map(|(&y, &d)| where_positive(y, d * scale)).collect()
        };
        let (plain, scaled) = (masked(1.0), masked(1.0 / (1.0 - p)));
        let [value, gradient] = [&y, &d].map(|values| bench.elements::<T>(values));
        let (y, dy) = (value.at(), gradient.at());
        let (to, both) = (bench.output::<T>(n), bench.elements::<T>(&d));
        launch!(bench, relu_backward(T::TYPE, y, dy, to.at(), n));
        launch!(bench, relu_backward(T::TYPE, y, both.at(), both.at(), n));
        to.rounds(&plain, what);
        both.rounds(&plain, what);
        let (to, both) = (bench.output::<T>(n), bench.elements::<T>(&d));
        launch!(bench, dropout_backward_masked(T::TYPE, p, y, dy, to.at(), n));
        launch!(
            bench,
            dropout_backward_masked(T::TYPE, p, y, both.at(), both.at(), n)
        );
        to.rounds(&scaled, what);
        both.rounds(&scaled, what);
        value.unchanged(what);
        gradient.unchanged(what);
    });
}

/// `slots[0] + (slots[1] + (... + slots[k]))`, of any number of slots.
pub(crate) fn tree_add(bench: &mut Bench) {
    let mut next = 0;
    on_lengths(bench, |bench, n, what| {
        let slots = next % SLOTS + 1;
        next += 1;
        let values: Vec<Vec<f32>> = (0..slots).map(|_| numbers(&mut bench.draw, n)).collect();
        let views: Vec<_> = values.iter().map(|values| bench.input(values)).collect();
        let mut expected = values[slots - 1].clone();
        for slot in values[..slots - 1].iter().rev() {
            expected.iter_mut().zip(slot).for_each(|(sum, &x)| *sum += x);
        }
        let addresses: Vec<u64> = views.iter().map(|view| view.at()).collect();
        launch!(bench, tree_add(&addresses, n));
        let what = format!("{slots} slots of {what}");
        views[0].holds(&expected, &what);
        views[1..].iter().for_each(|view| view.unchanged(&what));
    });
    for wrong in [0, SLOTS + 1] {
        // SAFETY: nothing is launched.
        let refused = unsafe { bench.launcher().tree_add(&vec![0; wrong], 0) };
        assert!(refused.is_err(), "{wrong} slots");
    }
}

/// `t = fma(decay, w, g / batch); v = fma(momentum, v, -(rate * t)); w += v`.
pub(crate) fn update_parameters(bench: &mut Bench) {
    on_lengths(bench, |bench, n, what| {
        let [w, v, g] = [0; 3].map(|_| numbers(&mut bench.draw, n));
        let numbers = normals(&mut bench.draw, 5);
        let factors = UpdateFactors {
            rate: numbers[0],
            decay: numbers[1],
            momentum: numbers[2],
            batch: numbers[3],
        };
        // StepParams of common.cuh; only the learning rate counts.
        let step = [1, 2, 3, 0xFFFF_FFFF_0000_0000 | u64::from(numbers[4].to_bits())];
        let rate = numbers[4] * factors.rate;
        let (mut weights, mut momentum) = (w.clone(), v.clone());
        for ((w, v), &g) in weights.iter_mut().zip(&mut momentum).zip(&g) {
            let t = factors.decay.mul_add(*w, g / factors.batch);
            *v = factors.momentum.mul_add(*v, -(rate * t));
            *w += *v;
        }
        let params = bench.input(&step);
        for copied in [false, true] {
            let [w, v, g] = [&w, &v, &g].map(|values| bench.input(values));
            let copy = copied.then(|| bench.output::<Bf16>(n));
            let (arrays, to) = ([w.at(), v.at(), g.at()], copy.as_ref().map(View::at));
            launch!(bench, update_parameters(arrays, to, n, params.at(), factors));
            w.holds(&weights, what);
            v.holds(&momentum, what);
            g.unchanged(what);
            copy.inspect(|copy| copy.rounds(&weights, what));
        }
        params.unchanged(what);
    });
}

/// `r = fma(weight, sum / micro_batches - r, r)`.
pub(crate) fn update_statistics(bench: &mut Bench) {
    on_lengths(bench, |bench, n, what| {
        let [r, g] = [0; 2].map(|_| numbers(&mut bench.draw, n));
        let weight = normals(&mut bench.draw, 1)[0];
        let count = bench.draw.integer(1..=100) as f32;
        let pairs = r.iter().zip(&g);
        let expected: Vec<f32> = pairs.map(|(&r, &g)| weight.mul_add(g / count - r, r)).collect();
        let (running, sums) = (bench.input(&r), bench.input(&g));
        launch!(
            bench,
            update_statistics(running.at(), sums.at(), n, weight, count)
        );
        running.holds(&expected, what);
        sums.unchanged(what);
    });
}

/// The flag stays 0 of finite values, and becomes 1 by any one that is not.
pub(crate) fn is_finite(bench: &mut Bench) {
    on_lengths(bench, |bench, n, what| {
        let finite = |x: f32| if x.is_finite() { x } else { f32::MAX };
        let mut x: Vec<f32> = numbers(&mut bench.draw, n).into_iter().map(finite).collect();
        let (values, found) = (bench.input(&x), bench.output::<u32>(1));
        launch!(bench, clear(found.at(), 4));
        launch!(bench, is_finite(values.at(), n, found.at()));
        found.holds(&[0], what);
        for wrong in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            if n == 0 {
                continue;
            }
            let at = bench.draw.integer(0..=n - 1);
            let right = std::mem::replace(&mut x[at], wrong);
            let (values, found) = (bench.input(&x), bench.input(&[0u32]));
            launch!(bench, is_finite(values.at(), n, found.at()));
            found.holds(&[1], &format!("{wrong} at {at} of {what}"));
            values.unchanged(what);
            x[at] = right;
        }
    });
}

/// The sum of mixes of index and bits, added to what was there.
pub(crate) fn fold(bench: &mut Bench) {
    on_lengths(bench, |bench, n, what| {
        let x = numbers(&mut bench.draw, n);
        let before = bench.draw.bits();
        let elements = x.iter().enumerate().map(|(i, &x)| fold_element(i, x));
        let expected = elements.fold(before, u64::wrapping_add);
        let (values, sum) = (bench.input(&x), bench.input(&[before]));
        launch!(bench, fold(values.at(), n, sum.at()));
        sum.holds(&[expected], what);
        values.unchanged(what);
    });
}

/// Both ways, random bits among the values, and all 65536 bf16.
pub(crate) fn bf16(bench: &mut Bench) {
    on_lengths(bench, |bench, n, what| {
        let mut x = numbers(&mut bench.draw, n);
        for x in &mut x {
            let bits = bench.draw.bits();
            match bits >> 62 {
                0 => *x = f32::from_bits(bits as u32),
                1 => *x = f32::from_bits(bits as u32 & 0xFFFF_0000 | 0x8000), // a tie
                _ => {}
            }
        }
        let expected: Vec<u16> = x.iter().map(|&x| Bf16::round(x).0).collect();
        let (from, to) = (bench.input(&x), bench.output(n));
        launch!(bench, fp32_to_bf16(from.at(), to.at(), n));
        to.holds(&expected, what);
        from.unchanged(what);
        widen(bench, &expected, what);
    });
    let all: Vec<u16> = (0..=u16::MAX).collect();
    bench.aligned = true;
    widen(bench, &all, "all bf16");
}

fn widen(bench: &mut Bench, x: &[u16], what: &str) {
    let expected: Vec<u32> = x.iter().map(|&x| u32::from(x) << 16).collect();
    let (from, to) = (bench.input(x), bench.output::<u32>(x.len()));
    launch!(bench, bf16_to_fp32(from.at(), to.at(), x.len()));
    to.holds(&expected, what);
    from.unchanged(what);
}
