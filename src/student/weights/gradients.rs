//! Gradients by parameter name.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::AutodiffBackend;
use indexmap::IndexMap;

/// A flat gradient for every parameter, in the order of the module's fields.
pub type NamedGradients<B> = IndexMap<String, Tensor<B, 1>>;

/// Takes the gradient of every parameter that has one from a tape's result, flattened.
pub fn take_gradients<B: AutodiffBackend, M: Module<B>>(
    module: &M,
    gradients: B::Gradients,
) -> NamedGradients<B::InnerBackend> {
    struct Taker<B: AutodiffBackend> {
        path: Vec<String>,
        gradients: B::Gradients,
        taken: NamedGradients<B::InnerBackend>,
    }
    impl<B: AutodiffBackend> ModuleVisitor<B> for Taker<B> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            let name = self.path.join(".");
            if let Some(gradient) = param.val().grad_remove(&mut self.gradients) {
                let elements = gradient.shape().num_elements();
                self.taken.insert(name, gradient.reshape([elements]));
            }
        }
    }
    let mut taker = Taker { path: Vec::new(), gradients, taken: IndexMap::new() };
    module.visit(&mut taker);
    taker.taken
}
