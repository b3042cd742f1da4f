//! A teacher of which the head alone is at hand: its hidden states were stored, and distributions are made of them as they are
//! of a teacher's that runs beside the student, chunk by chunk.

use burn::tensor::{Tensor, TensorData};

use super::batch::MicroBatch;
use super::live_teacher::{LiveHidden, LiveTeacher};
use crate::error::Result;
use crate::kernels::Kernels;
use crate::model::DecoderConfig;
use crate::precision::Precision;

/// A teacher's head on the student's device.
#[derive(Clone)]
pub struct TeacherHead<B: Kernels> {
    /// `[the teacher's vocabulary, the teacher's hidden]`
    weight: Tensor<B, 2>,
    /// Token ids that mean the same on both sides: the first so many.
    shared: usize,
}

impl<B: Kernels> TeacherHead<B> {
    /// A head whose first `shared` rows are the student's tokens; rows behind them are padding of either vocabulary.
    ///
    /// # Shapes
    /// - weight: `[the teacher's vocabulary, the teacher's hidden]`
    pub fn new(weight: Tensor<B, 2>, shared: usize) -> Self {
        let shared = shared.min(weight.dims()[0]);
        Self { weight, shared }
    }

    /// The same head reading in a precision, and held in it.
    #[must_use]
    pub fn in_precision(self, precision: Precision) -> Self {
        Self { weight: self.weight.cast(precision.stored()), ..self }
    }

    /// The states that were stored of a micro-batch's positions, before the head. None where there are none.
    fn read(&self, micro: &MicroBatch<'_>) -> Option<LiveHidden<B>> {
        let states = micro.teacher.states();
        if states.is_empty() {
            return None;
        }
        let numbers = TensorData::new(states.numbers.to_vec(), [states.len(), states.width]);
        let hidden = Tensor::<B, 2>::from_data(numbers, &self.weight.device()).cast(self.weight.dtype());
        let hidden = LiveHidden::new(hidden, self.weight.clone(), self.shared);
        Some(if states.len() == micro.counted.len() { hidden } else { hidden.only_at(states.places()) })
    }
}

/// What of a teacher is on the student's device.
#[derive(Clone)]
pub enum TeacherOnDevice<B: Kernels> {
    /// All of it: it reads what the student reads.
    Model(Box<LiveTeacher<B>>),
    /// Its head, for hidden states that were stored.
    Head(TeacherHead<B>),
}

impl<B: Kernels> TeacherOnDevice<B> {
    /// The shape of a whole model.
    pub(super) fn config(&self) -> Option<&DecoderConfig> {
        match self {
            Self::Model(teacher) => Some(teacher.config()),
            Self::Head(_) => None,
        }
    }

    /// `[vocabulary, width]` of a head that is alone.
    pub(super) fn head(&self) -> Option<[usize; 2]> {
        match self {
            Self::Model(_) => None,
            Self::Head(head) => Some(head.weight.dims()),
        }
    }

    /// Its hidden states at a micro-batch's counted positions, and of a whole model the streams after some numbers of layers; see
    /// [`LiveTeacher::read`].
    pub(super) fn read(&self, micro: &MicroBatch<'_>, after: &[usize]) -> Result<Option<LiveHidden<B>>> {
        match self {
            Self::Model(teacher) => teacher.read(micro, after),
            Self::Head(head) => Ok(head.read(micro)),
        }
    }
}

impl<B: Kernels> From<LiveTeacher<B>> for TeacherOnDevice<B> {
    fn from(teacher: LiveTeacher<B>) -> Self {
        Self::Model(Box::new(teacher))
    }
}

impl<B: Kernels> From<TeacherHead<B>> for TeacherOnDevice<B> {
    fn from(head: TeacherHead<B>) -> Self {
        Self::Head(head)
    }
}
