//! `weights_sha256` and `state_sha256`: SHA-256 over little-endian f32 in the network's order and torch's layout.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::network::Parameter;

/// Hash of the parameters, array by array in the network's order; `flat` holds each at its offset.
pub fn weights_sha256(parameters: &[Parameter], flat: &[f32]) -> String {
    let mut hasher = StateHasher::new();
    for parameter in parameters {
        hasher.array(&flat[parameter.range()]);
    }
    hasher.weights()
}

/// Hashes arrays one by one, so that no second copy of the parameters is needed.
#[derive(Clone)]
pub struct StateHasher(Sha256);

impl StateHasher {
    /// Nothing hashed yet.
    pub fn new() -> Self {
        Self(Sha256::new())
    }

    /// The next array in the network's order: first all weights, then (for the state) all momentum.
    pub fn array(&mut self, values: &[f32]) {
        if cfg!(target_endian = "little") {
            self.0.update(bytemuck::cast_slice::<f32, u8>(values));
        } else {
            values.iter().for_each(|v| self.0.update(v.to_le_bytes()));
        }
    }

    /// `weights_sha256`, once every weight array is in.
    pub fn weights(&self) -> String {
        hex(&self.0.clone().finalize())
    }

    /// `state_sha256`, once every weight and every momentum array is in: adds the step and the schedule's state.
    pub fn state(mut self, step: u64, schedule: &serde_json::Value) -> String {
        self.0.update(step.to_le_bytes());
        self.0.update(schedule.to_string().as_bytes());
        hex(&self.0.finalize())
    }
}

impl Default for StateHasher {
    fn default() -> Self {
        Self::new()
    }
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a string");
            text
        })
}

/// SHA-256 of a text.
pub(super) fn text_sha256(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}
