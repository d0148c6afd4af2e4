//! What a file computes between its weights, against what a VGG network computes there.

use crate::network::{Config, Extent, Layer, Network, Op, POOLS, Spec, lrn};
use crate::weights::shown::shown;

/// One operation of a file, in the order of the forward pass.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Step {
    pub(super) operation: Operation,
    /// The node or layer, as messages name it.
    pub(super) place: String,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operation {
    /// A layer with weights: the next of [`super::sequence::Sequence::layers`].
    Weights(Weighted),
    Relu,
    /// With the paper's constants.
    Lrn,
    /// Over 2x2 pixels, by steps of 2.
    MaxPool,
    Dropout,
    Flatten,
    Softmax,
    /// What no VGG network has.
    Other(String),
}

/// What kind of layer weights are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weighted {
    /// Weight (K, C, R, S).
    Conv,
    BatchNorm,
    /// Weight (out, in).
    Linear,
}

impl Operation {
    /// In the words of [`Layer::kind`].
    fn name(&self) -> String {
        let name = match self {
            Self::Weights(Weighted::Conv) => "conv",
            Self::Weights(Weighted::BatchNorm) => "batch_norm",
            Self::Weights(Weighted::Linear) => "linear",
            Self::Relu => "relu",
            Self::Lrn => "lrn",
            Self::MaxPool => "max_pool",
            Self::Dropout => "dropout",
            Self::Flatten => "flatten",
            Self::Softmax => "softmax",
            Self::Other(name) => return shown(name),
        };
        name.into()
    }

    /// Whether it is what a layer computes.
    fn is(&self, op: Op) -> bool {
        match op {
            Op::Conv { .. } => *self == Self::Weights(Weighted::Conv),
            Op::BatchNorm => *self == Self::Weights(Weighted::BatchNorm),
            Op::Linear => *self == Self::Weights(Weighted::Linear),
            Op::Relu => *self == Self::Relu,
            Op::Lrn => *self == Self::Lrn,
            Op::MaxPool => *self == Self::MaxPool,
            Op::Dropout { .. } => *self == Self::Dropout,
            Op::Windowed { .. } | Op::AveragePool { .. } => false, // of no network that a file is of
        }
    }

    /// Whether it changes nothing in front of a layer, or of the end: dropout anywhere, as in evaluation; a flattening in
    /// front of fully connected layers and at the end; there also a soft-max, whose order is that of the scores.
    fn is_nothing_before(&self, next: Option<&Layer>) -> bool {
        match self {
            Self::Dropout => true,
            Self::Flatten => next.is_none_or(|layer| layer.op == Op::Linear),
            Self::Softmax => next.is_none(),
            Self::Weights(_) | Self::Relu | Self::Lrn | Self::MaxPool | Self::Other(_) => false,
        }
    }
}

/// The first step that is another one.
#[derive(Debug, PartialEq)]
pub(super) struct Difference {
    pub(super) place: String,
    pub(super) expected: String,
    pub(super) found: String,
}

/// Compares steps with the layers of a network, one by one. Of a trunk the last pooling may be missing: networks are cut
/// behind their convolutions, too.
pub(super) fn compare(steps: &[Step], network: &Network, spec: &Spec) -> Result<(), Difference> {
    let Spec { config, extent, .. } = spec;
    let is_computed = |layer: &&Layer| !matches!(layer.op, Op::Dropout { .. });
    let mut layers = network.layers.iter().filter(is_computed).peekable();
    let mut before = "the image";
    let difference = |next: Option<&Layer>, before: &str, place: &str, found: String| Difference {
        place: place.into(),
        expected: match next {
            Some(layer) => expected(layer, before, *config),
            None => format!("nothing behind {before}, as in net {config}"),
        },
        found,
    };
    for step in steps {
        let next = layers.peek().copied();
        match next {
            Some(layer) if step.operation.is(layer.op) => {
                before = &layer.name;
                layers.next();
            }
            _ if step.operation.is_nothing_before(next) => {}
            _ => return Err(difference(next, before, &step.place, step.operation.name())),
        }
    }
    match layers.next() {
        None => Ok(()),
        Some(layer) if *extent == Extent::Trunk && layer.op == Op::MaxPool && layers.peek().is_none() => {
            Ok(())
        }
        next => Err(difference(next, before, "its end", "no more".into())),
    }
}

fn expected(layer: &Layer, before: &str, config: Config) -> String {
    let Layer { name, .. } = layer;
    format!("{name} ({}) behind {before}, as in net {config}", layer.kind())
}

/// Steps up to the last pooling, or of those that have no such pooling up to the first fully connected layer.
pub(super) fn trunk(steps: &[Step]) -> &[Step] {
    let places = |wanted: Operation| {
        let found = steps.iter().enumerate();
        found
            .filter(move |(_, step)| step.operation == wanted)
            .map(|(at, _)| at)
    };
    let pooled = places(Operation::MaxPool).nth(POOLS - 1).map(|at| at + 1);
    let end = pooled.or_else(|| places(Operation::Weights(Weighted::Linear)).next());
    &steps[..end.unwrap_or(steps.len())]
}

/// Refuses local response normalisation with other constants than the paper's. Caffe and ONNX divide alpha by the size of
/// the window.
pub(super) fn check_lrn(size: u64, alpha: f32, beta: f32, k: f32) -> Result<(), String> {
    let is_alpha = (alpha / lrn::N as f32 - lrn::ALPHA).abs() < 1e-3 * lrn::ALPHA;
    if size == lrn::N as u64 && is_alpha && beta == lrn::BETA && k == lrn::K {
        return Ok(());
    }
    Err(format!(
        "normalisation with size {size}, alpha {alpha}, beta {beta}, k {k}, where net A-LRN has 5, 5e-4, 0.75, 2"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(network: &Network) -> Vec<Step> {
        let step = |layer: &Layer| Step {
            operation: match layer.op {
                Op::Conv { .. } => Operation::Weights(Weighted::Conv),
                Op::BatchNorm => Operation::Weights(Weighted::BatchNorm),
                Op::Linear => Operation::Weights(Weighted::Linear),
                Op::Relu => Operation::Relu,
                Op::Lrn => Operation::Lrn,
                Op::MaxPool => Operation::MaxPool,
                Op::Dropout { .. } => Operation::Dropout,
                Op::Windowed { .. } | Op::AveragePool { .. } => unreachable!("not in a table"),
            },
            place: layer.name.clone(),
        };
        network.layers.iter().map(step).collect()
    }

    /// Every step that a network has matters, but dropout.
    #[test]
    fn a_step_that_is_missing_or_twice_is_told() {
        for config in Config::all() {
            let spec = Spec::paper(config);
            let network = spec.build().unwrap();
            let all = steps(&network);
            assert_eq!(compare(&all, &network, &spec), Ok(()));
            for (at, step) in all.iter().enumerate() {
                let mut less = all.clone();
                less.remove(at);
                let mut more = all.clone();
                more.insert(at, step.clone());
                for other in [less, more] {
                    let found = compare(&other, &network, &spec);
                    assert_eq!(found.is_ok(), step.operation == Operation::Dropout, "{found:?}");
                }
            }
            let cut = Spec::trunk(config);
            assert_eq!(compare(trunk(&all), &cut.build().unwrap(), &cut), Ok(()));
        }
    }
}
