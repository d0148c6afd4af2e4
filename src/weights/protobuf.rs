//! Protocol buffers, as far as Caffe's and ONNX's files need them: fields one after the other, read in place.

/// One field of a message.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Field<'a> {
    pub(super) number: u64,
    pub(super) value: Wire<'a>,
}

/// A value as it is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Fixed32([u8; 4]),
    /// A text, a message or packed numbers.
    Bytes(&'a [u8]),
}

pub(super) type Result<T> = std::result::Result<T, String>;

/// The fields of a message. The first error ends them.
pub(super) fn fields(message: &[u8]) -> Fields<'_> {
    Fields { rest: message }
}

pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = field(&mut self.rest).ok_or_else(|| String::from("a message that is cut short or none"));
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

fn field<'a>(rest: &mut &'a [u8]) -> Option<Field<'a>> {
    let tag = varint(rest)?;
    let value = match tag & 7 {
        0 => Wire::Varint(varint(rest)?),
        1 => Wire::Fixed64(*take(rest, 8)?.first_chunk()?),
        2 => {
            let len = usize::try_from(varint(rest)?).ok()?;
            Wire::Bytes(take(rest, len)?)
        }
        5 => Wire::Fixed32(*take(rest, 4)?.first_chunk()?),
        _ => return None,
    };
    Some(Field {
        number: tag >> 3,
        value,
    })
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(len)?;
    *rest = left;
    Some(taken)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let byte = take(rest, 1)?[0];
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

impl<'a> Wire<'a> {
    /// How it is written. Never what: that may be megabytes.
    fn kind(self) -> &'static str {
        match self {
            Self::Varint(_) => "a number",
            Self::Fixed64(_) => "eight bytes",
            Self::Fixed32(_) => "four bytes",
            Self::Bytes(_) => "a text or message",
        }
    }

    pub(super) fn bytes(self) -> Result<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            other => Err(format!("{} where a message is expected", other.kind())),
        }
    }

    pub(super) fn text(self) -> Result<String> {
        let text = String::from_utf8(self.bytes()?.to_vec());
        text.map_err(|_| "a text that is none".into())
    }

    pub(super) fn float(self) -> Result<f32> {
        match self {
            Self::Fixed32(bytes) => Ok(f32::from_le_bytes(bytes)),
            other => Err(format!("{} where a float is expected", other.kind())),
        }
    }

    pub(super) fn number(self) -> Result<u64> {
        match self {
            Self::Varint(value) => Ok(value),
            other => Err(format!("{} where a number is expected", other.kind())),
        }
    }

    /// Appends one number, or packed ones.
    pub(super) fn numbers(self, to: &mut Vec<u64>) -> Result<()> {
        match self {
            Self::Varint(value) => to.push(value),
            Self::Bytes(mut rest) => {
                while !rest.is_empty() {
                    to.push(varint(&mut rest).ok_or("packed numbers that are cut short")?);
                }
            }
            other => return Err(format!("{} where numbers are expected", other.kind())),
        }
        Ok(())
    }

    /// Appends one float, or packed ones.
    pub(super) fn floats(self, to: &mut Vec<f32>) -> Result<()> {
        match self {
            Self::Fixed32(bytes) => to.push(f32::from_le_bytes(bytes)),
            Self::Bytes(bytes) => {
                let (floats, rest) = bytes.as_chunks();
                if !rest.is_empty() {
                    return Err("packed floats that are cut short".into());
                }
                to.extend(floats.iter().map(|bytes| f32::from_le_bytes(*bytes)));
            }
            other => return Err(format!("{} where floats are expected", other.kind())),
        }
        Ok(())
    }
}

/// A message being written.
#[derive(Debug, Clone, Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn number(mut self, number: u64, value: u64) -> Self {
        self.varint(number << 3);
        self.varint(value);
        self
    }

    pub(super) fn float(mut self, number: u64, value: f32) -> Self {
        self.varint(number << 3 | 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(super) fn bytes(mut self, number: u64, bytes: &[u8]) -> Self {
        self.varint(number << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    pub(super) fn text(self, number: u64, text: &str) -> Self {
        self.bytes(number, text.as_bytes())
    }

    pub(super) fn message(self, number: u64, message: &Self) -> Self {
        self.bytes(number, &message.0)
    }

    /// What has been written.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The tag and length of a field of `len` bytes that the caller writes behind this message.
    pub(super) fn announce(mut self, number: u64, len: usize) -> Self {
        self.varint(number << 3 | 2);
        self.varint(len as u64);
        self
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let inner = Message::default().number(1, 300).float(2, -1.5);
        let outer = Message::default()
            .message(7, &inner)
            .text(3, "conv")
            .number(4, u64::MAX);
        let read: Vec<_> = fields(outer.as_bytes()).map(Result::unwrap).collect();
        assert_eq!(read[1].value.text().unwrap(), "conv");
        assert_eq!(read[2].value.number().unwrap(), u64::MAX);
        let inner: Vec<_> = fields(read[0].value.bytes().unwrap())
            .map(Result::unwrap)
            .collect();
        assert_eq!((inner[0].number, inner[0].value.number().unwrap()), (1, 300));
        assert_eq!(inner[1].value.float().unwrap(), -1.5);
        for len in 1..outer.as_bytes().len() {
            fields(&outer.as_bytes()[..len]).for_each(drop); // ends, and does not panic
        }
    }
}
