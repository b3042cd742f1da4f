use serde_json::{Map, Value, json};
use stillhouse_spec::{Config, Diagnostics, Node};

use super::llama::LlamaShape;
use super::qwen3::Qwen3Shape;
use super::*;

const LLAMA3: &str = include_str!("../tests/golden/llama3-rope-scaling/config.json");
const MISTRAL: &str = include_str!("../tests/golden/mistral/config.json");
const QWEN2: &str = include_str!("../tests/golden/qwen2/config.json");
const QWEN3: &str = include_str!("../tests/golden/qwen3/config.json");

/// A `config.json` with some fields changed; null leaves a field out.
fn changed(text: &str, changes: &Value) -> String {
    let mut fields: Map<String, Value> = serde_json::from_str(text).unwrap();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => fields.remove(name),
            value => fields.insert(name.clone(), value.clone()),
        };
    }
    serde_json::to_string(&fields).unwrap()
}

fn config(text: &str, changes: Value) -> DecoderConfig {
    read_config("m", &changed(text, &changes)).unwrap().1
}

#[test]
fn what_is_written_reads_back_the_same() {
    let window =
        json!({ "use_sliding_window": true, "sliding_window": 8, "max_window_layers": 1, "layer_types": null });
    let linear = json!({ "rope_parameters": { "rope_type": "linear", "factor": 2.5, "rope_theta": 5e4 } });
    for (text, changes) in [
        (LLAMA3, json!({})),
        (LLAMA3, json!({ "attention_bias": true })),
        (LLAMA3, json!({ "mlp_bias": true, "eos_token_id": [2, 3] })),
        (LLAMA3, linear),
        (MISTRAL, json!({})),
        (MISTRAL, json!({ "sliding_window": 8 })),
        (QWEN2, json!({})),
        (QWEN2, window.clone()),
        (QWEN3, json!({ "attention_bias": true })),
        (QWEN3, window),
    ] {
        let config = config(text, changes);
        let written = (family(&config.family).unwrap().write)(&config);
        let text = serde_json::to_string(&written).unwrap();
        assert_eq!(read_config("m", &text).unwrap().1, config);
    }
}

#[test]
fn rotary_scaling_is_found_where_either_version_of_transformers_writes_it() {
    let new = config(LLAMA3, json!({}));
    let Some(RotaryScaling::Llama3(scaling)) = &new.rope_scaling else { panic!("{new:?}") };
    assert_eq!(scaling.original_context, 32);
    let nested = serde_json::from_str::<Value>(LLAMA3).unwrap()["rope_parameters"].clone();
    let theta = nested["rope_theta"].clone();
    let old = config(LLAMA3, json!({ "rope_parameters": null, "rope_theta": theta, "rope_scaling": nested }));
    assert_eq!(old, new);
    let older =
        json!({ "rope_parameters": null, "rope_scaling": { "type": "linear", "factor": 4 }, "rope_theta": 1e4 });
    let linear = RotaryScaling::Linear(LinearScaling { linear_factor: 4.0 });
    assert_eq!(config(LLAMA3, older).rope_scaling, Some(linear));
}

