//! A teacher that runs beside the student: white-box distillation without stored signals.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Int, Tensor, TensorData};
use stillhouse_data::retokenise::Retokeniser;

use super::batch::{MicroBatch, select_counted};
use super::other_tokens::OtherTokens;
use super::parameters::replace;
use super::rewriter::Rewriter;
use crate::error::Result;
use crate::kernels::Kernels;
use crate::loss::LiveLogits;
use crate::model::{DecoderConfig, logits};
use crate::precision::Precision;
use crate::weights::LoadedModel;

/// A frozen teacher on the student's device. It reads the student's micro-batches, without a tape, and gives its
/// whole distribution at the counted positions, a chunk at a time.
#[derive(Clone)]
pub struct LiveTeacher<B: Kernels> {
    model: LoadedModel<B>,
    /// Token ids that mean the same on both sides; of one with other tokens, those of its tokenizer.
    known: usize,
    /// With it, the student's text in the teacher's own tokens.
    rewriter: Option<Arc<Rewriter>>,
}

impl<B: Kernels> LiveTeacher<B> {
    /// A teacher whose first `shared` token ids mean what the student's do; ids behind them are padding of either
    /// vocabulary.
    pub fn new(model: LoadedModel<B>, shared: usize) -> Self {
        Self { known: shared.min(model.config.vocabulary), model, rewriter: None }
    }

    /// A teacher with a tokenizer of its own. It reads the student's text as the retokeniser writes it.
    pub fn with_other_tokens(model: LoadedModel<B>, retokeniser: Arc<Retokeniser>) -> Self {
        let known = retokeniser.to().vocabulary();
        Self { rewriter: Some(Arc::new(Rewriter::new(retokeniser))), ..Self::new(model, known) }
    }

    /// The same teacher reading in a precision. Its matrices are never trained, so they are held in it too; norms and biases,
    /// which take no room, stay as they are.
    #[must_use]
    pub fn in_precision(self, precision: Precision) -> Self {
        let Self { model: LoadedModel { decoder, config, rotary }, known, rewriter } = self;
        let held = |_: &str, shape: &[usize], weight: Tensor<B, 1>| match shape.len() {
            1 => weight,
            _ => weight.cast(precision.stored()),
        };
        let decoder = replace(decoder, held).in_precision(precision);
        Self { model: LoadedModel { decoder, config, rotary }, known, rewriter }
    }

    /// Its shape.
    pub(super) fn config(&self) -> &DecoderConfig {
        &self.model.config
    }

    /// What it thinks of a micro-batch, before its head, and its residual streams after some numbers of layers. None where no
    /// counted position has a partner in its tokens; one with other tokens has no streams that could be compared.
    ///
    /// # Errors
    /// Text that its tokenizer has no tokens for.
    pub(super) fn read(&self, micro: &MicroBatch<'_>, after: &[usize]) -> Result<Option<LiveHidden<B>>> {
        let (decoder, rotary) = (&self.model.decoder, &self.model.rotary);
        let Some(rewriter) = &self.rewriter else {
            let (hidden, streams) = decoder.hidden_and_streams(&micro.input, rotary, after);
            let streams = streams.into_iter().map(|stream| select_counted(stream, micro)).collect();
            let hidden = select_counted(hidden, micro);
            return Ok(Some(LiveHidden { streams, ..LiveHidden::new(hidden, decoder.head(), self.known) }));
        };
        let Some(OtherTokens { input, places, counted }) = OtherTokens::of(micro, rewriter)? else {
            return Ok(None);
        };
        let hidden = decoder.hidden(&input, rotary, None);
        let count = places.len();
        let places = Tensor::<B, 1, Int>::from_data(TensorData::new(places, [count]), &hidden.device());
        let hidden = LiveHidden::new(hidden.select(0, places), decoder.head(), self.known);
        Ok(Some(hidden.at(counted, rewriter.retokeniser().from().vocabulary())))
    }
}

/// A teacher's hidden states at counted positions, computed this moment or stored: its logits as soon as someone asks for some
/// of them.
#[derive(Debug, Clone)]
pub struct LiveHidden<B: Kernels> {
    /// `[positions, the teacher's hidden]`
    hidden: Tensor<B, 2>,
    /// `[the teacher's vocabulary, the teacher's hidden]`
    head: Tensor<B, 2>,
    /// Which of the student's ids are tokens, and which of the teacher's: the first so many of each.
    ours: usize,
    theirs: usize,
    /// Residual streams that losses compare: `[positions, the teacher's hidden]` each.
    pub(super) streams: Vec<Tensor<B, 2>>,
    /// Which of the counted positions these are, ascending; none means all.
    counted: Option<Vec<u32>>,
    /// Whether its tokens are the student's.
    same_tokens: bool,
}

impl<B: Kernels> LiveHidden<B> {
    /// Hidden states and the head that makes logits of them, of which the first `shared` are the student's tokens.
    ///
    /// # Shapes
    /// - hidden: `[positions, the teacher's hidden]`
    /// - head: `[the teacher's vocabulary, the teacher's hidden]`
    pub fn new(hidden: Tensor<B, 2>, head: Tensor<B, 2>, shared: usize) -> Self {
        Self { hidden, head, ours: shared, theirs: shared, streams: Vec::new(), counted: None, same_tokens: true }
    }

    /// The same with a row for each of these counted positions (ascending) and no other.
    #[must_use]
    pub fn only_at(self, counted: Vec<u32>) -> Self {
        Self { counted: Some(counted), ..self }
    }

    /// The same of a teacher with other tokens, a row for each of these counted positions (ascending) and no other. `ours`
    /// is how many tokens the student's tokenizer has.
    #[must_use]
    pub fn at(self, counted: Vec<u32>, ours: usize) -> Self {
        Self { ours, same_tokens: false, ..self.only_at(counted) }
    }

    /// Numbers in a row of its logits.
    pub(super) fn vocabulary(&self) -> usize {
        self.head.dims()[0]
    }

    /// Logits of some of the positions; none where it says nothing at any of them.
    pub fn logits(&self, positions: Range<usize>) -> Option<LiveLogits<B>> {
        let (rows, places) = match &self.counted {
            None => (positions, None),
            Some(counted) => {
                let before = |end: usize| counted.partition_point(|place| (*place as usize) < end);
                let rows = before(positions.start)..before(positions.end);
                let places = counted[rows.clone()].iter().map(|place| place - positions.start as u32).collect();
                (rows, Some(places))
            }
        };
        if rows.is_empty() {
            return None;
        }
        let hidden = self.hidden.clone().narrow(0, rows.start, rows.len());
        let logits = logits(hidden, self.head.clone());
        let Self { ours, theirs, same_tokens, .. } = *self;
        Some(LiveLogits { logits, ours, theirs, places, same_tokens })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, TensorMetadata};

    use super::*;
    use crate::backend::Cpu;
    use crate::init::fresh;
    use crate::model::llama::LlamaShape;
    use crate::model::{FreshShape, RotaryTable};
    use crate::weights::each_parameter;

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
        let mut types = Vec::new();
        each_parameter::<Cpu, _>(&teacher.model.decoder, |_, weight| {
            types.push((weight.shape().num_dims(), weight.dtype()));
        });
        // Embedding and head, seven matrices and two norms a layer, the last norm.
        assert_eq!(types.iter().filter(|held| **held == (2, DType::BF16)).count(), 2 + 2 * 7);
        assert_eq!(types.iter().filter(|held| **held == (1, DType::F32)).count(), 2 * 2 + 1);
        assert_eq!(types.len(), 21);
    }
}
