//! The libraries' plans: as many are kept as were used last, and one that is made anew has the same bits.

use verydeep::backend::cuda::{Cuda, KEPT_GRAPHS, KEPT_PLANS, Options};
use verydeep::data::preprocess::{Flip, Preprocess};
use verydeep::exec::{Inference, Scorer};
use verydeep::network::{Builder, Network, dense};
use verydeep::plan::Batch;
use verydeep::rng::{Purpose, Stream};
use verydeep::shape::Chw;

use super::simulator::{calls, fail, libraries, reports};

/// Three convolutions of different shapes.
fn network() -> Network {
    let mut net = Builder::new(Chw::new(3, 4, 4));
    for (i, channels) in [4, 5, 6].into_iter().enumerate() {
        net.conv(format!("conv{i}"), 3, channels);
        net.relu(format!("relu{i}"));
    }
    net.max_pool("pool".into()).unwrap();
    net.linear("fc".into(), 6);
    net.relu("fc_relu".into());
    net.linear("scores".into(), 3);
    net.finish()
}

/// Rows and columns of the images: sizes for more plans than are kept.
fn sizes() -> Vec<[usize; 2]> {
    let side = 4..18;
    let sizes: Vec<[usize; 2]> = side
        .clone()
        .flat_map(|rows| side.clone().map(move |columns| [rows, columns]))
        .collect();
    assert!(3 * sizes.len() > KEPT_PLANS.get());
    sizes
}

fn preprocess() -> Preprocess {
    Preprocess::subtract_mean([120.0, 110.0, 100.0])
}

fn weights() -> Vec<f32> {
    let mut random = Stream::new(1, 0, Purpose::Synthetic, 0);
    (0..network().flat_len())
        .map(|_| 0.2 * random.normal() as f32)
        .collect()
}

fn pixels(images: usize, size: Chw) -> Vec<u8> {
    let mut random = Stream::new(2, 0, Purpose::Synthetic, 0);
    (0..images * size.len())
        .map(|_| random.next_u32() as u8)
        .collect()
}

fn batch(pixels: &[u8]) -> Batch<'_> {
    Batch {
        pixels,
        flips: &[Flip::Keep, Flip::Mirror],
        colours: &[[0.0; 3]; 2],
        labels: &[0, 2],
    }
}

#[test]
fn images_of_many_sizes_are_scored_with_as_many_graphs_as_are_kept() {
    let options = Options {
        graphs: true,
        ..Options::default()
    };
    let cuda = Cuda::open(0, libraries(), options).unwrap();
    let network = network();
    let mut scorer = Scorer::new(&cuda, &weights()).unwrap();
    // The largest first: memory that grows ends all graphs.
    for [rows, columns] in sizes().into_iter().rev() {
        let network = dense(&network, rows, columns).unwrap();
        scorer.plan(&network, &preprocess(), 2).unwrap();
        let pixels = pixels(2, network.input);
        // Walked and captured, in each of the two places that images arrive in, and launched again.
        let runs: Vec<_> = (0..5)
            .map(|_| scorer.run(batch(&pixels)).unwrap().to_vec())
            .collect();
        assert!(runs.iter().all(|scores| *scores == runs[0]));
    }
    assert_eq!(cuda.kept_graphs(), KEPT_GRAPHS.get());
    assert_eq!(reports(), 0);
}

#[test]
fn images_of_many_sizes_are_scored_with_as_many_plans_as_are_kept() {
    let cuda = Cuda::open(0, libraries(), Options::default()).unwrap();
    let network = network();
    let mut scorer = Scorer::new(&cuda, &weights()).unwrap();
    let mut scores = |[rows, columns]: [usize; 2]| -> Vec<f32> {
        let network = dense(&network, rows, columns).unwrap();
        scorer.plan(&network, &preprocess(), 2).unwrap();
        scorer.run(batch(&pixels(2, network.input))).unwrap().to_vec()
    };
    let first: Vec<_> = sizes().into_iter().map(&mut scores).collect();
    // In the same order again: what comes next has always just been given up.
    let second: Vec<_> = sizes().into_iter().map(&mut scores).collect();
    assert!(first.iter().flatten().all(|score| score.is_finite()));
    assert_eq!(first, second);
    let kept = KEPT_PLANS.get();
    assert_eq!(cuda.kept_plans()[0], kept);
    assert!(cuda.kept_plans()[1] <= kept);
    assert_eq!(reports(), 0);
}

#[test]
fn a_network_that_is_prepared_runs_when_its_plans_have_been_given_up() {
    for graphs in [false, true] {
        let options = Options {
            graphs,
            ..Options::default()
        };
        let cuda = Cuda::open(0, libraries(), options).unwrap();
        let (network, weights) = (network(), weights());
        let mut others = Scorer::new(&cuda, &weights).unwrap();
        let mut give_up = || {
            for [rows, columns] in sizes().into_iter().skip(1) {
                let other = dense(&network, rows, columns).unwrap();
                others.plan(&other, &preprocess(), 2).unwrap();
            }
        };
        let mut inference = Inference::new(&cuda, &network, &preprocess(), 2, &weights).unwrap();
        let pixels = pixels(2, network.input);
        // With graphs: walked, captured and launched, in each of the two places that images arrive in.
        let mut runs = Vec::new();
        for _ in 0..6 {
            give_up();
            fail("none"); // counts anew
            inference.run(batch(&pixels)).unwrap();
            let mut posteriors = [0.0; 2 * 3];
            inference.posteriors(&mut posteriors).unwrap();
            runs.push((posteriors, calls()[1]));
        }
        for (posteriors, _) in &runs {
            assert_eq!(*posteriors, runs[0].0, "graphs: {graphs}");
        }
        assert_eq!(runs[5].1 < runs[0].1, graphs, "{runs:?}");
    }
    assert_eq!(reports(), 0);
}
