//! Attention's backward pass: weights are made again from the masses. One kernel goes over blocks of queries for their
//! gradient, one over blocks of keys for theirs and the values': no two cubes add to the same number, so sums have one
//! order.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::tile::{Tile, add_scores_by_rows, fill, load_rows, rows_by_rows, store_rows, store_scores};
use super::{AttentionShape, Starts};
use crate::kernels::cube::launch::{UNITS, contiguous, cubes, dim, empty, empty_like};

/// `δ = Σ gradient · output` of every query and head, one unit each.
#[cube(launch_unchecked)]
fn delta_kernel<F: Float>(
    output: &Array<F>,
    gradient: &Array<F>,
    deltas: &mut Array<f32>,
    count: u32,
    queries: u32,
    heads: u32,
    #[comptime] width: usize,
    #[define(F)] _dtype: StorageType,
) {
    let place = ABSOLUTE_POS;
    if place < count as usize {
        let queries = queries as usize;
        let heads = heads as usize;
        let head = place % heads;
        let query = place / heads % queries;
        let batch = place / heads / queries;
        let mut delta = 0.0f32;
        for number in 0..width {
            let at = place * width + number;
            delta += f32::cast_from(output[at]) * f32::cast_from(gradient[at]);
        }
        deltas[(batch * heads + head) * queries + query] = delta;
    }
}

#[cube(launch_unchecked)]
fn query_gradient_kernel<F: Float>(
    query: &Array<F>,
    key: &Array<F>,
    value: &Array<F>,
    gradient: &Array<F>,
    starts: &Array<u32>,
    masses: &Array<f32>,
    deltas: &Array<f32>,
    to_query: &mut Array<F>,
    queries: u32,
    keys: u32,
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
    let heads = heads as usize;
    let groups = groups as usize;
    let batch = CUBE_POS_Z as usize;
    let head = CUBE_POS_Y as usize;
    let group = head / (heads / groups);
    let first_query = ((queries + block - 1) / block - 1 - CUBE_POS_X as usize) * block;
    let offset = keys - queries;
    let query_step = heads * width;
    let key_step = groups * width;
    let query_base = batch * queries * query_step + head * width;
    let key_base = batch * keys * key_step + group * width;

    let mut query_rows = SharedMemory::<f32>::new(comptime!(tile.block() * tile.stride()));
    let mut gradient_rows = SharedMemory::<f32>::new(comptime!(tile.block() * tile.stride()));
    let mut key_rows = SharedMemory::<f32>::new(comptime!(tile.block() * tile.stride()));
    let mut slopes = SharedMemory::<f32>::new(comptime!(tile.block() * tile.score_stride()));

    let mut first_keys = Array::<u32>::new(micro);
    let mut end_keys = Array::<u32>::new(micro);
    let mut log_masses = Array::<f32>::new(micro);
    let mut delta = Array::<f32>::new(micro);
    let mut scores = Array::<f32>::new(comptime!(micro * micro));
    let mut by_value = Array::<f32>::new(comptime!(micro * micro));
    let mut sum = Array::<f32>::new(comptime!(micro * columns));
    fill(&mut sum, 0.0f32.runtime(), comptime!(micro * columns));
    #[unroll]
    for i in 0..micro {
        let place = first_query + row + i * side;
        first_keys[i] = 0u32;
        end_keys[i] = 0u32;
        log_masses[i] = 0.0f32;
        delta[i] = 0.0f32;
        if place < queries {
            first_keys[i] = starts[batch * queries + place];
            end_keys[i] = (offset + place + 1) as u32;
            log_masses[i] = masses[(batch * heads + head) * queries + place];
            delta[i] = deltas[(batch * heads + head) * queries + place];
        }
    }

    load_rows::<F>(query, query_base, query_step, first_query, queries, &mut query_rows, tile);
    load_rows::<F>(gradient, query_base, query_step, first_query, queries, &mut gradient_rows, tile);
    let begin = starts[batch * queries + first_query] as usize;
    let mut end = offset + first_query + block;
    if end > keys {
        end = keys;
    }
    let rounds = (end - begin + block - 1) / block;
    for round in 0..rounds {
        let first_key = begin + round * block;
        sync_cube();
        load_rows::<F>(value, key_base, key_step, first_key, keys, &mut key_rows, tile);
        sync_cube();
        rows_by_rows(&gradient_rows, &key_rows, &mut by_value, row, column, tile);
        // The keys take the values' place.
        sync_cube();
        load_rows::<F>(key, key_base, key_step, first_key, keys, &mut key_rows, tile);
        sync_cube();
        rows_by_rows(&query_rows, &key_rows, &mut scores, row, column, tile);
        #[unroll]
        for i in 0..micro {
            #[unroll]
            for j in 0..micro {
                let place = (first_key + column + j * side) as u32;
                let mut slope = 0.0f32;
                if place >= first_keys[i] && place < end_keys[i] {
                    let weight = (scores[i * micro + j] * scale - log_masses[i]).exp();
                    slope = weight * (by_value[i * micro + j] - delta[i]);
                }
                scores[i * micro + j] = slope;
            }
        }
        store_scores(&scores, &mut slopes, row, column, tile);
        sync_cube();
        add_scores_by_rows(&slopes, &key_rows, &mut sum, row, column, tile);
    }
    store_rows::<F>(&sum, scale, to_query, query_base, query_step, first_query, queries, row, column, tile);
}

