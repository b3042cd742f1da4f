//! Where a student begins: one line an entry in [`INITS`].

use stillhouse_data::tokenizer::Tokenizer;
use stillhouse_spec::registry::{Component, Entry, Registry};
use stillhouse_spec::{Config, Ref, Target, entry};

use crate::cut::Cut;
use crate::model::llama::LlamaShape;
use crate::model::mistral::MistralShape;
use crate::model::qwen2::Qwen2Shape;
use crate::model::qwen3::Qwen3Shape;
use crate::model::{DecoderConfig, FreshShape};

/// Every way to begin: a family from scratch, weights that are there, or a part of them.
pub static INITS: &[Entry<dyn Initial>] = &[
    entry!("llama", LlamaShape as dyn Initial),
    entry!("mistral", MistralShape as dyn Initial),
    entry!("qwen2", Qwen2Shape as dyn Initial),
    entry!("qwen3", Qwen3Shape as dyn Initial),
    entry!("pretrained", Ref<PretrainedModels> as dyn Initial),
    entry!("cut", Cut as dyn Initial),
];

impl Registry for dyn Initial {
    const WHAT: &'static str = "beginning";
    fn entries() -> &'static [Entry<Self>] {
        INITS
    }
}

/// A student before its first step.
pub trait Initial: Component + Send + Sync {
    /// How it comes to its weights.
    fn beginning(&self) -> Beginning<'_>;
}

/// The ways to come to weights.
pub enum Beginning<'a> {
    /// Made from scratch.
    Fresh(&'a dyn FreshShape),
    /// All of a model's weights, which the field of this name below the student names.
    Weights(&'static str),
    /// A part of a model's weights, which the field of this name below the student names.
    Cut(&'static str, &'a Cut),
}

/// Models to go on from: a folder, or another student.
#[derive(Clone, Copy, Debug)]
pub struct PretrainedModels;

impl Target for PretrainedModels {
    const KINDS: &'static [&'static str] = &["model", "student"];
}

impl Initial for Ref<PretrainedModels> {
    fn beginning(&self) -> Beginning<'_> {
        Beginning::Weights("init.pretrained")
    }
}

impl Initial for Cut {
    fn beginning(&self) -> Beginning<'_> {
        Beginning::Cut("init.cut.from", self)
    }
}

impl<S: FreshShape + Config + std::fmt::Debug + Send + Sync> Initial for S {
    fn beginning(&self) -> Beginning<'_> {
        Beginning::Fresh(self)
    }
}

/// The shape of a fresh model for a tokenizer and rows of so many tokens.
pub(super) fn fresh_shape(shape: &dyn FreshShape, tokenizer: &Tokenizer, length: usize) -> DecoderConfig {
    DecoderConfig {
        bos: tokenizer.bos(),
        eos: tokenizer.eos().into_iter().collect(),
        pad: tokenizer.pad(),
        ..shape.config(tokenizer.vocabulary(), length)
    }
}
