//! The kernels on the tape: each with a backward pass of its own, which computes again what need not be held.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Tensor, TensorPrimitive};

use super::fused::{in_type_of, storage};
use super::{AdamWStep, AttentionShape, FusedKernels, Kernels, Moments, Visibility};

/// Registers an operation whose backward pass gives one gradient a parent.
macro_rules! record {
    ($operation:expr, [$($parent:expr),+], $state:expr, $output:expr) => {{
        let prepared = $operation.prepare::<NoCheckpointing>([$($parent.node.clone()),+]).compute_bound().stateful();
        let output = match prepared {
            OpsKind::Tracked(prepared) => prepared.finish($state, $output),
            OpsKind::UnTracked(prepared) => prepared.finish($output),
        };
        Tensor::from_primitive(TensorPrimitive::Float(output))
    }};
}

/// Hands gradients to the parents that want one. For operations whose gradients share most of their work; where each is
/// a product of its own, only those that are wanted are computed.
fn hand_over<B: FusedKernels, S, const N: usize>(
    ops: Ops<S, N>,
    gradients: [FloatTensor<B>; N],
    grads: &mut Gradients,
) {
    for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
        if let Some(parent) = parent {
            grads.register::<B>(parent.id, gradient);
        }
    }
}

#[derive(Debug)]
struct Projection;

impl<B: FusedKernels> Backward<B, 2> for Projection {
    /// Input and weight, each only where the other asks for a gradient: a frozen weight's input is not held.
    type State = [Option<FloatTensor<B>>; 2];

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let [input, weight] = ops.state;
        let [input_node, weight_node] = ops.parents;
        // Both products come out row by row, as the parameters lie: nothing is transposed afterwards.
        if let (Some(node), Some(weight)) = (input_node, weight) {
            let weight = in_type_of::<B>(weight, &gradient);
            grads.register::<B>(node.id, B::float_matmul(gradient.clone(), weight));
        }
        if let (Some(node), Some(input)) = (weight_node, input) {
            grads.register::<B>(node.id, B::product_in_f32(B::float_transpose(gradient), input));
        }
    }
}

#[derive(Debug)]
struct RmsNorm;

impl<B: FusedKernels> Backward<B, 2> for RmsNorm {
    type State = (FloatTensor<B>, FloatTensor<B>, f32);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let (input, weight, epsilon) = &ops.state;
        let gradients = B::rms_norm_backward(input, weight, *epsilon, &gradient);
        hand_over::<B, _, 2>(ops, gradients, grads);
    }
}

#[derive(Debug)]
struct Rotary;

impl<B: FusedKernels> Backward<B, 1> for Rotary {
    type State = [FloatTensor<B>; 2];

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let [cosine, sine] = &ops.state;
        let to_input = <B as FusedKernels>::rotary(&gradient, cosine, sine, true);
        hand_over::<B, _, 1>(ops, [to_input], grads);
    }
}

#[derive(Debug)]
struct SwiGlu;

impl<B: FusedKernels> Backward<B, 2> for SwiGlu {
    type State = [FloatTensor<B>; 2];

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let [gate, up] = &ops.state;
        let gradients = B::swiglu_backward(gate, up, &gradient);
        hand_over::<B, _, 2>(ops, gradients, grads);
    }
}

#[derive(Debug)]
struct LogSoftmax;

impl<B: FusedKernels> Backward<B, 1> for LogSoftmax {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let to_input = B::log_softmax_backward(&ops.state, &gradient);
        hand_over::<B, _, 1>(ops, [to_input], grads);
    }
}

#[derive(Debug)]
struct Attention;

#[derive(Debug, Clone)]
struct AttentionState<B: FusedKernels> {
    shape: AttentionShape,
    inputs: [FloatTensor<B>; 3],
    visibility: Visibility,
    output: FloatTensor<B>,
    masses: B::Masses,
}

impl<B: FusedKernels> Backward<B, 3> for Attention {
    type State = AttentionState<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let AttentionState { shape, inputs, visibility, output, masses } = &ops.state;
        let gradients = B::attention_backward(shape, inputs.each_ref(), visibility, output, masses, &gradient);
        hand_over::<B, _, 3>(ops, gradients, grads);
    }
}