/// Here the block's rows are keys and its columns queries.
#[cube(launch_unchecked)]
fn key_gradient_kernel<F: Float>(
    query: &Array<F>,
    key: &Array<F>,
    value: &Array<F>,
    gradient: &Array<F>,
    starts: &Array<u32>,
    masses: &Array<f32>,
    deltas: &Array<f32>,
    to_key: &mut Array<F>,
    to_value: &mut Array<F>,
    queries: u32,
    keys: u32,
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
    let heads = heads as usize;
    let groups = groups as usize;
    let batch = CUBE_POS_Z as usize;
    let group = CUBE_POS_Y as usize;
    let shared = heads / groups;
    // The first keys are seen by most queries, and come first.
    let first_key = CUBE_POS_X as usize * block;
    let offset = keys - queries;
    let query_step = heads * width;
    let key_step = groups * width;
    let key_base = batch * keys * key_step + group * width;

    let mut key_rows = SharedMemory::<f32>::new(comptime!(tile.block() * tile.stride()));
    let mut value_rows = SharedMemory::<f32>::new(comptime!(tile.block() * tile.stride()));
    let mut query_rows = SharedMemory::<f32>::new(comptime!(tile.block() * tile.stride()));
    let mut gradient_rows = SharedMemory::<f32>::new(comptime!(tile.block() * tile.stride()));
    let mut stored = SharedMemory::<f32>::new(comptime!(tile.block() * tile.score_stride()));

    let mut weights = Array::<f32>::new(comptime!(micro * micro));
    let mut slopes = Array::<f32>::new(comptime!(micro * micro));
    let mut key_sum = Array::<f32>::new(comptime!(micro * columns));
    let mut value_sum = Array::<f32>::new(comptime!(micro * columns));
    fill(&mut key_sum, 0.0f32.runtime(), comptime!(micro * columns));
    fill(&mut value_sum, 0.0f32.runtime(), comptime!(micro * columns));

    load_rows::<F>(key, key_base, key_step, first_key, keys, &mut key_rows, tile);
    load_rows::<F>(value, key_base, key_step, first_key, keys, &mut value_rows, tile);

    // The first query that sees any of these keys, and the end of those that do. Starts never fall along a row, so the end
    // can be searched for by halves.
    let mut begin = 0usize.runtime();
    if first_key > offset {
        begin = first_key - offset;
    }
    let mut end = begin;
    let mut beyond = queries;
    while end < beyond {
        let middle = (end + beyond) / 2;
        if (starts[batch * queries + middle] as usize) < first_key + block {
            end = middle + 1;
        } else {
            beyond = middle;
        }
    }
    let rounds = (end - begin + block - 1) / block;
    for member in 0..shared {
        let head = group * shared + member;
        let query_base = batch * queries * query_step + head * width;
        let head_base = (batch * heads + head) * queries;
        for round in 0..rounds {
            let first_query = begin + round * block;
            sync_cube();
            load_rows::<F>(query, query_base, query_step, first_query, queries, &mut query_rows, tile);
            load_rows::<F>(gradient, query_base, query_step, first_query, queries, &mut gradient_rows, tile);
            sync_cube();
            rows_by_rows(&key_rows, &query_rows, &mut weights, row, column, tile);
            rows_by_rows(&value_rows, &gradient_rows, &mut slopes, row, column, tile);
            #[unroll]
            for j in 0..micro {
                let place = first_query + column + j * side;
                let mut first = 0u32;
                let mut last = 0u32;
                let mut log_mass = 0.0f32;
                let mut delta = 0.0f32;
                if place < queries {
                    first = starts[batch * queries + place];
                    last = (offset + place + 1) as u32;
                    log_mass = masses[head_base + place];
                    delta = deltas[head_base + place];
                }
                #[unroll]
                for i in 0..micro {
                    let at = (first_key + row + i * side) as u32;
                    let mut weight = 0.0f32;
                    if at >= first && at < last {
                        weight = (weights[i * micro + j] * scale - log_mass).exp();
                    }
                    weights[i * micro + j] = weight;
                    slopes[i * micro + j] = weight * (slopes[i * micro + j] - delta);
                }
            }
            store_scores(&weights, &mut stored, row, column, tile);
            sync_cube();
            add_scores_by_rows(&stored, &gradient_rows, &mut value_sum, row, column, tile);
            sync_cube();
            store_scores(&slopes, &mut stored, row, column, tile);
            sync_cube();
            add_scores_by_rows(&stored, &query_rows, &mut key_sum, row, column, tile);
        }
    }
    store_rows::<F>(&key_sum, scale, to_key, key_base, key_step, first_key, keys, row, column, tile);
    store_rows::<F>(&value_sum, 1.0f32.runtime(), to_value, key_base, key_step, first_key, keys, row, column, tile);
}

