//! The head of a teacher whose hidden states are in the data.

use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Tensor, TensorData};
use stillhouse_data::dataset::DatasetArtifact;
use stillhouse_data::signals::HeadReader;
use stillhouse_stage::Failure;

use crate::backend::Inner;
use crate::error::Result;
use crate::kernels::Kernels;
use crate::model::DecoderConfig;
use crate::precision::Precision;
use crate::trainer::TeacherHead;

/// A head in the data, held against the student that is to learn from what it makes of hidden states.
pub(super) struct HeadInData {
    file: HeadReader,
    /// Token ids that both know. Their tokenizer is the same, so ids that only one of them has are padding.
    shared: usize,
}

impl HeadInData {
    /// The head that the data has; none where its signals are no hidden states.
    ///
    /// # Errors
    /// A damaged file, one of another vocabulary than the signals', or the heads of several teachers.
    pub(super) fn open(data: &DatasetArtifact, student: &DecoderConfig) -> Result<Option<Self>, Failure> {
        let (mut heads, signals) = (data.heads()?, data.signals()?);
        if heads.len() > 1 {
            let message =
                format!("the data has hidden states of {} teachers, and a student takes those of one", heads.len());
            return Err(Failure::input(message).hint(
                "make a dataset of each teacher's answers, or capture distributions: \
                 `capture = { top-k = 128, encoding = \"compact\" }`",
            ));
        }
        let (Some(file), Some(signals)) = (heads.pop(), signals) else { return Ok(None) };
        let (rows, tokens) = (file.vocabulary(), signals.header().vocabulary as usize);
        if rows != tokens {
            let message = format!("the teacher's head is over {rows} tokens, its signals over {tokens}");
            return Err(Failure::input(message).hint("the data is damaged: `stillhouse cache verify`"));
        }
        Ok(Some(Self { shared: rows.min(student.vocabulary), file }))
    }

    /// Numbers of a hidden state.
    pub(super) fn width(&self) -> usize {
        self.file.width()
    }

    /// `[the teacher's vocabulary, numbers of a hidden state]`
    pub(super) fn shape(&self) -> [usize; 2] {
        [self.file.vocabulary(), self.file.width()]
    }

    /// Its weights on the student's device, in the precision that the student trains in.
    ///
    /// # Errors
    /// A damaged file.
    pub(super) fn load<B: AutodiffBackend>(
        &self,
        precision: Precision,
        device: &B::Device,
    ) -> Result<TeacherHead<Inner<B>>>
    where
        Inner<B>: Kernels,
    {
        let weights = TensorData::new(self.file.read()?.weights, self.shape());
        Ok(TeacherHead::new(Tensor::from_data(weights, device), self.shared).in_precision(precision))
    }
}
