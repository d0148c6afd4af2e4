//! What the back ends are tried on: small networks around one operation, and whole small VGG networks.

use verydeep::data::preprocess::{ChannelOrder, Flip, Preprocess};
use verydeep::network::{Builder, Config, Network, Op, Spec, adaptive, dense};
use verydeep::plan::{Batch, Mode};
use verydeep::shape::Chw;

use super::Draw;

/// A network, a micro-batch size and a mode.
pub(crate) struct Case {
    /// For messages.
    pub(crate) name: String,
    /// What is computed.
    pub(crate) network: Network,
    /// Images of the micro-batch.
    pub(crate) batch: usize,
    /// With or without gradients.
    pub(crate) mode: Mode,
    /// Size of the network's input values.
    pub(crate) scale: f64,
}

/// What follows the operation under test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Tail {
    Nothing,
    Relu,
    ReluPool,
}

/// conv1x1, ReLU, `op`, tail: the convolution in front makes `op` compute a data gradient, and the ReLU gives it
/// something to mask. `shape` is the input of `op`.
pub(crate) fn around(op: Op, outputs: usize, shape: Chw, tail: Tail, batch: usize, mode: Mode) -> Case {
    let (h, w) = match op {
        Op::Windowed { side } => (side, side),
        _ => (shape.h, shape.w),
    };
    let mut net = Builder::new(Chw::new(3, h, w));
    net.conv("front".into(), 1, shape.c);
    net.relu("front_relu".into());
    match op {
        Op::Conv { kernel } => net.conv("op".into(), kernel, outputs),
        Op::BatchNorm => net.batch_norm("op".into()),
        Op::Relu => net.relu("op".into()),
        Op::Lrn => net.lrn("op".into()),
        Op::MaxPool => net.max_pool("op".into()).unwrap(),
        Op::AveragePool { side } => net.average_pool("op".into(), side),
        Op::Linear | Op::Windowed { .. } => net.linear("op".into(), outputs),
        Op::Dropout { p } => net.dropout("op".into(), p),
    }
    if tail != Tail::Nothing {
        net.relu("tail_relu".into());
    }
    if tail == Tail::ReluPool {
        net.max_pool("tail_pool".into()).unwrap();
    }
    let network = match op {
        Op::Windowed { .. } => dense(&net.finish(), shape.h, shape.w).unwrap(),
        _ => net.finish(),
    };
    Case {
        name: format!("{op:?} of {batch} x {shape} to {outputs}, then {tail:?}, {mode:?}"),
        network,
        batch,
        mode,
        // The sum of squares counts only where values are large, as they are behind the first convolution.
        scale: if op == Op::Lrn { 50.0 } else { 1.0 },
    }
}

/// Every operation with every tail, on corner cases and on random shapes of up to `largest` channels.
pub(crate) fn operations(draw: &mut Draw, largest: usize, mode: Mode) -> Vec<Case> {
    let ops = [
        (
            Op::Conv { kernel: 1 },
            &[Tail::Nothing, Tail::Relu, Tail::ReluPool][..],
        ),
        (
            Op::Conv { kernel: 3 },
            &[Tail::Nothing, Tail::Relu, Tail::ReluPool],
        ),
        (Op::Conv { kernel: 5 }, &[Tail::Nothing]),
        (Op::Linear, &[Tail::Nothing, Tail::Relu]),
        (Op::BatchNorm, &[Tail::Nothing, Tail::Relu]),
        (Op::Relu, &[Tail::Nothing]),
        (Op::Lrn, &[Tail::Nothing]),
        (Op::MaxPool, &[Tail::Nothing]),
        (Op::Dropout { p: 0.5 }, &[Tail::Nothing]),
        (Op::Dropout { p: 0.3 }, &[Tail::Nothing]),
        (Op::Dropout { p: 0.0 }, &[Tail::Nothing]),
    ];
    let mut cases = Vec::new();
    for (op, tails) in ops {
        for &tail in tails {
            let shapes = [
                (1, Chw::new(1, 1, 1)),
                (1, Chw::new(1, 3, 5)),
                (2, Chw::new(draw.integer(1..=largest), 1, 1)),
                (3, Chw::new(largest, 4, 4)),
                (
                    draw.integer(1..=3),
                    Chw::new(
                        draw.integer(1..=largest),
                        draw.integer(1..=7),
                        draw.integer(1..=7),
                    ),
                ),
            ];
            for (batch, shape) in shapes {
                let least = if op == Op::MaxPool || tail == Tail::ReluPool {
                    2
                } else {
                    1
                };
                let shape = Chw::new(shape.c, shape.h.max(least), shape.w.max(least));
                let outputs = if shape.c == 1 {
                    1
                } else {
                    draw.integer(1..=largest)
                };
                cases.push(around(op, outputs, shape, tail, batch, mode));
            }
        }
    }
    if mode == Mode::Evaluation {
        cases.extend(windows(draw, largest));
        cases.extend(average_pools(draw, largest));
    }
    cases
}

