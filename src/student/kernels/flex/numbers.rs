//! Between tensors and slices of f32.

use burn::tensor::{DType, Shape, TensorData};
use burn_flex::FlexTensor;

/// The tensor laid out row by row, copied only if it was not. Every student on the processor computes in f32.
pub(super) fn numbers(tensor: &FlexTensor) -> FlexTensor {
    debug_assert_eq!(tensor.dtype(), DType::F32);
    tensor.to_contiguous()
}

/// A tensor of a shape.
pub(super) fn tensor(shape: impl Into<Shape>, values: Vec<f32>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// Length of the last dimension.
pub(super) fn width(tensor: &FlexTensor) -> usize {
    tensor.layout().shape().iter().last().copied().unwrap_or(1).max(1)
}
