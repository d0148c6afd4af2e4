//! The pickle of a PyTorch state dictionary, by a strict list of opcodes and names.
//!
//! A pickle is a program for a machine with a stack. What is understood here makes numbers, texts, tuples, lists,
//! dictionaries and descriptions of tensors; the only callables are the few that PyTorch names in a state dictionary, and
//! they are recognised, not called. Everything else is refused. Values live in one list and refer to each other by index,
//! so that nothing can be made to grow faster than the file is long, and nothing recurses.

mod reader;
mod value;

pub(super) use value::Tensor;

use reader::Reader;
use value::{At, Known, Storage, Value};

use super::MOST_SIDES;
use crate::weights::shown::shown;

/// Bytes of a pickle and of a text in it, at most. A network of 19 layers has a pickle of 20 KB.
const LONGEST: usize = 1 << 20;
const LONGEST_TEXT: usize = 256;

/// Why a pickle is not read.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It is none.
    Damaged(String),
    /// It holds other things than the weights: a whole model, or what a program keeps beside them.
    MoreThanWeights(String),
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self::Damaged(why)
    }
}

impl From<&str> for Refusal {
    fn from(why: &str) -> Self {
        Self::Damaged(why.into())
    }
}

impl Refusal {
    /// With the byte at which the pickle was left.
    fn at(self, byte: usize) -> Self {
        let at = |why| format!("{why} (byte {byte} of its pickle)");
        match self {
            Self::Damaged(why) => Self::Damaged(at(why)),
            Self::MoreThanWeights(why) => Self::MoreThanWeights(at(why)),
        }
    }
}

type Result<T> = std::result::Result<T, Refusal>;

/// A value of another kind than is expected.
fn unexpected<T>(value: &Value, expected: &str) -> Result<T> {
    Err(format!("{value} where {expected} is expected").into())
}

/// The tensors of a state dictionary by name, or of a dictionary that holds one as `state_dict` or `model`.
pub(super) fn state_dict(bytes: &[u8]) -> Result<Vec<(String, Tensor)>> {
    if bytes.len() > LONGEST {
        return Err(format!(
            "a pickle of {} bytes, which is too long for a state dictionary",
            bytes.len()
        )
        .into());
    }
    let mut machine = Machine::new(bytes);
    let top = machine.run()?;
    let inner = |machine: &Machine<'_>, key: &str| {
        let entries = machine.dict(top).ok()?;
        let text = |at: At| matches!(&machine.values[at], Value::Text(text) if text == key);
        entries
            .iter()
            .find(|(name, _)| text(*name))
            .map(|(_, value)| *value)
    };
    let found = ["state_dict", "model"]
        .iter()
        .find_map(|key| inner(&machine, key));
    machine.tensors(found.unwrap_or(top))
}

struct Machine<'a> {
    input: Reader<'a>,
    values: Vec<Value>,
    stack: Vec<At>,
    marks: Vec<usize>,
    /// Pairs of index and value, in order of index.
    memo: std::collections::BTreeMap<usize, At>,
}

