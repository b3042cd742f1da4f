//! The fields of `config.json`, with messages that name the field.

use serde_json::{Map, Value};

use super::Family;
use super::config::{Biases, DecoderConfig, LinearScaling, Llama3Scaling, RotaryScaling, SlidingWindow};

/// The fields of one `config.json`. Every message begins with what the file does, so that it can follow the file's name.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(&'a Map<String, Value>);

/// What transformers takes where a family's file says nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Defaults {
    /// Key and value heads; none for as many as query heads.
    pub kv_heads: Option<usize>,
    /// Width of a head; none for `hidden_size / num_attention_heads`.
    pub head_width: Option<usize>,
    /// Longest sequence.
    pub context: usize,
}

/// Fields that change what some architectures compute, with the value at which they change nothing; none where only
/// null does. No family here computes any of them, and a model read without would be another.
const NOT_COMPUTED: &[(&str, Option<Neutral>)] = &[
    // Gemma 2: tanh over attention scores and logits.
    ("attn_logit_softcapping", None),
    ("final_logit_softcapping", None),
    // OLMo, DBRX: queries, keys and values are cut off.
    ("clip_qkv", None),
    // Cohere, Granite, MiniCPM: constant factors.
    ("logit_scale", Some(Neutral::Number(1.0))),
    ("logits_scaling", Some(Neutral::Number(1.0))),
    ("embedding_multiplier", Some(Neutral::Number(1.0))),
    ("residual_multiplier", Some(Neutral::Number(1.0))),
    ("lm_head_multiplier", Some(Neutral::Number(1.0))),
    ("scale_emb", Some(Neutral::Number(1.0))),
    ("scale_depth", None),
    // Granite, Gemma: attention scores are not divided by the root of the head's width.
    ("attention_multiplier", None),
    ("query_pre_attn_scalar", None),
    // Rotations over neighbours, over several axes, or in some layers only.
    ("rope_interleaved", Some(Neutral::Flag(false))),
    ("use_mrope", Some(Neutral::Flag(false))),
    ("no_rope_layers", None),
    // ALiBi in place of rotations; attention and feed-forward block side by side.
    ("alibi", Some(Neutral::Flag(false))),
    ("parallel_attn", Some(Neutral::Flag(false))),
    ("use_parallel_residual", Some(Neutral::Flag(false))),
    // Experts.
    ("num_local_experts", Some(Neutral::Number(0.0))),
    ("num_experts", Some(Neutral::Number(0.0))),
    ("n_routed_experts", Some(Neutral::Number(0.0))),
];

/// A value at which a field changes nothing.
#[derive(Debug, Clone, Copy)]
enum Neutral {
    Number(f64),
    Flag(bool),
}

impl Neutral {
    fn is(self, value: &Value) -> bool {
        match self {
            Self::Number(neutral) => value.as_f64() == Some(neutral),
            Self::Flag(neutral) => value.as_bool() == Some(neutral),
        }
    }
}

/// A window's width where `sliding_window` is left out (not where it is null), in every family that has one.
const DEFAULT_WINDOW: usize = 4096;

impl<'a> Fields<'a> {
    /// The fields of a JSON object.
    pub fn new(fields: &'a Map<String, Value>) -> Self {
        Self(fields)
    }

    /// What all families say alike; biases, head norms and windows are left out.
    ///
    /// # Errors
    /// A field that is missing, not of its kind, or changes the model in a way that is not supported.
    pub(super) fn decoder(&self, family: &Family, defaults: &Defaults) -> Result<DecoderConfig, String> {
        self.must_be("hidden_act", "silu")?;
        if self.get("quantization_config").is_some() {
            return Err("has `quantization_config`; only weights in F32, F16 and BF16 can be read".into());
        }
        self.all_computed()?;
        let hidden = self.size("hidden_size")?;
        let heads = self.size("num_attention_heads")?;
        let (rope_theta, rope_scaling) = self.rope()?;
        Ok(DecoderConfig {
            family: family.name.into(),
            vocabulary: self.size("vocab_size")?,
            layers: self.size("num_hidden_layers")?,
            hidden,
            intermediate: self.size("intermediate_size")?,
            heads,
            kv_heads: match self.0.get("num_key_value_heads") {
                None => defaults.kv_heads.unwrap_or(heads),
                Some(_) => self.size_or("num_key_value_heads", heads)?,
            },
            head_width: match self.0.get("head_dim") {
                None => defaults.head_width.unwrap_or(hidden.checked_div(heads).unwrap_or(0)),
                Some(_) => self.size_or("head_dim", hidden.checked_div(heads).unwrap_or(0))?,
            },
            context: self.size_or("max_position_embeddings", defaults.context)?,
            rope_theta,
            rope_scaling,
            norm_epsilon: self.number_or("rms_norm_eps", 1e-6)?,
            tied: self.flag("tie_word_embeddings")?,
            biases: Biases::default(),
            head_norms: false,
            sliding_window: None,
            initializer_range: self.number_or("initializer_range", 0.02)?,
            bos: self.tokens("bos_token_id").first().copied(),
            eos: self.tokens("eos_token_id"),
            pad: self.tokens("pad_token_id").first().copied(),
        })
    }

