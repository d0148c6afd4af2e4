//! ONNX: the network as a graph over images that are already preprocessed, (N, 3, crop, crop) to scores (N, classes).
//!
//! Dropout is left out, as in evaluation. What else there is to know (configuration, classes, preprocessing) stands in the
//! model's metadata as JSON under `verydeep`, and its hash under `verydeep_sha256`.

use std::io::{self, Write};
use std::path::Path;

use super::text_of;
use crate::durable::write_atomically;
use crate::error::{Error, Result};
use crate::network::{Layer, Network, Op, Parameter, batch_norm, lrn};
use crate::shape::Chw;
use crate::weights::arrays::write_f32;
use crate::weights::hash::text_sha256;
use crate::weights::model::Model;
use crate::weights::protobuf::Message;

/// The version of the operators, and of the file format that came with it (ONNX 1.8).
const OPSET: u64 = 13;
const IR_VERSION: u64 = 7;

/// The metadata keys: the JSON and its hash.
pub(in crate::weights) const ONNX_KEY: &str = "verydeep";
pub(in crate::weights) const ONNX_HASH_KEY: &str = "verydeep_sha256";

/// Types of numbers and of attributes in ONNX.
const FLOAT: u64 = 1;
const ATTRIBUTE_FLOAT: u64 = 1;
const ATTRIBUTE_INT: u64 = 2;
const ATTRIBUTE_INTS: u64 = 7;

/// Bytes of a protocol buffer at most.
const LARGEST: usize = i32::MAX as usize;

/// Writes the model, whole or not at all. Errors where it is larger than an ONNX file can be.
pub fn write_onnx(path: &Path, model: &Model) -> Result<()> {
    let network = &model.network;
    let tensors: Vec<(Message, &[f32])> = network
        .parameters
        .iter()
        .map(|parameter| (tensor(parameter), &model.weights[parameter.range()]))
        .collect();
    let graph_len: usize = tensors.iter().map(|(head, values)| announced(head, values)).sum();
    let (nodes, ends) = (nodes(network), ends(network));
    let graph_len = graph_len + nodes.as_bytes().len() + ends.as_bytes().len();
    if graph_len > LARGEST - (1 << 20) {
        return Err(Error::invalid_hint(
            path.display(),
            "a model below 2 GB, the limit of ONNX files",
            format_args!("{graph_len} bytes"),
            "--to safetensors has no limit",
        ));
    }
    let head = model_head(model).announce(7, graph_len);
    write_atomically(path, |writer| {
        writer.write_all(head.as_bytes())?;
        writer.write_all(nodes.as_bytes())?;
        tensors
            .iter()
            .try_for_each(|(head, values)| write_tensor(writer, head, values))?;
        writer.write_all(ends.as_bytes())
    })
}

fn model_head(model: &Model) -> Message {
    let opset = Message::default().text(1, "").number(2, OPSET);
    let head = Message::default()
        .number(1, IR_VERSION)
        .text(2, "verydeep")
        .text(3, env!("CARGO_PKG_VERSION"))
        .message(8, &opset);
    match &model.about {
        None => head,
        Some(about) => {
            let entry = |key, text: &str| Message::default().text(1, key).text(2, text);
            let text = text_of(about);
            head.message(14, &entry(ONNX_KEY, &text))
                .message(14, &entry(ONNX_HASH_KEY, &text_sha256(&text)))
        }
    }
}

/// The fields of a parameter's tensor up to the announcement of its numbers.
fn tensor(parameter: &Parameter) -> Message {
    let dims = parameter.dims.iter();
    dims.fold(Message::default(), |message, &side| {
        message.number(1, side as u64)
    })
    .number(2, FLOAT)
    .text(8, &parameter.name)
    .announce(9, size_of::<f32>() * parameter.len())
}

/// Bytes of a tensor as a field of the graph.
fn announced(head: &Message, values: &[f32]) -> usize {
    let len = head.as_bytes().len() + size_of_val(values);
    Message::default().announce(5, len).as_bytes().len() + len
}

fn write_tensor(writer: &mut impl Write, head: &Message, values: &[f32]) -> io::Result<()> {
    let len = head.as_bytes().len() + size_of_val(values);
    writer.write_all(Message::default().announce(5, len).as_bytes())?;
    writer.write_all(head.as_bytes())?;
    write_f32(writer, values)
}

