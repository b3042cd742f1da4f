//! Attention's forward pass: a cube takes a block of queries of one head and goes over the blocks of keys that they see,
//! with the largest score and the mass so far of every query (the online softmax of Milakov and Gimelshein, 2018, as in
//! FlashAttention, Dao et al., 2022).

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::tile::{Tile, add_scores_by_rows, fill, load_rows, rows_by_rows, store_scores};
use super::{AttentionShape, Starts};
use crate::kernels::cube::launch::{contiguous, empty};

/// Below every score that can occur; devices differ in what they make of infinities.
const LOWEST: f32 = -1e30;

#[cube(launch_unchecked)]
fn attention_kernel<F: Float>(
    query: &Array<F>,
    key: &Array<F>,
    value: &Array<F>,
    starts: &Array<u32>,
    output: &mut Array<F>,
    masses: &mut Array<f32>,
    queries: u32,
    keys: u32,
    room: u32,
    heads: u32,
    groups: u32,
    scale: f32,
    #[comptime] tile: Tile,
    #[define(F)] _dtype: StorageType,
) {
    let micro = comptime!(tile.micro);
    let side = comptime!(tile.side);
    let block = comptime!(tile.block());
    let width = comptime!(tile.width);
    let columns = comptime!(tile.columns());
    let unit = UNIT_POS as usize;
    let row = unit / side;
    let column = unit % side;

    let queries = queries as usize;
    let keys = keys as usize;
    let room = room as usize;
    let heads = heads as usize;
    let groups = groups as usize;
    let batch = CUBE_POS_Z as usize;
    let head = CUBE_POS_Y as usize;
    let group = head / (heads / groups);
    // The last blocks see most keys: they come first, so that none of them is left over at the end.
    let first_query = ((queries + block - 1) / block - 1 - CUBE_POS_X as usize) * block;
    let offset = keys - queries;
    let query_step = heads * width;
    let key_step = groups * width;
    let query_base = batch * queries * query_step + head * width;
    let key_base = batch * room * key_step + group * width;

    let mut query_rows = SharedMemory::<f32>::new(comptime!(tile.block() * tile.stride()));
    let mut key_rows = SharedMemory::<f32>::new(comptime!(tile.block() * tile.stride()));
    let mut weights = SharedMemory::<f32>::new(comptime!(tile.block() * tile.score_stride()));
    let mut row_parts = SharedMemory::<f32>::new(comptime!(tile.block() * tile.side));

    let mut first_keys = Array::<u32>::new(micro);
    let mut end_keys = Array::<u32>::new(micro);
    let mut tops = Array::<f32>::new(micro);
    let mut sums = Array::<f32>::new(micro);
    let mut scores = Array::<f32>::new(comptime!(micro * micro));
    let mut sum = Array::<f32>::new(comptime!(micro * columns));
    fill(&mut tops, LOWEST.runtime(), micro);
    fill(&mut sums, 0.0f32.runtime(), micro);
    fill(&mut sum, 0.0f32.runtime(), comptime!(micro * columns));
    #[unroll]
    for i in 0..micro {
        let place = first_query + row + i * side;
        // A query beyond the last sees nothing.
        first_keys[i] = 0u32;
        end_keys[i] = 0u32;
        if place < queries {
            first_keys[i] = starts[batch * queries + place];
            end_keys[i] = (offset + place + 1) as u32;
        }
    }

    load_rows::<F>(query, query_base, query_step, first_query, queries, &mut query_rows, tile);
    // Starts never fall along a row, so the first query's is the block's.
    let begin = starts[batch * queries + first_query] as usize;
    let mut end = offset + first_query + block;
    if end > keys {
        end = keys;
    }
    let rounds = (end - begin + block - 1) / block;
    for round in 0..rounds {
        let first_key = begin + round * block;
        // The values of the round before have been used.
        sync_cube();
        load_rows::<F>(key, key_base, key_step, first_key, keys, &mut key_rows, tile);
        sync_cube();
        rows_by_rows(&query_rows, &key_rows, &mut scores, row, column, tile);
        #[unroll]
        for i in 0..micro {
            let mut top = LOWEST.runtime();
            #[unroll]
            for j in 0..micro {
                let place = (first_key + column + j * side) as u32;
                let mut score = LOWEST.runtime();
                if place >= first_keys[i] && place < end_keys[i] {
                    score = scores[i * micro + j] * scale;
                }
                scores[i * micro + j] = score;
                top = max(top, score);
            }
            row_parts[(row + i * side) * side + column] = top;
        }
        // Everybody's maxima are there, and everybody is done with the keys: the values take their place.
        sync_cube();
        load_rows::<F>(value, key_base, key_step, first_key, keys, &mut key_rows, tile);
        #[unroll]
        for i in 0..micro {
            let mut top = tops[i];
            for part in 0..side {
                top = max(top, row_parts[(row + i * side) * side + part]);
            }
            let decay = (tops[i] - top).exp();
            tops[i] = top;
            sums[i] *= decay;
            #[unroll]
            for c in 0..columns {
                sum[i * columns + c] *= decay;
            }
            #[unroll]
            for j in 0..micro {
                let place = (first_key + column + j * side) as u32;
                let mut weight = 0.0f32;
                if place >= first_keys[i] && place < end_keys[i] {
                    weight = (scores[i * micro + j] - top).exp();
                }
                sums[i] += weight;
                scores[i * micro + j] = weight;
            }
        }
        store_scores(&scores, &mut weights, row, column, tile);
        sync_cube();
        add_scores_by_rows(&weights, &key_rows, &mut sum, row, column, tile);
    }

    // Each unit has summed its own columns of keys: together they are the masses.
    sync_cube();
    #[unroll]
    for i in 0..micro {
        row_parts[(row + i * side) * side + column] = sums[i];
    }
    sync_cube();
    #[unroll]
    for i in 0..micro {
        let place = first_query + row + i * side;
        let mut mass = 0.0f32;
        for part in 0..side {
            mass += row_parts[(row + i * side) * side + part];
        }
        if place < queries {
            #[unroll]
            for c in 0..columns {
                let number = column + c * side;
                if number < width {
                    output[query_base + place * query_step + number] = F::cast_from(sum[i * columns + c] / mass);
                }
            }
            if column == 0 {
                masses[(batch * heads + head) * queries + place] = tops[i] + mass.ln();
            }
        }
    }
}

