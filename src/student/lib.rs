//! Students: models, weights, losses, training and generation. The only crate that knows burn.

pub mod error;
pub mod init;
pub mod kernels;
pub mod model;
pub mod weights;
