//! What a teacher says at every answer's tokens, by teacher forcing, written as signals that are found by content.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use stillhouse_data::lm::LanguageModel;
use stillhouse_data::signals::{
    Exact, Form, HiddenPrecision, Quality, SIGNALS_FILE, Selection, SequenceKey, SignalHeader, SignalWriter, TopK,
    Trial, head_file,
};
use stillhouse_data::tokenizer::Tokenizer;
use stillhouse_stage::Failure;

use super::run::Reached;
use crate::answers::CaptureConfig;

/// What the distributions of one call may take in memory.
const KEPT_BYTES: usize = 64 << 20;
/// Positions at which what is kept is compared with the whole distribution: those of a stage's first answers.
const MEASURED_POSITIONS: usize = 1024;

/// The signals of a stage.
pub struct Signals {
    writer: SignalWriter,
    teacher: String,
    what: What,
    positions: u64,
    vocabulary: usize,
    trial: Trial,
    quality: Quality,
    head: HeadFile,
}

/// Where the head goes that belongs to hidden states: a file of its own, since it is the same for all answers of a teacher.
enum HeadFile {
    Missing(PathBuf),
    /// Its bytes.
    Written(u64),
}

/// What is kept of a position.
#[derive(Debug, Clone, Copy)]
enum What {
    Distribution(Selection, Form),
    Hidden(HiddenPrecision),
}

/// Answers that are scored together: their sequences, the keys of their signals, and which of them are measured.
struct Group<'a> {
    answers: Vec<&'a Reached>,
    sequences: Vec<Vec<u32>>,
    keys: Vec<SequenceKey>,
    measured: Vec<bool>,
}

impl Group<'_> {
    /// Index in the sequence of the first token that is predicted: the completion's first.
    fn first(&self, row: usize) -> u32 {
        u32::try_from(self.answers[row].tokens.prompt.len()).unwrap_or(u32::MAX)
    }

    /// Whether the model's position `position` speaks of the completion: the prompt's last one does, of its first token.
    fn counts(&self, row: usize, position: usize) -> bool {
        position + 1 >= self.answers[row].tokens.prompt.len()
    }

    fn check(&self, row: usize, found: usize) -> Result<(), Failure> {
        let wanted = self.answers[row].tokens.completion.len();
        if found == wanted {
            return Ok(());
        }
        Err(Failure::internal(format!("{found} distributions for {wanted} tokens")))
    }
}

