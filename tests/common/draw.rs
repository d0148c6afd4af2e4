//! Fresh random numbers for every run of the tests, and the way to repeat a run.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::ops::RangeInclusive;

use verydeep::network::{Network, Role};
use verydeep::rng::{Purpose, Stream};

/// Overrides the seed, to repeat a failure.
const SEED: &str = "VERYDEEP_TEST_SEED";

/// A source of random numbers. If the test fails it says how to repeat it. A clone gives the same numbers again.
#[derive(Clone)]
pub(crate) struct Draw {
    seed: u64,
    stream: Stream,
}

impl Draw {
    /// From a fresh seed, or from the one in `VERYDEEP_TEST_SEED`.
    pub(crate) fn new() -> Self {
        let seed = match std::env::var(SEED) {
            Ok(text) => text.parse().expect("VERYDEEP_TEST_SEED is a number"),
            Err(_) => RandomState::new().build_hasher().finish(),
        };
        Self {
            seed,
            stream: Stream::new(seed, 0, Purpose::Synthetic, 0),
        }
    }

    /// One of `range`.
    pub(crate) fn integer(&mut self, range: RangeInclusive<usize>) -> usize {
        let count = range.end() - range.start() + 1;
        range.start() + self.stream.below(count as u64) as usize
    }

    /// 64 random bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.stream.next_u64()
    }

    /// Standard normal numbers.
    pub(crate) fn normals(&mut self, count: usize) -> Vec<f64> {
        (0..count).map(|_| self.stream.normal()).collect()
    }

    /// Distinct numbers in random order, none near 0 and no two near each other (0.02 and more), symmetric around 0:
    /// far from every kink of a rectifier or a maximum.
    pub(crate) fn apart(&mut self, count: usize) -> Vec<f64> {
        let spacing = (4.0 / count as f64).max(0.02);
        let mut values: Vec<f64> = (0..count)
            .map(|i| (i as f64 - (count / 2) as f64 + 0.5) * spacing)
            .collect();
        for i in (1..count).rev() {
            values.swap(i, self.integer(0..=i));
        }
        values
    }

    /// Parameters under which activations keep their size; gaps are 0.
    pub(crate) fn parameters(&mut self, network: &Network) -> Vec<f32> {
        let mut flat = vec![0.0; network.flat_len()];
        for parameter in &network.parameters {
            let fan_in: usize = parameter.dims[1..].iter().product();
            for value in &mut flat[parameter.range()] {
                let normal = self.stream.normal();
                *value = match parameter.role {
                    Role::Weight => normal * (2.0 / fan_in as f64).sqrt(),
                    Role::Bias | Role::Shift | Role::RunningMean => 0.1 * normal,
                    Role::Scale => 1.0 + 0.2 * normal,
                    Role::RunningVariance => 0.5 + self.stream.uniform(),
                } as f32;
            }
        }
        flat
    }
}

impl Drop for Draw {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.seed;
            // Nobody is left to tell if even this cannot be written.
            writeln!(std::io::stderr(), "to repeat this failure: {SEED}={seed}").unwrap_or_default();
        }
    }
}

/// The nearest f32 values.
pub(crate) fn singles(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}
