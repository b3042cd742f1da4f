//! Gradients by parameter name.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::Tensor;
use indexmap::IndexMap;

use crate::error::{Result, StudentError};

/// A flat gradient for every parameter, in the order of the module's fields.
pub type NamedGradients<B> = IndexMap<String, Tensor<B, 1>>;

/// Takes every parameter's gradient from a tape's result, flattened.
///
/// # Errors
/// A parameter that the loss does not depend on.
pub fn take_gradients<B: AutodiffBackend, M: Module<B>>(
    module: &M,
    gradients: B::Gradients,
) -> Result<NamedGradients<B::InnerBackend>> {
    struct Taker<B: AutodiffBackend> {
        path: Vec<String>,
        gradients: B::Gradients,
        taken: NamedGradients<B::InnerBackend>,
        missing: Option<String>,
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
            match param.val().grad_remove(&mut self.gradients) {
                Some(gradient) => {
                    let elements = gradient.shape().num_elements();
                    self.taken.insert(name, gradient.reshape([elements]));
                }
                None => self.missing = Some(name),
            }
        }
    }
    let mut taker = Taker { path: Vec::new(), gradients, taken: IndexMap::new(), missing: None };
    module.visit(&mut taker);
    match taker.missing {
        None => Ok(taker.taken),
        Some(name) => Err(StudentError::training(
            format!("the loss does not depend on `{name}`"),
            "this is a fault of the model's code, please report it",
        )),
    }
}
