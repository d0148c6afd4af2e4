//! Names of samples: unique, and safe in every tool that reads shards.

use std::collections::HashSet;
use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::data::manifest::hex;

/// `<key>.jpeg` must stay below the 100 bytes of a plain tar header.
const MAX_KEY: usize = 99 - ".jpeg".len();

/// Hands out keys.
#[derive(Debug, Default)]
pub(super) struct Keys {
    taken: HashSet<String>,
}

impl Keys {
    /// The key for an image that should be called `wanted`, and why it is called otherwise, if it is.
    pub(super) fn assign(&mut self, wanted: &str) -> (String, Option<&'static str>) {
        let mut key = escape(wanted);
        let mut reason = (key != wanted).then_some("characters that a key must not have");
        if key.len() > MAX_KEY {
            key = shorten(&key);
            reason = Some("too long for a plain tar header");
        }
        if self.taken.contains(&key) {
            key = self.numbered(&key);
            reason = Some("another image has that key");
        }
        self.taken.insert(key.clone());
        (key, reason)
    }

    fn numbered(&self, key: &str) -> String {
        let longest_number = "_18446744073709551615".len();
        let key = &key[..key.len().min(MAX_KEY - longest_number)];
        let mut numbered = (2u64..).map(|number| format!("{key}_{number}"));
        numbered.find(|key| !self.taken.contains(key)).unwrap_or_default()
    }
}

/// Percent escapes, as in URLs, for whatever ends a key (dots, slashes), splits a line of the index (white space),
/// or is shown in another way by tools that list archives (backslashes, everything outside ASCII).
fn escape(wanted: &str) -> String {
    let mut key = String::with_capacity(wanted.len());
    for byte in wanted.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'.' | b'/' | b'\\' | b'%') {
            key.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(key, "%{byte:02X}");
        }
    }
    key
}

/// The beginning, and a hash of the whole.
fn shorten(key: &str) -> String {
    let hash = &hex(&Sha256::digest(key))[..16];
    format!("{}-{hash}", &key[..MAX_KEY - 1 - hash.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names_stay_and_others_are_escaped() {
        let mut keys = Keys::default();
        assert_eq!(keys.assign("n01440764_10026"), ("n01440764_10026".into(), None));
        let (key, reason) = keys.assign("my cat v1.2/100%");
        assert_eq!(key, "my%20cat%20v1%2E2%2F100%25");
        assert!(reason.is_some());
        assert_eq!(keys.assign("é").0, "%C3%A9");
    }

    #[test]
    fn equal_names_are_numbered() {
        let mut keys = Keys::default();
        let taken: Vec<String> = ["a", "a", "a_2", "a"]
            .iter()
            .map(|wanted| keys.assign(wanted).0)
            .collect();
        assert_eq!(taken, ["a", "a_2", "a_2_2", "a_3"]);
    }

    #[test]
    fn long_names_stay_unique_and_fit() {
        let mut keys = Keys::default();
        let long = "x".repeat(300);
        let first = keys.assign(&long).0;
        let second = keys.assign(&(long.clone() + "y")).0;
        let again = keys.assign(&long).0;
        assert!(first != second && first != again && second != again);
        for key in [&first, &second, &again] {
            assert!(format!("{key}.jpeg").len() < 100, "{key}");
        }
        assert_eq!(keys.assign(&"z".repeat(MAX_KEY)).1, None);
    }
}
