//! Settings become the `config.json` of the same model, weights get Hugging Face's names and rows.

use serde_json::{Value as Json, json};

use super::*;

fn config(writer: &GgufWriter) -> Json {
    serde_json::from_str(&rebuild(&open(writer).unwrap(), "config.json").unwrap()).unwrap()
}

#[test]
fn a_llama_is_described_as_transformers_does() {
    let expected = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 6, "num_hidden_layers": 1,
        "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
        "max_position_embeddings": 64, "rope_theta": 10_000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
        "hidden_act": "silu", "attention_bias": false, "mlp_bias": false,
    });
    assert_eq!(config(&model("llama")), expected);
    let untied = config(&model("llama").floats("output.weight", &[6, 8], &[0.0; 48]).f32("llama.rope.freq_base", 5e5));
    assert_eq!((&untied["tie_word_embeddings"], &untied["rope_theta"]), (&json!(false), &json!(500_000.0)));
}

#[test]
fn the_families_of_qwen_have_their_own_biases_and_names() {
    let two = config(&model("qwen2"));
    assert_eq!((&two["architectures"], two.get("attention_bias")), (&json!(["Qwen2ForCausalLM"]), None));
    let three = config(&model("qwen3").u32("qwen3.attention.key_length", 6));
    assert_eq!((&three["architectures"], &three["head_dim"]), (&json!(["Qwen3ForCausalLM"]), &json!(6)));
}

#[test]
fn a_chat_model_ends_at_every_end_that_the_file_names() {
    let writer = model("llama")
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 2)
        .u32("tokenizer.ggml.padding_token_id", 0);
    let ids = |writer: &GgufWriter| -> Json {
        serde_json::from_str(&rebuild(&open(writer).unwrap(), "generation_config.json").unwrap()).unwrap()
    };
    assert_eq!(ids(&writer), json!({ "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0 }));
    let writer = writer.u32("tokenizer.ggml.eot_token_id", 5).u32("tokenizer.ggml.eom_token_id", 2);
    assert_eq!(ids(&writer)["eos_token_id"], json!([2, 5]));
    assert_eq!(config(&writer)["eos_token_id"], json!([2, 5]));
}

#[test]
fn what_would_change_the_model_is_refused_and_named() {
    let cases = [
        (model("mamba"), "the architecture `mamba` is not supported"),
        (model("llama").without("general.architecture"), "metadata `general.architecture` is missing"),
        (model("llama").without("llama.block_count"), "metadata `llama.block_count` is missing"),
        (
            model("llama").text("llama.block_count", "one"),
            "metadata `llama.block_count` is text, where a whole number belongs",
        ),
        (
            model("llama").i32s("llama.attention.head_count_kv", &[1]),
            "metadata `llama.attention.head_count_kv` is a list, where",
        ),
        (
            model("llama").u32("llama.expert_count", 8),
            "metadata `llama.expert_count`: mixtures of experts are not supported",
        ),
        (
            model("llama").u32("llama.attention.sliding_window", 32),
            "`llama.attention.sliding_window`: a window narrower",
        ),
        (
            model("llama").u32("llama.rope.dimension_count", 2),
            "`llama.rope.dimension_count`: another width than that of a head (4)",
        ),
        (
            model("llama").text("llama.rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 4.0),
            "metadata `llama.rope.scaling.factor`: `yarn` stretching of the positions is not supported",
        ),
        (
            model("llama").floats("rope_freqs.weight", &[2], &[3.0, 7.0]),
            "the rotary factors in tensor `rope_freqs.weight`",
        ),
    ];
    for (writer, words) in cases {
        let text = complaint(&writer, "config.json");
        assert!(text.contains(words), "{text} has no {words}");
    }
}

#[test]
fn settings_that_change_nothing_are_no_obstacle() {
    let writer = model("llama")
        .u32("llama.attention.sliding_window", 64)
        .u32("llama.rope.dimension_count", 4)
        .text("llama.rope.scaling.type", "none")
        .f32("llama.rope.scaling.factor", 4.0)
        .floats("rope_freqs.weight", &[2], &[1.0, 1.0]);
    assert_eq!(config(&writer)["rope_scaling"], Json::Null);
}

#[test]
fn weights_have_the_names_and_rows_of_hugging_face() {
    let rows = |architecture: &str, name: &str| -> Vec<f32> {
        let tensors = GgufTensors::new(Arc::new(open(&model(architecture)).unwrap())).unwrap();
        assert_eq!(tensors.shapes().count(), 8);
        tensors.values(name).unwrap().chunks(8).map(|row| row[0]).collect()
    };
    let query = "model.layers.0.self_attn.q_proj.weight";
    assert_eq!(rows("llama", query), [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
    assert_eq!(rows("llama", "model.layers.0.self_attn.k_proj.weight"), [0.0, 2.0, 1.0, 3.0]);
    assert_eq!(rows("llama", "model.layers.0.self_attn.v_proj.weight"), [0.0, 1.0, 2.0, 3.0]);
    assert_eq!(rows("qwen2", query), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    assert_eq!(rows("llama", "model.embed_tokens.weight"), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
}

#[test]
fn rows_that_the_heads_do_not_share_are_an_error() {
    let writer = model("llama").u32("llama.attention.head_count", 3);
    let tensors = GgufTensors::new(Arc::new(open(&writer).unwrap())).unwrap();
    let error = tensors.values("model.layers.0.self_attn.q_proj.weight").unwrap_err();
    assert_eq!(said(&error), "tensor `blk.0.attn_q.weight` has 8 rows, which 3 heads do not share");
}
