//! Keys and values that generation has computed already.

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};

use crate::kernels::Kernels;

/// Keys and values of the positions seen so far, for generation.
#[derive(Debug, Clone)]
pub struct KeyValueCache<B: Backend> {
    pub(super) layers: Vec<LayerCache<B>>,
}

/// One layer's part.
#[derive(Debug, Clone)]
pub struct LayerCache<B: Backend> {
    /// `[batch, keys and room for later ones, key-value heads, head width]` each.
    held: Option<(Tensor<B, 4>, Tensor<B, 4>)>,
    /// How many keys there are.
    keys: usize,
}

impl<B: Backend> KeyValueCache<B> {
    /// An empty cache.
    pub fn new(layers: usize) -> Self {
        Self { layers: vec![LayerCache { held: None, keys: 0 }; layers] }
    }

    /// Keeps only some rows of the batch, in the given order.
    pub fn keep_rows(&mut self, rows: &[usize], device: &B::Device) {
        let rows: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
        let count = rows.len();
        let rows = Tensor::<B, 1, Int>::from_data(TensorData::new(rows, [count]), device);
        for layer in &mut self.layers {
            if let Some((key, value)) = layer.held.take() {
                layer.held = Some((key.select(0, rows.clone()), value.select(0, rows.clone())));
            }
        }
    }
}

impl<B: Kernels> LayerCache<B> {
    /// Adds keys and values; gives all that there are, with room behind them.
    ///
    /// # Shapes
    /// - key, value: `[batch, time, key-value heads, head width]`
    /// - outputs: `[batch, keys and room, key-value heads, head width]`
    pub(super) fn extend(&mut self, key: Tensor<B, 4>, value: Tensor<B, 4>) -> (Tensor<B, 4>, Tensor<B, 4>) {
        let before = self.keys;
        self.keys += key.dims()[1];
        let grown = match self.held.take() {
            None => (key, value),
            Some((keys, values)) => (written(keys, before, key), written(values, before, value)),
        };
        self.held = Some(grown.clone());
        grown
    }
}

/// Keys with new ones behind the first `held`. Where they have no room, room is made for as many again, so that a key is
/// copied about once however long the text gets.
fn written<B: Kernels>(cache: Tensor<B, 4>, held: usize, new: Tensor<B, 4>) -> Tensor<B, 4> {
    let [batch, room, heads, width] = cache.dims();
    let filled = held + new.dims()[1];
    if filled <= room {
        return B::write_keys(cache, held, new);
    }
    let spare = Tensor::zeros([batch, filled, heads, width], (&cache.device(), cache.dtype()));
    Tensor::cat(vec![cache.narrow(1, 0, held), new, spare], 1)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;

    use super::*;
    use crate::backend::Cpu;

    fn keys(batch: usize, time: usize) -> Tensor<Cpu, 4> {
        Tensor::random([batch, time, 3, 4], Distribution::Normal(0.0, 1.0), &Default::default())
    }

    fn assert_holds(cache: &LayerCache<Cpu>, expected: &[Tensor<Cpu, 4>; 2]) {
        let (keys, values) = cache.held.clone().unwrap();
        for (held, expected) in [keys, values].into_iter().zip(expected) {
            held.narrow(1, 0, cache.keys).into_data().assert_eq(&expected.to_data(), true);
        }
    }

    #[test]
    fn what_is_added_stands_behind_what_was_there_and_room_grows_seldom() {
        let mut cache = KeyValueCache::<Cpu>::new(1);
        let mut all = [keys(3, 5), keys(3, 5)];
        cache.layers[0].extend(all[0].clone(), all[1].clone());
        let mut rooms = std::collections::BTreeSet::new();
        for time in [1, 2, 1, 1, 1, 30, 1, 1, 1] {
            let [key, value] = [keys(3, time), keys(3, time)];
            let (held, _) = cache.layers[0].extend(key.clone(), value.clone());
            let [before, values] = all;
            all = [Tensor::cat(vec![before, key], 1), Tensor::cat(vec![values, value], 1)];
            assert_holds(&cache.layers[0], &all);
            rooms.insert(held.dims()[1]);
        }
        assert_eq!(rooms, [12, 82].into());
    }

    #[test]
    fn rows_that_stay_keep_theirs() {
        let mut cache = KeyValueCache::<Cpu>::new(1);
        let all = [keys(3, 4), keys(3, 4)];
        let [first, last] = [0..3, 3..4].map(|part| all.clone().map(|all| all.slice([0..3, part.clone()])));
        for [key, value] in [first, last] {
            cache.layers[0].extend(key, value);
        }
        cache.keep_rows(&[2, 0], &Default::default());
        let staying = all.map(|all| Tensor::cat(vec![all.clone().narrow(0, 2, 1), all.narrow(0, 0, 1)], 0));
        assert_holds(&cache.layers[0], &staying);
    }
}
