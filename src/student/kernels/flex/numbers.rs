//! Between tensors and slices of f32.
//!
//! The loops compute in f32. Shorter numbers are widened before and rounded after: what a GPU's kernels do in registers,
//! and as slow as it sounds.

use burn::tensor::{DType, Shape, TensorData};
use burn_flex::FlexTensor;
use half::{bf16, f16};
use rayon::prelude::*;

/// The tensor in f32, laid out row by row; copied only if it was not.
pub(super) fn numbers(tensor: &FlexTensor) -> FlexTensor {
    let stored = tensor.to_contiguous();
    let shape = || stored.layout().shape().clone();
    match stored.dtype() {
        DType::BF16 => self::tensor(shape(), stored.storage::<bf16>().par_iter().map(|x| x.to_f32()).collect()),
        DType::F16 => self::tensor(shape(), stored.storage::<f16>().par_iter().map(|x| x.to_f32()).collect()),
        other => {
            debug_assert_eq!(other, DType::F32);
            stored
        }
    }
}

/// A result in f32 as numbers of another tensor's type, to the nearest, ties to even.
pub(super) fn stored_as(dtype: DType, result: FlexTensor) -> FlexTensor {
    let shape = || result.layout().shape().clone();
    let values = || result.storage::<f32>().par_iter();
    match dtype {
        DType::BF16 => {
            let rounded: Vec<bf16> = values().map(|x| bf16::from_f32(*x)).collect();
            FlexTensor::from_data(TensorData::new(rounded, shape()))
        }
        DType::F16 => {
            let rounded: Vec<f16> = values().map(|x| f16::from_f32(*x)).collect();
            FlexTensor::from_data(TensorData::new(rounded, shape()))
        }
        _ => result,
    }
}

/// A tensor of a shape.
pub(super) fn tensor(shape: impl Into<Shape>, values: Vec<f32>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// Length of the last dimension.
pub(super) fn width(tensor: &FlexTensor) -> usize {
    tensor.layout().shape().iter().last().copied().unwrap_or(1).max(1)
}
