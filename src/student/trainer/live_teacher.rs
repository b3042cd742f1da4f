//! A teacher that runs beside the student: white-box distillation without stored signals.

use burn::tensor::Tensor;

use super::batch::{MicroBatch, select_counted};
use crate::kernels::Kernels;
use crate::loss::LiveLogits;
use crate::model::DecoderConfig;
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
        LiveLogits { logits: B::projection(hidden, self.head.clone()), shared: self.shared }
    }
}
