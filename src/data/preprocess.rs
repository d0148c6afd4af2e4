//! Placeholder until the loader's branch lands.
#[derive(Debug, Clone, Default)]
/// Placeholder.
pub struct Preprocess;