impl<B: FusedKernels> Kernels for Autodiff<B> {
    fn projection(input: Tensor<Self, 2>, weight: Tensor<Self, 2>) -> Tensor<Self, 2> {
        let (input, weight) = (storage(input), storage(weight));
        // The weight is held as it is and made short again when it is needed: a copy would outlive the forward pass.
        let short = in_type_of::<B>(weight.primitive.clone(), &input.primitive);
        let output = B::float_matmul(input.primitive.clone(), B::float_transpose(short));
        let state = [
            (!weight.node.requirement.is_none()).then(|| input.primitive.clone()),
            (!input.node.requirement.is_none()).then(|| weight.primitive.clone()),
        ];
        record!(Projection, [input, weight], state, output)
    }

    fn rms_norm(input: Tensor<Self, 2>, weight: Tensor<Self, 1>, epsilon: f64) -> Tensor<Self, 2> {
        let (input, weight) = (storage(input), storage(weight));
        let epsilon = epsilon as f32;
        let output = <B as FusedKernels>::rms_norm(&input.primitive, &weight.primitive, epsilon);
        let state = (input.primitive.clone(), weight.primitive.clone(), epsilon);
        record!(RmsNorm, [input, weight], state, output)
    }

    fn rotary(input: Tensor<Self, 4>, cosine: Tensor<Self, 4>, sine: Tensor<Self, 4>) -> Tensor<Self, 4> {
        let input = storage(input);
        let [cosine, sine] = [cosine, sine].map(|table| storage(table.inner()));
        let output = <B as FusedKernels>::rotary(&input.primitive, &cosine, &sine, false);
        record!(Rotary, [input], [cosine, sine], output)
    }

    fn swiglu(gate: Tensor<Self, 2>, up: Tensor<Self, 2>) -> Tensor<Self, 2> {
        let (gate, up) = (storage(gate), storage(up));
        let output = <B as FusedKernels>::swiglu(&gate.primitive, &up.primitive);
        let state = [gate.primitive.clone(), up.primitive.clone()];
        record!(SwiGlu, [gate, up], state, output)
    }

    fn causal_attention(
        query: Tensor<Self, 4>,
        key: Tensor<Self, 4>,
        value: Tensor<Self, 4>,
        visibility: &Visibility,
    ) -> Tensor<Self, 4> {
        let shape = AttentionShape::new(query.dims(), key.dims(), visibility);
        debug_assert_eq!(shape.keys, shape.room, "gradients are of keys, not of room");
        let (query, key, value) = (storage(query), storage(key), storage(value));
        let inputs = [query.primitive.clone(), key.primitive.clone(), value.primitive.clone()];
        let (output, masses) = B::attention_forward(&shape, inputs.each_ref(), visibility);
        let state = AttentionState { shape, inputs, visibility: visibility.clone(), output: output.clone(), masses };
        record!(Attention, [query, key, value], state, output)
    }

    fn write_keys(cache: Tensor<Self, 4>, held: usize, new: Tensor<Self, 4>) -> Tensor<Self, 4> {
        let [batch, time, heads, width] = new.dims();
        cache.slice_assign([0..batch, held..held + time, 0..heads, 0..width], new)
    }

    fn log_probabilities(input: Tensor<Self, 2>) -> Tensor<Self, 2> {
        let input = storage(input);
        let output = B::log_softmax_forward(&input.primitive);
        record!(LogSoftmax, [input], output.clone(), output)
    }

    fn sum_of_squares(input: Tensor<Self, 1>) -> Tensor<Self, 1> {
        input.square().sum()
    }

    fn adamw(state: Moments<Self>, gradient: Tensor<Self, 1>, step: &AdamWStep) -> Moments<Self> {
        // An update is nothing to differentiate: it happens below the tape.
        let Moments { weight, first, second } = state;
        let state = Moments { weight: weight.inner(), first: first.inner(), second: second.inner() };
        let Moments { weight, first, second } = <B as Kernels>::adamw(state, gradient.inner(), step);
        let [weight, first, second] = [weight, first, second].map(Tensor::from_inner);
        Moments { weight, first, second }
    }
}
