//! A GGUF file's tensors under Hugging Face's names and in its order of rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::architecture::{self, Heads, Settings};
use super::container::GgufFile;
use super::rotary;
use crate::error::DataResult;

/// Names outside the layers.
const OUTSIDE: [(&str, &str); 3] =
    [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// Names in a layer: `blk.7.attn_q.weight` is `model.layers.7.self_attn.q_proj.weight`.
const IN_LAYERS: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The weights of a GGUF file as Hugging Face's files would hold them.
#[derive(Debug)]
pub struct GgufTensors {
    file: Arc<GgufFile>,
    /// Hugging Face's name → the file's.
    names: BTreeMap<String, String>,
    /// Where the rows of queries and keys are interleaved: how many heads they belong to.
    interleaved: Option<Heads>,
}

impl GgufTensors {
    /// The weights of a file. A tensor whose name has no counterpart keeps its own, so that a reader complains of it.
    ///
    /// # Errors
    /// An architecture that is not supported.
    pub fn new(file: Arc<GgufFile>) -> DataResult<Self> {
        let heads = Settings::of(&file)?.heads()?;
        let interleaved = architecture::of(&file)?.interleaved.then_some(heads);
        let own = file.tensors().keys().filter(|name| *name != rotary::FACTORS);
        let names = own.map(|name| (translated(name).unwrap_or_else(|| name.clone()), name.clone())).collect();
        Ok(Self { file, names, interleaved })
    }

    /// Every tensor's name and shape.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.names
            .iter()
            .filter_map(|(name, own)| Some((name.as_str(), self.file.tensors().get(own)?.shape.as_slice())))
    }

    /// A tensor's numbers, row-major.
    ///
    /// # Errors
    /// No such tensor; a type that can't be dequantised; rows that do not fit the number of heads.
    pub fn values(&self, name: &str) -> DataResult<Vec<f32>> {
        let own = self.names.get(name).map_or(name, String::as_str);
        let values = self.file.tensor(own)?;
        let heads = self.interleaved.as_ref().and_then(|heads| {
            let part = own.strip_prefix("blk.")?.split_once('.')?.1;
            match part.split_once('.')?.0 {
                "attn_q" => Some(heads.queries),
                "attn_k" => Some(heads.keys),
                _ => None,
            }
        });
        let Some(heads) = heads else { return Ok(values) };
        let rows = self.file.tensors().get(own).map_or(0, |info| info.shape[0]);
        if heads == 0 || !rows.is_multiple_of(2 * heads) {
            return Err(self
                .file
                .fault(format!("tensor `{own}` has {rows} rows, which {heads} heads do not share"), None));
        }
        Ok(separate_halves(&values, rows, heads))
    }
}

fn translated(name: &str) -> Option<String> {
    let (stem, ending) = name.rsplit_once('.')?;
    let look_up = |table: &[(&str, &'static str)], own: &str| {
        table.iter().find(|(known, _)| *known == own).map(|(_, theirs)| *theirs)
    };
    match stem.strip_prefix("blk.") {
        None => Some(format!("{}.{ending}", look_up(&OUTSIDE, stem)?)),
        Some(rest) => {
            let (layer, own) = rest.split_once('.')?;
            Some(format!("model.layers.{layer}.{}.{ending}", look_up(&IN_LAYERS, own)?))
        }
    }
}

/// Rotary positions turn pairs of a head's rows. llama.cpp pairs neighbours, Hugging Face pairs row i with row
/// i + width/2, so its converter interleaves the halves of every head; this takes them apart again.
///
/// # Shapes
/// `[heads × (width/2) × 2, columns]` → `[heads × 2 × (width/2), columns]`
fn separate_halves(values: &[f32], rows: usize, heads: usize) -> Vec<f32> {
    let (columns, width) = (values.len() / rows, rows / heads);
    let mut separated = Vec::with_capacity(values.len());
    for head in 0..heads {
        for half in 0..2 {
            for pair in 0..width / 2 {
                let row = head * width + 2 * pair + half;
                separated.extend_from_slice(&values[row * columns..(row + 1) * columns]);
            }
        }
    }
    separated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_translated_part_by_part() {
        let cases = [
            ("token_embd.weight", Some("model.embed_tokens.weight")),
            ("output.weight", Some("lm_head.weight")),
            ("blk.12.attn_k.bias", Some("model.layers.12.self_attn.k_proj.bias")),
            ("blk.0.attn_q_norm.weight", Some("model.layers.0.self_attn.q_norm.weight")),
            ("blk.0.ffn_gate_inp.weight", None),
            ("nonsense", None),
        ];
        for (own, theirs) in cases {
            assert_eq!(translated(own).as_deref(), theirs);
        }
    }

    #[test]
    fn interleaved_rows_are_taken_apart_head_by_head() {
        // Two heads of four rows, two columns; a row says where it belongs.
        let rows: Vec<f32> = [0, 2, 1, 3, 4, 6, 5, 7].iter().flat_map(|row| [*row as f32; 2]).collect();
        let separated = separate_halves(&rows, 8, 2);
        assert_eq!(separated, (0..8).flat_map(|row| [row as f32; 2]).collect::<Vec<_>>());
    }
}
