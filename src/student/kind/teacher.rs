//! The teacher that runs beside a student while it trains.

use std::sync::Arc;

use burn::tensor::backend::AutodiffBackend;
use stillhouse_data::example::ExampleReader;
use stillhouse_data::model_folder::ModelFolder;
use stillhouse_data::retokenise::Retokeniser;
use stillhouse_data::tokenizer::Tokenizer;
use stillhouse_stage::{Context, Failure};

use super::config::StudentConfig;
use super::identity::TeacherIdentity;
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
    /// Token ids that both know, where both have one tokenizer.
    shared: usize,
    /// What writes the student's text in its tokens, where these are others.
    retokeniser: Option<Arc<Retokeniser>>,
    /// Its shape.
    pub shape: DecoderConfig,
}

impl TeacherBeside {
    /// The teacher that the student names; none if it names none.
    ///
    /// # Errors
    /// A teacher that is not local, takes shorter sequences than the student's rows, or reads other tokens although a loss
    /// compares token by token.
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
        let own = Tokenizer::load(&folder)?;
        let same = own.digest() == tokenizer.digest();
        if !same && !config.compares_across_tokenizers() {
            return Err(Failure::input(format!(
                "{} reads other tokens than the student's data: their distributions can't be compared token by token",
                folder.label
            ))
            .hint(OTHER_TOKENIZER));
        }
        let (_, shape) = read_config(&folder.label, &folder.read_text("config.json")?)?;
        if !same {
            own.vocabulary_fits(&folder.label, shape.vocabulary)?;
            // The last token of a sequence is predicted and never read.
            let retokeniser = Some(Arc::new(Retokeniser::new(tokenizer.clone(), own, shape.context + 1)?));
            return Ok(Some(Self { folder, shared: 0, retokeniser, shape }));
        }
        tokenizer.vocabulary_fits(&folder.label, shape.vocabulary)?;
        // One tokenizer, so ids that only one of them has are padding, which no text ever holds.
        let shared = shape.vocabulary.min(student.vocabulary);
        let beside = Self { folder, shared, retokeniser: None, shape };
        beside.fits("rows", length, "a smaller `batch.length` (and dataset `max-length`)")?;
        Ok(Some(beside))
    }

    /// What it is known by in a trajectory: its weights, and how it reads the student's text where its tokens are others.
    pub(super) fn identity(&self, weights: String) -> TeacherIdentity {
        match &self.retokeniser {
            None => TeacherIdentity::Weights(weights),
            Some(retokeniser) => TeacherIdentity::OtherTokens { weights, tokens: retokeniser.digest() },
        }
    }

    /// The share of the scored tokens that begin where one of its own does, over all examples or a thousand spread over
    /// them; none where both have one tokenizer, or there is no example. A low share is said to the user, and texts for which
    /// it has no room. `part` is what messages say of whose tokens these are.
    ///
    /// # Errors
    /// Text that its tokenizer has no tokens for; not one token to compare at.
    pub(super) fn aligned(
        &self,
        context: &Context,
        examples: &ExampleReader,
        part: &str,
    ) -> Result<Option<f64>, Failure> {
        // That there is no example is told by those who need one.
        let Some(retokeniser) = self.retokeniser.as_ref().filter(|_| !examples.is_empty()) else { return Ok(None) };
        let (mut scored, mut met, mut behind) = (0usize, 0usize, 0usize);
        for place in (0..examples.len()).step_by(examples.len().div_ceil(LOOKED_AT).max(1)) {
            let example = examples.get(place)?;
            let rewritten = retokeniser.rewrite(&example.tokens, &example.scored)?;
            scored += example.scored_tokens();
            behind += rewritten.behind;
            met += rewritten
                .partners
                .iter()
                .zip(&example.scored)
                .filter(|(partner, is)| **is && partner.is_some())
                .count();
        }
        let met = Met { scored, met, behind, room: self.shape.context };
        let (share, warnings) = met.judged(&self.folder.label, part)?;
        warnings.into_iter().for_each(|warning| context.warn(warning));
        Ok(Some(share))
    }

    /// Whether it reads `rows` of so many positions. One with other tokens reads as much of the text as it has room for.
    ///
    /// # Errors
    /// It does not; with the hint.
    pub(super) fn fits(&self, rows: &str, length: usize, hint: &str) -> Result<(), Failure> {
        if length <= self.shape.context || self.retokeniser.is_some() {
            return Ok(());
        }
        let (label, context) = (&self.folder.label, self.shape.context);
        let message = format!("{rows} of {length} positions do not fit {label}, whose longest sequence is {context}");
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
        let model = read_model(&self.folder, device)?;
        let teacher = match &self.retokeniser {
            None => LiveTeacher::new(model, self.shared),
            Some(retokeniser) => LiveTeacher::with_other_tokens(model, retokeniser.clone()),
        };
        Ok(teacher.in_precision(precision))
    }
}

/// How well a teacher with other tokens meets the student's.
#[derive(Debug, Clone, Copy)]
struct Met {
    /// Scored tokens of the student.
    scored: usize,
    /// Those that begin where one of the teacher's does.
    met: usize,
    /// Those for which it has no room.
    behind: usize,
    /// Its longest sequence.
    room: usize,
}

impl Met {
    /// The share of the scored tokens that it meets, and what there is to say of it.
    fn judged(self, label: &str, part: &str) -> Result<(f64, Vec<String>), Failure> {
        let Self { scored, met, behind, room } = self;
        if met == 0 && behind > 0 {
            return Err(Failure::input(format!(
                "{label} has room for none of the scored tokens{part}: its longest sequence has {room} of its own"
            ))
            .hint(LONGER_TEACHER));
        }
        if met == 0 {
            return Err(Failure::input(format!("not one scored token{part} begins where one of {label}'s does"))
                .hint("do both tokenizers write the same text?"));
        }
        let share = met as f64 / scored as f64;
        let mut warnings = Vec::new();
        if behind > 0 {
            let percent = behind as f64 / scored as f64 * 100.0;
            warnings.push(format!(
                "{percent:.1} % of the scored tokens{part} lie behind the longest sequence of {label}, {room} of its own tokens, \
                 and learn nothing from it; what helps is {LONGER_TEACHER}"
            ));
        }
        // Of those that it has room for.
        if (met as f64) < LOW_SHARE * (scored - behind) as f64 {
            warnings.push(format!(
                "only {:.1} % of the scored tokens{part} begin where one of {label}'s does: the other positions learn nothing from it",
                share * 100.0
            ));
        }
        Ok((share, warnings))
    }
}

/// What to do about texts for which a teacher has no room.
const LONGER_TEACHER: &str = "a smaller `max-length` of the dataset, or a teacher with a longer context";
/// Examples that are looked at for how well both tokenizers meet.
const LOOKED_AT: usize = 1_000;
/// A share of positions to compare at that is worth a warning.
const LOW_SHARE: f64 = 0.5;

/// What to do about a teacher with another tokenizer.
pub(super) const OTHER_TOKENIZER: &str = "give the dataset and the student the teacher's tokenizer, take a teacher with \
                                          the student's, compare with `uld` alone, which needs no common tokens, or learn \
                                          from its answers alone with `cross-entropy`";

#[cfg(test)]
mod tests;
