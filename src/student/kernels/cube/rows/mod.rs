//! Kernels that reduce rows: one cube a row, or a run of them. Sums are trees in shared memory, so they have one order and
//! ask nothing of the size of a device's planes.

mod log_softmax;
mod norm;
mod sum;

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

pub(super) use log_softmax::{log_softmax, log_softmax_backward};
pub(super) use norm::{rms_norm, rms_norm_backward};
pub(super) use sum::sum_of_squares;

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

/// Number and width of the rows that a tensor's last dimension makes.
fn rows_of<R: CubeRuntime>(tensor: &CubeTensor<R>) -> (usize, usize) {
    let shape = tensor.meta.shape();
    let width = shape.iter().last().copied().unwrap_or(1).max(1);
    (shape.num_elements() / width, width)
}