/// A node for every layer, as fields of the graph; dropout is left out, and the map is flattened before the first fully
/// connected layer.
fn nodes(network: &Network) -> Message {
    let mut graph = Message::default();
    let mut value = String::from("input");
    let last = network.layers.len() - 1;
    for (index, layer) in network.layers.iter().enumerate() {
        if let Op::Dropout { .. } = layer.op {
            continue;
        }
        if layer.op == Op::Linear && layer.input.plane() > 1 {
            let flat = format!("{}_flat", layer.name);
            let node = node("Flatten", &flat, &[value], &flat).message(5, &int("axis", 1));
            graph = graph.message(1, &node);
            value = flat;
        }
        let output = if index == last {
            end_of(network)
        } else {
            &layer.name
        };
        let mut inputs = vec![value];
        let parameters = &network.parameters[layer.parameters.clone()];
        inputs.extend(parameters.iter().map(|parameter| parameter.name.clone()));
        graph = graph.message(1, &node_of(layer, &inputs, output));
        value = output.to_string();
    }
    graph.text(2, "verydeep")
}

fn node_of(layer: &Layer, inputs: &[String], output: &str) -> Message {
    let node = |kind| node(kind, &layer.name, inputs, output);
    match layer.op {
        Op::Conv { kernel } => {
            let (side, pad) = (kernel as u64, (kernel / 2) as u64);
            let node = node("Conv").message(5, &ints("kernel_shape", &[side; 2]));
            let node = node.message(5, &ints("strides", &[1; 2]));
            node.message(5, &ints("pads", &[pad; 4]))
        }
        Op::BatchNorm => node("BatchNormalization").message(5, &float("epsilon", batch_norm::EPSILON)),
        Op::Relu => node("Relu"),
        Op::Lrn => {
            // ONNX divides alpha by the size of the window.
            let alpha = lrn::ALPHA * lrn::N as f32;
            let node = node("LRN").message(5, &int("size", lrn::N as u64));
            let node = node.message(5, &float("alpha", alpha));
            node.message(5, &float("beta", lrn::BETA))
                .message(5, &float("bias", lrn::K))
        }
        Op::MaxPool => {
            let node = node("MaxPool").message(5, &ints("kernel_shape", &[2; 2]));
            node.message(5, &ints("strides", &[2; 2]))
        }
        Op::Linear => node("Gemm").message(5, &int("transB", 1)),
        // Weights come with the network that they were trained as.
        Op::Windowed { .. } | Op::AveragePool { .. } | Op::Dropout { .. } => node("Identity"),
    }
}

fn node(kind: &str, name: &str, inputs: &[String], output: &str) -> Message {
    let inputs = inputs.iter();
    inputs
        .fold(Message::default(), |node, input| node.text(1, input))
        .text(2, output)
        .text(3, name)
        .text(4, kind)
}

fn int(name: &str, value: u64) -> Message {
    Message::default()
        .text(1, name)
        .number(3, value)
        .number(20, ATTRIBUTE_INT)
}

fn float(name: &str, value: f32) -> Message {
    Message::default()
        .text(1, name)
        .float(2, value)
        .number(20, ATTRIBUTE_FLOAT)
}

fn ints(name: &str, values: &[u64]) -> Message {
    let attribute = Message::default().text(1, name);
    let values = values.iter();
    values
        .fold(attribute, |attribute, &value| attribute.number(8, value))
        .number(20, ATTRIBUTE_INTS)
}

/// Input and output, as fields of the graph. The batch may have any size.
fn ends(network: &Network) -> Message {
    let sides = |shape: Chw| [shape.c, shape.h, shape.w];
    let last = &network.layers[network.layers.len() - 1];
    let output = match last.op {
        Op::Linear => &[last.output.c][..],
        _ => &sides(last.output),
    };
    Message::default()
        .message(11, &end("input", &sides(network.input)))
        .message(12, &end(end_of(network), output))
}

/// What the graph gives: scores, or of a trunk its last map.
fn end_of(network: &Network) -> &str {
    let last = &network.layers[network.layers.len() - 1];
    if last.op == Op::Linear {
        "scores"
    } else {
        &last.name
    }
}

fn end(name: &str, sides: &[usize]) -> Message {
    let batch = Message::default().message(1, &Message::default().text(2, "N"));
    let shape = sides.iter().fold(batch, |shape, &side| {
        shape.message(1, &Message::default().number(1, side as u64))
    });
    let tensor = Message::default().number(1, FLOAT).message(2, &shape);
    Message::default()
        .text(1, name)
        .message(2, &Message::default().message(1, &tensor))
}
