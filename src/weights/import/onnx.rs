//! ONNX graphs of VGG's shape: one chain of nodes from the image to the scores.
//!
//! Every node must be one that such a network has, with its constants: what is not understood is refused by name. A map that
//! is turned to (N, H, W, C) before it is flattened, as graphs of TensorFlow do, turns the first fully connected layer's
//! weights. Of a trunk, the chain is followed to its last pooling.

use std::collections::HashMap;
use std::path::Path;

use super::graph::{Graph, Node};
use super::sequence::{Kind, Sequence, WeightLayer, transposed};
use super::{NamedArray, Wanted, damaged, torchvision};
use crate::data::preprocess::Preprocess;
use crate::error::Result;
use crate::network::{Extent, POOLS, batch_norm, lrn};
use crate::weights::about::About;

const WHOLE: &str = "a whole ONNX file with a network of VGG's shape";

/// Reads the layers with weights along the chain. Preprocessing is what our own metadata says, or torchvision's.
pub(super) fn read(path: &Path, bytes: &[u8], wanted: Wanted) -> Result<(Vec<NamedArray>, Preprocess)> {
    let graph = Graph::read(bytes).map_err(|why| damaged(path, WHOLE, why))?;
    let about: Option<About> = graph
        .about
        .as_deref()
        .and_then(|text| serde_json::from_str(text).ok());
    let preprocess = about.map_or_else(torchvision, |about| about.preprocess);
    let mut chain = Chain {
        graph: &graph,
        left: bytes.len(),
        sequence: Sequence::default(),
        pools: 0,
        last_dims_are_channels: false,
        is_flat: false,
    };
    match chain.follow(wanted.extent) {
        Ok(()) => Ok((chain.sequence.named(path, wanted)?, preprocess)),
        Err(why) => Err(chain.sequence.unknown(path, WHOLE, why)),
    }
}

type Checked<T> = std::result::Result<T, String>;