impl Signals {
    /// Creates the file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(
        folder: &Path,
        capture: &CaptureConfig,
        seed: u64,
        teacher: &str,
        tokenizer: &Tokenizer,
        vocabulary: usize,
    ) -> Result<Self, Failure> {
        let path = folder.join(SIGNALS_FILE);
        let width = u32::try_from(vocabulary).unwrap_or(u32::MAX);
        let header = SignalHeader {
            teachers: vec![teacher.to_owned()],
            tokenizer: tokenizer.digest().to_owned(),
            vocabulary: width,
        };
        let form = capture.form();
        let what = match (capture.selection(seed), capture.hidden) {
            (None, Some(precision)) => What::Hidden(precision),
            (selection, _) => What::Distribution(selection.unwrap_or(Selection::Whole), form),
        };
        let writer = SignalWriter::with_form(&path, header, form)?;
        let trial = Trial::new(width, MEASURED_POSITIONS);
        let head = HeadFile::Missing(folder.join(head_file(teacher)));
        let (teacher, quality) = (teacher.to_owned(), Quality::default());
        Ok(Self { writer, teacher, what, positions: 0, vocabulary, trial, quality, head })
    }

    /// Scores answers and writes their signals, in their order.
    ///
    /// # Errors
    /// If the model fails or gives what is no distribution.
    pub fn add(&mut self, model: &mut dyn LanguageModel, answered: &[Reached]) -> Result<(), Failure> {
        let mut rest: Vec<&Reached> = answered.iter().filter(|one| !one.tokens.completion.is_empty()).collect();
        let width = match self.what {
            What::Distribution(Selection::Whole, _) => self.vocabulary * 4,
            What::Distribution(selection, _) => selection.width(self.vocabulary) * 8,
            // Not known before the first state; wider than any model that runs here.
            What::Hidden(_) => 4 << 13,
        };
        while !rest.is_empty() {
            let mut bytes = 0;
            let fitting = rest.iter().take_while(|one| {
                bytes += one.tokens.completion.len() * width;
                bytes <= KEPT_BYTES
            });
            let some = fitting.count().max(1);
            let answers: Vec<&Reached> = rest.drain(..some).collect();
            let sequences: Vec<Vec<u32>> = answers.iter().map(|one| one.tokens.sequence()).collect();
            let keys = sequences.iter().map(|sequence| SequenceKey::of(&self.teacher, sequence)).collect();
            let measured = answers.iter().map(|one| self.trial.wants(one.tokens.completion.len())).collect();
            let group = Group { answers, sequences, keys, measured };
            match self.what {
                What::Distribution(selection, form) => self.add_distributions(model, &group, selection, form)?,
                What::Hidden(precision) => self.add_hidden(model, &group, precision)?,
            }
        }
        Ok(())
    }

    fn add_distributions(
        &mut self,
        model: &mut dyn LanguageModel,
        group: &Group<'_>,
        selection: Selection,
        form: Form,
    ) -> Result<(), Failure> {
        let mut rows: Vec<Vec<TopK>> =
            group.answers.iter().map(|one| Vec::with_capacity(one.tokens.completion.len())).collect();
        let mut order = Vec::new();
        let mut sound = true;
        let vocabulary = u32::try_from(self.vocabulary).unwrap_or(u32::MAX);
        model.score(&group.sequences, &mut |row, position, log_probs| {
            if !group.counts(row, position) {
                return;
            }
            if log_probs.iter().any(|log_prob| log_prob.is_nan()) {
                sound = false;
                return;
            }
            let predicted = u32::try_from(position + 1).unwrap_or(u32::MAX);
            let kept = selection.of(log_probs, &group.keys[row], predicted, &mut order);
            if group.measured[row] {
                // Drawn targets are right on average; one position's say nothing of most tokens.
                if !matches!(selection, Selection::Drawn { .. }) {
                    self.quality.count(&Exact::new(log_probs), &form.reconstructed(&kept, vocabulary));
                }
                self.trial.take(row, log_probs);
            }
            rows[row].push(kept);
        })?;
        if !sound {
            return Err(Failure::input("the teacher's distribution has entries that are not numbers (NaN)")
                .hint("are its weights whole? half precision overflows with some models: use f32 weights"));
        }
        for (row, positions) in rows.into_iter().enumerate() {
            group.check(row, positions.len())?;
            let (key, first) = (group.keys[row], group.first(row));
            match selection {
                Selection::Drawn { samples, .. } => self.writer.add_drawn(key, first, samples, &positions)?,
                _ => self.writer.add(key, first, &positions)?,
            }
            if group.measured[row] {
                self.trial.end_sequence(row, key)?;
            }
            self.positions += positions.len() as u64;
        }
        Ok(())
    }

    fn add_hidden(
        &mut self,
        model: &mut dyn LanguageModel,
        group: &Group<'_>,
        precision: HiddenPrecision,
    ) -> Result<(), Failure> {
        let mut rows: Vec<(usize, Vec<f32>)> = group.answers.iter().map(|_| (0, Vec::new())).collect();
        let mut width = 0;
        model.hidden(&group.sequences, &mut |row, position, state| {
            if group.counts(row, position) {
                width = state.len();
                rows[row].0 += 1;
                rows[row].1.extend_from_slice(state);
            }
        })?;
        if let HeadFile::Missing(path) = &self.head {
            self.head = HeadFile::Written(model.head()?.write(path)?);
        }
        for (row, (positions, states)) in rows.into_iter().enumerate() {
            group.check(row, positions)?;
            self.writer.add_hidden(group.keys[row], group.first(row), &states, width, precision)?;
            if group.measured[row] {
                self.measure_hidden(model, row, &states, width, precision)?;
                self.trial.end_sequence(row, group.keys[row])?;
            }
            self.positions += positions as u64;
        }
        Ok(())
    }

    /// Compares what the head makes of states with what it makes of them as they are kept. `row` is the sequence's number
    /// in its group.
    fn measure_hidden(
        &mut self,
        model: &mut dyn LanguageModel,
        row: usize,
        states: &[f32],
        width: usize,
        precision: HiddenPrecision,
    ) -> Result<(), Failure> {
        let kept = precision.rounded(states);
        // Each state beside the one that is read back of it, so that one distribution at a time is held.
        let both: Vec<f32> = states
            .chunks(width)
            .zip(kept.chunks(width))
            .flat_map(|(exact, kept)| [exact, kept])
            .flatten()
            .copied()
            .collect();
        let mut exact = Vec::new();
        let (quality, trial) = (&mut self.quality, &mut self.trial);
        model.log_probs_of(&both, &mut |number, log_probs| {
            if number.is_multiple_of(2) {
                exact = log_probs.to_vec();
                trial.take(row, &exact);
            } else {
                let rebuilt = TopK { ids: Vec::new(), log_probs: log_probs.to_vec() };
                quality.count(&Exact::new(&exact), &rebuilt);
            }
        })?;
        Ok(())
    }

    /// Completes the file; gives its figures.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(self) -> Result<Value, Failure> {
        let size = self.writer.finish()?;
        let (encoding, top_k) = match self.what {
            What::Distribution(Selection::Drawn { samples, .. }, _) => (format!("drawn {samples}"), None),
            What::Distribution(selection, form) => {
                let kept = selection.width(self.vocabulary);
                (form.to_string(), (selection != Selection::Whole).then_some(kept))
            }
            What::Hidden(precision) => (format!("hidden {precision:?}").to_lowercase(), None),
        };
        let mut figures = json!({
            "sequences": size.sequences,
            "positions": self.positions,
            "top-k": top_k,
            "encoding": encoding,
            "bytes-per-token": size.bytes as f64 / self.positions.max(1) as f64,
        });
        if let HeadFile::Written(bytes) = self.head {
            figures["head-bytes"] = json!(bytes);
        }
        if self.quality.measured > 0 {
            figures["quality"] = json!(self.quality);
        }
        let tried = self.trial.finish()?;
        if !tried.is_empty() {
            figures["encodings"] = json!(tried);
        }
        Ok(figures)
    }
}
