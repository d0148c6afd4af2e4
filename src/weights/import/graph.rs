//! An ONNX file: nodes, constants, and the name of the image.

use std::collections::HashMap;

use super::{MOST_SIDES, Number, elements};
use crate::weights::protobuf::{Field, Wire, fields};
use crate::weights::shown::{shown, sides};

type Checked<T> = std::result::Result<T, String>;

/// The one graph of a model.
#[derive(Default)]
pub(super) struct Graph<'a> {
    pub(super) nodes: Vec<Node<'a>>,
    /// Initializers and constants, by name.
    pub(super) tensors: HashMap<String, Tensor<'a>>,
    inputs: Vec<String>,
    /// What programs write beside their models, by key.
    pub(super) metadata: HashMap<String, String>,
}

#[derive(Default)]
pub(super) struct Node<'a> {
    pub(super) name: String,
    pub(super) kind: String,
    domain: String,
    pub(super) inputs: Vec<String>,
    pub(super) outputs: Vec<String>,
    attributes: HashMap<String, Attribute<'a>>,
}

#[derive(Default)]
struct Attribute<'a> {
    float: Option<f32>,
    int: Option<u64>,
    text: Option<String>,
    ints: Vec<u64>,
    tensor: Option<Tensor<'a>>,
}

/// A constant, not yet read.
#[derive(Default, Clone)]
pub(super) struct Tensor<'a> {
    name: String,
    dims: Vec<u64>,
    number: u64,
    /// Little-endian numbers.
    raw: &'a [u8],
    floats: Vec<f32>,
    is_external: bool,
}

impl<'a> Graph<'a> {
    pub(super) fn read(model: &'a [u8]) -> Checked<Self> {
        let mut graph = None;
        let mut metadata = HashMap::new();
        for field in fields(model) {
            let Field { number, value } = field?;
            match number {
                7 => graph = Some(Self::of(value.bytes()?)?),
                14 => {
                    let (key, text) = entry(value.bytes()?)?;
                    metadata.insert(key, text);
                }
                _ => {}
            }
        }
        let mut graph = graph.ok_or("a model without a graph")?;
        graph.metadata = metadata;
        graph.constants();
        Ok(graph)
    }

    fn of(message: &'a [u8]) -> Checked<Self> {
        let mut graph = Self::default();
        for field in fields(message) {
            let Field { number, value } = field?;
            match number {
                1 => graph.nodes.push(Node::of(value.bytes()?)?),
                5 => {
                    let tensor = Tensor::of(value.bytes()?)?;
                    graph.tensors.insert(tensor.name.clone(), tensor);
                }
                11 => graph.inputs.push(name_of(value.bytes()?)?),
                _ => {}
            }
        }
        Ok(graph)
    }

    /// Nodes that are constants become constants.
    fn constants(&mut self) {
        let (constants, nodes) = std::mem::take(&mut self.nodes)
            .into_iter()
            .partition(|node| node.kind == "Constant");
        self.nodes = nodes;
        let constants: Vec<Node<'a>> = constants;
        for mut node in constants {
            let tensor = node
                .attributes
                .remove("value")
                .and_then(|attribute| attribute.tensor);
            if let (Some(tensor), Some(name)) = (tensor, node.outputs.pop()) {
                self.tensors.insert(name, tensor);
            }
        }
    }

    /// The image: the one input that is no constant.
    pub(super) fn input(&self) -> Checked<&str> {
        let mut inputs = self
            .inputs
            .iter()
            .filter(|name| !self.tensors.contains_key(*name));
        match (inputs.next(), inputs.next()) {
            (Some(input), None) => Ok(input),
            _ => Err("another number of inputs than one".into()),
        }
    }
}

impl<'a> Node<'a> {
    fn of(message: &'a [u8]) -> Checked<Self> {
        let mut node = Self::default();
        for field in fields(message) {
            let Field { number, value } = field?;
            match number {
                1 => node.inputs.push(value.text()?),
                2 => node.outputs.push(value.text()?),
                3 => node.name = value.text()?,
                4 => node.kind = value.text()?,
                7 => node.domain = value.text()?,
                5 => {
                    let (name, attribute) = Attribute::of(value.bytes()?)?;
                    node.attributes.insert(name, attribute);
                }
                _ => {}
            }
        }
        Ok(node)
    }

    /// The node, as messages name it.
    pub(super) fn place(&self) -> String {
        let kind = shown(&self.kind);
        match (self.name.as_str(), self.outputs.first()) {
            ("", Some(output)) => format!("node of output {} ({kind})", shown(output)),
            (name, _) => format!("node {} ({kind})", shown(name)),
        }
    }

