//! Weights between model folders and modules. A parameter's path in the module is its tensor's name in the file, and
//! matrices lie `[out, in]` in both, so nothing is renamed or transposed.

mod gradients;
mod read;
mod safetensors_files;
mod values;
mod walk;
mod write;

pub use gradients::{NamedGradients, take_gradients};
pub use read::{LoadedModel, look_at, read_model};
pub use values::{NamedValues, Values, load_into, take_values};
pub(crate) use walk::{each_parameter, flat, shaped, with_parameters};
pub use write::{encode_tensors, write_model};