#[test]
fn left_out_fields_mean_what_transformers_takes_them_for() {
    // Mistral's window is 4096 unless the file says null.
    let everywhere = SlidingWindow { width: 4096, layers: vec![0, 1, 2] };
    assert_eq!(config(MISTRAL, json!({ "sliding_window": null })).sliding_window, Some(everywhere));
    assert_eq!(read_config("m", MISTRAL).unwrap().1.sliding_window, None);
    assert_eq!(config(MISTRAL, json!({ "num_attention_heads": 16, "num_key_value_heads": null })).kv_heads, 8);
    assert_eq!(config(LLAMA3, json!({ "num_attention_heads": 16, "num_key_value_heads": null })).kv_heads, 16);
    let plain = config(QWEN3, json!({ "head_dim": null, "num_attention_heads": 64, "num_key_value_heads": null }));
    assert_eq!((plain.head_width, plain.kv_heads), (128, 32));
    // A window's width alone does not turn it on in Qwen.
    assert_eq!(config(QWEN2, json!({ "sliding_window": 8, "layer_types": null })).sliding_window, None);
    let some = json!({ "use_sliding_window": true, "sliding_window": 8, "max_window_layers": 2, "layer_types": null });
    assert_eq!(config(QWEN2, some).sliding_window, Some(SlidingWindow { width: 8, layers: vec![2] }));
    let named = json!({
        "use_sliding_window": true, "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    });
    assert_eq!(config(QWEN3, named).sliding_window, Some(SlidingWindow { width: 8, layers: vec![0, 2] }));
}

#[test]
fn an_unknown_architecture_is_named_with_those_that_are_known() {
    let error = read_config("m", r#"{"architectures": ["MambaForCausalLM"]}"#).err().unwrap();
    assert_eq!(error.to_string(), "m/config.json names the architecture `MambaForCausalLM`, which is not supported");
    let known = "supported are LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM";
    assert_eq!(error.hint().unwrap(), known);
}

#[test]
fn a_field_that_changes_the_model_is_not_ignored() {
    for (text, changes, word) in [
        (LLAMA3, json!({ "hidden_act": "gelu" }), "has `hidden_act` = \"gelu\"; only \"silu\" is supported"),
        (LLAMA3, json!({ "attention_bias": "yes" }), "`attention_bias` = \"yes\", not true or false"),
        (LLAMA3, json!({ "num_key_value_heads": 3 }), "key-value heads"),
        (LLAMA3, json!({ "num_hidden_layers": 0 }), "layers is 0"),
        (LLAMA3, json!({ "num_attention_heads": 0, "head_dim": null }), "heads is 0"),
        (LLAMA3, json!({ "hidden_size": "wide" }), "has `hidden_size` = \"wide\", not a positive whole number"),
        (LLAMA3, json!({ "vocab_size": null }), "has no `vocab_size`"),
        (LLAMA3, json!({ "head_dim": 7 }), "width 7; rotary positions need an even width"),
        (LLAMA3, json!({ "hidden_size": 50, "head_dim": 8 }), "has a width of 50 that"),
        (LLAMA3, json!({ "rms_norm_eps": -1.0 }), "not a positive number"),
        (LLAMA3, json!({ "tie_word_embeddings": 1 }), "`tie_word_embeddings` = 1"),
        (
            MISTRAL,
            json!({ "rope_parameters": { "rope_type": "yarn" } }),
            "rotary scaling `yarn`; only `default`, `linear`",
        ),
        (MISTRAL, json!({ "rope_scaling": { "type": "dynamic", "factor": 2 } }), "rotary scaling `dynamic`"),
        (MISTRAL, json!({ "rope_parameters": { "rope_type": "linear" } }), "has no `factor`"),
        (
            MISTRAL,
            json!({ "rope_parameters": { "full_attention": {} } }),
            "rotary settings of their own for `full_attention`",
        ),
        (LLAMA3, json!({ "partial_rotary_factor": 0.5 }), "only whole heads can be rotated"),
        (LLAMA3, json!({ "quantization_config": { "bits": 4 } }), "has `quantization_config`"),
        (
            LLAMA3,
            json!({ "final_logit_softcapping": 30.0 }),
            "has `final_logit_softcapping` = 30.0, which changes what",
        ),
        (QWEN2, json!({ "attn_logit_softcapping": 50 }), "has `attn_logit_softcapping` = 50, which changes what"),
        (QWEN3, json!({ "num_experts": 8 }), "has `num_experts` = 8"),
        (MISTRAL, json!({ "logits_scaling": 0.5 }), "has `logits_scaling` = 0.5"),
        (LLAMA3, json!({ "rope_interleaved": true }), "has `rope_interleaved` = true"),
        (LLAMA3, json!({ "num_hidden_layers": 70_000 }), "describes a model of 70000 layers"),
        (LLAMA3, json!({ "hidden_size": 1 << 20, "num_hidden_layers": 1000 }), "describes a model of"),
        (MISTRAL, json!({ "hidden_size": u64::MAX, "vocab_size": u64::MAX }), "describes a model of"),
        (MISTRAL, json!({ "sliding_window": 0 }), "has `sliding_window` = 0"),
        (MISTRAL, json!({ "sliding_window": "wide" }), "has `sliding_window` = \"wide\""),
        (QWEN2, json!({ "layer_types": ["full_attention"] }), "has 1 `layer_types` for 3 layers"),
        (
            QWEN2,
            json!({ "layer_types": ["full_attention", "linear_attention", "full_attention"] }),
            "\"linear_attention\" among",
        ),
        (
            QWEN3,
            json!({ "layer_types": ["sliding_attention", "full_attention", "full_attention"] }),
            "no `sliding_window` in use",
        ),
    ] {
        let error = read_config("m", &changed(text, &changes)).map(|_| ()).err();
        let error = error.unwrap_or_else(|| panic!("{changes} is taken")).to_string();
        assert!(error.starts_with("m/config.json ") && error.contains(word), "{changes}: {error}");
    }
}

#[test]
fn a_field_at_the_value_that_changes_nothing_is_taken() {
    let plain = config(LLAMA3, json!({}));
    let neutral = json!({
        "rope_interleaved": false, "logits_scaling": 1.0, "logit_scale": 1, "num_experts": 0, "alibi": false,
    });
    assert_eq!(config(LLAMA3, neutral), plain);
    let text = LLAMA3.replacen('{', "{ \"final_logit_softcapping\": null,", 1);
    assert_eq!(read_config("m", &text).unwrap().1, plain);
}

#[test]
fn what_only_some_families_have_is_in_the_keys_of_those_only() {
    let keys = |text| match serde_json::to_value(read_config("m", text).unwrap().1).unwrap() {
        Value::Object(fields) => fields.keys().cloned().collect::<Vec<_>>().join(" "),
        other => panic!("{other}"),
    };
    let mut of_all: Vec<&str> =
        "family vocabulary layers hidden intermediate heads kv-heads head-width context rope-theta \
        rope-scaling norm-epsilon tied initializer-range bos eos pad"
            .split_whitespace()
            .collect();
    of_all.sort_unstable();
    let sorted = |keys: String| {
        let mut keys: Vec<String> = keys.split(' ').map(str::to_owned).collect();
        keys.sort_unstable();
        keys
    };
    assert_eq!(sorted(keys(LLAMA3)), of_all);
    assert!(keys(QWEN2).contains("biases") && keys(QWEN3).contains("head-norms"));
    let scaling = serde_json::to_value(read_config("m", LLAMA3).unwrap().1).unwrap()["rope-scaling"].clone();
    assert_eq!(
        scaling,
        json!({ "factor": 8.0, "low-frequency-factor": 1.0, "high-frequency-factor": 4.0, "original-context": 32 })
    );
}

#[test]
fn a_fresh_shape_is_what_its_table_says() {
    let shape =
        decoded::<Qwen3Shape>(json!({ "layers": 2, "hidden": 48, "heads": 6, "kv-heads": 2, "head-width": 10 }))
            .unwrap();
    let config = shape.config(100, 700);
    assert_eq!((config.family.as_str(), config.head_norms, config.biases), ("qwen3", true, Biases::default()));
    assert_eq!((config.head_width, config.intermediate, config.context), (10, 128, 700));
    assert_eq!((config.rope_theta, config.norm_epsilon), (1e6, 1e-6));
    assert!(config.check().is_ok());
}

#[test]
fn a_fresh_shape_whose_numbers_do_not_fit_is_refused() {
    for (changes, message) in [
        (json!({ "heads": 5 }), "`heads` = 5 does not divide `hidden` = 64"),
        (json!({ "hidden": 12 }), "heads of width 3 can't be rotated"),
        (json!({ "heads": 5, "head-width": 8 }), "has a width of 64 that 5 heads do not divide"),
        (json!({ "head-width": 7 }), "heads of width 7 can't be rotated"),
        (json!({ "kv-heads": 3 }), "`kv-heads` = 3 does not divide `heads` = 4"),
        (json!({ "kv-heads": 0 }), "`kv-heads` must be at least 1"),
        (json!({ "layers": 0 }), "`layers` must be at least 1"),
        (json!({ "layers": 1_000_000_000 }), "this table describes a model of"),
        (json!({ "hidden": 1_000_000_000_000_u64 }), "whose training takes"),
        (json!({ "hidden": i64::MAX, "heads": 1, "head-width": 2 }), "whose training takes"),
    ] {
        let mut table = json!({ "layers": 2, "hidden": 64, "heads": 4 });
        table.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let error = decoded::<LlamaShape>(table).err().unwrap();
        assert!(error.contains(message), "{changes}: {error}");
    }
}

fn decoded<C: Config>(table: Value) -> Result<C, String> {
    let mut report = Diagnostics::default();
    let made = C::decode(&Node::from_json(&table), &mut report);
    match report.sorted().first() {
        Some(error) => Err(error.message.clone()),
        None => Ok(made.unwrap()),
    }
}
