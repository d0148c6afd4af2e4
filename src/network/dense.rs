//! Dense evaluation (section 3.2 of the paper): the fully connected layers as convolutions, so that the network takes
//! whole images of any size and gives a map of scores for every class.

use super::{Layer, Network, Op};
use crate::error::{Error, Result};
use crate::shape::Chw;

/// `network` over images of `height` rows and `width` columns. The first fully connected layer becomes a convolution
/// without padding whose kernel is as large as the map that it was trained on (7x7), the others become 1x1. Parameters keep
/// their names, shapes and places. Errors where the images are smaller than those that the network was trained on.
pub fn dense(network: &Network, height: usize, width: usize) -> Result<Network> {
    let input = Chw::new(network.input.c, height, width);
    let mut shape = input;
    let mut layers = Vec::with_capacity(network.layers.len());
    for layer in &network.layers {
        let (op, output) = resized(layer, shape)
            .filter(|(_, output)| !output.is_empty())
            .ok_or_else(|| too_small(network, layer, input))?;
        layers.push(Layer {
            op,
            input: shape,
            output,
            ..layer.clone()
        });
        shape = output;
    }
    Ok(Network {
        layers,
        parameters: network.parameters.clone(),
        input,
        classes: network.classes,
    })
}

/// What a layer becomes over an input of `shape`, and its output. `None` where a window does not fit.
fn resized(layer: &Layer, shape: Chw) -> Option<(Op, Chw)> {
    let c = layer.output.c;
    let windowed = |side: usize| {
        let (h, w) = ((shape.h + 1).checked_sub(side)?, (shape.w + 1).checked_sub(side)?);
        Some((Op::Windowed { side }, Chw::new(c, h, w)))
    };
    match layer.op {
        Op::Conv { .. } | Op::BatchNorm | Op::Relu | Op::Lrn | Op::Dropout { .. } => {
            Some((layer.op, Chw { c, ..shape }))
        }
        Op::MaxPool => Some((layer.op, Chw::new(c, shape.h / 2, shape.w / 2))),
        Op::Linear => windowed(Some(layer.input.h).filter(|side| *side == layer.input.w)?),
        Op::Windowed { side } => windowed(side),
    }
}

fn too_small(network: &Network, layer: &Layer, found: Chw) -> Error {
    Error::invalid_hint(
        format_args!("image of a dense evaluation, at layer {}", layer.name),
        format_args!(
            "at least the square of {} pixels that it was trained on",
            network.input.h
        ),
        found,
        "a larger --scales, or --protocol center",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{Config, Spec};

    /// The MACs of issue 8: convolutions on that area, and (floor(H/32) - 6)(floor(W/32) - 6) times the fully connected
    /// layers, 0.1236 G at the paper's size.
    #[test]
    fn macs_are_those_of_the_windows() {
        for config in Config::all() {
            let network = Spec::paper(config).build().unwrap();
            let is_linear = |layer: &&Layer| layer.op == Op::Linear;
            let fully_connected: u64 = network.layers.iter().filter(is_linear).map(Layer::macs).sum();
            assert_eq!(fully_connected, 123_633_664);
            for (h, w) in [(224, 224), (256, 341), (384, 289), (512, 683), (255, 640)] {
                let rewritten = dense(&network, h, w).unwrap();
                let windows = ((h / 32 - 6) * (w / 32 - 6)) as u64;
                let of_layer = |layer: &Layer| match layer.op {
                    Op::Conv { kernel } => layer.parameters_macs(kernel),
                    _ => 0,
                };
                let convolutions: u64 = rewritten.layers.iter().map(of_layer).sum();
                assert_eq!(
                    rewritten.macs(),
                    convolutions + windows * fully_connected,
                    "{config} {h}x{w}"
                );
            }
        }
    }

    impl Layer {
        /// Multiply-accumulates of a convolution on the area of its input, written down on its own.
        fn parameters_macs(&self, kernel: usize) -> u64 {
            (self.input.h * self.input.w * self.input.c * self.output.c * kernel * kernel) as u64
        }
    }

    #[test]
    fn at_the_training_size_only_the_names_of_the_operations_differ() {
        let network = Spec::paper(Config::D).build().unwrap();
        let rewritten = dense(&network, 224, 224).unwrap();
        assert!(rewritten.is_dense() && !network.is_dense());
        assert_eq!(rewritten.parameters, network.parameters);
        assert_eq!(rewritten.macs(), network.macs());
        let kinds: Vec<_> = rewritten.layers.iter().map(Layer::kind).collect();
        assert_eq!(kinds.iter().filter(|kind| *kind == "conv7x7").count(), 1);
        assert_eq!(kinds.iter().filter(|kind| *kind == "conv1x1").count(), 2);
        let again = dense(&rewritten, 256, 300).unwrap();
        assert_eq!(again.layers[again.layers.len() - 1].output, Chw::new(1000, 2, 3));
    }

    #[test]
    fn images_below_the_crop_are_refused() {
        let network = Spec::paper(Config::A).build().unwrap();
        for (h, w) in [(223, 300), (300, 200), (16, 16), (0, 0)] {
            let error = dense(&network, h, w).unwrap_err();
            assert_eq!(error.exit_code(), 3);
            assert!(error.to_string().contains("224"), "{error}");
        }
    }
}
