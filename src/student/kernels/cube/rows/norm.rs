//! Root-mean-square norms: a cube a row forwards; backwards a cube takes a run of rows, so that few parts of the weight's
//! gradient are left to be summed.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::launch::{contiguous, cubes, dim, empty, empty_like, row_units};
use super::{cube_sum, rows_of};

/// Cubes that the norm's backward pass spreads rows over, each with a part of the weight's gradient of its own.
const PARTS: usize = 264;
/// Columns of a cube that sums parts, and rows of units above each.
const COLUMNS: usize = 32;
const SLICES: usize = 8;

#[cube(launch_unchecked)]
fn rms_norm_kernel<F: Float>(
    input: &Array<F>,
    weight: &Array<f32>,
    output: &mut Array<F>,
    rows: u32,
    epsilon: f32,
    #[comptime] width: usize,
    #[comptime] units: usize,
    #[define(F)] _dtype: StorageType,
) {
    let row = CUBE_POS;
    if row >= rows as usize {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let mut shared = SharedMemory::<f32>::new(units);
    let items = comptime!(width.div_ceil(units));
    let mut held = Array::<f32>::new(items);
    let mut squares = 0.0f32;
    #[unroll]
    for item in 0..items {
        let column = item * units + unit;
        let mut x = 0.0f32;
        if column < width {
            x = f32::cast_from(input[row * width + column]);
        }
        held[item] = x;
        squares += x * x;
    }
    let mean = cube_sum(squares, &mut shared, units) / comptime!(width as f32);
    let scale = 1.0f32 / (mean + epsilon).sqrt();
    #[unroll]
    for item in 0..items {
        let column = item * units + unit;
        if column < width {
            output[row * width + column] = F::cast_from(held[item] * scale * weight[column]);
        }
    }
}

/// A cube takes a run of rows and keeps the weight's gradient of its columns in registers until the end of the run.
#[cube(launch_unchecked)]
fn rms_norm_backward_kernel<F: Float>(
    input: &Array<F>,
    weight: &Array<f32>,
    gradient: &Array<F>,
    to_input: &mut Array<F>,
    parts: &mut Array<f32>,
    rows: u32,
    run: u32,
    epsilon: f32,
    #[comptime] width: usize,
    #[comptime] units: usize,
    #[define(F)] _dtype: StorageType,
) {
    let part = CUBE_POS;
    let rows = rows as usize;
    let first = part * run as usize;
    if first >= rows {
        terminate!();
    }
    let mut last = first + run as usize;
    if last > rows {
        last = rows;
    }
    let unit = UNIT_POS as usize;
    let mut shared = SharedMemory::<f32>::new(units);
    let items = comptime!(width.div_ceil(units));
    let mut to_weight = Array::<f32>::new(items);
    let mut x = Array::<f32>::new(items);
    let mut g = Array::<f32>::new(items);
    #[unroll]
    for item in 0..items {
        to_weight[item] = 0.0f32;
    }
    for row in first..last {
        let mut squares = 0.0f32;
        let mut along = 0.0f32;
        #[unroll]
        for item in 0..items {
            let column = item * units + unit;
            x[item] = 0.0f32;
            g[item] = 0.0f32;
            if column < width {
                x[item] = f32::cast_from(input[row * width + column]);
                g[item] = f32::cast_from(gradient[row * width + column]);
                along += weight[column] * g[item] * x[item];
            }
            squares += x[item] * x[item];
        }
        let mean = cube_sum(squares, &mut shared, units) / comptime!(width as f32);
        let along = cube_sum(along, &mut shared, units) / comptime!(width as f32);
        let scale = 1.0f32 / (mean + epsilon).sqrt();
        let pull = along * scale * scale * scale;
        #[unroll]
        for item in 0..items {
            let column = item * units + unit;
            if column < width {
                let straight = scale * weight[column] * g[item];
                to_input[row * width + column] = F::cast_from(straight - x[item] * pull);
                to_weight[item] += g[item] * x[item] * scale;
            }
        }
    }
    #[unroll]
    for item in 0..items {
        let column = item * units + unit;
        if column < width {
            parts[part * width + column] = to_weight[item];
        }
    }
}

/// Sums the rows of a matrix. A cube is `COLUMNS × SLICES` units: each slice sums every `SLICES`-th row.
#[cube(launch_unchecked)]
fn column_sum_kernel(parts: &Array<f32>, output: &mut Array<f32>, rows: u32, width: u32) {
    let width = width as usize;
    let local = UNIT_POS_X as usize;
    let slice = UNIT_POS_Y as usize;
    let column = CUBE_POS * COLUMNS + local;
    let mut shared = SharedMemory::<f32>::new(comptime!(COLUMNS * SLICES));
    let mut total = 0.0f32;
    if column < width {
        let mut row = slice;
        while row < rows as usize {
            total += parts[row * width + column];
            row += SLICES;
        }
    }
    shared[slice * COLUMNS + local] = total;
    sync_cube();
    if slice == 0 && column < width {
        let mut all = 0.0f32;
        for other in 0..SLICES {
            all += shared[other * COLUMNS + local];
        }
        output[column] = all;
    }
}

/// # Shapes
/// - input, output: `[rows, width]`
/// - weight: `[width]`, f32
pub(in super::super) fn rms_norm<R: CubeRuntime>(
    input: &CubeTensor<R>,
    weight: &CubeTensor<R>,
    epsilon: f32,
) -> CubeTensor<R> {
    let (input, weight) = (contiguous(input), contiguous(weight));
    let (rows, width) = rows_of(&input);
    let units = row_units(&input.client, width);
    let output = empty_like(&input, input.dtype);
    let dtype = input.dtype.into();
    #[expect(unsafe_code, reason = "the kernel compares rows and columns with the matrix's")]
    unsafe {
        rms_norm_kernel::launch_unchecked::<R>(
            &output.client,
            cubes(rows),
            dim(units),
            input.into_array_arg(),
            weight.into_array_arg(),
            output.clone().into_array_arg(),
            rows as u32,
            epsilon,
            width,
            units,
            dtype,
        );
    }
    output
}

pub(in super::super) fn rms_norm_backward<R: CubeRuntime>(
    input: &CubeTensor<R>,
    weight: &CubeTensor<R>,
    epsilon: f32,
    gradient: &CubeTensor<R>,
) -> [CubeTensor<R>; 2] {
    let (input, weight, gradient) = (contiguous(input), contiguous(weight), contiguous(gradient));
    let (rows, width) = rows_of(&input);
    let units = row_units(&input.client, width);
    let run = rows.div_ceil(PARTS).max(1);
    let count = rows.div_ceil(run);
    let to_input = empty_like(&input, input.dtype);
    let to_weight = empty_like(&weight, DType::F32);
    let parts = empty(&input, [count, width], DType::F32);
    let client = input.client.clone();
    let dtype = input.dtype.into();
    #[expect(unsafe_code, reason = "both kernels compare rows and columns with the matrices'")]
    unsafe {
        rms_norm_backward_kernel::launch_unchecked::<R>(
            &client,
            cubes(count),
            dim(units),
            input.into_array_arg(),
            weight.into_array_arg(),
            gradient.into_array_arg(),
            to_input.clone().into_array_arg(),
            parts.clone().into_array_arg(),
            rows as u32,
            run as u32,
            epsilon,
            width,
            units,
            dtype,
        );
        column_sum_kernel::launch_unchecked::<R>(
            &client,
            cubes(width.div_ceil(COLUMNS)),
            CubeDim::new_2d(COLUMNS as u32, SLICES as u32),
            parts.into_array_arg(),
            to_weight.clone().into_array_arg(),
            count as u32,
            width as u32,
        );
    }
    [to_input, to_weight]
}
