//! The parts of a decoder layer. Fields carry Hugging Face's names, so a parameter's path in the module is its
//! name in a weights file.

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Tensor, backend::Backend};

use super::cache::LayerCache;
use super::config::DecoderConfig;
use crate::kernels::{Kernels, Visibility};

/// A parameter of zeros that waits for its values.
pub(super) fn empty<B: Backend, const D: usize>(shape: [usize; D], device: &B::Device) -> Param<Tensor<B, D>> {
    Param::initialized(ParamId::new(), Tensor::zeros(shape, device))
}

/// A matrix, `[out, in]`, and a bias where the family has one.
#[derive(Module, Debug)]
pub struct Linear<B: Backend> {
    /// `[out, in]`
    pub weight: Param<Tensor<B, 2>>,
    /// `[out]`
    pub bias: Option<Param<Tensor<B, 1>>>,
}

impl<B: Backend> Linear<B> {
    pub(super) fn empty(input: usize, output: usize, bias: bool, device: &B::Device) -> Self {
        Self { weight: empty([output, input], device), bias: bias.then(|| empty([output], device)) }
    }
}

impl<B: Kernels> Linear<B> {
    /// # Shapes
    /// - input: `[rows, in]`
    /// - output: `[rows, out]`
    pub fn forward(&self, input: Tensor<B, 2>) -> Tensor<B, 2> {
        let output = B::projection(input, self.weight.val());
        match &self.bias {
            None => output,
            Some(bias) => {
                let bias = bias.val().cast(output.dtype());
                output + bias.unsqueeze()
            }
        }
    }
}

/// Root-mean-square norm with a weight a channel.
#[derive(Module, Debug)]
pub struct RmsNorm<B: Backend> {
    /// `[width]`
    pub weight: Param<Tensor<B, 1>>,
    epsilon: f64,
}

impl<B: Backend> RmsNorm<B> {
    pub(super) fn empty(width: usize, epsilon: f64, device: &B::Device) -> Self {
        Self { weight: empty([width], device), epsilon }
    }
}

impl<B: Kernels> RmsNorm<B> {
    /// # Shapes
    /// - input, output: `[rows, width]`
    pub fn forward(&self, input: Tensor<B, 2>) -> Tensor<B, 2> {
        B::rms_norm(input, self.weight.val(), self.epsilon)
    }
}

/// Causal self-attention with grouped keys and values.
#[derive(Module, Debug)]
pub struct Attention<B: Backend> {
    q_proj: Linear<B>,
    k_proj: Linear<B>,
    v_proj: Linear<B>,
    o_proj: Linear<B>,
    /// Of every query head alike, where the family norms them.
    q_norm: Option<RmsNorm<B>>,
    /// Of every key head alike.
    k_norm: Option<RmsNorm<B>>,
    head_width: usize,
    /// Whether it looks back no further than the model's window.
    slides: bool,
}

/// What attention reads beside the hidden states, alike in every layer of one forward pass: who sees whom, and the angles of
/// where tokens stand.
pub struct AttentionInput<'a, B: Backend> {
    pub visibility: &'a Visibility,
    /// The same in layers whose window slides.
    pub sliding: Option<Visibility>,
    pub cosine: Tensor<B, 4>,
    pub sine: Tensor<B, 4>,
}

impl<B: Backend> Attention<B> {
    fn empty(config: &DecoderConfig, layer: usize, device: &B::Device) -> Self {
        let (queries, keys) = (config.heads * config.head_width, config.kv_heads * config.head_width);
        let bias = config.biases.attention_input;
        let head_norm = || config.head_norms.then(|| RmsNorm::empty(config.head_width, config.norm_epsilon, device));
        Self {
            q_proj: Linear::empty(config.hidden, queries, bias, device),
            k_proj: Linear::empty(config.hidden, keys, bias, device),
            v_proj: Linear::empty(config.hidden, keys, bias, device),
            o_proj: Linear::empty(queries, config.hidden, config.biases.attention_output, device),
            q_norm: head_norm(),
            k_norm: head_norm(),
            head_width: config.head_width,
            slides: config.sliding_window.as_ref().is_some_and(|window| window.layers.contains(&layer)),
        }
    }
}

