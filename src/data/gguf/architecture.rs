//! The settings of a GGUF file as the `config.json` of the same model.

use serde_json::{Value as Json, json};

use super::container::GgufFile;
use super::rotary;
use crate::error::{DataError, DataResult};

/// A family of models as llama.cpp knows it.
pub(super) struct Architecture {
    /// `general.architecture`, which is also the first part of its keys and transformers' `model_type`.
    name: &'static str,
    /// What `config.json` calls it in `architectures`.
    class: &'static str,
    /// Whether llama.cpp's converter interleaves the rows of query and key heads, see `tensors`.
    pub(super) interleaved: bool,
    /// Whether biases of queries, keys and values are a setting, and not a part of the architecture.
    bias_is_a_setting: bool,
}

/// The architectures that can be read.
static ARCHITECTURES: &[Architecture] = &[
    Architecture { name: "llama", class: "LlamaForCausalLM", interleaved: true, bias_is_a_setting: true },
    Architecture { name: "qwen2", class: "Qwen2ForCausalLM", interleaved: false, bias_is_a_setting: false },
    Architecture { name: "qwen3", class: "Qwen3ForCausalLM", interleaved: false, bias_is_a_setting: true },
];

/// The architecture of a file.
///
/// # Errors
/// None is named, or one that can't be read: it is named with those that can.
pub(super) fn of(file: &GgufFile) -> DataResult<&'static Architecture> {
    let key = "general.architecture";
    let name = file.required(key, file.text(key)?)?;
    ARCHITECTURES.iter().find(|architecture| architecture.name == name).ok_or_else(|| {
        let known: Vec<&str> = ARCHITECTURES.iter().map(|architecture| architecture.name).collect();
        let hint = format!("supported are {}", known.join(", "));
        file.fault(format!("the architecture `{name}` is not supported"), Some(&hint))
    })
}

/// The heads of attention, by which rows are grouped too.
#[derive(Debug)]
pub(super) struct Heads {
    /// Query heads.
    pub(super) queries: usize,
    /// Key and value heads.
    pub(super) keys: usize,
}

/// Questions to the keys of an architecture: `llama.block_count`.
pub(super) struct Settings<'a> {
    file: &'a GgufFile,
    architecture: &'static Architecture,
}

impl<'a> Settings<'a> {
    pub(super) fn of(file: &'a GgufFile) -> DataResult<Self> {
        Ok(Self { file, architecture: of(file)? })
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture.name)
    }

    fn size(&self, name: &str) -> DataResult<Option<usize>> {
        self.file.size(&self.key(name))
    }

    fn number(&self, name: &str) -> DataResult<Option<f64>> {
        self.file.number(&self.key(name))
    }

    fn required(&self, name: &str) -> DataResult<usize> {
        self.file.required(&self.key(name), self.size(name)?)
    }

    pub(super) fn heads(&self) -> DataResult<Heads> {
        let queries = self.required("attention.head_count")?;
        Ok(Heads { queries, keys: self.size("attention.head_count_kv")?.unwrap_or(queries) })
    }

    fn refuse(&self, name: &str, what: &str) -> DataError {
        self.file.fault(format!("metadata `{}`: {what} not supported", self.key(name)), None)
    }

    /// Settings that change what is computed, and that nothing here computes.
    fn refuse_the_unsupported(&self, head_width: usize, context: usize) -> DataResult<()> {
        if self.size("expert_count")?.is_some_and(|experts| experts > 0) {
            return Err(self.refuse("expert_count", "mixtures of experts are"));
        }
        if self.size("attention.sliding_window")?.is_some_and(|window| window > 0 && window < context) {
            return Err(self.refuse("attention.sliding_window", "a window narrower than the context is"));
        }
        for name in ["attention.value_length", "rope.dimension_count"] {
            if self.size(name)?.is_some_and(|width| width != head_width) {
                return Err(self.refuse(name, &format!("another width than that of a head ({head_width}) is")));
            }
        }
        let linear = ["rope.scaling.factor", "rope.scale_linear"];
        for name in linear {
            let kind = self.file.text(&self.key("rope.scaling.type"))?.unwrap_or("linear");
            let stretched = self.number(name)?.is_some_and(|factor| factor != 1.0 && factor != 0.0);
            if kind != "none" && stretched {
                return Err(self.refuse(name, &format!("`{kind}` stretching of the positions is")));
            }
        }
        Ok(())
    }
}

