//! Reference models and values shared by the tests.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod training;

use std::path::{Path, PathBuf};

use burn::backend::Flex;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use serde::Deserialize;
use stillhouse_data::model_folder::ModelFolder;
use stillhouse_student::kernels::Kernels;
use stillhouse_student::model::ModelInput;
use stillhouse_student::weights::{LoadedModel, read_model};

/// The models that transformers computed the expected values for.
pub const MODELS: [&str; 6] =
    ["llama-gqa-tied", "llama-mha-untied", "llama3-rope-scaling", "mistral", "qwen2", "qwen3"];

#[derive(Deserialize)]
pub struct Expected {
    pub ids: Vec<Vec<u32>>,
    pub logits: Vec<Vec<Vec<f32>>>,
    pub loss: f64,
    pub grad_norms: std::collections::BTreeMap<String, f64>,
    pub adamw: AdamW,
    pub greedy: Vec<u32>,
}

#[derive(Deserialize)]
pub struct AdamW {
    pub losses: Vec<f64>,
    pub norms: std::collections::BTreeMap<String, f64>,
}

pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

pub fn folder(name: &str) -> ModelFolder {
    ModelFolder::open(&golden(name)).unwrap()
}

pub fn expected(name: &str) -> Expected {
    serde_json::from_str(&fs_err::read_to_string(golden(name).join("expected.json")).unwrap()).unwrap()
}

pub fn load<B: Backend>(name: &str) -> LoadedModel<B> {
    read_model(&folder(name), &Default::default()).unwrap()
}

/// Logits of whole rows of one length: `[batch × time, vocabulary]`.
pub fn logits<B: Kernels>(model: &LoadedModel<B>, rows: &[Vec<u32>]) -> Tensor<B, 2> {
    let input = ModelInput::sequences(rows);
    model.decoder.logits(model.decoder.hidden(&input, &model.rotary, None))
}

pub fn flat(tensor: Tensor<Flex, 2>) -> Vec<f32> {
    tensor.into_data().to_vec().unwrap()
}

pub fn largest_difference(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max)
}
