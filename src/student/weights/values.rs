//! A module's parameters as named arrays, and back.

use std::sync::Arc;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use indexmap::IndexMap;

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
    struct Taker {
        path: Vec<String>,
        values: NamedValues,
    }
    impl<B: Backend> ModuleVisitor<B> for Taker {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            let data = param.val().into_data().convert::<f32>();
            let shape = data.shape.to_vec();
            // The conversion above makes this f32, so the empty fallback is never taken.
            let data = data.into_vec().unwrap_or_default();
            self.values.insert(self.path.join("."), Values::new(shape, data));
        }
    }
    let mut taker = Taker { path: Vec::new(), values: NamedValues::new() };
    module.visit(&mut taker);
    taker.values
}

/// Gives every parameter its values from `source`, which is called with each parameter's name and shape.
///
/// # Errors
/// The first error of `source`, or values of another length than the parameter.
pub fn load_into<B: Backend, M: Module<B>>(
    module: M,
    device: &B::Device,
    source: impl FnMut(&str, &[usize]) -> Result<Vec<f32>>,
) -> Result<M> {
    struct Loader<'a, B: Backend, S> {
        path: Vec<String>,
        device: &'a B::Device,
        source: S,
        failed: Option<StudentError>,
    }
    impl<B: Backend, S: FnMut(&str, &[usize]) -> Result<Vec<f32>>> ModuleMapper<B> for Loader<'_, B, S> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
            if self.failed.is_some() {
                return param;
            }
            let (id, tensor, mapper) = param.consume();
            let name = self.path.join(".");
            let shape = tensor.dims();
            let loaded = match (self.source)(&name, &shape) {
                Ok(values) if values.len() == shape.iter().product::<usize>() => {
                    Tensor::from_data(TensorData::new(values, shape), self.device).require_grad()
                }
                Ok(values) => {
                    self.failed = Some(StudentError::Weights {
                        label: "the model".into(),
                        message: format!("`{name}` has {} values, {shape:?} belong there", values.len()),
                    });
                    tensor
                }
                Err(error) => {
                    self.failed = Some(error);
                    tensor
                }
            };
            Param::from_mapped_value(id, loaded, mapper)
        }
    }
    let mut loader = Loader { path: Vec::new(), device, source, failed: None };
    let module = module.map(&mut loader);
    match loader.failed {
        Some(error) => Err(error),
        None => Ok(module),
    }
}
