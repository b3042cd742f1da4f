//! The one place that walks over a module's parameters, each with its name.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Shape, Tensor, TensorMetadata};

use crate::kernels::{storage, wrap};

/// Calls `see` with every parameter, in the order of the module's fields.
pub(crate) fn each_parameter<B: Backend, M: Module<B>>(module: &M, see: impl FnMut(&str, FloatTensor<B>)) {
    module.visit(&mut Walk { path: Vec::new(), each: see });
}

/// The same module with the parameters that `change` makes of those that are there.
pub(crate) fn with_parameters<B: Backend, M: Module<B>>(
    module: M,
    change: impl FnMut(&str, FloatTensor<B>) -> FloatTensor<B>,
) -> M {
    module.map(&mut Walk { path: Vec::new(), each: change })
}

/// A parameter's numbers in a line.
pub(crate) fn flat<B: Backend>(parameter: FloatTensor<B>) -> Tensor<B, 1> {
    let elements = parameter.shape().num_elements();
    wrap(B::float_reshape(parameter, Shape::new([elements])))
}

/// Numbers in a line as a parameter of a shape.
pub(crate) fn shaped<B: Backend>(flat: Tensor<B, 1>, shape: Shape) -> FloatTensor<B> {
    B::float_reshape(storage(flat), shape)
}

/// Some work on each parameter. `path` leads to it, and joined by dots is its name in a weights file.
struct Walk<F> {
    path: Vec<String>,
    each: F,
}

impl<B: Backend, F: FnMut(&str, FloatTensor<B>)> ModuleVisitor<B> for Walk<F> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        (self.each)(&self.path.join("."), storage(param.val()));
    }
}

impl<B: Backend, F: FnMut(&str, FloatTensor<B>) -> FloatTensor<B>> ModuleMapper<B> for Walk<F> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let (id, tensor, mapper) = param.consume();
        let changed = (self.each)(&self.path.join("."), storage(tensor));
        Param::from_mapped_value(id, wrap(changed), mapper)
    }
}
