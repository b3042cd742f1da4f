//! Gradient checkpointing: a backward pass that holds one layer's intermediate results at a time (Chen et al., 2016).
//!
//! Forward runs off the tape and keeps only what each layer reads; backward takes the layers from last to first, runs each
//! again on a tape of its own, and hands its gradient on. Each layer does the same operations on the same numbers as in
//! one pass over everything, so on the processor the gradients have the same bits; the price is one more forward pass.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{AutodiffModule, Module};
use burn::tensor::Tensor;

use super::parameters::layer_of;
use crate::backend::{Inner, TrainBackend};
use crate::model::{Decoder, ModelInput, RotaryTable};
use crate::weights::{NamedGradients, take_gradients};

/// A forward pass that waits for its backward pass.
pub(super) struct Segments<'a, B: TrainBackend> {
    decoder: &'a Decoder<B>,
    input: &'a ModelInput,
    rotary: &'a RotaryTable,
    /// What each layer reads, and the last norm after them: `[positions, hidden]` each.
    inputs: Vec<Tensor<Inner<B>, 2>>,
}

impl<'a, B: TrainBackend> Segments<'a, B> {
    /// Runs all layers.
    pub(super) fn forward(decoder: &'a Decoder<B>, input: &'a ModelInput, rotary: &'a RotaryTable) -> Self {
        let plain = decoder.valid();
        let shared = plain.attention_input(input, rotary);
        let mut inputs = vec![plain.embed(input)];
        for layer in plain.layers() {
            let read = inputs[inputs.len() - 1].clone();
            inputs.push(layer.forward(read, &shared, None));
        }
        Self { decoder, input, rotary, inputs }
    }

    /// What the last norm reads.
    pub(super) fn last(&self) -> Tensor<Inner<B>, 2> {
        self.inputs[self.inputs.len() - 1].clone()
    }

    /// The residual streams after some numbers of layers.
    pub(super) fn streams(&self, after: &[usize]) -> Vec<Tensor<Inner<B>, 2>> {
        after.iter().map(|layers| self.inputs[*layers].clone()).collect()
    }

    /// Gradients of every weight in `trained` that lies below the head, from the gradient of [`Segments::last`] and those
    /// that streams have beside what lies above them, by their numbers of layers. Goes down only as far as there is
    /// something to train.
    pub(super) fn backward(
        mut self,
        mut gradient: Tensor<Inner<B>, 2>,
        mut beside: BTreeMap<usize, Tensor<Inner<B>, 2>>,
        trained: &BTreeSet<String>,
    ) -> NamedGradients<Inner<B>> {
        let mut gradients = NamedGradients::new();
        let embedding = trained.iter().any(|name| name.contains("embed_tokens."));
        let lowest = if embedding { Some(0) } else { trained.iter().filter_map(|name| layer_of(name)).min() };
        let shared = self.decoder.attention_input(self.input, self.rotary);
        self.inputs.pop();
        for (number, layer) in self.decoder.layers().iter().enumerate().rev() {
            let (Some(read), true) = (self.inputs.pop(), lowest.is_some_and(|lowest| lowest <= number)) else { break };
            if let Some(more) = beside.remove(&(number + 1)) {
                gradient = gradient + more;
            }
            let read = Tensor::<B, 2>::from_inner(read).require_grad();
            let output = layer.forward(read.clone(), &shared, None);
            let (of_layer, of_input) = seeded_backward(layer, output, gradient, &read);
            gradients.extend(of_layer.into_iter().map(|(name, part)| (format!("model.layers.{number}.{name}"), part)));
            gradient = of_input;
        }
        if embedding {
            if let Some(more) = beside.remove(&0) {
                gradient = gradient + more;
            }
            let seeded = (self.decoder.embed(self.input) * Tensor::from_inner(gradient)).sum();
            gradients.extend(take_gradients(self.decoder, seeded.backward()));
        }
        gradients
    }
}

/// Backward through a part of the model from its output's gradient: gradients of the part's weights by their names within
/// it, and of what it read.
pub(super) fn seeded_backward<B: TrainBackend, M: Module<B>>(
    part: &M,
    output: Tensor<B, 2>,
    gradient: Tensor<Inner<B>, 2>,
    read: &Tensor<B, 2>,
) -> (NamedGradients<Inner<B>>, Tensor<Inner<B>, 2>) {
    // d(Σ output·g)/d output = g.
    let mut gradients = (output * Tensor::from_inner(gradient)).sum().backward();
    let of_read = read.grad_remove(&mut gradients).unwrap_or_else(|| read.clone().inner().zeros_like());
    (take_gradients(part, gradients), of_read)
}

/// The gradient of what a part of the model read, from its output's.
pub(super) fn seeded_gradient<B: TrainBackend>(
    output: Tensor<B, 2>,
    gradient: Tensor<Inner<B>, 2>,
    read: &Tensor<B, 2>,
) -> Tensor<Inner<B>, 2> {
    let mut gradients = (output * Tensor::from_inner(gradient)).sum().backward();
    read.grad_remove(&mut gradients).unwrap_or_else(|| read.clone().inner().zeros_like())
}