    /// A flag; false where it is left out.
    pub(super) fn flag(&self, name: &str) -> Result<bool, String> {
        match self.get(name) {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| format!("has `{name}` = {value}, not true or false")),
        }
    }

    /// The width of the window, if there is one.
    pub(super) fn window_width(&self) -> Result<Option<usize>, String> {
        match self.0.get("sliding_window") {
            None => Ok(Some(DEFAULT_WINDOW)),
            Some(Value::Null) => Ok(None),
            Some(_) => match self.size("sliding_window")? {
                0 => Err("has `sliding_window` = 0, so no position sees any".into()),
                width => Ok(Some(width)),
            },
        }
    }

    /// The window of families in which `layer_types` or `max_window_layers` says which layers have it.
    pub(super) fn window_by_layer(&self, layers: usize) -> Result<Option<SlidingWindow>, String> {
        let width = if self.flag("use_sliding_window")? { self.window_width()? } else { None };
        let sliding: Vec<usize> = match self.get("layer_types") {
            None if width.is_none() => Vec::new(),
            None => (self.size_or("max_window_layers", 28)?..layers).collect(),
            Some(types) => sliding_layers(types, layers)?,
        };
        match (width, sliding.is_empty()) {
            (_, true) => Ok(None),
            (Some(width), false) => Ok(Some(SlidingWindow { width, layers: sliding })),
            (None, false) => {
                Err("has `sliding_attention` among its `layer_types`, but no `sliding_window` in use".into())
            }
        }
    }

    /// A value that is there and not null.
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn size(&self, name: &str) -> Result<usize, String> {
        let value = self.get(name).ok_or_else(|| format!("has no `{name}`"))?;
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
        size.ok_or_else(|| format!("has `{name}` = {value}, not a positive whole number"))
    }

    fn size_or(&self, name: &str, default: usize) -> Result<usize, String> {
        if self.get(name).is_some() { self.size(name) } else { Ok(default) }
    }

    fn number(&self, name: &str) -> Result<f64, String> {
        let value = self.get(name).ok_or_else(|| format!("has no `{name}`"))?;
        let number = value.as_f64().filter(|number| *number > 0.0);
        number.ok_or_else(|| format!("has `{name}` = {value}, not a positive number"))
    }

    fn number_or(&self, name: &str, default: f64) -> Result<f64, String> {
        if self.get(name).is_some() { self.number(name) } else { Ok(default) }
    }

    /// One id or a list of ids.
    fn tokens(&self, name: &str) -> Vec<u32> {
        let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        match self.get(name) {
            Some(Value::Array(ids)) => ids.iter().filter_map(one).collect(),
            Some(value) => one(value).into_iter().collect(),
            None => Vec::new(),
        }
    }

    /// Whether nothing is asked for that is not computed here.
    fn all_computed(&self) -> Result<(), String> {
        for (name, neutral) in NOT_COMPUTED {
            if let Some(value) = self.get(name).filter(|value| !neutral.is_some_and(|neutral| neutral.is(value))) {
                return Err(format!(
                    "has `{name}` = {value}, which changes what the model computes and is not supported"
                ));
            }
        }
        Ok(())
    }

    fn must_be(&self, name: &str, supported: &str) -> Result<(), String> {
        match self.get(name) {
            Some(value) if value != supported => {
                Err(format!("has `{name}` = {value}; only \"{supported}\" is supported"))
            }
            _ => Ok(()),
        }
    }

    /// Rotary base and stretching: transformers 5's `rope_parameters` or the older `rope_scaling` and `rope_theta`.
    fn rope(&self) -> Result<(f64, Option<RotaryScaling>), String> {
        let filled = |name| self.get(name).and_then(Value::as_object).filter(|fields| !fields.is_empty());
        let empty = Map::new();
        let nested = Fields(filled("rope_scaling").or_else(|| filled("rope_parameters")).unwrap_or(&empty));
        if let Some((name, _)) = nested.0.iter().find(|(_, value)| value.is_object()) {
            return Err(format!("has rotary settings of their own for `{name}`; only one for all layers is supported"));
        }
        for fields in [self, &nested] {
            if fields.number_or("partial_rotary_factor", 1.0)? != 1.0 {
                return Err("has a `partial_rotary_factor`; only whole heads can be rotated".into());
            }
        }
        let theta = nested.number_or("rope_theta", self.number_or("rope_theta", 10_000.0)?)?;
        let kind = nested.get("rope_type").or_else(|| nested.get("type")).and_then(Value::as_str);
        let scaling = match kind {
            None | Some("default") => None,
            Some("linear") => Some(RotaryScaling::Linear(LinearScaling { linear_factor: nested.number("factor")? })),
            Some("llama3") => Some(RotaryScaling::Llama3(nested.llama3_scaling()?)),
            Some(other) => {
                return Err(format!(
                    "asks for rotary scaling `{other}`; only `default`, `linear` and `llama3` are supported"
                ));
            }
        };
        Ok((theta, scaling))
    }

    fn llama3_scaling(&self) -> Result<Llama3Scaling, String> {
        let scaling = Llama3Scaling {
            factor: self.number("factor")?,
            low_frequency_factor: self.number("low_freq_factor")?,
            high_frequency_factor: self.number("high_freq_factor")?,
            original_context: self.size("original_max_position_embeddings")?,
        };
        let (low, high) = (scaling.low_frequency_factor, scaling.high_frequency_factor);
        if low >= high {
            return Err(format!("has `low_freq_factor` = {low}, which must be less than `high_freq_factor` = {high}"));
        }
        Ok(scaling)
    }
}

/// The layers that a list of `layer_types` gives a window.
fn sliding_layers(types: &Value, layers: usize) -> Result<Vec<usize>, String> {
    let types = types.as_array().ok_or_else(|| format!("has `layer_types` = {types}, not a list"))?;
    if types.len() != layers {
        return Err(format!("has {} `layer_types` for {layers} layers", types.len()));
    }
    let mut sliding = Vec::new();
    for (layer, kind) in types.iter().enumerate() {
        match kind.as_str() {
            Some("full_attention") => {}
            Some("sliding_attention") => sliding.push(layer),
            _ => {
                return Err(format!(
                    "has {kind} among its `layer_types`; only \"full_attention\" and \"sliding_attention\" are supported"
                ));
            }
        }
    }
    Ok(sliding)
}
