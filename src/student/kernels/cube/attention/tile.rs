//! How attention is cut into tiles, and the steps that its kernels share.

use burn_cubecl::CubeRuntime;
use cubecl::prelude::*;

/// A square block of queries by keys. A cube has `side × side` units, and a unit computes every `side`-th row and column
/// of the block, `micro` of each: neighbouring units then read neighbouring numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Tile {
    /// Units along a side of the block.
    pub side: usize,
    /// Rows and columns of a unit.
    pub micro: usize,
    /// Numbers of a head.
    pub width: usize,
}

/// What a cube has of the device's shared memory: a kernel that takes all of it runs alone on its processor.
fn budget(most: usize) -> usize {
    if most > 64 << 10 { most / 2 } else { most }
}

impl Tile {
    /// The largest tile with which so many blocks of rows, one of scores and, where a kernel has them, a number of every
    /// unit's rows fit into shared memory.
    pub(super) fn choose<R: CubeRuntime>(
        client: &ComputeClient<R>,
        width: usize,
        matrices: usize,
        row_parts: bool,
        positions: usize,
    ) -> Self {
        let hardware = &client.properties().hardware;
        let (bytes, units) = (budget(hardware.max_shared_memory_size), hardware.max_units_per_cube as usize);
        let sizes = [(16, 4), (16, 2), (16, 1), (8, 1), (4, 1), (2, 1)];
        let tiles = sizes.map(|(side, micro)| Self { side, micro, width });
        let fits = |tile: &&Self| {
            // A block that is mostly empty computes zeros.
            let useful = tile.block() <= 16 || tile.block() < 2 * positions;
            useful && tile.side * tile.side <= units && tile.bytes(matrices, row_parts) <= bytes
        };
        tiles.iter().find(fits).copied().unwrap_or(Self { side: 1, micro: 1, width })
    }

    /// Rows and columns of the block.
    pub(super) fn block(&self) -> usize {
        self.side * self.micro
    }

    /// The head's width, filled up so that every unit has as many columns of it.
    pub(super) fn padded(&self) -> usize {
        self.width.next_multiple_of(self.side)
    }

    /// Numbers between rows in shared memory: one more than the row has, so that a column's numbers lie in different banks.
    pub(super) fn stride(&self) -> usize {
        self.padded() + 1
    }

    /// Columns of the head's width that a unit sums.
    pub(super) fn columns(&self) -> usize {
        self.padded() / self.side
    }

    /// Numbers between rows of scores in shared memory.
    pub(super) fn score_stride(&self) -> usize {
        self.block() + 1
    }

    fn bytes(&self, matrices: usize, row_parts: bool) -> usize {
        let rows = matrices * self.block() * self.stride();
        let scores = self.block() * self.score_stride();
        let parts = if row_parts { self.block() * self.side } else { 0 };
        4 * (rows + scores + parts)
    }

    /// Units of a cube.
    pub(super) fn dim(&self) -> CubeDim {
        CubeDim::new_1d((self.side * self.side) as u32)
    }
}

/// Copies rows `first ..` of a head to shared memory; what lies beyond `limit` rows or the head's width becomes 0.
#[cube]
pub(super) fn load_rows<F: Float>(
    from: &Array<F>,
    base: usize,
    step: usize,
    first: usize,
    limit: usize,
    into: &mut SharedMemory<f32>,
    #[comptime] tile: Tile,
) {
    let padded = comptime!(tile.padded());
    let stride = comptime!(tile.stride());
    let width = comptime!(tile.width);
    let units = comptime!(tile.side * tile.side);
    let numbers = comptime!(tile.block() * tile.padded());
    let mut place = UNIT_POS as usize;
    while place < numbers {
        let row = place / padded;
        let column = place % padded;
        let mut number = 0.0f32;
        if column < width && first + row < limit {
            number = f32::cast_from(from[base + (first + row) * step + column]);
        }
        into[row * stride + column] = number;
        place += units;
    }
}

