//! A module's parameters as named arrays, and back.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::backend::Backend;
use burn::tensor::{TensorData, TensorMetadata};
use indexmap::IndexMap;

use super::walk::{each_parameter, flat, with_parameters};
use crate::error::{Result, StudentError};

/// One tensor on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Values {
    /// Lengths of the dimensions.
    pub shape: Vec<usize>,
    /// The numbers, row-major. Shared, since trainer and checkpoint writer both hold them.
    pub data: Arc<Vec<f32>>,
}

/// A module's tensors by name, in the order of its fields.
pub type NamedValues = IndexMap<String, Values>;

impl Values {
    /// An array of a shape.
    pub fn new(shape: Vec<usize>, data: Vec<f32>) -> Self {
        Self { shape, data: Arc::new(data) }
    }
}

/// Copies every parameter to the host.
pub fn take_values<B: Backend, M: Module<B>>(module: &M) -> NamedValues {
    let mut values = NamedValues::new();
    each_parameter::<B, _>(module, |name, parameter| {
        let shape = parameter.shape().to_vec();
        // f32 by the conversion, so the empty fallback is never taken.
        let data = flat::<B>(parameter).into_data().convert::<f32>().into_vec().unwrap_or_default();
        values.insert(name.to_owned(), Values::new(shape, data));
    });
    values
}

/// Gives every parameter its values from `source`, which is called with each parameter's name and shape.
///
/// # Errors
/// The first error of `source`, or values of another length than the parameter.
pub fn load_into<B: Backend, M: Module<B>>(
    module: M,
    device: &B::Device,
    mut source: impl FnMut(&str, &[usize]) -> Result<Vec<f32>>,
) -> Result<M> {
    let mut failed = None;
    let module = with_parameters::<B, _>(module, |name, parameter| {
        if failed.is_some() {
            return parameter;
        }
        let shape = parameter.shape();
        match source(name, &shape) {
            Ok(values) if values.len() == shape.num_elements() => {
                let loaded = B::float_from_data(TensorData::new(values, shape), device);
                return B::float_set_require_grad(loaded, true);
            }
            Ok(values) => {
                failed = Some(StudentError::Weights {
                    label: "the model".into(),
                    message: format!("`{name}` has {} values, {:?} belong there", values.len(), &shape[..]),
                });
            }
            Err(error) => failed = Some(error),
        }
        parameter
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(module),
    }
}
