//! Log-softmax: a cube a row.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::launch::{contiguous, cubes, dim, empty_like, row_units};
use super::{cube_sum, rows_of};

/// Below every number that can occur; devices differ in what they make of infinities.
const LOWEST: f32 = -1e30;

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

/// # Shapes
/// - input, output: `[rows, width]`
pub(in super::super) fn log_softmax<R: CubeRuntime>(input: &CubeTensor<R>) -> CubeTensor<R> {
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

pub(in super::super) fn log_softmax_backward<R: CubeRuntime>(
    output: &CubeTensor<R>,
    gradient: &CubeTensor<R>,
) -> CubeTensor<R> {
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
