//! What each encoding would cost: bytes a token against the divergence, on a teacher's own output, so that a user chooses
//! knowingly.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::compact::{CompactCoder, Decoded};
use super::layout::{Append, SizeOnly};
use super::{Exact, Form, Precision, Quality, SequenceKey, TopK, most_likely, plain};
use crate::error::DataResult;

/// What is tried: the encoding and the number of tokens, of which there are as many as a vocabulary has.
const TRIED: [(Form, usize); 9] = [
    (Form::Plain(Precision::F16), 16),
    (Form::Plain(Precision::F16), 50),
    (Form::Plain(Precision::F16), 128),
    (Form::Compact { kl: 1e-3 }, 16),
    (Form::Compact { kl: 1e-2 }, 50),
    (Form::Compact { kl: 1e-3 }, 50),
    (Form::Compact { kl: 1e-2 }, 128),
    (Form::Compact { kl: 1e-3 }, 128),
    (Form::Compact { kl: 1e-4 }, 128),
];

/// Tries every encoding on the first whole distributions of a stage.
pub struct Trial {
    vocabulary: u32,
    rest: usize,
    rows: Vec<Row>,
    order: Vec<u32>,
}

struct Row {
    form: Form,
    k: usize,
    quality: Quality,
    positions: BTreeMap<usize, Vec<TopK>>,
    bytes: usize,
    coder: CompactCoder,
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Tried {
    /// The encoding's name, with what sets it.
    pub encoding: String,
    /// Tokens a position.
    pub k: usize,
    /// Bytes a position, with its part of all that is kept once a sequence and once a file.
    pub bytes_per_token: f64,
    /// What it costs.
    #[serde(flatten)]
    pub quality: Quality,
}

impl Trial {
    /// Over a vocabulary, with the first `positions` positions.
    pub fn new(vocabulary: u32, positions: usize) -> Self {
        let row = |(form, k): (Form, usize)| Row {
            form,
            k,
            quality: Quality::default(),
            positions: BTreeMap::new(),
            bytes: 0,
            coder: CompactCoder::new(vocabulary),
        };
        // In a small vocabulary a number of tokens may be all of them, and is of no interest then.
        let rows = TRIED.into_iter().filter(|(_, k)| *k < vocabulary as usize).map(row).collect();
        Self { vocabulary, rest: positions, rows, order: Vec::new() }
    }

    /// Whether a sequence is to be tried; if so, its positions must follow, and its end.
    pub fn wants(&mut self, positions: usize) -> bool {
        let wanted = self.rest > 0;
        self.rest = self.rest.saturating_sub(positions);
        wanted
    }

    /// Takes the whole distribution of a sequence's next position. `sequence` is any number that tells it from others
    /// that are not at their end yet.
    pub fn take(&mut self, sequence: usize, exact: &[f32]) {
        let Some(largest) = self.rows.iter().map(|row| row.k).max() else { return };
        let most = most_likely(exact, largest, &mut self.order);
        let exact = Exact::new(exact);
        for row in &mut self.rows {
            let kept = TopK { ids: most.ids[..row.k].to_vec(), log_probs: most.log_probs[..row.k].to_vec() };
            row.quality.count(&exact, &row.form.reconstructed(&kept, self.vocabulary));
            row.positions.entry(sequence).or_default().push(kept);
        }
    }

    /// A sequence is at its end.
    ///
    /// # Errors
    /// None that a distribution can cause.
    pub fn end_sequence(&mut self, sequence: usize, key: SequenceKey) -> DataResult<()> {
        for row in &mut self.rows {
            let positions = row.positions.remove(&sequence).unwrap_or_default();
            match row.form {
                Form::Plain(precision) => {
                    let record = plain::encode(1, &positions, self.vocabulary, precision);
                    SizeOnly(&mut row.bytes).append(key, 0, &record)?;
                }
                Form::Compact { kl } => {
                    let mut sink = SizeOnly(&mut row.bytes);
                    row.coder.add(key, 1, Decoded::of(&positions, self.vocabulary, kl), &mut sink)?;
                }
            }
        }
        Ok(())
    }

    /// The table; nothing where there was no position.
    ///
    /// # Errors
    /// None that a distribution can cause.
    pub fn finish(self) -> DataResult<Vec<Tried>> {
        let mut table = Vec::new();
        for mut row in self.rows.into_iter().filter(|row| row.quality.measured > 0) {
            let model = row.coder.finish(&mut SizeOnly(&mut row.bytes))?;
            let bytes = (row.bytes + model.len()) as f64;
            table.push(Tried {
                encoding: row.form.to_string(),
                k: row.k,
                bytes_per_token: bytes / row.quality.measured as f64,
                quality: row.quality,
            });
        }
        Ok(table)
    }
}
