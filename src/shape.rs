//! Logical shapes. Above the back ends every tensor is channel-major: images and activations are (N, C, H, W).

use std::fmt;

/// Channels, height and width of one image or activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Chw {
    /// Channels.
    pub c: usize,
    /// Height in rows.
    pub h: usize,
    /// Width in columns.
    pub w: usize,
}

impl Chw {
    /// `c` channels of `h` rows and `w` columns.
    pub const fn new(c: usize, h: usize, w: usize) -> Self {
        Self { c, h, w }
    }

    /// Number of elements.
    pub const fn len(self) -> usize {
        self.c * self.h * self.w
    }

    /// Whether it holds no element.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Number of elements of one channel.
    pub const fn plane(self) -> usize {
        self.h * self.w
    }
}

impl fmt::Display for Chw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.c, self.h, self.w)
    }
}
