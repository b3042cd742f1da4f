//! One step's rows, and the parts of them that fit the device at once.

use std::ops::Range;

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};
use stillhouse_data::batch::Batch;

use crate::kernels::Visibility;
use crate::loss::{Teacher, TeacherPositions};
use crate::model::ModelInput;

/// One step's data.
#[derive(Debug, Clone)]
pub struct StepBatch {
    /// Tokens, targets, masks.
    pub batch: Batch,
    /// The teacher's distributions, one a counted position in row-major order; or none at all.
    pub teacher: Teacher,
}

/// Some rows of a step.
pub(super) struct MicroBatch<'a> {
    /// What the model reads.
    pub input: ModelInput,
    /// Places of the counted positions in `input`.
    pub counted: Vec<u32>,
    /// The token that follows each counted position.
    pub labels: Vec<u32>,
    /// What the teacher says there.
    pub teacher: TeacherPositions<'a>,
    /// The step it is a part of, and which rows of it.
    pub step: &'a Batch,
    pub rows: Range<usize>,
}

impl StepBatch {
    /// The step in parts of at most `rows` rows.
    pub(super) fn micro_batches(&self, rows: usize) -> impl Iterator<Item = MicroBatch<'_>> {
        let mut counted_before = 0;
        (0..self.batch.rows).step_by(rows.max(1)).map(move |first| {
            let part = self.part(first..(first + rows.max(1)).min(self.batch.rows), counted_before);
            counted_before += part.counted.len();
            part
        })
    }

    fn part(&self, rows: Range<usize>, counted_before: usize) -> MicroBatch<'_> {
        let Batch { length, inputs, targets, scored, segments, positions, .. } = &self.batch;
        let places = rows.start * length..rows.end * length;
        let counted: Vec<u32> =
            (0u32..).zip(&scored[places.clone()]).filter(|(_, scored)| **scored).map(|(i, _)| i).collect();
        let labels = counted.iter().map(|place| targets[places.start + *place as usize]).collect();
        let teacher = self.teacher.part(counted_before..counted_before + counted.len());
        let input = ModelInput {
            tokens: inputs[places.clone()].to_vec(),
            positions: positions[places.clone()].to_vec(),
            visibility: Visibility::from_segments(&segments[places], rows.len(), *length),
        };
        MicroBatch { input, counted, labels, teacher, step: &self.batch, rows }
    }
}

/// The rows of a micro-batch's counted positions.
///
/// # Shapes
/// - matrix: `[batch × time, width]`
/// - output: `[counted, width]`
pub(super) fn select_counted<B: Backend>(matrix: Tensor<B, 2>, micro: &MicroBatch<'_>) -> Tensor<B, 2> {
    if micro.counted.len() == micro.input.tokens.len() {
        return matrix;
    }
    let places: Vec<i32> = micro.counted.iter().map(|place| *place as i32).collect();
    let count = places.len();
    let places = Tensor::<B, 1, Int>::from_data(TensorData::new(places, [count]), &matrix.device());
    matrix.select(0, places)
}
