//! The processor's kernels on the tape: each with a backward pass of its own, which computes again what need not be held.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, Flex};
use burn::tensor::ops::{FloatTensor, FloatTensorOps};
use burn::tensor::{Tensor, TensorPrimitive};
use burn_flex::FlexTensor;

use super::flex::{self, AttentionShape};
use super::{Kernels, Visibility};

type Tape = Autodiff<Flex>;

fn recorded<const D: usize>(tensor: Tensor<Tape, D>) -> FloatTensor<Tape> {
    tensor.into_primitive().tensor()
}

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

/// Hands gradients to the parents that want one.
fn hand_over<S, const N: usize>(ops: Ops<S, N>, gradients: [FlexTensor; N], grads: &mut Gradients) {
    for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
        if let Some(parent) = parent {
            grads.register::<Flex>(parent.id, gradient);
        }
    }
}

#[derive(Debug)]
struct Projection;

impl Backward<Flex, 2> for Projection {
    type State = [FlexTensor; 2];

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<Flex>(&ops.node);
        let [input, weight] = ops.state.clone();
        // Both products come out row by row, as the parameters lie: nothing is transposed afterwards.
        let to_input = Flex::float_matmul(gradient.clone(), weight);
        let to_weight = Flex::float_matmul(Flex::float_transpose(gradient), input);
        hand_over(ops, [to_input, to_weight], grads);
    }
}

#[derive(Debug)]
struct RmsNorm;

impl Backward<Flex, 2> for RmsNorm {
    type State = (FlexTensor, FlexTensor, f32);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<Flex>(&ops.node);
        let (input, weight, epsilon) = &ops.state;
        let (to_input, to_weight) = flex::rms_norm_backward(input, weight, *epsilon, &gradient);
        hand_over(ops, [to_input, to_weight], grads);
    }
}

#[derive(Debug)]
struct Rotary;

impl Backward<Flex, 1> for Rotary {
    type State = [FlexTensor; 2];

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<Flex>(&ops.node);
        let [cosine, sine] = &ops.state;
        let to_input = flex::rotary(&gradient, cosine, sine, true);
        hand_over(ops, [to_input], grads);
    }
}

#[derive(Debug)]
struct SwiGlu;

impl Backward<Flex, 2> for SwiGlu {
    type State = [FlexTensor; 2];

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<Flex>(&ops.node);
        let [gate, up] = &ops.state;
        let (to_gate, to_up) = flex::swiglu_backward(gate, up, &gradient);
        hand_over(ops, [to_gate, to_up], grads);
    }
}

#[derive(Debug)]
struct LogSoftmax;

impl Backward<Flex, 1> for LogSoftmax {
    type State = FlexTensor;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<Flex>(&ops.node);
        let to_input = flex::log_softmax_backward(&ops.state, &gradient);
        hand_over(ops, [to_input], grads);
    }
}

#[derive(Debug)]
struct Attention;

#[derive(Debug, Clone)]
struct AttentionState {
    shape: AttentionShape,
    inputs: [FlexTensor; 3],
    visibility: Visibility,
    output: FlexTensor,
    masses: Arc<Vec<f32>>,
}

impl Backward<Flex, 3> for Attention {
    type State = AttentionState;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<Flex>(&ops.node);
        let AttentionState { shape, inputs, visibility, output, masses } = &ops.state;
        let gradients =
            flex::attention_backward(shape, inputs.each_ref(), visibility, output, masses, &gradient);
        hand_over(ops, gradients, grads);
    }
}

impl Kernels for Tape {
    fn projection(input: Tensor<Self, 2>, weight: Tensor<Self, 2>) -> Tensor<Self, 2> {
        let (input, weight) = (recorded(input), recorded(weight));
        let state = [input.primitive.clone(), weight.primitive.clone()];
        let output = Flex::float_matmul(state[0].clone(), Flex::float_transpose(state[1].clone()));
        record!(Projection, [input, weight], state, output)
    }

    fn rms_norm(input: Tensor<Self, 2>, weight: Tensor<Self, 1>, epsilon: f64) -> Tensor<Self, 2> {
        let (input, weight) = (recorded(input), recorded(weight));
        let epsilon = epsilon as f32;
        let output = flex::rms_norm(&input.primitive, &weight.primitive, epsilon);
        let state = (input.primitive.clone(), weight.primitive.clone(), epsilon);
        record!(RmsNorm, [input, weight], state, output)
    }

    fn rotary(input: Tensor<Self, 4>, cosine: Tensor<Self, 4>, sine: Tensor<Self, 4>) -> Tensor<Self, 4> {
        let input = recorded(input);
        let [cosine, sine] = [cosine, sine].map(|table| flex::storage(table.inner()));
        let output = flex::rotary(&input.primitive, &cosine, &sine, false);
        record!(Rotary, [input], [cosine, sine], output)
    }

    fn swiglu(gate: Tensor<Self, 2>, up: Tensor<Self, 2>) -> Tensor<Self, 2> {
        let (gate, up) = (recorded(gate), recorded(up));
        let output = flex::swiglu(&gate.primitive, &up.primitive);
        let state = [gate.primitive.clone(), up.primitive.clone()];
        record!(SwiGlu, [gate, up], state, output)
    }

    fn causal_attention(
        query: Tensor<Self, 4>,
        key: Tensor<Self, 4>,
        value: Tensor<Self, 4>,
        visibility: &Visibility,
    ) -> Tensor<Self, 4> {
        let shape = AttentionShape::new(query.dims(), key.dims());
        let (query, key, value) = (recorded(query), recorded(key), recorded(value));
        let inputs = [query.primitive.clone(), key.primitive.clone(), value.primitive.clone()];
        let (output, masses) = flex::attention_forward(&shape, &inputs[0], &inputs[1], &inputs[2], visibility);
        let state = AttentionState {
            shape,
            inputs,
            visibility: visibility.clone(),
            output: output.clone(),
            masses: Arc::new(masses),
        };
        record!(Attention, [query, key, value], state, output)
    }

    fn log_probabilities(input: Tensor<Self, 2>) -> Tensor<Self, 2> {
        let input = recorded(input);
        let output = flex::log_softmax(&input.primitive);
        record!(LogSoftmax, [input], output.clone(), output)
    }
}
