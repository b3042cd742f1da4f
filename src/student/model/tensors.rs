//! Names and shapes of a model's weights, known without making the model.

use indexmap::IndexMap;

use super::config::DecoderConfig;

impl DecoderConfig {
    /// Name and shape of every weight, in the order of the decoder's fields. Of sizes that [`DecoderConfig::check`] takes:
    /// others may have more weights than can be listed.
    pub fn tensors(&self) -> IndexMap<String, Vec<usize>> {
        let Self { hidden, intermediate, head_width, .. } = *self;
        let (queries, keys) = (self.heads * head_width, self.kv_heads * head_width);
        let mut tensors = IndexMap::from([("model.embed_tokens.weight".to_owned(), vec![self.vocabulary, hidden])]);
        for layer in 0..self.layers {
            let mut add = |name: &str, shape: &[usize]| {
                tensors.insert(format!("model.layers.{layer}.{name}"), shape.to_vec());
            };
            let linear = |add: &mut dyn FnMut(&str, &[usize]), name: &str, [input, output]: [usize; 2], bias: bool| {
                add(&format!("{name}.weight"), &[output, input]);
                if bias {
                    add(&format!("{name}.bias"), &[output]);
                }
            };
            add("input_layernorm.weight", &[hidden]);
            for (name, width) in [("q", queries), ("k", keys), ("v", keys)] {
                let name = format!("self_attn.{name}_proj");
                linear(&mut add, &name, [hidden, width], self.biases.attention_input);
            }
            linear(&mut add, "self_attn.o_proj", [queries, hidden], self.biases.attention_output);
            if self.head_norms {
                add("self_attn.q_norm.weight", &[head_width]);
                add("self_attn.k_norm.weight", &[head_width]);
            }
            add("post_attention_layernorm.weight", &[hidden]);
            linear(&mut add, "mlp.gate_proj", [hidden, intermediate], self.biases.feed_forward);
            linear(&mut add, "mlp.up_proj", [hidden, intermediate], self.biases.feed_forward);
            linear(&mut add, "mlp.down_proj", [intermediate, hidden], self.biases.feed_forward);
        }
        tensors.insert("model.norm.weight".to_owned(), vec![hidden]);
        if !self.tied {
            tensors.insert("lm_head.weight".to_owned(), vec![self.vocabulary, hidden]);
        }
        tensors
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Cpu;
    use crate::model::{Biases, Decoder, read_config};
    use crate::weights::take_values;

    #[test]
    fn they_are_those_of_the_decoder_in_its_order() {
        let text = include_str!("../tests/golden/llama-gqa-tied/config.json");
        let tied = read_config("m", text).unwrap().1;
        let everywhere = Biases { attention_input: true, attention_output: true, feed_forward: true };
        let queries = Biases { attention_input: true, ..Biases::default() };
        for config in [
            DecoderConfig { tied: false, ..tied.clone() },
            DecoderConfig { biases: everywhere, head_norms: true, ..tied.clone() },
            DecoderConfig { biases: queries, head_width: 4, ..tied.clone() },
            tied,
        ] {
            let decoder = Decoder::<Cpu>::empty(&config, &Default::default());
            let there: Vec<_> = take_values(&decoder).into_iter().map(|(name, values)| (name, values.shape)).collect();
            assert_eq!(config.tensors().into_iter().collect::<Vec<_>>(), there);
            let count: usize = there.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
            assert_eq!(config.parameters(), count);
        }
    }
}