struct Chain<'a> {
    graph: &'a Graph<'a>,
    /// Bytes of weights that may still come: all together are no larger than the file.
    left: usize,
    sequence: Sequence,
    /// Poolings so far.
    pools: usize,
    /// Whether the map is (N, H, W, C) at this point.
    last_dims_are_channels: bool,
    is_flat: bool,
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
            if extent == Extent::Trunk && self.pools == POOLS {
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
                        _ => return Err(format!("value {value} read by several nodes: no chain")),
                    }
                }
            };
            self.take(node)
                .map_err(|why| format!("node {} ({}): {why}", node.name, node.kind))?;
            value = node.outputs.first().ok_or("a node without output")?;
        }
        Err("nodes in a circle".into())
    }

    fn take(&mut self, node: &Node<'_>) -> Checked<()> {
        match node.kind.as_str() {
            "Conv" => self.conv(node),
            "BatchNormalization" => self.batch_norm(node),
            "Gemm" => self.gemm(node),
            "MatMul" => self.matmul(node),
            "Add" => self.add(node),
            "LRN" => self.lrn(node),
            "MaxPool" => {
                node.expect_ints("kernel_shape", &[2, 2], None)?;
                node.expect_ints("strides", &[2, 2], None)?;
                self.pools += 1;
                node.expect_ints("pads", &[0; 4], Some(&[0; 4]))
            }
            // torchvision's adaptive pooling at the training size.
            "AveragePool" => node.expect_ints("kernel_shape", &[1, 1], None),
            "Transpose" => self.transpose(node),
            "Flatten" | "Reshape" => {
                if !self.is_flat {
                    self.is_flat = true;
                    self.sequence.channels_last = self.last_dims_are_channels;
                }
                Ok(())
            }
            "Relu" | "Dropout" | "Identity" | "Softmax" | "Squeeze" => Ok(()),
            _ => Err("no node of a VGG network".into()),
        }
    }

    /// The numbers of a constant input.
    fn constant(&mut self, node: &Node<'_>, input: usize) -> Checked<(Vec<usize>, Vec<f32>)> {
        let name = node
            .inputs
            .get(input)
            .ok_or_else(|| format!("input {input} is missing"))?;
        let tensor = self.graph.tensors.get(name.as_str());
        let tensor = tensor.ok_or_else(|| format!("input {name} is no constant"))?;
        let (dims, values) = tensor.read()?;
        let left = self
            .left
            .checked_sub(values.len())
            .ok_or("more weights than the file has bytes")?;
        self.left = left;
        Ok((dims, values))
    }

    fn push(&mut self, kind: Kind, arrays: Vec<(Vec<usize>, Vec<f32>)>) {
        self.sequence.layers.push(WeightLayer { kind, arrays });
    }

    fn conv(&mut self, node: &Node<'_>) -> Checked<()> {
        let (dims, weights) = self.constant(node, 1)?;
        let &[outputs, _, rows, columns] = &dims[..] else {
            return Err(format!("a filter of shape {dims:?}"));
        };
        if rows != columns || rows % 2 == 0 {
            return Err(format!("a filter of {rows}x{columns}"));
        }
        let pad = (rows / 2) as u64;
        node.expect_ints("strides", &[1, 1], Some(&[1, 1]))?;
        node.expect_ints("dilations", &[1, 1], Some(&[1, 1]))?;
        if node.text("auto_pad") != Some("SAME_UPPER") {
            node.expect_ints("pads", &[pad; 4], Some(&[0; 4]))?;
        }
        let bias = match node.inputs.len() {
            2 => (vec![outputs], vec![0.0; outputs]),
            _ => self.constant(node, 2)?,
        };
        self.push(Kind::Conv, vec![(dims, weights), bias]);
        Ok(())
    }

    fn batch_norm(&mut self, node: &Node<'_>) -> Checked<()> {
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
        self.push(Kind::BatchNorm, arrays);
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
        self.linear((dims, weights), node.int("transB").unwrap_or(0) == 1, bias)
    }

    fn matmul(&mut self, node: &Node<'_>) -> Checked<()> {
        let weights = self.constant(node, 1)?;
        self.linear(weights, false, None)
    }

    /// `stands` says whether the weights are (out, in) as they are.
    fn linear(
        &mut self,
        (dims, weights): (Vec<usize>, Vec<f32>),
        stands: bool,
        bias: Option<Vec<f32>>,
    ) -> Checked<()> {
        let &[rows, columns] = &dims[..] else {
            return Err(format!("a matrix of shape {dims:?}"));
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
        self.is_flat = true;
        self.push(Kind::Linear, vec![(dims, weights), (vec![outputs], bias)]);
        Ok(())
    }

    /// The bias of the layer before.
    fn add(&mut self, node: &Node<'_>) -> Checked<()> {
        let is_constant = |input: &String| self.graph.tensors.contains_key(input.as_str());
        let place = node
            .inputs
            .iter()
            .position(is_constant)
            .ok_or("no constant to add")?;
        let (_, values) = self.constant(node, place)?;
        let layer = self.sequence.layers.last_mut().ok_or("no layer before it")?;
        let bias = layer
            .arrays
            .get_mut(1)
            .filter(|(_, bias)| bias.len() == values.len());
        let (_, bias) = bias.ok_or("another number of biases than outputs")?;
        if layer.kind == Kind::BatchNorm || bias.iter().any(|bias| *bias != 0.0) {
            return Err("a second bias".into());
        }
        *bias = values;
        Ok(())
    }

    fn lrn(&mut self, node: &Node<'_>) -> Checked<()> {
        let value = |name, default| node.float(name).unwrap_or(default);
        let (alpha, beta, bias) = (value("alpha", 1e-4), value("beta", 0.75), value("bias", 1.0));
        let size = node.int("size").unwrap_or(0);
        // ONNX divides alpha by the size.
        let is_alpha = (alpha / lrn::N as f32 - lrn::ALPHA).abs() < 1e-3 * lrn::ALPHA;
        if size != lrn::N as u64 || !is_alpha || beta != lrn::BETA || bias != lrn::K {
            return Err(format!(
                "size {size}, alpha {alpha}, beta {beta}, bias {bias}, where net A-LRN has 5, 5e-4, 0.75, 2"
            ));
        }
        self.sequence.lrn = true;
        Ok(())
    }

    /// Between (N, C, H, W) and (N, H, W, C).
    fn transpose(&mut self, node: &Node<'_>) -> Checked<()> {
        match node.ints("perm").unwrap_or_default() {
            [0, 2, 3, 1] if !self.is_flat => self.last_dims_are_channels = true,
            [0, 3, 1, 2] if !self.is_flat => self.last_dims_are_channels = false,
            other => return Err(format!("axes {other:?}")),
        }
        Ok(())
    }
}
