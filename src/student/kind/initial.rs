//! Where a student begins: one line an entry in [`INITS`].

use stillhouse_data::tokenizer::Tokenizer;
use stillhouse_spec::registry::{Component, Entry, Registry};
use stillhouse_spec::{Ref, Target, entry};

use crate::model::DecoderConfig;
use crate::model::llama::LlamaShape;

/// Every way to begin: a family from scratch, or weights that are there.
pub static INITS: &[Entry<dyn Initial>] =
    &[entry!("llama", LlamaShape as dyn Initial), entry!("pretrained", Ref<PretrainedModels> as dyn Initial)];

impl Registry for dyn Initial {
    const WHAT: &'static str = "beginning";
    fn entries() -> &'static [Entry<Self>] {
        INITS
    }
}

/// A student before its first step.
pub trait Initial: Component + Send + Sync {
    /// The shape of a model made from scratch, which reads sequences of at least `length` tokens; none where weights
    /// are there already and bring theirs.
    fn shape(&self, tokenizer: &Tokenizer, length: usize) -> Option<DecoderConfig>;
}

/// Models to go on from: a folder, or another student.
#[derive(Clone, Copy, Debug)]
pub struct PretrainedModels;

impl Target for PretrainedModels {
    const KINDS: &'static [&'static str] = &["model", "student"];
}

impl Initial for Ref<PretrainedModels> {
    fn shape(&self, _: &Tokenizer, _: usize) -> Option<DecoderConfig> {
        None
    }
}

impl Initial for LlamaShape {
    fn shape(&self, tokenizer: &Tokenizer, length: usize) -> Option<DecoderConfig> {
        let mut config = self.config(tokenizer.vocabulary(), length);
        config.bos = tokenizer.bos();
        config.eos = tokenizer.eos().into_iter().collect();
        config.pad = tokenizer.pad();
        Some(config)
    }
}
