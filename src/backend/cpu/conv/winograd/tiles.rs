//! How large tiles are, and where they lie in the images.

use super::super::Shape;
use super::transform::FILTER;

/// The size of a tile: how many outputs it has in each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum TileSize {
    /// F(2x2, 3x3).
    Two,
    /// F(4x4, 3x3).
    Four,
}

impl TileSize {
    /// Outputs of a tile in each direction.
    fn side(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Four => 4,
        }
    }

    /// Elements of a transformed tile: as many as it has inputs.
    pub(super) fn elements(self) -> usize {
        (self.side() + FILTER - 1).pow(2)
    }

    /// Multiplications of a tile, of those of its direct sums: 16 of 36, 36 of 144.
    pub(in super::super) fn share_of_products(self) -> f64 {
        self.elements() as f64 / (self.side() * FILTER).pow(2) as f64
    }

    /// Products for one image and pair of channels.
    pub(in super::super) fn products(self, height: usize, width: usize) -> usize {
        self.elements() * height.div_ceil(self.side()) * width.div_ceil(self.side())
    }
}

/// The tiles of a micro-batch, in the order (image, row of tiles, column of tiles).
#[derive(Debug, Clone, Copy)]
pub(super) struct Tiles {
    pub(super) height: usize,
    pub(super) width: usize,
    /// Outputs of a tile in each direction.
    side: usize,
    /// Tiles of one image: in a column and in a row.
    down: usize,
    across: usize,
    /// Tiles of the micro-batch.
    pub(super) count: usize,
}

impl Tiles {
    pub(super) fn new(shape: Shape, size: TileSize) -> Self {
        let side = size.side();
        let (down, across) = (shape.height.div_ceil(side), shape.width.div_ceil(side));
        Self {
            height: shape.height,
            width: shape.width,
            side,
            down,
            across,
            count: shape.batch * down * across,
        }
    }

    /// Image, first row and first column of the outputs of a tile.
    pub(super) fn place(&self, tile: usize) -> (usize, usize, usize) {
        let (row, column) = (tile / self.across, tile % self.across);
        (row / self.down, row % self.down * self.side, column * self.side)
    }

    /// Rows and columns of outputs of the tile whose first are these: fewer at the lower and right edge.
    #[inline(always)]
    pub(super) fn outputs(&self, row: usize, column: usize) -> (usize, usize) {
        (
            self.side.min(self.height - row),
            self.side.min(self.width - column),
        )
    }

    /// Pixels of an image.
    pub(super) fn plane(&self) -> usize {
        self.height * self.width
    }
}
