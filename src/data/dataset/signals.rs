//! The signals of a dataset: those of its sources' rows that were kept, as they are or cut and encoded anew.

use std::collections::BTreeSet;
use std::path::Path;

use super::config::SignalsConfig;
use super::statistics::SignalStatistics;
use crate::error::{DataError, DataResult};
use crate::signals::{
    Captured, Exact, Form, Precision, Quality, SIGNALS_FILE, Says, Selection, SequenceKey, Signal, SignalHeader,
    SignalReader, SignalWriter, TopK, Trial,
};

/// Positions at which what is kept is compared with what was stored: the first ones.
const MEASURED_POSITIONS: u64 = 1024;

/// The signals of all sources, those of kept rows only.
pub(super) struct Signals<'a> {
    readers: &'a [Option<&'a SignalReader>],
    /// Which sources are a server's: nobody tried encodings on what it told before it was in tokens with ids.
    captured: &'a [bool],
    writer: Option<SignalWriter>,
    vocabulary: u32,
    positions: u64,
    trial: Option<Trial>,
    anew: Option<Anew>,
}

/// How signals are made of those that are stored.
struct Anew {
    selection: Selection,
    form: Form,
    quality: Quality,
    captured_quality: Quality,
}

impl<'a> Signals<'a> {
    pub(super) fn create(
        config: Option<&SignalsConfig>,
        readers: &'a [Option<&'a SignalReader>],
        captured: &'a [bool],
        out: &Path,
    ) -> DataResult<Self> {
        let anew = config.map(|config| Anew {
            selection: config.selection(),
            form: config.form(),
            quality: Quality::default(),
            captured_quality: Quality::default(),
        });
        let headers: Vec<&SignalHeader> = readers.iter().flatten().map(|reader| reader.header()).collect();
        let Some(first) = headers.first() else {
            return Ok(Self { readers, captured, writer: None, vocabulary: 0, positions: 0, trial: None, anew });
        };
        if let Some(other) = headers.iter().find(|header| header.vocabulary != first.vocabulary) {
            return Err(DataError::invalid(
                format!(
                    "teachers of {} and of {} tokens cannot share a dataset, though their tokenizers are the same",
                    first.vocabulary, other.vocabulary
                ),
                "make a dataset for each teacher",
            ));
        }
        let teachers: BTreeSet<&String> = headers.iter().flat_map(|header| &header.teachers).collect();
        let header = SignalHeader { teachers: teachers.into_iter().cloned().collect(), ..(*first).clone() };
        let form = anew.as_ref().map_or(Form::Plain(Precision::default()), |anew| anew.form);
        let writer = SignalWriter::with_form(&out.join(SIGNALS_FILE), header, form)?;
        let vocabulary = first.vocabulary;
        let servers = captured.contains(&true);
        let trial = servers.then(|| Trial::on_captured(vocabulary, MEASURED_POSITIONS as usize));
        Ok(Self { readers, captured, writer: Some(writer), vocabulary, positions: 0, trial, anew })
    }

    /// Copies what the row's source has under `known` (a key for each of its teachers) to the row's own tokens, which
    /// begin like the sequence it was made for; tells whether there was anything.
    pub(super) fn copy(&mut self, source: u32, known: &[SequenceKey], tokens: &[u32]) -> DataResult<bool> {
        let (Some(writer), Some(reader)) = (&mut self.writer, self.readers[source as usize]) else {
            return Ok(false);
        };
        let mut found = false;
        for (teacher, key) in reader.header().teachers.iter().zip(known) {
            if let Some(signal) = reader.get(key)? {
                let positions = tokens.len().saturating_sub(signal.first_position() as usize);
                if is_silent(&signal, positions) {
                    continue;
                }
                let key = SequenceKey::of(teacher, tokens);
                let told = signal.len().min(positions);
                if let Some(trial) = self.trial.as_mut().filter(|_| self.captured[source as usize])
                    && trial.wants(told)
                {
                    (0..told).for_each(|place| trial.take_captured(0, &signal.position(place)));
                    trial.end_sequence(0, key)?;
                }
                self.positions += told as u64;
                match &mut self.anew {
                    // Until now these were exact: they are rounded as local teachers' are where nothing is said.
                    None if self.captured[source as usize] => {
                        let kept: Vec<TopK> = (0..told).map(|place| signal.position(place)).collect();
                        writer.add(key, signal.first_position(), &kept)?;
                    }
                    None => writer.copy(key, &signal, positions)?,
                    Some(anew) => {
                        let kept = anew.make(&signal, positions, &key, self.vocabulary)?;
                        writer.add(key, signal.first_position(), &kept)?;
                    }
                }
                found = true;
            }
        }
        Ok(found)
    }

    pub(super) fn finish(self) -> DataResult<Option<SignalStatistics>> {
        let Some(writer) = self.writer else { return Ok(None) };
        let size = writer.finish()?;
        let encodings = self.trial.map(Trial::finish).transpose()?.unwrap_or_default();
        if self.anew.is_none() && encodings.is_empty() {
            return Ok(None);
        }
        let measured = |quality: Quality| (quality.measured > 0).then_some(quality);
        let (quality, captured_quality) =
            self.anew.as_ref().map_or((None, None), |anew| (measured(anew.quality), measured(anew.captured_quality)));
        Ok(Some(SignalStatistics {
            encoding: self.anew.map_or_else(|| "as stored".to_owned(), |anew| anew.form.to_string()),
            positions: self.positions,
            bytes_per_token: size.bytes as f64 / self.positions.max(1) as f64,
            quality,
            captured_quality,
            encodings,
        }))
    }
}

/// Whether the first positions, all that is left of a row that was cut, hold nothing.
fn is_silent(signal: &Signal<'_>, positions: usize) -> bool {
    let mut said = TopK::default();
    signal.says() == Says::MostLikely
        && (0..signal.len().min(positions)).all(|place| {
            signal.read(place, &mut said);
            said.log_probs.is_empty()
        })
}

impl Anew {
    fn make(
        &mut self,
        signal: &Signal<'_>,
        positions: usize,
        key: &SequenceKey,
        vocabulary: u32,
    ) -> DataResult<Vec<TopK>> {
        let what = match signal.says() {
            Says::Whole | Says::MostLikely => None,
            Says::Drawn { .. } => Some("drawn targets"),
            Says::Hidden { .. } => Some("hidden states"),
        };
        if let Some(what) = what {
            return Err(DataError::invalid(
                format!("`signals` makes other signals of distributions, but the answers hold {what}"),
                "leave `signals` out, or capture distributions: `capture = { full = true }`",
            ));
        }
        let (mut order, mut made) = (Vec::new(), Vec::new());
        let mut stored = TopK::default();
        for place in 0..signal.len().min(positions) {
            signal.read(place, &mut stored);
            let predicted = signal.first_position().saturating_add(place as u32);
            let Some(kept) = self.selection.of_kept(&stored, key, predicted, &mut order) else { continue };
            if signal.is_dense() && self.quality.measured < MEASURED_POSITIONS {
                self.quality.count(&Exact::new(&stored.log_probs), &self.form.reconstructed(&kept, vocabulary));
            } else if !stored.ids.is_empty() && self.captured_quality.measured < MEASURED_POSITIONS {
                let said = Captured::new(&stored, vocabulary);
                let made = self.form.reconstructed(&kept, vocabulary);
                self.captured_quality.count_divergence(said.divergence(&made));
            }
            made.push(kept);
        }
        Ok(made)
    }
}
