//! A teacher that runs beside the student: white-box distillation without stored signals.

use burn::tensor::Tensor;

use super::batch::{MicroBatch, select_counted};
use super::parameters::replace;
use crate::kernels::Kernels;
use crate::loss::LiveLogits;
use crate::model::{DecoderConfig, logits};
use crate::precision::Precision;
use crate::weights::LoadedModel;

/// A frozen teacher on the student's device. It reads the student's micro-batches, without a tape, and gives its
/// whole distribution at the counted positions, a chunk at a time.
#[derive(Debug, Clone)]
pub struct LiveTeacher<B: Kernels> {
    model: LoadedModel<B>,
    shared: usize,
}

impl<B: Kernels> LiveTeacher<B> {
    /// A teacher whose first `shared` token ids mean what the student's do; ids behind them are padding of either
    /// vocabulary.
    pub fn new(model: LoadedModel<B>, shared: usize) -> Self {
        Self { shared: shared.min(model.config.vocabulary), model }
    }

    /// The same teacher reading in a precision. Its matrices are never trained, so they are held in it too; norms and biases,
    /// which take no room, stay as they are.
    #[must_use]
    pub fn in_precision(self, precision: Precision) -> Self {
        let Self { model: LoadedModel { decoder, config, rotary }, shared } = self;
        let held = |_: &str, shape: &[usize], weight: Tensor<B, 1>| match shape.len() {
            1 => weight,
            _ => weight.cast(precision.stored()),
        };
        let decoder = replace(decoder, held).in_precision(precision);
        Self { model: LoadedModel { decoder, config, rotary }, shared }
    }

    /// Its shape.
    pub(super) fn config(&self) -> &DecoderConfig {
        &self.model.config
    }

    /// What it thinks of a micro-batch, before its head, and its residual streams after some numbers of layers.
    pub(super) fn read(&self, micro: &MicroBatch<'_>, after: &[usize]) -> LiveHidden<B> {
        let (hidden, streams) = self.model.decoder.hidden_and_streams(&micro.input, &self.model.rotary, after);
        let streams = streams.into_iter().map(|stream| select_counted(stream, micro)).collect();
        let hidden = select_counted(hidden, micro);
        LiveHidden { streams, ..LiveHidden::new(hidden, self.model.decoder.head(), self.shared) }
    }
}

/// A live teacher's hidden states at counted positions: its logits as soon as someone asks for some of them.
#[derive(Debug, Clone)]
pub struct LiveHidden<B: Kernels> {
    /// `[positions, the teacher's hidden]`
    hidden: Tensor<B, 2>,
    /// `[the teacher's vocabulary, the teacher's hidden]`
    head: Tensor<B, 2>,
    shared: usize,
    /// Residual streams that losses compare: `[positions, the teacher's hidden]` each.
    pub(super) streams: Vec<Tensor<B, 2>>,
}

impl<B: Kernels> LiveHidden<B> {
    /// Hidden states and the head that makes logits of them, of which the first `shared` are the student's tokens.
    ///
    /// # Shapes
    /// - hidden: `[positions, the teacher's hidden]`
    /// - head: `[the teacher's vocabulary, the teacher's hidden]`
    pub fn new(hidden: Tensor<B, 2>, head: Tensor<B, 2>, shared: usize) -> Self {
        Self { hidden, head, shared, streams: Vec::new() }
    }

    /// Logits of some of the positions.
    pub fn logits(&self, positions: std::ops::Range<usize>) -> LiveLogits<B> {
        let hidden = self.hidden.clone().narrow(0, positions.start, positions.len());
        LiveLogits { logits: logits(hidden, self.head.clone()), shared: self.shared }
    }
}

#[cfg(test)]
mod tests {
    use burn::module::{Module, ModuleVisitor, Param};
    use burn::tensor::DType;

    use super::*;
    use crate::backend::Cpu;
    use crate::init::fresh;
    use crate::model::llama::LlamaShape;
    use crate::model::{FreshShape, RotaryTable};

    #[derive(Default)]
    struct Types(Vec<(usize, DType)>);

    impl ModuleVisitor<Cpu> for Types {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<Cpu, D>>) {
            self.0.push((D, param.val().dtype()));
        }
    }

    #[test]
    fn a_teacher_in_bf16_holds_its_matrices_in_bf16_and_its_norms_in_f32() {
        let shape = LlamaShape {
            layers: 2,
            hidden: 8,
            heads: 2,
            head_width: None,
            kv_heads: None,
            intermediate: Some(16),
            context: None,
            tied: false,
            rope_theta: 1e4,
            norm_epsilon: 1e-5,
        };
        let config = shape.config(10, 4);
        let decoder = fresh::<Cpu>(&config, 1, &Default::default()).unwrap();
        let rotary = RotaryTable::new(&config);
        let teacher = LiveTeacher::new(LoadedModel { decoder, config, rotary }, 10).in_precision(Precision::Bf16);
        let mut types = Types::default();
        teacher.model.decoder.visit(&mut types);
        // Embedding and head, seven matrices and two norms a layer, the last norm.
        assert_eq!(types.0.iter().filter(|held| **held == (2, DType::BF16)).count(), 2 + 2 * 7);
        assert_eq!(types.0.iter().filter(|held| **held == (1, DType::F32)).count(), 2 * 2 + 1);
        assert_eq!(types.0.len(), 21);
    }
}