/// Output and the logarithms of the masses.
///
/// # Shapes
/// - masses: `[batch, heads, queries]`, f32
pub(in super::super) fn attention<R: CubeRuntime>(
    shape: &AttentionShape,
    [query, key, value]: [&CubeTensor<R>; 3],
    starts: &Starts<R>,
) -> (CubeTensor<R>, CubeTensor<R>) {
    let (query, key, value) = (contiguous(query), contiguous(key), contiguous(value));
    let tile = Tile::choose(&query.client, shape.width, 2, true, shape.queries);
    let output = empty(&query, [shape.batch, shape.queries, shape.heads, shape.width], query.dtype);
    let masses = empty(&query, [shape.batch, shape.heads, shape.queries], DType::F32);
    let blocks = shape.queries.div_ceil(tile.block());
    let dtype = query.dtype.into();
    #[expect(unsafe_code, reason = "the kernel compares places with the number of queries and keys")]
    unsafe {
        attention_kernel::launch_unchecked::<R>(
            &output.client,
            CubeCount::Static(blocks as u32, shape.heads as u32, shape.batch as u32),
            tile.dim(),
            query.into_array_arg(),
            key.into_array_arg(),
            value.into_array_arg(),
            starts.tensor.clone().into_array_arg(),
            output.clone().into_array_arg(),
            masses.clone().into_array_arg(),
            shape.queries as u32,
            shape.keys as u32,
            shape.room as u32,
            shape.heads as u32,
            shape.groups as u32,
            shape.scale(),
            tile,
            dtype,
        );
    }
    (output, masses)
}
