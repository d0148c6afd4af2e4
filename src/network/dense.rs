//! Networks over whole images of any size. Dense evaluation (section 3.2 of the paper) has the fully connected layers as
//! convolutions, so that there is a map of scores for every class; torchvision's models average the last map down to the size
//! that the fully connected layers were trained on, so that there is one score.

use super::{Layer, Network, Op};
use crate::error::{Error, Result};
use crate::shape::Chw;

/// `network` over images of `height` rows and `width` columns. The first fully connected layer becomes a convolution
/// without padding whose kernel is as large as the map that it was trained on (7x7), the others become 1x1. Behind an average
/// pooling, which gives maps of one size only, layers stay what they are. Parameters keep their names, shapes and places.
/// Errors where the images are smaller than those that the network was trained on, or leave nothing to pool.
pub fn dense(network: &Network, height: usize, width: usize) -> Result<Network> {
    let input = Chw::new(network.input.c, height, width);
    let mut shape = input;
    let mut layers = Vec::with_capacity(network.layers.len());
    let mut is_fixed = false;
    for layer in &network.layers {
        is_fixed |= matches!(layer.op, Op::AveragePool { .. });
        let resized = match layer.op {
            Op::Linear if is_fixed => Some((layer.op, layer.output)),
            _ => resized(layer, shape),
        };
        let (op, output) = resized
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
    // Of a map of windows, each has its scores.
    let has_windows = layers.iter().any(|layer| matches!(layer.op, Op::Windowed { .. }));
    Ok(Network {
        layers,
        parameters: network.parameters.clone(),
        input,
        classes: if has_windows { shape.c } else { shape.len() },
    })
}

/// `network` with an average pooling in front of its first fully connected layer, as torchvision's models have it: at the
/// training size it changes nothing, and over larger or smaller images ([`dense()`]) it gives the map that the layer was
/// trained on.
pub fn adaptive(network: &Network) -> Network {
    let mut network = network.clone();
    let Some(first) = network.layers.iter().position(|layer| layer.op == Op::Linear) else {
        return network;
    };
    let layer = &network.layers[first];
    debug_assert_eq!(layer.input.h, layer.input.w, "networks are trained on squares");
    let pool = Layer {
        name: "avgpool".into(),
        op: Op::AveragePool { side: layer.input.h },
        input: layer.input,
        output: layer.input,
        parameters: layer.parameters.start..layer.parameters.start,
    };
    network.layers.insert(first, pool);
    let behind = network.parameters.iter_mut().filter(|p| p.layer >= first);
    behind.for_each(|parameter| parameter.layer += 1);
    network
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
        Op::AveragePool { side } => Some((layer.op, Chw::new(c, side, side))),
        Op::Linear => windowed(Some(layer.input.h).filter(|side| *side == layer.input.w)?),
        Op::Windowed { side } => windowed(side),
    }
}

fn too_small(network: &Network, layer: &Layer, found: Chw) -> Error {
    let pools = network
        .layers
        .iter()
        .any(|layer| matches!(layer.op, Op::AveragePool { .. }));
    let expected = if pools {
        "enough pixels to leave a map to average".into()
    } else {
        let side = network.input.h;
        format!("at least the square of {side} pixels that it was trained on")
    };
    Error::invalid_hint(
        format_args!("image of a dense evaluation, at layer {}", layer.name),
        expected,
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
        assert!(rewritten.only_scores() && !network.only_scores());
        assert_eq!(rewritten.parameters, network.parameters);
        assert_eq!(rewritten.macs(), network.macs());
        let kinds: Vec<_> = rewritten.layers.iter().map(Layer::kind).collect();
        assert_eq!(kinds.iter().filter(|kind| *kind == "conv7x7").count(), 1);
        assert_eq!(kinds.iter().filter(|kind| *kind == "conv1x1").count(), 2);
        let again = dense(&rewritten, 256, 300).unwrap();
        assert_eq!(again.layers[again.layers.len() - 1].output, Chw::new(1000, 2, 3));
    }

    #[test]
    fn an_average_pooling_gives_the_map_of_the_training_size() {
        let network = Spec::paper(Config::D).build().unwrap();
        let pooled = adaptive(&network);
        for parameter in &pooled.parameters {
            assert!(
                pooled.layers[parameter.layer]
                    .parameters
                    .contains(&pooled.parameters.iter().position(|p| p == parameter).unwrap())
            );
        }
        for (h, w) in [(224, 224), (256, 341), (512, 683), (32, 63)] {
            let rewritten = dense(&pooled, h, w).unwrap();
            assert!(rewritten.only_scores());
            let pool = rewritten
                .layers
                .iter()
                .find(|layer| layer.name == "avgpool")
                .unwrap();
            assert_eq!(pool.input, Chw::new(512, h / 32, w / 32));
            assert_eq!(pool.output, Chw::new(512, 7, 7));
            assert_eq!(
                rewritten.layers[rewritten.layers.len() - 1].output,
                Chw::new(1000, 1, 1)
            );
        }
        let error = dense(&pooled, 31, 300).unwrap_err().to_string();
        assert!(
            error.contains("pool5") && error.contains("a map to average"),
            "{error}"
        );
    }

    #[test]
    fn a_trunk_gives_its_map() {
        let trunk = Spec::trunk(Config::D).build().unwrap();
        let rewritten = dense(&trunk, 256, 341).unwrap();
        assert_eq!(rewritten.classes, 512 * 8 * 10);
        assert_eq!(
            rewritten.layers[rewritten.layers.len() - 1].output,
            Chw::new(512, 8, 10)
        );
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
