//! Kernels that reduce rows: one cube a row, or a run of them. Sums are trees in shared memory, so they have one order and
//! ask nothing of the size of a device's planes.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launch::{UNITS, contiguous, cubes, dim, empty, empty_like, row_units};

/// Below every number that can occur; devices differ in what they make of infinities.
const LOWEST: f32 = -1e30;
/// Cubes that the norm's backward pass spreads rows over, each with a part of the weight's gradient of its own.
const PARTS: usize = 264;
/// Columns of a cube that sums parts, and rows of units above each.
const COLUMNS: usize = 32;
const SLICES: usize = 8;
/// Cubes of a flat sum, at most: their parts are summed by one.
const SUM_PARTS: usize = 1024;

/// Sum of all units' values, the same in every unit. `units` is a power of two and the length of `shared`.
#[cube]
fn cube_sum(value: f32, shared: &mut SharedMemory<f32>, #[comptime] units: usize) -> f32 {
    let unit = UNIT_POS as usize;
    // What an earlier sum left has been read by all.
    sync_cube();
    shared[unit] = value;
    sync_cube();
    let mut reach = (units / 2).runtime();
    while reach > 0 {
        if unit < reach {
            let other = shared[unit + reach];
            shared[unit] += other;
        }
        sync_cube();
        reach /= 2;
    }
    shared[0]
}

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

/// Two passes over a row: largest number and mass together, then the logarithms.
#[cube(launch_unchecked)]
fn log_softmax_kernel<F: Float>(
    input: &Array<F>,
    output: &mut Array<F>,
    rows: u32,
    width: u32,
    #[comptime] units: usize,
    #[define(F)] _dtype: StorageType,
) {
    let row = CUBE_POS;
    if row >= rows as usize {
        terminate!();
    }
    let width = width as usize;
    let unit = UNIT_POS as usize;
    let start = row * width;
    let mut tops = SharedMemory::<f32>::new(units);
    let mut masses = SharedMemory::<f32>::new(units);
    let mut top = LOWEST.runtime();
    let mut mass = 0.0f32;
    let mut column = unit;
    while column < width {
        let x = f32::cast_from(input[start + column]);
        if x > top {
            mass = mass * (top - x).exp() + 1.0f32;
            top = x;
        } else {
            mass += (x - top).exp();
        }
        column += units;
    }
    tops[unit] = top;
    masses[unit] = mass;
    sync_cube();
    let mut reach = (units / 2).runtime();
    while reach > 0 {
        if unit < reach {
            let ours = tops[unit];
            let theirs = tops[unit + reach];
            let both = max(ours, theirs);
            masses[unit] = masses[unit] * (ours - both).exp() + masses[unit + reach] * (theirs - both).exp();
            tops[unit] = both;
        }
        sync_cube();
        reach /= 2;
    }
    let log_mass = tops[0] + masses[0].ln();
    let mut column = unit;
    while column < width {
        output[start + column] = F::cast_from(f32::cast_from(input[start + column]) - log_mass);
        column += units;
    }
}

#[cube(launch_unchecked)]
fn log_softmax_backward_kernel<F: Float>(
    output: &Array<F>,
    gradient: &Array<F>,
    to_input: &mut Array<F>,
    rows: u32,
    width: u32,
    #[comptime] units: usize,
    #[define(F)] _dtype: StorageType,
) {
    let row = CUBE_POS;
    if row >= rows as usize {
        terminate!();
    }
    let width = width as usize;
    let unit = UNIT_POS as usize;
    let start = row * width;
    let mut shared = SharedMemory::<f32>::new(units);
    let mut total = 0.0f32;
    let mut column = unit;
    while column < width {
        total += f32::cast_from(gradient[start + column]);
        column += units;
    }
    let total = cube_sum(total, &mut shared, units);
    let mut column = unit;
    while column < width {
        let y = f32::cast_from(output[start + column]);
        let g = f32::cast_from(gradient[start + column]);
        to_input[start + column] = F::cast_from(g - y.exp() * total);
        column += units;
    }
}