/// Maps of any size as one mean, as few, and as more than they have pixels.
fn average_pools(draw: &mut Draw, largest: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    for side in [1, 2, 7, draw.integer(1..=9)] {
        let [batch, c, h, w] = [1..=3, 1..=largest, 1..=9, 1..=9].map(|range| draw.integer(range));
        let op = Op::AveragePool { side };
        cases.push(around(
            op,
            1,
            Chw::new(c, h, w),
            Tail::Nothing,
            batch,
            Mode::Evaluation,
        ));
    }
    cases
}

/// Fully connected layers at every window of a map.
fn windows(draw: &mut Draw, largest: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    for tail in [Tail::Nothing, Tail::Relu] {
        for side in [1, 2, draw.integer(1..=7)] {
            let mut random = |most: usize| draw.integer(1..=most);
            let (batch, c, outputs) = (random(3), random(largest), random(largest));
            let shape = Chw::new(c, side - 1 + random(4), side - 1 + random(6));
            let op = Op::Windowed { side };
            cases.push(around(op, outputs, shape, tail, batch, Mode::Evaluation));
        }
    }
    cases
}

/// Every kind of network of the paper, small, with dropout; in evaluation also over whole images of no particular size.
pub(crate) fn networks(width: f64, mode: Mode) -> Vec<Case> {
    let kinds = [
        (Config::A, false),
        (Config::ALrn, false),
        (Config::C, false),
        (Config::D, false),
        (Config::A, true),
    ];
    let rewrites = match mode {
        Mode::Training => &REWRITES[..1],
        Mode::Evaluation => &REWRITES,
    };
    let all = kinds
        .iter()
        .flat_map(|kind| rewrites.iter().map(move |rewrite| (*kind, *rewrite)));
    all.map(|((config, batch_norm), (said, rewrite))| {
        let spec = Spec {
            batch_norm,
            classes: 10,
            crop: 32,
            width,
            fc: 24,
            ..Spec::paper(config)
        };
        Case {
            name: format!("{config}, batch norm {batch_norm}, width {width}, {mode:?}, {said}"),
            network: rewrite(&spec.build().unwrap()),
            batch: 3,
            mode,
            scale: 1.0,
        }
    })
    .collect()
}

/// What becomes of a network before it is planned, and what that is called.
type Rewrite = (&'static str, fn(&Network) -> Network);

const REWRITES: [Rewrite; 3] = [
    ("as trained", Network::clone),
    ("dense", |network| dense(network, 45, 100).unwrap()),
    ("adaptive", |network| dense(&adaptive(network), 45, 100).unwrap()),
];

/// Random images of one micro-batch.
pub(crate) struct Images {
    pixels: Vec<u8>,
    flips: Vec<Flip>,
    colours: Vec<[f32; 3]>,
    /// Class indices; tests change them.
    pub(crate) labels: Vec<u32>,
}

impl Images {
    /// Of the size of `case`.
    pub(crate) fn new(draw: &mut Draw, case: &Case) -> Self {
        let (batch, input) = (case.batch, case.network.input);
        Self {
            pixels: (0..batch * input.len()).map(|_| draw.bits() as u8).collect(),
            flips: (0..batch)
                .map(|_| {
                    if draw.bits() & 1 == 1 {
                        Flip::Mirror
                    } else {
                        Flip::Keep
                    }
                })
                .collect(),
            colours: (0..batch)
                .map(|_| std::array::from_fn(|_| (3.0 * draw.normals(1)[0]) as f32))
                .collect(),
            labels: (0..batch)
                .map(|_| draw.integer(0..=case.network.classes - 1) as u32)
                .collect(),
        }
    }

    /// As the back ends take them.
    pub(crate) fn batch(&self) -> Batch<'_> {
        Batch {
            pixels: &self.pixels,
            flips: &self.flips,
            colours: &self.colours,
            labels: &self.labels,
        }
    }
}

/// The preprocessing of every test: blue first, a factor and a summand for every channel.
pub(crate) fn preprocess() -> Preprocess {
    Preprocess {
        channels: ChannelOrder::Bgr,
        ..Preprocess::standardize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    }
}
