//! How much the parts of a model weigh.
//!
//! All formulas take a projection that reads the residual stream together with the norm in front of it: `W·diag(n)`, so
//! that a channel that the norm turns down counts less. Sums are in f64, in one order.
//!
//! - A **channel** `c`: `Σ_T ‖T_c‖² / ‖T‖²` over every tensor `T` that reads or writes the residual stream, in the layers
//!   that stay; `T_c` is its row or column of `c`. Each tensor has the same say, whatever its scale. A tied embedding
//!   counts twice, as embedding and as head.
//! - A **neuron** `j`: `‖gate_j‖ · ‖up_j‖ · ‖down_j‖`, the rows and the column of `j` over the channels that stay: the size
//!   of what it adds to the stream, the same however a factor is shared among the three.
//! - A **group** of heads `g`: `‖V_g‖ · Σ_h ‖O_h‖` over its heads `h` and the channels that stay: the size of what it can
//!   add to the stream.

use super::{Axis, axes, split};
use crate::model::DecoderConfig;
use crate::weights::{NamedValues, Values};

/// The weights that are asked.
pub(super) struct Importance<'a> {
    values: &'a NamedValues,
    config: &'a DecoderConfig,
}

impl<'a> Importance<'a> {
    pub(super) fn new(values: &'a NamedValues, config: &'a DecoderConfig) -> Self {
        Self { values, config }
    }

    /// One number a channel of the residual stream.
    pub(super) fn channels(&self, layers: &[usize]) -> Vec<f64> {
        let mut total = vec![0.0; self.config.hidden];
        for (name, tensor) in self.values {
            let (layer, below) = split(name);
            if layer.is_some_and(|layer| !layers.contains(&layer)) || tensor.shape.len() != 2 {
                continue;
            }
            match axes(below) {
                Some([Axis::Channels, _]) => add_share(&mut total, &row_squares(tensor)),
                Some([_, Axis::Channels]) => {
                    add_share(&mut total, &self.column_squares(tensor, self.norm_before(layer, below)))
                }
                _ => {}
            }
            if self.config.tied && below == "model.embed_tokens.weight" {
                add_share(&mut total, &self.column_squares(tensor, self.norm_before(None, "lm_head.weight")));
            }
        }
        total
    }

    /// One number a neuron of a layer's feed-forward block.
    pub(super) fn neurons(&self, layer: usize, channels: &[usize]) -> Vec<f64> {
        let gate = self.row_norms(layer, "mlp.gate_proj.weight", channels);
        let up = self.row_norms(layer, "mlp.up_proj.weight", channels);
        let down = self.column_norms(layer, "mlp.down_proj.weight", channels);
        gate.iter().zip(&up).zip(&down).map(|((gate, up), down)| gate * up * down).collect()
    }

    /// One number a key-value head of a layer, with the query heads that share it.
    pub(super) fn groups(&self, layer: usize, channels: &[usize]) -> Vec<f64> {
        let DecoderConfig { heads, kv_heads, head_width, .. } = self.config;
        let values = self.row_norms(layer, "self_attn.v_proj.weight", channels);
        let outputs = self.column_norms(layer, "self_attn.o_proj.weight", channels);
        let norm = |parts: &[f64]| parts.iter().map(|part| part * part).sum::<f64>().sqrt();
        let outputs: Vec<f64> = outputs.chunks(*head_width).map(norm).collect();
        let of_group = |(values, outputs): (&[f64], &[f64])| norm(values) * outputs.iter().sum::<f64>();
        values.chunks(*head_width).zip(outputs.chunks(heads / kv_heads)).map(of_group).collect()
    }

    /// The weight of the norm whose output a tensor reads; none where it writes the stream.
    fn norm_before(&self, layer: Option<usize>, below: &str) -> Option<&'a Values> {
        let norm = match below {
            "lm_head.weight" => return self.values.get("model.norm.weight"),
            "self_attn.q_proj.weight" | "self_attn.k_proj.weight" | "self_attn.v_proj.weight" => "input_layernorm",
            "mlp.gate_proj.weight" | "mlp.up_proj.weight" => "post_attention_layernorm",
            _ => return None,
        };
        self.values.get(&format!("model.layers.{}.{norm}.weight", layer?))
    }

    /// `Σ_row W²` of every column, times the norm's square there.
    fn column_squares(&self, tensor: &Values, norm: Option<&Values>) -> Vec<f64> {
        let mut squares = vec![0.0; tensor.shape[1]];
        for row in tensor.data.chunks_exact(squares.len()) {
            squares.iter_mut().zip(row).for_each(|(sum, value)| *sum += square(*value));
        }
        if let Some(norm) = norm {
            squares.iter_mut().zip(norm.data.iter()).for_each(|(sum, scale)| *sum *= square(*scale));
        }
        squares
    }

    /// Norm of every row of a reader of the stream, over some channels.
    fn row_norms(&self, layer: usize, below: &str, channels: &[usize]) -> Vec<f64> {
        let Some(tensor) = self.values.get(&format!("model.layers.{layer}.{below}")) else { return Vec::new() };
        let scales: Vec<f64> = match self.norm_before(Some(layer), below) {
            Some(norm) => channels.iter().map(|channel| square(norm.data[*channel])).collect(),
            None => vec![1.0; channels.len()],
        };
        let norm_of = |row: &[f32]| {
            let squares = channels.iter().zip(&scales).map(|(channel, scale)| square(row[*channel]) * scale);
            squares.sum::<f64>().sqrt()
        };
        tensor.data.chunks_exact(tensor.shape[1]).map(norm_of).collect()
    }

    /// Norm of every column of a writer of the stream, over some channels.
    fn column_norms(&self, layer: usize, below: &str, channels: &[usize]) -> Vec<f64> {
        let Some(tensor) = self.values.get(&format!("model.layers.{layer}.{below}")) else { return Vec::new() };
        let width = tensor.shape[1];
        let mut squares = vec![0.0; width];
        for channel in channels {
            let row = &tensor.data[channel * width..(channel + 1) * width];
            squares.iter_mut().zip(row).for_each(|(sum, value)| *sum += square(*value));
        }
        squares.iter().map(|sum: &f64| sum.sqrt()).collect()
    }
}

fn square(value: f32) -> f64 {
    f64::from(value) * f64::from(value)
}

/// `Σ_column W²` of every row.
fn row_squares(tensor: &Values) -> Vec<f64> {
    tensor.data.chunks_exact(tensor.shape[1]).map(|row| row.iter().map(|value| square(*value)).sum()).collect()
}

/// Adds each place's share of the whole.
fn add_share(total: &mut [f64], squares: &[f64]) {
    let whole: f64 = squares.iter().sum();
    if whole > 0.0 {
        total.iter_mut().zip(squares).for_each(|(total, square)| *total += square / whole);
    }
}
