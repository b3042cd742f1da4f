mod container;
mod settings;
mod tokenizers;

use std::path::Path;
use std::sync::Arc;

use super::testing::GgufWriter;
use super::*;
use crate::error::DataError;

/// A file of one layer with two heads of four rows, whose tensors hold their own row numbers.
fn model(architecture: &str) -> GgufWriter {
    let key = |name: &str| format!("{architecture}.{name}");
    let numbered =
        |rows: usize, columns: usize| -> Vec<f32> { (0..rows).flat_map(|row| vec![row as f32; columns]).collect() };
    let writer = GgufWriter::default()
        .text("general.architecture", architecture)
        .u32(&key("block_count"), 1)
        .u32(&key("context_length"), 64)
        .u32(&key("embedding_length"), 8)
        .u32(&key("feed_forward_length"), 16)
        .u32(&key("attention.head_count"), 2)
        .u32(&key("attention.head_count_kv"), 1)
        .f32(&key("attention.layer_norm_rms_epsilon"), 1e-5);
    [
        ("token_embd", [6, 8]),
        ("blk.0.attn_q", [8, 8]),
        ("blk.0.attn_k", [4, 8]),
        ("blk.0.attn_v", [4, 8]),
        ("blk.0.attn_output", [8, 8]),
        ("blk.0.ffn_gate", [16, 8]),
        ("blk.0.ffn_up", [16, 8]),
        ("blk.0.ffn_down", [8, 16]),
    ]
    .into_iter()
    .fold(writer, |writer, (name, [rows, columns])| {
        writer.floats(&format!("{name}.weight"), &[rows, columns], &numbered(rows, columns))
    })
}

fn open(writer: &GgufWriter) -> DataResult<GgufFile> {
    open_bytes(&writer.bytes())
}

fn open_bytes(bytes: &[u8]) -> DataResult<GgufFile> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    fs_err::write(&path, bytes).unwrap();
    GgufFile::open(&path)
}

/// What is said, without the folder.
fn said(error: &DataError) -> String {
    let text = error.to_string();
    text.split_once("tiny.gguf: ").unwrap_or_else(|| panic!("{text} names no file")).1.to_owned()
}

fn complaint(writer: &GgufWriter, name: &str) -> String {
    said(&rebuild(&open(writer).unwrap(), name).unwrap_err())
}
