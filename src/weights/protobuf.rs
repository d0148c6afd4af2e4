//! Protocol buffers, as far as ONNX's files need them: fields one after the other.

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
