//! Messages of protocol buffers, taken apart to be changed.

#[derive(Clone)]
pub(crate) enum Value {
    Number(u64),
    Float(f32),
    Bytes(Vec<u8>),
}

/// Fields in their order.
#[derive(Clone, Default)]
pub(crate) struct Message(pub(crate) Vec<(u64, Value)>);

impl Message {
    pub(crate) fn of(mut bytes: &[u8]) -> Self {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let tag = varint(&mut bytes);
            let value = match tag & 7 {
                0 => Value::Number(varint(&mut bytes)),
                2 => {
                    let len = varint(&mut bytes) as usize;
                    Value::Bytes(bytes.split_off(..len).unwrap().to_vec())
                }
                5 => {
                    let bits = bytes.split_off(..4).unwrap();
                    Value::Float(f32::from_le_bytes(bits.try_into().unwrap()))
                }
                other => panic!("wire type {other}"),
            };
            fields.push((tag >> 3, value));
        }
        Self(fields)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, value) in &self.0 {
            match value {
                Value::Number(value) => {
                    put(&mut bytes, number << 3);
                    put(&mut bytes, *value);
                }
                Value::Float(value) => {
                    put(&mut bytes, number << 3 | 5);
                    bytes.extend(value.to_le_bytes());
                }
                Value::Bytes(value) => {
                    put(&mut bytes, number << 3 | 2);
                    put(&mut bytes, value.len() as u64);
                    bytes.extend(value);
                }
            }
        }
        bytes
    }

    pub(crate) fn number(mut self, number: u64, value: u64) -> Self {
        self.0.push((number, Value::Number(value)));
        self
    }

    pub(crate) fn float(mut self, number: u64, value: f32) -> Self {
        self.0.push((number, Value::Float(value)));
        self
    }

    pub(crate) fn text(mut self, number: u64, text: &str) -> Self {
        self.0.push((number, Value::Bytes(text.into())));
        self
    }

    pub(crate) fn message(mut self, number: u64, message: &Self) -> Self {
        self.0.push((number, Value::Bytes(message.bytes())));
        self
    }

    /// The texts of a field.
    pub(crate) fn texts(&self, wanted: u64) -> Vec<String> {
        let fields = self.0.iter().filter(|(number, _)| *number == wanted);
        fields
            .map(|(_, value)| match value {
                Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                Value::Number(_) | Value::Float(_) => panic!("field {wanted} is no text"),
            })
            .collect()
    }

    /// Takes all messages of a field out, changes their list, and puts it back.
    pub(crate) fn change(&mut self, wanted: u64, change: impl FnOnce(&mut Vec<Self>)) {
        let (taken, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|(number, _)| *number == wanted);
        let mut messages = taken
            .into_iter()
            .map(|(_, value)| match value {
                Value::Bytes(bytes) => Self::of(&bytes),
                Value::Number(_) | Value::Float(_) => panic!("field {wanted} is no message"),
            })
            .collect();
        change(&mut messages);
        self.0 = rest;
        let back = messages
            .iter()
            .map(|message| (wanted, Value::Bytes(message.bytes())));
        self.0.extend(back);
    }

    /// Sets every text of a field that is `from`.
    pub(crate) fn replace(&mut self, wanted: u64, from: &str, to: &str) {
        for (number, value) in &mut self.0 {
            if *number == wanted && matches!(value, Value::Bytes(bytes) if bytes == from.as_bytes()) {
                *value = Value::Bytes(to.into());
            }
        }
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let byte = *bytes.split_off_first().unwrap();
        value |= u64::from(byte & 127) << shift;
        if byte < 128 {
            break;
        }
    }
    value
}

fn put(bytes: &mut Vec<u8>, mut value: u64) {
    while value > 127 {
        bytes.push(value as u8 | 128);
        value >>= 7;
    }
    bytes.push(value as u8);
}