/// The text of `config.json`.
pub(super) fn config(file: &GgufFile) -> DataResult<String> {
    let settings = Settings::of(file)?;
    let Heads { queries, keys } = settings.heads()?;
    let hidden = settings.required("embedding_length")?;
    let context = settings.required("context_length")?;
    let head_width = match settings.size("attention.key_length")? {
        Some(width) => width,
        None => hidden.checked_div(queries).unwrap_or(0),
    };
    settings.refuse_the_unsupported(head_width, context)?;
    let epsilon = "attention.layer_norm_rms_epsilon";
    let theta = settings.number("rope.freq_base")?.unwrap_or(10_000.0);
    let tensors = file.tensors();
    let embedding = tensors.get("token_embd.weight").map(|info| info.shape[0]);
    let mut config = json!({
        "architectures": [settings.architecture.class],
        "model_type": settings.architecture.name,
        "vocab_size": embedding.ok_or_else(|| file.fault("there is no tensor `token_embd.weight`", None))?,
        "num_hidden_layers": settings.required("block_count")?,
        "hidden_size": hidden,
        "intermediate_size": settings.required("feed_forward_length")?,
        "num_attention_heads": queries,
        "num_key_value_heads": keys,
        "head_dim": head_width,
        "max_position_embeddings": context,
        "rope_theta": theta,
        "rms_norm_eps": file.required(&settings.key(epsilon), settings.number(epsilon)?)?,
        "tie_word_embeddings": !tensors.contains_key("output.weight"),
        "hidden_act": "silu",
    });
    if settings.architecture.bias_is_a_setting {
        config["attention_bias"] = json!(tensors.contains_key("blk.0.attn_q.bias"));
    }
    if settings.architecture.name == "llama" {
        config["mlp_bias"] = json!(tensors.contains_key("blk.0.ffn_up.bias"));
    }
    if tensors.contains_key(rotary::FACTORS) {
        let factors = file.tensor(rotary::FACTORS)?;
        let scaling = rotary::llama3_scaling(&factors, theta, head_width).ok_or_else(|| {
            let hint = "they are not made by Llama 3's rule, the only one that is supported";
            file.fault(format!("the rotary factors in tensor `{}` can't be followed", rotary::FACTORS), Some(hint))
        })?;
        config["rope_scaling"] = scaling;
    }
    merge(&mut config, special_ids(file)?);
    Ok(format!("{config:#}\n"))
}

/// The text of `generation_config.json`.
pub(super) fn generation_config(file: &GgufFile) -> DataResult<String> {
    Ok(format!("{:#}\n", special_ids(file)?))
}

/// The ids that begin, end and pad sequences. A chat model may end with the end of a turn as well as with the end of
/// the sequence.
fn special_ids(file: &GgufFile) -> DataResult<Json> {
    let id = |name: &str| file.size(&format!("tokenizer.ggml.{name}_token_id"));
    let mut ids = json!({});
    if let Some(bos) = id("bos")? {
        ids["bos_token_id"] = json!(bos);
    }
    let mut ends = Vec::new();
    for name in ["eos", "eot", "eom"] {
        ends.extend(id(name)?.filter(|end| !ends.contains(end)));
    }
    match ends.as_slice() {
        [] => {}
        [one] => ids["eos_token_id"] = json!(one),
        several => ids["eos_token_id"] = json!(several),
    }
    if let Some(pad) = id("padding")? {
        ids["pad_token_id"] = json!(pad);
    }
    Ok(ids)
}

fn merge(config: &mut Json, more: Json) {
    if let (Json::Object(fields), Json::Object(more)) = (config, more) {
        fields.extend(more);
    }
}
