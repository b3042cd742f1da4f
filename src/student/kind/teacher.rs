//! The teacher that runs beside a student while it trains.

use burn::tensor::backend::AutodiffBackend;
use stillhouse_data::model_folder::ModelFolder;
use stillhouse_data::tokenizer::Tokenizer;
use stillhouse_stage::{Context, Failure};

use super::config::StudentConfig;
use crate::backend::Inner;
use crate::error::Result;
use crate::kernels::Kernels;
use crate::model::{DecoderConfig, read_config};
use crate::precision::Precision;
use crate::trainer::LiveTeacher;
use crate::weights::read_model;

/// A teacher's folder, checked against the student it shall run beside.
pub(super) struct TeacherBeside {
    /// Its files.
    pub folder: ModelFolder,
    /// Token ids that both know.
    shared: usize,
    /// Its longest sequence.
    context: usize,
    /// Its weights.
    parameters: usize,
}

impl TeacherBeside {
    /// The teacher that the student names; none if it names none.
    ///
    /// # Errors
    /// A teacher that is not local, reads other tokens, or takes shorter sequences than the student's rows.
    pub(super) fn open(
        context: &Context,
        config: &StudentConfig,
        tokenizer: &Tokenizer,
        student: &DecoderConfig,
        length: usize,
    ) -> Result<Option<Self>, Failure> {
        let Some(named) = &config.teacher else { return Ok(None) };
        let label = format!("teacher.{}", named.name);
        if context.definition_order("teacher.model").is_err() {
            return Err(Failure::input(format!("{label} is a server, which can't run beside a student"))
                .hint("name a teacher with `provider = \"local\"`"));
        }
        let folder = ModelFolder { label, ..ModelFolder::open(&context.file("teacher.model.path")?)? };
        if Tokenizer::load(&folder)?.digest() != tokenizer.digest() {
            return Err(Failure::input(format!(
                "{} reads other tokens than the student's data: their distributions can't be compared token by token",
                folder.label
            ))
            .hint(OTHER_TOKENIZER));
        }
        let (_, shape) = read_config(&folder.label, &folder.read_text("config.json")?)?;
        tokenizer.vocabulary_fits(&folder.label, shape.vocabulary)?;
        // One tokenizer, so ids that only one of them has are padding, which no text ever holds.
        let beside = Self {
            folder,
            shared: shape.vocabulary.min(student.vocabulary),
            context: shape.context,
            parameters: shape.parameters(),
        };
        beside.fits("rows", length, "a smaller `batch.length` (and dataset `max-length`)")?;
        Ok(Some(beside))
    }

    /// Bytes of its weights.
    pub(super) fn bytes(&self, precision: Precision) -> usize {
        self.parameters.saturating_mul(precision.bytes())
    }

    /// Whether it reads `rows` of so many positions.
    ///
    /// # Errors
    /// It does not; with the hint.
    pub(super) fn fits(&self, rows: &str, length: usize, hint: &str) -> Result<(), Failure> {
        if length <= self.context {
            return Ok(());
        }
        let Self { folder, context, .. } = self;
        let message =
            format!("{rows} of {length} positions do not fit {}, whose longest sequence is {context}", folder.label);
        Err(Failure::input(message).hint(hint))
    }

    /// Its weights on the student's device, in the precision that the student trains in.
    ///
    /// # Errors
    /// A damaged folder.
    pub(super) fn load<B: AutodiffBackend>(
        &self,
        precision: Precision,
        device: &B::Device,
    ) -> Result<LiveTeacher<Inner<B>>>
    where
        Inner<B>: Kernels,
    {
        Ok(LiveTeacher::new(read_model(&self.folder, device)?, self.shared).in_precision(precision))
    }
}

/// What to do about a teacher with another tokenizer.
pub(super) const OTHER_TOKENIZER: &str = "give the dataset and the student the teacher's tokenizer, take a teacher with \
                                          the student's, or learn from its answers alone with `cross-entropy`";

#[cfg(test)]
mod tests;
