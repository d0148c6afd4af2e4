//! ONNX graphs of VGG's shape: one chain of nodes from the image to the scores.
//!
//! Every node must be one that such a network has, with its constants: what is not understood is refused by name. A map that
//! is turned to (N, H, W, C) before it is flattened, as graphs of TensorFlow do, turns the first fully connected layer's
//! weights. Of a trunk, the chain is followed to its last pooling.

use std::collections::HashMap;
use std::path::Path;

use super::graph::{Graph, Node};
use super::sequence::{Sequence, WeightLayer, transposed};
use super::steps::{Operation, Weighted, check_lrn};
use super::{Imported, Origin, Selection, torchvision};
use crate::error::Result;
use crate::network::{Extent, POOLS, batch_norm};
use crate::weights::about::About;
use crate::weights::damaged;
use crate::weights::export::{ONNX_HASH_KEY, ONNX_KEY};
use crate::weights::shown::{shown, sides};

const WHOLE: &str = "a whole ONNX file with a network of VGG's shape";

/// Reads the layers along the chain. Our own metadata says what travels with them; else torchvision's preprocessing is
/// assumed.
pub(super) fn read(path: &Path, bytes: &[u8], wanted: Selection) -> Result<Imported> {
    let graph = Graph::read(bytes).map_err(|why| damaged(path, WHOLE, why))?;
    let about = match graph.metadata.get(ONNX_KEY) {
        Some(text) => Some(About::parse(path, text, graph.metadata.get(ONNX_HASH_KEY))?),
        None => None,
    };
    let extent = match about {
        Some(_) => Extent::Whole, // of which its hash is
        None => wanted.extent,
    };
    let mut chain = Chain {
        graph: &graph,
        left: bytes.len(),
        sequence: Sequence::default(),
        map: Map::Unknown,
    };
    if let Err(why) = chain.follow(extent) {
        return Err(match about {
            Some(_) => damaged(path, WHOLE, why),
            None => chain.sequence.unknown(path, WHOLE, why),
        });
    }
    let described = about.as_ref().map(|about| &about.spec);
    let arrays = chain.sequence.named(path, wanted, described)?;
    let origin = match about {
        Some(about) => Origin::Ours(Box::new(about)),
        None => Origin::Theirs(torchvision()),
    };
    Ok(Imported { arrays, origin })
}

type Checked<T> = std::result::Result<T, String>;

struct Chain<'a> {
    graph: &'a Graph<'a>,
    /// Bytes of weights that may still come: all together are no larger than the file.
    left: usize,
    sequence: Sequence,
    map: Map,
}

/// The order of the axes at this point of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Map {
    /// Of the image, before anything is done to it.
    Unknown,
    /// (N, C, H, W)
    ChannelsFirst,
    /// (N, H, W, C)
    ChannelsLast,
    /// (N, inputs)
    Flat,
}

impl<'a> Chain<'a> {
    /// From the graph's input to its end, or to that of a trunk.
    fn follow(&mut self, extent: Extent) -> Checked<()> {
        let graph = self.graph;
        let mut readers: HashMap<&str, Vec<&Node<'_>>> = HashMap::new();
        for node in &graph.nodes {
            let inputs = node
                .inputs
                .iter()
                .filter(|name| !graph.tensors.contains_key(name.as_str()));
            inputs.for_each(|name| readers.entry(name).or_default().push(node));
        }
        let mut value = graph.input()?;
        for _ in 0..=graph.nodes.len() {
            if extent == Extent::Trunk && self.sequence.count(&Operation::MaxPool) == POOLS {
                return Ok(());
            }
            let node = match readers.get(value).map(Vec::as_slice) {
                None => return Ok(()),
                Some([node]) => *node,
                // The shape that a flattening is told is computed from the map: it is no branch of the network.
                Some(several) => {
                    let mut others = several.iter().filter(|node| node.kind != "Shape");
                    match (others.next(), others.next()) {
                        (Some(node), None) => node,
                        _ => return Err(format!("value {} read by several nodes: no chain", shown(value))),
                    }
                }
            };
            self.take(node)
                .map_err(|why| format!("{}: {why}", node.place()))?;
            value = node.outputs.first().ok_or("a node without output")?;
        }
        Err("nodes in a circle".into())
    }

