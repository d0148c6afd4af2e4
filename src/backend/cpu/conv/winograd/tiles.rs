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

/// Where a tile is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) image: usize,
    /// First row and first column of its outputs.
    pub(super) row: usize,
    pub(super) column: usize,
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

    /// Where a tile is.
    pub(super) fn place(&self, tile: usize) -> Place {
        let (row, column) = (tile / self.across, tile % self.across);
        Place {
            image: row / self.down,
            row: row % self.down * self.side,
            column: column * self.side,
        }
    }

    /// Where the tile behind one is. Divisions are slow.
    #[inline(always)]
    pub(super) fn next(&self, Place { image, row, column }: Place) -> Place {
        if column + self.side < self.width {
            Place {
                image,
                row,
                column: column + self.side,
            }
        } else if row + self.side < self.height {
            Place {
                image,
                row: row + self.side,
                column: 0,
            }
        } else {
            Place {
                image: image + 1,
                row: 0,
                column: 0,
            }
        }
    }

    /// Rows and columns of outputs of a tile: fewer at the lower and right edge.
    #[inline(always)]
    pub(super) fn outputs(&self, place: Place) -> (usize, usize) {
        (
            self.side.min(self.height - place.row),
            self.side.min(self.width - place.column),
        )
    }

    /// Pixels of an image.
    pub(super) fn plane(&self) -> usize {
        self.height * self.width
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_tile_is_the_one_with_the_next_number() {
        for (height, width) in [(1, 1), (3, 9), (14, 14), (17, 5)] {
            for size in [TileSize::Two, TileSize::Four] {
                let shape = Shape {
                    batch: 3,
                    inputs: 1,
                    outputs: 1,
                    height,
                    width,
                    kernel: FILTER,
                };
                let tiles = Tiles::new(shape, size);
                let mut place = tiles.place(0);
                for tile in 1..tiles.count {
                    place = tiles.next(place);
                    assert_eq!(
                        place,
                        tiles.place(tile),
                        "{height}x{width}, {size:?}, tile {tile}"
                    );
                }
            }
        }
    }
}
