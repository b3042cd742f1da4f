//! A decoder: token ids in, hidden states or logits out.

use burn::module::{Module, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{FloatDType, Int, Tensor, TensorData};

use super::cache::KeyValueCache;
use super::config::DecoderConfig;
use super::layers::{AttentionInput, Layer, Linear, RmsNorm, empty};
use super::rotary::RotaryTable;
use crate::kernels::{Kernels, Visibility};
use crate::precision::Precision;

/// Rows of tokens with where each token stands.
#[derive(Debug, Clone)]
pub struct ModelInput {
    /// Token ids, `[batch × time]`, row by row.
    pub tokens: Vec<u32>,
    /// Position of each token inside its own example, `[batch × time]`.
    pub positions: Vec<u32>,
    /// Who sees whom; carries the batch's shape.
    pub visibility: Visibility,
}

impl ModelInput {
    /// Whole sequences of one length, one example a row.
    pub fn sequences(rows: &[Vec<u32>]) -> Self {
        let time = rows.first().map_or(0, Vec::len);
        let segments = vec![1; rows.len() * time];
        Self {
            tokens: rows.concat(),
            positions: rows.iter().flat_map(|_| 0..time as u32).collect(),
            visibility: Visibility::from_segments(&segments, rows.len(), time),
        }
    }
}

/// The stack below the head. Named as Hugging Face names it.
#[derive(Module, Debug)]
pub struct Stack<B: Backend> {
    embed_tokens: Embedding<B>,
    layers: Vec<Layer<B>>,
    norm: RmsNorm<B>,
}

/// Rows of the vocabulary.
#[derive(Module, Debug)]
pub struct Embedding<B: Backend> {
    /// `[vocabulary, hidden]`
    pub weight: Param<Tensor<B, 2>>,
}

/// A decoder language model.
#[derive(Module, Debug)]
pub struct Decoder<B: Backend> {
    model: Stack<B>,
    /// None where the head is the embedding.
    lm_head: Option<Linear<B>>,
    /// How far back the layers look whose window slides.
    window: Option<usize>,
    /// In which numbers the layers compute. Weights of any type serve either.
    #[module(skip)]
    precision: Precision,
}

impl<B: Backend> Decoder<B> {
    /// A decoder whose weights are all zero: to be filled from a folder or by [`init`](crate::init).
    pub fn empty(config: &DecoderConfig, device: &B::Device) -> Self {
        Self {
            model: Stack {
                embed_tokens: Embedding { weight: empty([config.vocabulary, config.hidden], device) },
                layers: (0..config.layers).map(|layer| Layer::empty(config, layer, device)).collect(),
                norm: RmsNorm::empty(config.hidden, config.norm_epsilon, device),
            },
            lm_head: (!config.tied).then(|| Linear::empty(config.hidden, config.vocabulary, false, device)),
            window: config.sliding_window.as_ref().map(|window| window.width),
            precision: Precision::F32,
        }
    }

    /// The same weights, computed with in another precision.
    #[must_use]
    pub fn in_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// Weight of the output head, `[vocabulary, hidden]`.
    pub fn head(&self) -> Tensor<B, 2> {
        match &self.lm_head {
            Some(head) => head.weight.val(),
            None => self.model.embed_tokens.weight.val(),
        }
    }

    /// Where the weights are.
    pub fn device(&self) -> B::Device {
        self.model.norm.weight.val().device()
    }
}

impl<B: Kernels> Decoder<B> {
    /// Normed hidden states, one a token.
    ///
    /// # Shapes
    /// - output: `[batch × time, hidden]`
    pub fn hidden(
        &self,
        input: &ModelInput,
        rotary: &RotaryTable,
        cache: Option<&mut KeyValueCache<B>>,
    ) -> Tensor<B, 2> {
        self.pass(input, rotary, cache, &[]).0
    }

    /// Normed hidden states, and the residual stream after each of some numbers of layers (0: the embedding), which
    /// ascend.
    ///
    /// # Shapes
    /// - outputs: `[batch × time, hidden]` each
    pub(crate) fn hidden_and_streams(
        &self,
        input: &ModelInput,
        rotary: &RotaryTable,
        after: &[usize],
    ) -> (Tensor<B, 2>, Vec<Tensor<B, 2>>) {
        self.pass(input, rotary, None, after)
    }

    fn pass(
        &self,
        input: &ModelInput,
        rotary: &RotaryTable,
        cache: Option<&mut KeyValueCache<B>>,
        after: &[usize],
    ) -> (Tensor<B, 2>, Vec<Tensor<B, 2>>) {
        let shared = self.attention_input(input, rotary);
        let mut streams = Vec::with_capacity(after.len());
        let mut watched = |layers: usize, stream: Tensor<B, 2>| {
            if !after.contains(&layers) {
                return stream;
            }
            streams.push(stream.clone());
            // A node of its own for what comes above, so that its gradient is a whole sum before the watcher's is added:
            // with gradient checkpointing it is, and both are to give the same bits.
            let shape = stream.dims();
            stream.reshape(shape)
        };
        let mut stream = watched(0, self.embed(input));
        let mut caches = cache.map(|cache| cache.layers.iter_mut());
        for (below, layer) in self.model.layers.iter().enumerate() {
            let cache = caches.as_mut().and_then(Iterator::next);
            stream = watched(below + 1, layer.forward(stream, &shared, cache));
        }
        (self.model.norm.forward(stream), streams)
    }

    /// The embedding of every token: what the first layer reads. Its type is that of everything up to the logits.
    ///
    /// # Shapes
    /// - output: `[batch × time, hidden]`
    pub(crate) fn embed(&self, input: &ModelInput) -> Tensor<B, 2> {
        let tokens: Vec<i32> = input.tokens.iter().map(|&token| token as i32).collect();
        let count = tokens.len();
        let tokens = Tensor::<B, 1, Int>::from_data(TensorData::new(tokens, [count]), &self.device());
        self.model.embed_tokens.weight.val().select(0, tokens).cast(self.precision.stored())
    }

    /// What every layer of a pass shares.
    pub(crate) fn attention_input<'a>(&self, input: &'a ModelInput, rotary: &RotaryTable) -> AttentionInput<'a, B> {
        let (cosine, sine) = rotary.angles(&input.positions, input.visibility.batch(), &self.device());
        let sliding = self.window.map(|width| input.visibility.within(width));
        AttentionInput { visibility: &input.visibility, sliding, cosine, sine }
    }

    /// The layers, for a pass that goes through them one by one.
    pub(crate) fn layers(&self) -> &[Layer<B>] {
        &self.model.layers
    }

    /// The norm after the last layer.
    pub(crate) fn last_norm(&self) -> &RmsNorm<B> {
        &self.model.norm
    }

    /// Logits of hidden states.
    ///
    /// # Shapes
    /// - hidden: `[rows, hidden]`
    /// - output: `[rows, vocabulary]`, f32
    pub fn logits(&self, hidden: Tensor<B, 2>) -> Tensor<B, 2> {
        logits(hidden, self.head())
    }
}

/// Logits of hidden states under a head. Whatever the precision, losses and samplers read f32.
///
/// # Shapes
/// - hidden: `[rows, hidden]`
/// - head: `[vocabulary, hidden]`
/// - output: `[rows, vocabulary]`, f32
pub fn logits<B: Kernels>(hidden: Tensor<B, 2>, head: Tensor<B, 2>) -> Tensor<B, 2> {
    B::projection(hidden, head).cast(FloatDType::F32)
}