    fn take(&mut self, node: &Node<'_>) -> Checked<()> {
        if !node.is_standard() {
            return Err("no operator of ONNX's own".into());
        }
        let operation = match node.kind.as_str() {
            "Conv" => return self.conv(node),
            "BatchNormalization" => return self.batch_norm(node),
            "Gemm" => return self.gemm(node),
            "MatMul" => return self.matmul(node),
            "Add" => return self.add(node),
            "Transpose" => return self.transpose(node),
            "Identity" => return Ok(()),
            // torchvision's adaptive pooling at the training size.
            "AveragePool" => {
                node.expect_ints("kernel_shape", &[1, 1], None)?;
                node.expect_ints("strides", &[1, 1], Some(&[1, 1]))?;
                return node.expect_ints("pads", &[0; 4], Some(&[0; 4]));
            }
            "MaxPool" => self.max_pool(node)?,
            "LRN" => self.lrn(node)?,
            "Flatten" | "Reshape" | "Squeeze" => self.flatten(node)?,
            "Relu" => Operation::Relu,
            "Dropout" => Operation::Dropout,
            "Softmax" => Operation::Softmax,
            _ => return Err("no node of a VGG network".into()),
        };
        self.sequence.step(operation, node.place());
        Ok(())
    }

    /// What reads rows, columns and channels finds the channels first.
    fn expect_map(&mut self) -> Checked<()> {
        match self.map {
            Map::Unknown | Map::ChannelsFirst => self.map = Map::ChannelsFirst,
            Map::ChannelsLast => return Err("a map whose channels are last".into()),
            Map::Flat => return Err("a map that has been flattened".into()),
        }
        Ok(())
    }

    fn flatten(&mut self, node: &Node<'_>) -> Checked<Operation> {
        if node.kind == "Flatten" {
            node.expect_int("axis", 1, 1)?;
        }
        if self.map != Map::Flat {
            self.sequence.channels_last = self.map == Map::ChannelsLast;
            self.map = Map::Flat;
        }
        Ok(Operation::Flatten)
    }

    fn max_pool(&mut self, node: &Node<'_>) -> Checked<Operation> {
        self.expect_map()?;
        node.expect_ints("kernel_shape", &[2, 2], None)?;
        node.expect_ints("strides", &[2, 2], Some(&[1, 1]))?;
        node.expect_ints("dilations", &[1, 1], Some(&[1, 1]))?;
        node.expect_int("ceil_mode", 0, 0)?; // it counts odd last rows and columns
        match node.text("auto_pad") {
            None | Some("NOTSET") => node.expect_ints("pads", &[0; 4], Some(&[0; 4]))?,
            Some("VALID") => {}
            Some(other) => return Err(format!("auto_pad {}, not VALID", shown(other))),
        }
        Ok(Operation::MaxPool)
    }

    /// The numbers of a constant input.
    fn constant(&mut self, node: &Node<'_>, input: usize) -> Checked<(Vec<usize>, Vec<f32>)> {
        let name = node
            .inputs
            .get(input)
            .ok_or_else(|| format!("input {input} is missing"))?;
        let tensor = self.graph.tensors.get(name.as_str());
        let tensor = tensor.ok_or_else(|| format!("input {} is no constant", shown(name)))?;
        let (dims, values) = tensor.read()?;
        let left = self
            .left
            .checked_sub(values.len())
            .ok_or("more weights than the file has bytes")?;
        self.left = left;
        Ok((dims, values))
    }

    fn push(&mut self, kind: Weighted, node: &Node<'_>, arrays: Vec<(Vec<usize>, Vec<f32>)>) {
        self.sequence.push(WeightLayer { kind, arrays }, node.place());
    }

    fn conv(&mut self, node: &Node<'_>) -> Checked<()> {
        self.expect_map()?;
        let (dims, weights) = self.constant(node, 1)?;
        let &[outputs, _, rows, columns] = &dims[..] else {
            return Err(format!("a filter of shape {}", sides(&dims)));
        };
        if rows != columns || rows % 2 == 0 {
            return Err(format!("a filter of {rows}x{columns}"));
        }
        let (side, pad) = (rows as u64, (rows / 2) as u64);
        node.expect_ints("kernel_shape", &[side; 2], Some(&[side; 2]))?;
        node.expect_ints("strides", &[1, 1], Some(&[1, 1]))?;
        node.expect_ints("dilations", &[1, 1], Some(&[1, 1]))?;
        node.expect_int("group", 1, 1)?;
        match node.text("auto_pad") {
            None | Some("NOTSET") => node.expect_ints("pads", &[pad; 4], Some(&[0; 4]))?,
            Some("SAME_UPPER" | "SAME_LOWER") => {} // the same, of an odd filter
            Some("VALID") if pad == 0 => {}
            Some(other) => return Err(format!("auto_pad {}", shown(other))),
        }
        let bias = match node.inputs.len() {
            2 => (vec![outputs], vec![0.0; outputs]),
            _ => self.constant(node, 2)?,
        };
        self.push(Weighted::Conv, node, vec![(dims, weights), bias]);
        Ok(())
    }

