//! Sums of all numbers: a cube a run of them, then one cube for what those came to.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::launch::{UNITS, contiguous, cubes, dim, empty};
use super::cube_sum;

/// Cubes of a flat sum, at most: their parts are summed by one.
const SUM_PARTS: usize = 1024;

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

/// Sum of squares, `[1]`, f32.
pub(in super::super) fn sum_of_squares<R: CubeRuntime>(input: &CubeTensor<R>) -> CubeTensor<R> {
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
