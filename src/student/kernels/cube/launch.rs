//! What every launch needs: tensors laid out row by row, and grids that every device takes.

use burn::tensor::{DType, Shape};
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Units of a cube whose kernel asks for no other number.
pub(super) const UNITS: usize = 256;

/// Cubes along a side of a grid, which some devices bound at 65,535.
const SIDE: usize = 32_768;

/// At least `count` cubes; kernels compare their own number with what they were told.
pub(super) fn cubes(count: usize) -> CubeCount {
    let count = count.max(1);
    CubeCount::Static(count.min(SIDE) as u32, count.div_ceil(SIDE) as u32, 1)
}

/// A cube of so many units in a line.
pub(super) fn dim(units: usize) -> CubeDim {
    CubeDim::new_1d(units as u32)
}

/// The tensor laid out row by row, copied only if it was not.
pub(super) fn contiguous<R: CubeRuntime>(tensor: &CubeTensor<R>) -> CubeTensor<R> {
    into_contiguous(tensor.clone())
}

/// The tensor laid out row by row and held by nobody else, so that a kernel may write to it.
pub(super) fn owned<R: CubeRuntime>(tensor: CubeTensor<R>) -> CubeTensor<R> {
    let tensor = into_contiguous(tensor);
    if tensor.can_mut() { tensor } else { tensor.copy() }
}

/// A tensor without values yet, laid out row by row, beside another.
pub(super) fn empty<R: CubeRuntime>(beside: &CubeTensor<R>, shape: impl Into<Shape>, dtype: DType) -> CubeTensor<R> {
    let shape = shape.into();
    let handle = beside.client.empty(shape.num_elements() * dtype.size());
    CubeTensor::new_contiguous(beside.client.clone(), beside.device.clone(), shape, handle, dtype)
}

/// [`empty`] of the same shape.
pub(super) fn empty_like<R: CubeRuntime>(like: &CubeTensor<R>, dtype: DType) -> CubeTensor<R> {
    empty(like, like.meta.shape().clone(), dtype)
}

/// Units of a cube that reduces rows of `width` numbers: a power of two, more for longer rows.
pub(super) fn row_units<R: CubeRuntime>(client: &ComputeClient<R>, width: usize) -> usize {
    let most = client.properties().hardware.max_units_per_cube as usize;
    let wanted = if width > 8192 { 1024 } else { (width / 4).next_power_of_two().clamp(32, 256) };
    let mut units = wanted;
    while units > most {
        units /= 2;
    }
    units
}

/// Copies numbers to the device.
pub(super) fn upload<R: CubeRuntime>(
    beside: &CubeTensor<R>,
    numbers: &[u32],
    shape: impl Into<Shape>,
) -> CubeTensor<R> {
    let handle = beside.client.create_from_slice(bytemuck::cast_slice(numbers));
    CubeTensor::new_contiguous(beside.client.clone(), beside.device.clone(), shape.into(), handle, DType::U32)
}
