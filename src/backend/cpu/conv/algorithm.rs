//! Which way convolutions are computed, as people ask for it.

use serde::{Deserialize, Serialize};

/// How convolutions are computed. The roundings differ, so a run keeps to one: it is part of the recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConvAlgorithm {
    /// Winograd where it pays, direct elsewhere: a function of the layer's shape.
    #[default]
    Auto,
    /// Winograd F(4x4, 3x3) for every 3x3 filter.
    Winograd4,
    /// Winograd F(2x2, 3x3) for every 3x3 filter.
    Winograd2,
    /// Sums of products as they are written down.
    Direct,
}

impl ConvAlgorithm {
    /// As it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Winograd4 => "winograd4",
            Self::Winograd2 => "winograd2",
            Self::Direct => "direct",
        }
    }
}
