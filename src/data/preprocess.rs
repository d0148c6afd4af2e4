//! Placeholder until the loader's branch lands.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
/// Placeholder.
pub struct Preprocess;