    /// Whether its kind is one of ONNX's own.
    pub(super) fn is_standard(&self) -> bool {
        self.domain.is_empty() || self.domain == "ai.onnx"
    }

    pub(super) fn float(&self, name: &str) -> Option<f32> {
        self.attributes.get(name)?.float
    }

    pub(super) fn int(&self, name: &str) -> Option<u64> {
        self.attributes.get(name)?.int
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.attributes.get(name)?.text.as_deref()
    }

    pub(super) fn ints(&self, name: &str) -> Option<&[u64]> {
        Some(&self.attributes.get(name)?.ints)
    }

    /// Refuses other numbers; `default` is what the operator means where it has none.
    pub(super) fn expect_ints(&self, name: &str, expected: &[u64], default: Option<&[u64]>) -> Checked<()> {
        let found = self.ints(name).or(default);
        if found == Some(expected) {
            return Ok(());
        }
        Err(format!(
            "{name} {}, not {expected:?}",
            sides(found.unwrap_or_default())
        ))
    }

    /// Refuses another number; without the attribute it is `default`.
    pub(super) fn expect_int(&self, name: &str, expected: u64, default: u64) -> Checked<()> {
        match self.int(name).unwrap_or(default) {
            found if found == expected => Ok(()),
            found => Err(format!("{name} {found}, not {expected}")),
        }
    }
}

impl<'a> Attribute<'a> {
    fn of(message: &'a [u8]) -> Checked<(String, Self)> {
        let (mut name, mut attribute) = (String::new(), Self::default());
        for field in fields(message) {
            let Field { number, value } = field?;
            match number {
                1 => name = value.text()?,
                2 => attribute.float = Some(value.float()?),
                3 => attribute.int = Some(value.number()?),
                4 => attribute.text = Some(value.text()?),
                5 => attribute.tensor = Some(Tensor::of(value.bytes()?)?),
                8 => value.numbers(&mut attribute.ints)?,
                _ => {}
            }
        }
        Ok((name, attribute))
    }
}

impl<'a> Tensor<'a> {
    fn of(message: &'a [u8]) -> Checked<Self> {
        let mut tensor = Self::default();
        for field in fields(message) {
            let Field { number, value } = field?;
            match number {
                1 => value.numbers(&mut tensor.dims)?,
                2 => tensor.number = value.number()?,
                4 => value.floats(&mut tensor.floats)?,
                8 => tensor.name = value.text()?,
                9 => tensor.raw = value.bytes()?,
                13 => tensor.is_external = true,
                14 => tensor.is_external |= value != Wire::Varint(0),
                _ => {}
            }
        }
        Ok(tensor)
    }

    /// Shape and numbers, as f32.
    pub(super) fn read(&self) -> Checked<(Vec<usize>, Vec<f32>)> {
        let Self {
            name,
            dims,
            raw,
            floats,
            ..
        } = self;
        let name = shown(name);
        if self.is_external {
            return Err(format!("{name} is in another file: put all weights into one"));
        }
        let shape: Option<Vec<usize>> = dims.iter().map(|&side| usize::try_from(side).ok()).collect();
        let shape = shape.filter(|shape| shape.len() <= MOST_SIDES);
        let shape = shape.ok_or_else(|| format!("{name} of shape {}", sides(dims)))?;
        let number = match self.number {
            1 => Number::F32,
            10 => Number::F16,
            11 => Number::F64,
            16 => Number::Bf16,
            other => return Err(format!("{name} of ONNX's type {other}")),
        };
        let values = match (floats.is_empty(), raw.len() % number.bytes()) {
            (false, _) => floats.clone(),
            (true, 0) => number.read(raw).map_err(|why| format!("{name}: {why}"))?,
            (true, _) => return Err(format!("{name} of {} bytes", raw.len())),
        };
        if elements(&shape) != Some(values.len()) {
            return Err(format!(
                "{name} of {} numbers and shape {}",
                values.len(),
                sides(dims)
            ));
        }
        Ok((shape, values))
    }
}

/// Key and value of a text.
fn entry(message: &[u8]) -> Checked<(String, String)> {
    let (mut key, mut text) = (String::new(), String::new());
    for field in fields(message) {
        let Field { number, value } = field?;
        match number {
            1 => key = value.text()?,
            2 => text = value.text()?,
            _ => {}
        }
    }
    Ok((key, text))
}

fn name_of(message: &[u8]) -> Checked<String> {
    for field in fields(message) {
        let Field { number, value } = field?;
        if number == 1 {
            return value.text();
        }
    }
    Err("an input without a name".into())
}
