//! Attention without a matrix of all scores: blocks of queries by blocks of keys in shared memory, and for the backward
//! pass one number a query from which the weights are made again.

mod backward;
mod forward;
mod tile;

pub(super) use backward::attention_backward;
pub(super) use forward::attention;

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;

use super::super::{AttentionShape, Visibility};
use super::launch::upload;

/// The first key of every query, on the device.
///
/// # Shapes
/// - tensor: `[batch, queries]`, u32
#[derive(Clone)]
pub(super) struct Starts<R: CubeRuntime> {
    tensor: CubeTensor<R>,
}

impl<R: CubeRuntime> Starts<R> {
    /// Copied to the device once, however many layers ask.
    pub(super) fn of(visibility: &Visibility, beside: &CubeTensor<R>) -> Self {
        let device = beside.device.clone();
        let (_, starts) = visibility.on_device(
            |(on, _): &(R::Device, Self)| *on == device,
            |starts| {
                let tensor = upload(beside, starts, [visibility.batch(), visibility.queries()]);
                (device.clone(), Self { tensor })
            },
        );
        starts
    }
}
