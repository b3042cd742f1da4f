//! Writing into a cache of keys or values where it lies. burn-flex's own assignment copies the whole tensor first.

use burn::tensor::{DType, Element};
use burn_flex::FlexTensor;
use bytemuck::Pod;
use half::{bf16, f16};

/// Writes keys behind the first `held` of every row.
///
/// # Shapes
/// - cache, output: `[batch, keys and room, key-value heads, width]`
/// - new: `[batch, keys, key-value heads, width]`
pub(super) fn write_keys(cache: FlexTensor, held: usize, new: &FlexTensor) -> FlexTensor {
    let mut written = cache.to_contiguous();
    // What came in is dropped: its numbers are then ours alone, unless the caller kept them too.
    drop(cache);
    let new = new.to_contiguous();
    match written.dtype() {
        DType::BF16 => copy::<bf16>(&mut written, held, &new),
        DType::F16 => copy::<f16>(&mut written, held, &new),
        _ => copy::<f32>(&mut written, held, &new),
    }
    written
}

fn copy<E: Element + Pod>(cache: &mut FlexTensor, held: usize, new: &FlexTensor) {
    let ([_, room, heads, width], [_, keys, ..]) = (lengths(cache), lengths(new));
    let key = heads * width;
    let rows = cache.storage_mut::<E>().chunks_exact_mut(room * key);
    for (row, new) in rows.zip(new.storage::<E>().chunks_exact(keys * key)) {
        row[held * key..][..keys * key].copy_from_slice(new);
    }
}

fn lengths(tensor: &FlexTensor) -> [usize; 4] {
    tensor.layout().shape().dims()
}