/// Gradients of query, key and value.
pub(in super::super) fn attention_backward<R: CubeRuntime>(
    shape: &AttentionShape,
    [query, key, value]: [&CubeTensor<R>; 3],
    starts: &Starts<R>,
    output: &CubeTensor<R>,
    masses: &CubeTensor<R>,
    gradient: &CubeTensor<R>,
) -> [CubeTensor<R>; 3] {
    let (query, key, value) = (contiguous(query), contiguous(key), contiguous(value));
    let (output, gradient) = (contiguous(output), contiguous(gradient));
    let client = query.client.clone();
    let deltas = empty(&query, [shape.batch, shape.heads, shape.queries], DType::F32);
    let (to_query, to_key, to_value) =
        (empty_like(&query, query.dtype), empty_like(&key, key.dtype), empty_like(&value, value.dtype));
    let count = shape.batch * shape.queries * shape.heads;
    let (heads, batch) = (shape.heads as u32, shape.batch as u32);
    let dtype: StorageType = query.dtype.into();
    #[expect(unsafe_code, reason = "the kernels compare places with the number of queries and keys")]
    unsafe {
        delta_kernel::launch_unchecked::<R>(
            &client,
            cubes(count.div_ceil(UNITS)),
            dim(UNITS),
            output.into_array_arg(),
            gradient.clone().into_array_arg(),
            deltas.clone().into_array_arg(),
            count as u32,
            shape.queries as u32,
            heads,
            shape.width,
            dtype,
        );
        let tile = Tile::choose(&client, shape.width, 3, false, shape.queries);
        query_gradient_kernel::launch_unchecked::<R>(
            &client,
            CubeCount::Static(shape.queries.div_ceil(tile.block()) as u32, heads, batch),
            tile.dim(),
            query.clone().into_array_arg(),
            key.clone().into_array_arg(),
            value.clone().into_array_arg(),
            gradient.clone().into_array_arg(),
            starts.tensor.clone().into_array_arg(),
            masses.clone().into_array_arg(),
            deltas.clone().into_array_arg(),
            to_query.clone().into_array_arg(),
            shape.queries as u32,
            shape.keys as u32,
            heads,
            shape.groups as u32,
            shape.scale(),
            tile,
            dtype,
        );
        let tile = Tile::choose(&client, shape.width, 4, false, shape.keys);
        key_gradient_kernel::launch_unchecked::<R>(
            &client,
            CubeCount::Static(shape.keys.div_ceil(tile.block()) as u32, shape.groups as u32, batch),
            tile.dim(),
            query.into_array_arg(),
            key.into_array_arg(),
            value.into_array_arg(),
            gradient.into_array_arg(),
            starts.tensor.clone().into_array_arg(),
            masses.clone().into_array_arg(),
            deltas.into_array_arg(),
            to_key.clone().into_array_arg(),
            to_value.clone().into_array_arg(),
            shape.queries as u32,
            shape.keys as u32,
            heads,
            shape.groups as u32,
            shape.scale(),
            tile,
            dtype,
        );
    }
    [to_query, to_key, to_value]
}