/// Each cube sums a run of numbers, squared or as they are.
#[cube(launch_unchecked)]
fn sum_kernel<F: Float>(
    input: &Array<F>,
    parts: &mut Array<f32>,
    elements: u32,
    run: u32,
    #[comptime] squared: bool,
    #[define(F)] _dtype: StorageType,
) {
    let part = CUBE_POS;
    let elements = elements as usize;
    let first = part * run as usize;
    if first >= elements {
        terminate!();
    }
    let mut last = first + run as usize;
    if last > elements {
        last = elements;
    }
    let mut shared = SharedMemory::<f32>::new(UNITS);
    let mut total = 0.0f32;
    let mut place = first + UNIT_POS as usize;
    while place < last {
        let x = f32::cast_from(input[place]);
        if squared {
            total += x * x;
        } else {
            total += x;
        }
        place += UNITS;
    }
    let total = cube_sum(total, &mut shared, UNITS);
    if UNIT_POS == 0 {
        parts[part] = total;
    }
}

fn rows_of<R: CubeRuntime>(tensor: &CubeTensor<R>) -> (usize, usize) {
    let shape = tensor.meta.shape();
    let width = shape.iter().last().copied().unwrap_or(1).max(1);
    (shape.num_elements() / width, width)
}

/// # Shapes
/// - input, output: `[rows, width]`
/// - weight: `[width]`, f32
pub(super) fn rms_norm<R: CubeRuntime>(input: &CubeTensor<R>, weight: &CubeTensor<R>, epsilon: f32) -> CubeTensor<R> {
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

pub(super) fn rms_norm_backward<R: CubeRuntime>(
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

/// # Shapes
/// - input, output: `[rows, width]`
pub(super) fn log_softmax<R: CubeRuntime>(input: &CubeTensor<R>) -> CubeTensor<R> {
    let input = contiguous(input);
    let (rows, width) = rows_of(&input);
    let units = row_units(&input.client, width);
    let output = empty_like(&input, input.dtype);
    let dtype = input.dtype.into();
    #[expect(unsafe_code, reason = "the kernel compares rows and columns with the matrix's")]
    unsafe {
        log_softmax_kernel::launch_unchecked::<R>(
            &output.client,
            cubes(rows),
            dim(units),
            input.into_array_arg(),
            output.clone().into_array_arg(),
            rows as u32,
            width as u32,
            units,
            dtype,
        );
    }
    output
}

pub(super) fn log_softmax_backward<R: CubeRuntime>(output: &CubeTensor<R>, gradient: &CubeTensor<R>) -> CubeTensor<R> {
    let (output, gradient) = (contiguous(output), contiguous(gradient));
    let (rows, width) = rows_of(&output);
    let units = row_units(&output.client, width);
    let to_input = empty_like(&output, output.dtype);
    let dtype = output.dtype.into();
    #[expect(unsafe_code, reason = "the kernel compares rows and columns with the matrix's")]
    unsafe {
        log_softmax_backward_kernel::launch_unchecked::<R>(
            &to_input.client,
            cubes(rows),
            dim(units),
            output.into_array_arg(),
            gradient.into_array_arg(),
            to_input.clone().into_array_arg(),
            rows as u32,
            width as u32,
            units,
            dtype,
        );
    }
    to_input
}

/// Sum of squares, `[1]`, f32.
pub(super) fn sum_of_squares<R: CubeRuntime>(input: &CubeTensor<R>) -> CubeTensor<R> {
    let input = contiguous(input);
    let elements = input.meta.num_elements();
    let run = elements.div_ceil(SUM_PARTS).next_multiple_of(UNITS).max(UNITS);
    let count = elements.div_ceil(run).max(1);
    let (parts, output) = (empty(&input, [count], DType::F32), empty(&input, [1], DType::F32));
    let client = input.client.clone();
    let dtype = input.dtype.into();
    #[expect(unsafe_code, reason = "the kernel compares every place with the end of its run")]
    unsafe {
        sum_kernel::launch_unchecked::<R>(
            &client,
            cubes(count),
            dim(UNITS),
            input.into_array_arg(),
            parts.clone().into_array_arg(),
            elements as u32,
            run as u32,
            true,
            dtype,
        );
        sum_kernel::launch_unchecked::<R>(
            &client,
            cubes(1),
            dim(UNITS),
            parts.into_array_arg(),
            output.clone().into_array_arg(),
            count as u32,
            count as u32,
            false,
            DType::F32.into(),
        );
    }
    output
}