/// `left · rightᵀ` of two blocks of rows: a unit's rows and columns of it.
#[cube]
pub(super) fn rows_by_rows(
    left: &SharedMemory<f32>,
    right: &SharedMemory<f32>,
    product: &mut Array<f32>,
    row: usize,
    column: usize,
    #[comptime] tile: Tile,
) {
    let micro = comptime!(tile.micro);
    let side = comptime!(tile.side);
    let stride = comptime!(tile.stride());
    let width = comptime!(tile.width);
    let mut of_left = Array::<f32>::new(micro);
    let mut of_right = Array::<f32>::new(micro);
    #[unroll]
    for i in 0..micro {
        #[unroll]
        for j in 0..micro {
            product[i * micro + j] = 0.0f32;
        }
    }
    for number in 0..width {
        #[unroll]
        for i in 0..micro {
            of_left[i] = left[(row + i * side) * stride + number];
            of_right[i] = right[(column + i * side) * stride + number];
        }
        #[unroll]
        for i in 0..micro {
            #[unroll]
            for j in 0..micro {
                product[i * micro + j] += of_left[i] * of_right[j];
            }
        }
    }
}

/// Adds `scores · rows` to a unit's rows and columns of a block.
#[cube]
pub(super) fn add_scores_by_rows(
    scores: &SharedMemory<f32>,
    rows: &SharedMemory<f32>,
    sum: &mut Array<f32>,
    row: usize,
    column: usize,
    #[comptime] tile: Tile,
) {
    let micro = comptime!(tile.micro);
    let side = comptime!(tile.side);
    let stride = comptime!(tile.stride());
    let score_stride = comptime!(tile.score_stride());
    let columns = comptime!(tile.columns());
    let block = comptime!(tile.block());
    let mut of_rows = Array::<f32>::new(columns);
    for inner in 0..block {
        #[unroll]
        for c in 0..columns {
            of_rows[c] = rows[inner * stride + column + c * side];
        }
        #[unroll]
        for i in 0..micro {
            let score = scores[(row + i * side) * score_stride + inner];
            #[unroll]
            for c in 0..columns {
                sum[i * columns + c] += score * of_rows[c];
            }
        }
    }
}

/// Writes a unit's numbers, one of each of its rows and columns of the block, to shared memory.
#[cube]
pub(super) fn store_scores(
    numbers: &Array<f32>,
    into: &mut SharedMemory<f32>,
    row: usize,
    column: usize,
    #[comptime] tile: Tile,
) {
    let micro = comptime!(tile.micro);
    let side = comptime!(tile.side);
    let score_stride = comptime!(tile.score_stride());
    #[unroll]
    for i in 0..micro {
        #[unroll]
        for j in 0..micro {
            into[(row + i * side) * score_stride + column + j * side] = numbers[i * micro + j];
        }
    }
}

/// Writes a unit's rows and columns of a sum, times a factor, where they lie in the device's memory.
#[cube]
pub(super) fn store_rows<F: Float>(
    sum: &Array<f32>,
    factor: f32,
    into: &mut Array<F>,
    base: usize,
    step: usize,
    first: usize,
    limit: usize,
    row: usize,
    column: usize,
    #[comptime] tile: Tile,
) {
    let micro = comptime!(tile.micro);
    let side = comptime!(tile.side);
    let columns = comptime!(tile.columns());
    let width = comptime!(tile.width);
    #[unroll]
    for i in 0..micro {
        let place = first + row + i * side;
        #[unroll]
        for c in 0..columns {
            let number = column + c * side;
            if place < limit && number < width {
                into[base + place * step + number] = F::cast_from(sum[i * columns + c] * factor);
            }
        }
    }
}

/// Sets an array to one number.
#[cube]
pub(super) fn fill(array: &mut Array<f32>, number: f32, #[comptime] length: usize) {
    #[unroll]
    for place in 0..length {
        array[place] = number;
    }
}