    fn batch_norm(&mut self, node: &Node<'_>) -> Checked<()> {
        self.expect_map()?;
        node.expect_int("training_mode", 0, 0)?;
        let epsilon = node.float("epsilon").unwrap_or(1e-5);
        if epsilon != batch_norm::EPSILON {
            return Err(format!(
                "epsilon {epsilon}, where this program has {}",
                batch_norm::EPSILON
            ));
        }
        let arrays = (1..=4)
            .map(|input| self.constant(node, input))
            .collect::<Checked<_>>()?;
        self.push(Weighted::BatchNorm, node, arrays);
        Ok(())
    }

    fn gemm(&mut self, node: &Node<'_>) -> Checked<()> {
        if node.float("alpha").unwrap_or(1.0) != 1.0 || node.float("beta").unwrap_or(1.0) != 1.0 {
            return Err("factors other than 1".into());
        }
        if node.int("transA").unwrap_or(0) != 0 {
            return Err("a turned input".into());
        }
        let (dims, weights) = self.constant(node, 1)?;
        let bias = match node.inputs.len() {
            2 => None,
            _ => Some(self.constant(node, 2)?.1),
        };
        self.linear(node, (dims, weights), node.int("transB").unwrap_or(0) == 1, bias)
    }

    fn matmul(&mut self, node: &Node<'_>) -> Checked<()> {
        let weights = self.constant(node, 1)?;
        self.linear(node, weights, false, None)
    }

    /// `stands` says whether the weights are (out, in) as they are.
    fn linear(
        &mut self,
        node: &Node<'_>,
        (dims, weights): (Vec<usize>, Vec<f32>),
        stands: bool,
        bias: Option<Vec<f32>>,
    ) -> Checked<()> {
        let &[rows, columns] = &dims[..] else {
            return Err(format!("a matrix of shape {}", sides(&dims)));
        };
        let (dims, weights) = if stands {
            (dims, weights)
        } else {
            (vec![columns, rows], transposed((rows, columns), &weights))
        };
        let outputs = dims[0];
        let bias = bias.unwrap_or_else(|| vec![0.0; outputs]);
        if bias.len() != outputs {
            return Err(format!("{} biases for {outputs} outputs", bias.len()));
        }
        if self.map != Map::Flat {
            return Err("a map that has not been flattened".into());
        }
        self.push(
            Weighted::Linear,
            node,
            vec![(dims, weights), (vec![outputs], bias)],
        );
        Ok(())
    }

    /// The bias of the layer right before.
    fn add(&mut self, node: &Node<'_>) -> Checked<()> {
        let is_constant = |input: &String| self.graph.tensors.contains_key(input.as_str());
        let place = node
            .inputs
            .iter()
            .position(is_constant)
            .ok_or("no constant to add")?;
        let (dims, values) = self.constant(node, place)?;
        let follows = matches!(
            self.sequence.steps.last().map(|step| &step.operation),
            Some(Operation::Weights(Weighted::Conv | Weighted::Linear))
        );
        let layer = self.sequence.layers.last_mut().filter(|_| follows);
        let layer = layer.ok_or("no convolution or fully connected layer before it")?;
        // One number for each channel: of a map with the channels first, two axes follow theirs.
        let behind = match self.map {
            Map::Unknown | Map::ChannelsFirst => 2,
            Map::ChannelsLast | Map::Flat => 0,
        };
        let channels = layer.arrays[1].1.len();
        let axis = dims.len().checked_sub(1 + behind);
        if values.len() != channels || channels > 1 && axis.map(|axis| dims[axis]) != Some(channels) {
            return Err(format!("{} added to {channels} channels", sides(&dims)));
        }
        let (_, bias) = &mut layer.arrays[1];
        if bias.iter().any(|bias| *bias != 0.0) {
            return Err("a second bias".into());
        }
        *bias = values;
        Ok(())
    }

    fn lrn(&mut self, node: &Node<'_>) -> Checked<Operation> {
        self.expect_map()?;
        let value = |name, default| node.float(name).unwrap_or(default);
        let size = node.int("size").unwrap_or(0);
        check_lrn(
            size,
            value("alpha", 1e-4),
            value("beta", 0.75),
            value("bias", 1.0),
        )?;
        Ok(Operation::Lrn)
    }

    /// Between (N, C, H, W) and (N, H, W, C); which of them an image is, its first turn says.
    fn transpose(&mut self, node: &Node<'_>) -> Checked<()> {
        self.map = match (node.ints("perm").unwrap_or_default(), self.map) {
            ([0, 2, 3, 1], Map::ChannelsFirst) => Map::ChannelsLast,
            ([0, 3, 1, 2], Map::Unknown | Map::ChannelsLast) => Map::ChannelsFirst,
            (other, _) => return Err(format!("axes {}", sides(other))),
        };
        Ok(())
    }
}
