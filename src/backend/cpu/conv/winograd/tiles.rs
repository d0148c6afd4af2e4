//! Where tiles lie in the images.

use super::super::Shape;
use super::OUTPUTS;

/// The tiles of a micro-batch, in the order (image, row of tiles, column of tiles).
#[derive(Debug, Clone, Copy)]
pub(super) struct Tiles {
    pub(super) height: usize,
    pub(super) width: usize,
    /// Tiles of one image: in a column and in a row.
    down: usize,
    across: usize,
    /// Tiles of the micro-batch.
    pub(super) count: usize,
}

impl Tiles {
    pub(super) fn new(shape: Shape) -> Self {
        let (down, across) = (shape.height.div_ceil(OUTPUTS), shape.width.div_ceil(OUTPUTS));
        Self {
            height: shape.height,
            width: shape.width,
            down,
            across,
            count: shape.batch * down * across,
        }
    }

    /// Image, first row and first column of the outputs of a tile.
    pub(super) fn place(&self, tile: usize) -> (usize, usize, usize) {
        let (row, column) = (tile / self.across, tile % self.across);
        (row / self.down, row % self.down * OUTPUTS, column * OUTPUTS)
    }

    /// Rows and columns of outputs of the tile whose first are these: fewer at the lower and right edge.
    #[inline(always)]
    pub(super) fn outputs(&self, row: usize, column: usize) -> (usize, usize) {
        (OUTPUTS.min(self.height - row), OUTPUTS.min(self.width - column))
    }

    /// Pixels of an image.
    pub(super) fn plane(&self) -> usize {
        self.height * self.width
    }
}

/// Products of [`super`] for one image and pair of channels.
pub(in super::super) fn products(height: usize, width: usize) -> usize {
    super::ELEMENTS * height.div_ceil(OUTPUTS) * width.div_ceil(OUTPUTS)
}
