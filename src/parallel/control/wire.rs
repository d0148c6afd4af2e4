//! Messages as frames: a header of 16 bytes, then the message as JSON.
//!
//! | Bytes | What |
//! |---|---|
//! | 4 | `VDC` and the version of this protocol |
//! | 8 | the job's token, little-endian |
//! | 4 | length of the message, little-endian |
//!
//! Whatever else comes is an error at the first byte that shows it; nothing is allocated that has not come.

use super::message::Message;

/// Protocol name and version.
const MAGIC: [u8; 4] = *b"VDC1";

const HEADER: usize = 16;

/// The longest message of a connection that has not said who it is.
pub(super) const MOST_OF_STRANGERS: usize = 64 << 10;

/// The longest message.
pub(super) const MOST: usize = 64 << 20;

/// What came is not a message of this job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    /// Not this protocol.
    #[error("it does not speak this protocol: expected {MAGIC:02x?}, found {0:02x?}")]
    Magic(Vec<u8>),
    /// Another job.
    #[error("it belongs to another job: expected token {expected:016x}, found {found:016x}")]
    Token {
        /// This job's.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// Too long.
    #[error("a message of {found} bytes: expected at most {most}")]
    Length {
        /// The most.
        most: usize,
        /// What the header says.
        found: usize,
    },
    /// Not a message.
    #[error("a message that cannot be read: {0}")]
    Message(String),
}

/// The frame of `message`.
pub(super) fn encode(message: &Message, token: u64) -> Result<Vec<u8>, WireError> {
    let json = serde_json::to_vec(message).map_err(|error| WireError::Message(error.to_string()))?;
    let too_long = WireError::Length {
        most: MOST,
        found: json.len(),
    };
    let length = u32::try_from(json.len())
        .ok()
        .filter(|_| json.len() <= MOST)
        .ok_or(too_long)?;
    let mut frame = Vec::with_capacity(HEADER + json.len());
    frame.extend(MAGIC);
    frame.extend(token.to_le_bytes());
    frame.extend(length.to_le_bytes());
    frame.extend(json);
    Ok(frame)
}

/// Takes bytes as they come and gives messages.
#[derive(Debug)]
pub(super) struct Decoder {
    token: u64,
    most: usize,
    bytes: Vec<u8>,
}

impl Decoder {
    /// For a connection of the job with `token`.
    pub(super) fn new(token: u64) -> Self {
        Self {
            token,
            most: MOST_OF_STRANGERS,
            bytes: Vec::new(),
        }
    }

    /// Takes what came.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message. The first makes the other side known: longer ones may follow.
    pub(super) fn next(&mut self) -> Result<Option<Message>, WireError> {
        let begin = &self.bytes[..self.bytes.len().min(MAGIC.len())];
        if !MAGIC.starts_with(begin) {
            return Err(WireError::Magic(begin.to_vec()));
        }
        let Some((header, rest)) = self.bytes.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [_, _, _, _, token @ .., l0, l1, l2, l3] = *header;
        let (found, most) = (u32::from_le_bytes([l0, l1, l2, l3]) as usize, self.most);
        let (expected, token) = (self.token, u64::from_le_bytes(token));
        if token != expected {
            return Err(WireError::Token {
                expected,
                found: token,
            });
        }
        if found > most {
            return Err(WireError::Length { most, found });
        }
        let Some(json) = rest.get(..found) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(json).map_err(|error| WireError::Message(error.to_string()))?;
        self.bytes.drain(..HEADER + found);
        self.most = MOST;
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests;
