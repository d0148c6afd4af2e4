//! Values that are written as people type them: `#[serde(with = "crate::text")]` on a field whose type has `Display` and
//! `FromStr`.

use std::fmt::Display;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serializer};

/// Writes what `Display` shows.
pub fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Reads what `FromStr` takes.
pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: FromStr<Err: Display>,
    D: Deserializer<'de>,
{
    String::deserialize(deserializer)?
        .parse()
        .map_err(serde::de::Error::custom)
}

/// A path as text. What is not UTF-8 in it is replaced: JSON has no other strings.
pub fn of_path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Writes what [`of_path`] says: `#[serde(serialize_with = "crate::text::path")]`.
pub fn path<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&of_path(path))
}