impl<'a> Machine<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            input: Reader::new(bytes),
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: std::collections::BTreeMap::new(),
        }
    }

    /// Runs to the end and returns what is left on the stack.
    fn run(&mut self) -> Result<At> {
        loop {
            let opcode = self.input.byte()?;
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode).map_err(|why| why.at(self.input.at()))?;
        }
    }

    fn step(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            0x80 => match self.input.byte()? {
                2..=5 => Ok(()),
                version => Err(format!("pickle protocol {version}").into()),
            },
            b'N' => self.push(Value::None),
            0x88 | 0x89 => self.push(Value::Bool),
            b'K' => self.number::<1>(),
            b'M' => self.number::<2>(),
            b'J' => {
                let value = i32::from_le_bytes(self.input.array()?);
                self.push(Value::Int(value.into()))
            }
            0x8a => self.long(),
            b'G' => {
                self.input.array::<8>()?;
                self.push(Value::Float)
            }
            b'X' => {
                let len = u32::from_le_bytes(self.input.array()?) as usize;
                self.text(len)
            }
            0x8c => {
                let len = self.input.byte()?;
                self.text(len.into())
            }
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b')' => self.push(Value::Tuple(Vec::new())),
            b']' => self.push(Value::List(Vec::new())),
            b'}' => self.push(Value::Dict(Vec::new())),
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Tuple(items))
            }
            0x85..=0x87 => {
                let mut items: Vec<At> = (0x84..opcode).map(|_| self.pop()).collect::<Result<_>>()?;
                items.reverse();
                self.push(Value::Tuple(items))
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.append(items)
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(vec![key, value])
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set(items)
            }
            b'q' => {
                let index = self.input.byte()?;
                self.remember(index.into())
            }
            b'r' => {
                let index = u32::from_le_bytes(self.input.array()?);
                self.remember(index as usize)
            }
            0x94 => self.remember(self.memo.len()),
            b'h' => {
                let index = self.input.byte()?;
                self.recall(index.into())
            }
            b'j' => {
                let index = u32::from_le_bytes(self.input.array()?);
                self.recall(index as usize)
            }
            b'c' => {
                let (module, name) = (self.input.line()?, self.input.line()?);
                self.name(&module, &name)
            }
            0x93 => {
                let (name, module) = (self.pop_text()?, self.pop_text()?);
                self.name(&module, &name)
            }
            0x95 => self.input.array::<8>().map(|_| ()),
            b'Q' => self.storage(),
            b'R' => self.reduce(),
            b'b' => self.build(),
            _ => {
                let why = format!("opcode 0x{opcode:02x}, which no state dictionary needs");
                Err(Refusal::MoreThanWeights(why))
            }
        }
    }

    fn push(&mut self, value: Value) -> Result<()> {
        self.stack.push(self.values.len());
        self.values.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Result<At> {
        if self.marks.last().is_some_and(|mark| *mark >= self.stack.len()) {
            return Err("too few values behind a mark".into());
        }
        self.stack
            .pop()
            .ok_or_else(|| "too few values on its stack".into())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<At>> {
        let mark = self.marks.pop().ok_or("no mark on its stack")?;
        Ok(self.stack.split_off(mark))
    }

    fn top(&self) -> Result<At> {
        self.stack
            .last()
            .copied()
            .ok_or_else(|| "too few values on its stack".into())
    }

    fn pop_text(&mut self) -> Result<String> {
        let at = self.pop()?;
        match &self.values[at] {
            Value::Text(text) => Ok(text.clone()),
            other => unexpected(other, "a text"),
        }
    }

    fn number<const N: usize>(&mut self) -> Result<()> {
        let bytes = self.input.array::<N>()?;
        let value = bytes
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | i64::from(*byte));
        self.push(Value::Int(value))
    }

    /// A little-endian number of up to eight bytes, in two's complement.
    fn long(&mut self) -> Result<()> {
        let len = self.input.byte()?;
        let bytes = self.input.slice(len.into())?;
        if bytes.len() > 8 {
            return Err("a number of more than 64 bits".into());
        }
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut value = [if negative { 0xff } else { 0 }; 8];
        value[..bytes.len()].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(value)))
    }

    fn text(&mut self, len: usize) -> Result<()> {
        if len > LONGEST_TEXT {
            return Err(format!("a text of {len} bytes").into());
        }
        let text = String::from_utf8(self.input.slice(len)?.to_vec()).map_err(|_| "a text that is none")?;
        self.push(Value::Text(text))
    }

    fn remember(&mut self, index: usize) -> Result<()> {
        let at = self.top()?;
        self.memo.insert(index, at);
        Ok(())
    }

    fn recall(&mut self, index: usize) -> Result<()> {
        let at = self.memo.get(&index).ok_or("a reference to nothing")?;
        self.stack.push(*at);
        Ok(())
    }

    fn append(&mut self, items: Vec<At>) -> Result<()> {
        let at = self.top()?;
        match &mut self.values[at] {
            Value::List(list) => list.extend(items),
            other => return unexpected(other, "a list"),
        }
        Ok(())
    }

    fn set(&mut self, items: Vec<At>) -> Result<()> {
        let at = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        match &mut self.values[at] {
            Value::Dict(entries) if rest.is_empty() => {
                entries.extend(pairs.iter().map(|[key, value]| (*key, *value)));
            }
            other => return unexpected(other, "a dictionary"),
        }
        Ok(())
    }

    fn name(&mut self, module: &str, name: &str) -> Result<()> {
        match Known::of(module, name) {
            Some(known) => self.push(Value::Known(known)),
            None => Err(Refusal::MoreThanWeights(format!(
                "{}.{}, which no state dictionary needs; it was not called",
                shown(module),
                shown(name)
            ))),
        }
    }

    /// `('storage', type, key, device, length)` is what PyTorch calls persistent.
    fn storage(&mut self) -> Result<()> {
        let items = self.pop()?;
        let [kind, number, key, _, len] = self.tuple(items)? else {
            return Err("a storage that is described otherwise".into());
        };
        let value = |at: &At| &self.values[*at];
        let storage = match (value(kind), value(number), value(key), value(len)) {
            (
                Value::Text(kind),
                Value::Known(Known::StorageOf(number)),
                Value::Text(key),
                Value::Int(len),
            ) if kind == "storage" && *len >= 0 => Storage {
                number: *number,
                key: key.clone(),
                len: *len as usize,
            },
            _ => return Err("a storage that is described otherwise".into()),
        };
        self.push(Value::Storage(storage))
    }

    /// What calling a known name with known arguments makes.
    fn reduce(&mut self) -> Result<()> {
        let (arguments, called) = (self.pop()?, self.pop()?);
        let Value::Known(known) = self.values[called] else {
            return Err("a call of what is no name".into());
        };
        match (known, self.tuple(arguments)?) {
            (Known::OrderedDict, []) => self.push(Value::Dict(Vec::new())),
            (Known::RebuildTensor, &[storage, offset, dims, strides, ..]) => {
                let tensor = self.tensor([storage, offset, dims, strides])?;
                self.push(Value::Tensor(tensor))
            }
            // The same tensor, marked as something to learn.
            (Known::RebuildParameter, &[tensor, ..]) => {
                self.stack.push(tensor);
                Ok(())
            }
            (known, arguments) => Err(format!("{known:?} with {} arguments", arguments.len()).into()),
        }
    }

    /// The state of an ordered dictionary: its attributes, which are not needed.
    fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        let object = self.top()?;
        match (&self.values[object], &self.values[state]) {
            (Value::Dict(_), Value::Dict(_)) => Ok(()),
            (object, _) => Err(Refusal::MoreThanWeights(format!("a state for {object}"))),
        }
    }

    fn tuple(&self, at: At) -> Result<&[At]> {
        match &self.values[at] {
            Value::Tuple(items) => Ok(items),
            other => unexpected(other, "a tuple"),
        }
    }

    fn size(&self, at: At) -> Result<usize> {
        match &self.values[at] {
            Value::Int(size) => usize::try_from(*size).map_err(|_| format!("a size of {size}").into()),
            other => unexpected(other, "a size"),
        }
    }

    fn sizes(&self, at: At) -> Result<Vec<usize>> {
        let sides = self.tuple(at)?;
        if sides.len() > MOST_SIDES {
            return Err(format!("a tensor of {} sides", sides.len()).into());
        }
        sides.iter().map(|at| self.size(*at)).collect()
    }

    fn tensor(&self, [storage, offset, dims, strides]: [At; 4]) -> Result<Tensor> {
        let Value::Storage(storage) = &self.values[storage] else {
            return Err("a tensor without a storage".into());
        };
        Ok(Tensor {
            storage: storage.clone(),
            offset: self.size(offset)?,
            dims: self.sizes(dims)?,
            strides: self.sizes(strides)?,
        })
    }

    fn dict(&self, at: At) -> Result<&[(At, At)]> {
        match &self.values[at] {
            Value::Dict(entries) => Ok(entries),
            other => unexpected(other, "a state dictionary"),
        }
    }

    fn tensors(&self, at: At) -> Result<Vec<(String, Tensor)>> {
        let entries = self.dict(at)?.iter();
        let named = entries.map(
            |(name, value)| match (&self.values[*name], &self.values[*value]) {
                (Value::Text(name), Value::Tensor(tensor)) => Ok((name.clone(), tensor.clone())),
                (name, value) => Err(Refusal::MoreThanWeights(format!(
                    "an entry {name} with {value}, not a tensor"
                ))),
            },
        );
        named.collect()
    }
}