impl<B: Kernels> Attention<B> {
    /// # Shapes
    /// - input, output: `[batch × time, hidden]`
    fn forward(
        &self,
        input: Tensor<B, 2>,
        shared: &AttentionInput<'_, B>,
        cache: Option<&mut LayerCache<B>>,
    ) -> Tensor<B, 2> {
        let (batch, time) = (shared.visibility.batch(), shared.visibility.queries());
        let split = |projected: Tensor<B, 2>| {
            let heads = projected.dims()[1] / self.head_width;
            projected.reshape([batch, time, heads, self.head_width])
        };
        let rotate = |heads| B::rotary(heads, shared.cosine.clone(), shared.sine.clone());
        let query = rotate(norm_heads(split(self.q_proj.forward(input.clone())), self.q_norm.as_ref()));
        let mut key = rotate(norm_heads(split(self.k_proj.forward(input.clone())), self.k_norm.as_ref()));
        let mut value = split(self.v_proj.forward(input));
        if let Some(cache) = cache {
            (key, value) = cache.extend(key, value);
        }
        let sliding = shared.sliding.as_ref().filter(|_| self.slides);
        let mixed = B::causal_attention(query, key, value, sliding.unwrap_or(shared.visibility));
        let [_, _, heads, width] = mixed.dims();
        self.o_proj.forward(mixed.reshape([batch * time, heads * width]))
    }
}

/// Each head through the norm, if there is one.
///
/// # Shapes
/// - heads, output: `[batch, time, heads, head width]`
fn norm_heads<B: Kernels>(heads: Tensor<B, 4>, norm: Option<&RmsNorm<B>>) -> Tensor<B, 4> {
    let Some(norm) = norm else { return heads };
    let shape = heads.dims();
    let [batch, time, count, width] = shape;
    norm.forward(heads.reshape([batch * time * count, width])).reshape(shape)
}

/// Gated feed-forward block.
#[derive(Module, Debug)]
pub struct Mlp<B: Backend> {
    gate_proj: Linear<B>,
    up_proj: Linear<B>,
    down_proj: Linear<B>,
}

impl<B: Backend> Mlp<B> {
    fn empty(config: &DecoderConfig, device: &B::Device) -> Self {
        let bias = config.biases.feed_forward;
        Self {
            gate_proj: Linear::empty(config.hidden, config.intermediate, bias, device),
            up_proj: Linear::empty(config.hidden, config.intermediate, bias, device),
            down_proj: Linear::empty(config.intermediate, config.hidden, bias, device),
        }
    }
}

impl<B: Kernels> Mlp<B> {
    /// # Shapes
    /// - input, output: `[rows, hidden]`
    fn forward(&self, input: Tensor<B, 2>) -> Tensor<B, 2> {
        let gate = self.gate_proj.forward(input.clone());
        let up = self.up_proj.forward(input);
        self.down_proj.forward(B::swiglu(gate, up))
    }
}

/// One decoder layer: two residual blocks, each behind its norm.
#[derive(Module, Debug)]
pub struct Layer<B: Backend> {
    input_layernorm: RmsNorm<B>,
    self_attn: Attention<B>,
    post_attention_layernorm: RmsNorm<B>,
    mlp: Mlp<B>,
}

impl<B: Backend> Layer<B> {
    pub(super) fn empty(config: &DecoderConfig, layer: usize, device: &B::Device) -> Self {
        Self {
            input_layernorm: RmsNorm::empty(config.hidden, config.norm_epsilon, device),
            self_attn: Attention::empty(config, layer, device),
            post_attention_layernorm: RmsNorm::empty(config.hidden, config.norm_epsilon, device),
            mlp: Mlp::empty(config, device),
        }
    }
}

impl<B: Kernels> Layer<B> {
    /// # Shapes
    /// - input, output: `[batch × time, hidden]`
    pub(crate) fn forward(
        &self,
        input: Tensor<B, 2>,
        shared: &AttentionInput<'_, B>,
        cache: Option<&mut LayerCache<B>>,
    ) -> Tensor<B, 2> {
        let normed = self.input_layernorm.forward(input.clone());
        let residual = input + self.self_attn.forward(normed, shared, cache);
        let normed = self.post_attention_layernorm.forward(residual.clone());
        residual + self.mlp.forward(normed)
    }
}
