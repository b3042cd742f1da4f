//! Writing signals.

use std::path::Path;

use super::compact::{CompactCoder, Decoded};
use super::layout::{Append, Sink};
use super::signal::Body;
use super::{Form, HiddenPrecision, Precision, SequenceKey, Signal, SignalHeader, TopK, hidden, plain};
use crate::error::{DataError, DataResult};

/// Writes a file of signals. Memory stays flat but for the index, and for the first compact entries, which wait for the
/// file's model.
pub struct SignalWriter {
    sink: Sink,
    vocabulary: u32,
    form: Form,
    compact: Option<CompactCoder>,
}

impl SignalWriter {
    /// Creates the file, and its folder, for plain entries.
    pub fn create(path: &Path, header: SignalHeader, precision: Precision) -> DataResult<Self> {
        Self::with_form(path, header, Form::Plain(precision))
    }

    /// Creates the file, and its folder.
    pub fn with_form(path: &Path, header: SignalHeader, form: Form) -> DataResult<Self> {
        let vocabulary = header.vocabulary;
        Ok(Self { sink: Sink::create(path, &header)?, vocabulary, form, compact: None })
    }

    /// Adds a sequence's signal: `positions[i]` predicts the token at `first_position + i`, so the first possible
    /// `first_position` is 1. A key added before is left as it is. Whole distributions are always plain.
    pub fn add(&mut self, key: SequenceKey, first_position: u32, positions: &[TopK]) -> DataResult<()> {
        plain::check(positions, self.vocabulary)?;
        let whole = positions.iter().all(|position| position.ids.is_empty());
        match self.form {
            Form::Plain(precision) => self.plain(key, first_position, positions, precision),
            Form::Compact { .. } if whole => self.plain(key, first_position, positions, Precision::F16),
            Form::Compact { kl } => {
                let decoded = Decoded::of(positions, self.vocabulary, kl);
                self.compact(key, first_position, decoded)
            }
        }
    }

    /// Adds targets that were drawn from a sequence's distributions: a position holds the shares of the tokens among
    /// `samples` draws, see [`super::draw`].
    pub fn add_drawn(&mut self, key: SequenceKey, first: u32, samples: u32, positions: &[TopK]) -> DataResult<()> {
        plain::check(positions, self.vocabulary)?;
        self.compact(key, first, Decoded::of_draws(positions, samples.max(1)))
    }

    /// Adds a sequence's hidden states, `positions × width` numbers.
    pub fn add_hidden(
        &mut self,
        key: SequenceKey,
        first_position: u32,
        states: &[f32],
        width: usize,
        precision: HiddenPrecision,
    ) -> DataResult<()> {
        if width == 0 || !states.len().is_multiple_of(width) {
            return Err(DataError::invalid(
                format!("{} numbers are no hidden states of {width} each", states.len()),
                "this is a fault of the teacher that made them",
            ));
        }
        let record = hidden::encode(first_position, states, width, precision)?;
        self.sink.append(key, (states.len() / width) as u32, &record)
    }

    /// Copies a signal from another file of the same vocabulary as it is, under a key of its own: a signal also holds for
    /// every sequence that only begins with the one it was made for. At most `positions` positions are kept.
    pub fn copy(&mut self, key: SequenceKey, signal: &Signal<'_>, positions: usize) -> DataResult<()> {
        let (first, kept) = (signal.first_position(), signal.len().min(positions));
        match &signal.body {
            Body::Plain(entry) => {
                let kept: Vec<TopK> = (0..kept).map(|place| signal.position(place)).collect();
                plain::check(&kept, self.vocabulary)?;
                self.plain(key, first, &kept, entry.precision)
            }
            Body::Decoded(decoded) => self.compact(key, first, decoded.first(kept)),
            Body::Hidden(entry) => {
                let (mut states, mut row) = (Vec::with_capacity(kept * entry.width), Vec::new());
                for place in 0..kept {
                    entry.read(place, &mut row);
                    states.extend_from_slice(&row);
                }
                self.add_hidden(key, first, &states, entry.width, entry.precision)
            }
        }
    }

    fn plain(&mut self, key: SequenceKey, first: u32, positions: &[TopK], precision: Precision) -> DataResult<()> {
        let record = plain::encode(first, positions, self.vocabulary, precision);
        self.sink.append(key, positions.len() as u32, &record)
    }

    fn compact(&mut self, key: SequenceKey, first: u32, decoded: Decoded) -> DataResult<()> {
        let coder = self.compact.get_or_insert_with(|| CompactCoder::new(self.vocabulary));
        coder.add(key, first, decoded, &mut self.sink)
    }

    /// Writes the index; gives the number of entries and that of all the file's bytes.
    pub fn finish(mut self) -> DataResult<Size> {
        let model = match self.compact {
            Some(coder) => coder.finish(&mut self.sink)?,
            None => Vec::new(),
        };
        let (sequences, bytes) = self.sink.finish(&model)?;
        Ok(Size { sequences, bytes })
    }
}

/// How much a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Sequences.
    pub sequences: u64,
    /// Bytes, with header, model and index.
    pub bytes: u64,
}
