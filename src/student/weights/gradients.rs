//! Gradients by parameter name.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::AutodiffBackend;
use indexmap::IndexMap;

use super::walk::{each_parameter, flat};

/// A flat gradient for every parameter, in the order of the module's fields.
pub type NamedGradients<B> = IndexMap<String, Tensor<B, 1>>;

/// Takes the gradient of every parameter that has one from a tape's result, flattened.
pub fn take_gradients<B: AutodiffBackend, M: Module<B>>(
    module: &M,
    mut gradients: B::Gradients,
) -> NamedGradients<B::InnerBackend> {
    let mut taken = NamedGradients::<B::InnerBackend>::new();
    each_parameter::<B, _>(module, |name, parameter| {
        if let Some(gradient) = B::grad_remove(&parameter, &mut gradients) {
            taken.insert(name.to_owned(), flat::<B::InnerBackend>(gradient));
        }
    });
    taken
}
