//! Kernels on the tape of the processor's backend.

use burn::backend::{Autodiff, Flex};

use super::Kernels;

impl Kernels for Autodiff<Flex> {}
