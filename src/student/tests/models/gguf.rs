//! A model in a GGUF file computes what the same model in a folder computes.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[path = "../../../data/gguf/testing.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod gguf_writer;

use crate::support::{MODELS, expected, flat, largest_difference, load, logits};
use burn::backend::Flex;
use gguf_writer::GgufWriter;
use stillhouse_data::model_folder::ModelFolder;
use stillhouse_student::error::StudentError;
use stillhouse_student::model::{DecoderConfig, RotaryScaling};
use stillhouse_student::weights::{LoadedModel, take_values};

/// Hugging Face's name → llama.cpp's.
fn translated(name: &str) -> String {
    let pairs = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.", "ffn_"),
        ("_proj", ""),
    ];
    pairs.into_iter().fold(name.to_owned(), |name, (theirs, own)| name.replace(theirs, own))
}

/// What llama.cpp's converter does to query and key rows: halves of a head become neighbours.
fn interleaved(values: &[f32], rows: usize, heads: usize) -> Vec<f32> {
    let (columns, width) = (values.len() / rows, rows / heads);
    let row = |head: usize, i: usize| head * width + (i % 2) * (width / 2) + i / 2;
    let order = (0..heads).flat_map(|head| (0..width).map(move |i| row(head, i)));
    order.flat_map(|row| values[row * columns..(row + 1) * columns].to_vec()).collect()
}

/// A GGUF file of a golden model. llama.cpp knows Mistral as a Llama, and interleaves the heads of those two only.
fn converted(config: &DecoderConfig, model: &LoadedModel<Flex>) -> GgufWriter {
    let architecture = if config.family == "mistral" { "llama" } else { config.family.as_str() };
    let key = |name: &str| format!("{architecture}.{name}");
    let mut writer = GgufWriter::default()
        .text("general.architecture", architecture)
        .u32(&key("block_count"), config.layers as u32)
        .u32(&key("context_length"), config.context as u32)
        .u32(&key("embedding_length"), config.hidden as u32)
        .u32(&key("feed_forward_length"), config.intermediate as u32)
        .u32(&key("attention.head_count"), config.heads as u32)
        .u32(&key("attention.head_count_kv"), config.kv_heads as u32)
        .u32(&key("attention.key_length"), config.head_width as u32)
        .u32(&key("attention.value_length"), config.head_width as u32)
        .u32(&key("rope.dimension_count"), config.head_width as u32)
        .f32(&key("rope.freq_base"), config.rope_theta as f32)
        .f32(&key("attention.layer_norm_rms_epsilon"), config.norm_epsilon as f32)
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 2)
        .u32("tokenizer.ggml.padding_token_id", 0);
    for (name, values) in take_values(&model.decoder) {
        let data = match name.as_str() {
            name if name.contains("q_proj") && architecture == "llama" => {
                interleaved(&values.data, values.shape[0], config.heads)
            }
            name if name.contains("k_proj") && architecture == "llama" => {
                interleaved(&values.data, values.shape[0], config.kv_heads)
            }
            _ => values.data.to_vec(),
        };
        writer = writer.floats(&translated(&name), &values.shape, &data);
    }
    if let Some(scaling) = &config.rope_scaling {
        let RotaryScaling::Llama3(scaling) = scaling else { panic!("{scaling:?}") };
        assert_eq!((scaling.factor, scaling.original_context, config.head_width), (8.0, 32, 12));
        // The first wavelength, 2π, is shorter than 32 / 4, the next, 56, longer than 32.
        writer = writer.floats("rope_freqs.weight", &[6], &[1.0, 8.0, 8.0, 8.0, 8.0, 8.0]);
    }
    writer
}

fn read(writer: &GgufWriter) -> Result<LoadedModel<Flex>, StudentError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    writer.write(&path);
    let folder = ModelFolder { label: "model.tiny".into(), ..ModelFolder::open(&path)? };
    stillhouse_student::weights::read_model(&folder, &Default::default())
}

#[test]
fn logits_are_those_of_transformers() {
    for name in MODELS {
        let folder: LoadedModel<Flex> = load(name);
        let mut shape = folder.config.clone();
        if name == "mistral" {
            shape.family = "llama".into();
        }
        // What no GGUF file says.
        shape.initializer_range = 0.02;
        let file = read(&converted(&folder.config, &folder)).unwrap();
        assert_eq!(file.config, shape, "{name}");
        let expected = expected(name);
        let computed = flat(logits(&file, &expected.ids));
        assert_eq!(computed, flat(logits(&folder, &expected.ids)), "{name}");
        let difference = largest_difference(&computed, &expected.logits.concat().concat());
        assert!(difference < 2e-4, "{name}: {difference}");
    }
}

#[test]
fn quantised_weights_are_close_to_the_whole_ones() {
    let folder: LoadedModel<Flex> = load("llama-gqa-tied");
    let embedding = &take_values(&folder.decoder)["model.embed_tokens.weight"];
    let whole = converted(&folder.config, &folder);
    // Rows of 48 are no blocks of 32, so only a type of single numbers fits; half precision is the coarsest of them.
    let halves = embedding.data.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect();
    let halved = read(&whole.clone().tensor("token_embd.weight", &embedding.shape, 30, halves)).unwrap();
    let rows = expected("llama-gqa-tied").ids;
    let difference = largest_difference(&flat(logits(&halved, &rows)), &flat(logits(&folder, &rows)));
    assert!(difference > 0.0 && difference < 0.1, "{difference}");
}

#[test]
fn tensors_that_do_not_fit_the_settings_are_named() {
    let folder: LoadedModel<Flex> = load("llama-gqa-tied");
    let whole = converted(&folder.config, &folder);
    let complaint = |writer: &GgufWriter| read(writer).err().unwrap().to_string();
    let more_layers = whole.clone().u32("llama.block_count", 9);
    assert!(
        complaint(&more_layers).contains("of model.tiny do not fit its config.json: there is no tensor `model.layers.")
    );
    let surplus = whole.clone().floats("blk.0.ffn_gate_inp.weight", &[1], &[0.0]);
    assert!(complaint(&surplus).ends_with("there is no place for tensor `blk.0.ffn_gate_inp.weight`"));
    let misshapen = whole.clone().floats("output_norm.weight", &[47], &[1.0; 47]);
    assert!(complaint(&misshapen).ends_with("`model.norm.weight` is [47] where [48] belongs"));
    let mut values = [1.0; 48];
    values[5] = f32::NAN;
    let holes = whole.floats("output_norm.weight", &[48], &values);
    assert!(
        complaint(&holes).starts_with("tensor `model.norm.weight` of model.tiny holds 1 values that are not finite")
    );
}
