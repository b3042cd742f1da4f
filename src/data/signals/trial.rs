//! What each encoding would cost: bytes a token against the divergence, on a teacher's own output, so that a user chooses
//! knowingly.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};

use super::compact::{CompactCoder, Decoded};
use super::layout::{Append, SizeOnly};
use super::{Captured, Divergence, Exact, Form, Precision, Quality, Selection, SequenceKey, TopK, most_likely, plain};
use crate::error::DataResult;

const F16: Form = Form::Plain(Precision::F16);
const F32: Form = Form::Plain(Precision::F32);

const fn compact(kl: f64) -> Form {
    Form::Compact { kl }
}

const fn top(k: usize) -> Selection {
    Selection::MostLikely(k)
}

const fn top_p(mass: f64) -> Selection {
    Selection::TopP { mass, bounds: [1, WIDEST] }
}

const fn draws(samples: u32) -> Selection {
    Selection::Drawn { samples, seed: 0 }
}

/// The most tokens that are kept of a position.
const WIDEST: usize = 128;

/// What is tried of whole distributions.
const OF_WHOLE: &[(Form, Selection)] = &[
    (F16, top(16)),
    (F16, top(50)),
    (F16, top(WIDEST)),
    (F32, top(50)),
    (F32, top(WIDEST)),
    (compact(1e-3), top(16)),
    (compact(1e-2), top(50)),
    (compact(1e-3), top(50)),
    (compact(1e-2), top(WIDEST)),
    (compact(1e-3), top(WIDEST)),
    (compact(1e-4), top(WIDEST)),
    (F16, top_p(0.95)),
    (compact(1e-3), top_p(0.8)),
    (compact(1e-3), top_p(0.95)),
    (F16, draws(12)),
    (F16, draws(64)),
];

/// What is tried of a server's most likely tokens, of which there are 5 or 20 mostly.
const OF_CAPTURED: &[(Form, Selection)] = &[
    (F16, top(5)),
    (F16, top(20)),
    (F16, top(WIDEST)),
    (F32, top(20)),
    (F32, top(WIDEST)),
    (compact(1e-3), top(5)),
    (compact(1e-2), top(20)),
    (compact(1e-3), top(20)),
    (compact(1e-4), top(20)),
    (compact(1e-3), top(WIDEST)),
    (compact(1e-3), top_p(0.8)),
    (compact(1e-3), top_p(0.95)),
];

/// Tries every encoding on the first distributions of a stage.
pub struct Trial {
    vocabulary: u32,
    against: Against,
    rest: usize,
    rows: Vec<Row>,
    order: Vec<u32>,
    /// The most tokens that a position had.
    widest: usize,
}

/// What divergences are measured against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Against {
    /// The teacher's whole distributions.
    Whole,
    /// A server's most likely tokens, and all others as one: what else it knew it did not tell.
    Captured,
}

struct Row {
    form: Form,
    selection: Selection,
    quality: Quality,
    tokens: usize,
    taken: u64,
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
    /// Tokens a position, on average.
    #[serde(serialize_with = "short")]
    pub k: f64,
    /// Bytes a position, with its part of all that is kept once a sequence and once a file.
    pub bytes_per_token: f64,
    /// What the divergence is measured against.
    pub against: Against,
    /// What it costs; nothing is said of draws, which are right on average: one position's say nothing of most tokens.
    #[serde(flatten)]
    pub quality: Option<Quality>,
}

/// A number of tokens that is the same everywhere is a whole number.
fn short<S: Serializer>(k: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if k.fract() == 0.0 { serializer.serialize_u64(*k as u64) } else { serializer.serialize_f64(*k) }
}

impl Trial {
    /// On whole distributions over a vocabulary, the first `positions` of them.
    pub fn new(vocabulary: u32, positions: usize) -> Self {
        Self::on(OF_WHOLE, Against::Whole, vocabulary, positions)
    }

    /// On what a server captured of them.
    pub fn on_captured(vocabulary: u32, positions: usize) -> Self {
        Self::on(OF_CAPTURED, Against::Captured, vocabulary, positions)
    }

    fn on(tried: &[(Form, Selection)], against: Against, vocabulary: u32, positions: usize) -> Self {
        let row = |(form, selection): &(Form, Selection)| Row {
            form: *form,
            selection: *selection,
            quality: Quality::default(),
            tokens: 0,
            taken: 0,
            positions: BTreeMap::new(),
            bytes: 0,
            coder: CompactCoder::new(vocabulary),
        };
        // In a small vocabulary a number of tokens may be all of them, and is of no interest then.
        let all = vocabulary as usize;
        let partial = |(_, selection): &&(Form, Selection)| selection.width(all) < all || against == Against::Captured;
        let rows = tried.iter().filter(partial).map(row).collect();
        Self { vocabulary, against, rest: positions, rows, order: Vec::new(), widest: 0 }
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
        let most = most_likely(exact, WIDEST, &mut self.order);
        let whole = Exact::new(exact);
        self.each(sequence, &most, Some(exact), |kept| whole.divergence(kept));
    }

    /// Takes what a server told of a sequence's next position, as ids.
    pub fn take_captured(&mut self, sequence: usize, said: &TopK) {
        if said.ids.is_empty() {
            return;
        }
        let captured = Captured::new(said, self.vocabulary);
        self.each(sequence, said, None, |kept| captured.divergence(kept));
    }

    fn each(&mut self, sequence: usize, most: &TopK, whole: Option<&[f32]>, divergence: impl Fn(&TopK) -> Divergence) {
        self.widest = self.widest.max(most.ids.len());
        // Draws are tried for their size alone: any key will do.
        let key = SequenceKey::of("trial", &[u32::try_from(sequence).unwrap_or(u32::MAX)]);
        for row in &mut self.rows {
            let position = u32::try_from(row.taken).unwrap_or(u32::MAX);
            let kept = match (row.selection, whole) {
                (Selection::Drawn { .. }, Some(whole)) => row.selection.of(whole, &key, position, &mut self.order),
                _ => match row.selection.of_kept(most, &key, position, &mut self.order) {
                    Some(kept) => kept,
                    None => continue,
                },
            };
            if !row.is_drawn() {
                row.quality.count_divergence(divergence(&row.form.reconstructed(&kept, self.vocabulary)));
            }
            row.taken += 1;
            row.tokens += kept.ids.len();
            row.positions.entry(sequence).or_default().push(kept);
        }
    }

    /// A sequence is at its end.
    ///
    /// # Errors
    /// None that a distribution can cause.
    pub fn end_sequence(&mut self, sequence: usize, key: SequenceKey) -> DataResult<()> {
        for row in &mut self.rows {
            let Some(positions) = row.positions.remove(&sequence) else { continue };
            let mut sink = SizeOnly(&mut row.bytes);
            match (row.selection, row.form) {
                (Selection::Drawn { samples, .. }, _) => {
                    row.coder.add(key, 1, Decoded::of_draws(&positions, samples), &mut sink)?;
                }
                (_, Form::Plain(precision)) => {
                    let record = plain::encode(1, &positions, self.vocabulary, precision);
                    sink.append(key, 0, &record)?;
                }
                (_, Form::Compact { kl }) => {
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
        let (widest, against) = (self.widest, self.against);
        // Of those that keep all that there was, one of each form is enough.
        let mut whole: Vec<Form> = Vec::new();
        let mut table = Vec::new();
        for mut row in self.rows.into_iter().filter(|row| row.taken > 0) {
            if let Selection::MostLikely(k) = row.selection
                && k >= widest
            {
                if whole.contains(&row.form) {
                    continue;
                }
                whole.push(row.form);
            }
            let encoding = row.name();
            let model = row.coder.finish(&mut SizeOnly(&mut row.bytes))?;
            let (bytes, taken) = ((row.bytes + model.len()) as f64, row.taken as f64);
            table.push(Tried {
                encoding,
                k: row.tokens as f64 / taken,
                bytes_per_token: bytes / taken,
                against,
                quality: (row.quality.measured > 0).then_some(row.quality),
            });
        }
        Ok(table)
    }
}

impl Row {
    fn is_drawn(&self) -> bool {
        matches!(self.selection, Selection::Drawn { .. })
    }

    fn name(&self) -> String {
        match self.selection {
            Selection::Drawn { samples, .. } => format!("{samples} draws"),
            Selection::TopP { mass, .. } => format!("top-p {mass}, {}", self.form),
            _ => self.form.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoding_is_tried_with_its_size_and_all_but_draws_with_what_they_lose() {
        let vocabulary = 400;
        let sum: f32 = (1..=vocabulary).map(|i| 1.0 / (i * i) as f32).sum();
        let whole: Vec<f32> = (1..=vocabulary).map(|i| (1.0 / (i * i) as f32 / sum).ln()).collect();
        let mut trial = Trial::new(vocabulary, 8);
        assert!(trial.wants(8) && !trial.wants(1));
        (0..8).for_each(|_| trial.take(0, &whole));
        trial.end_sequence(0, SequenceKey::of("t", &[1])).unwrap();
        let table = trial.finish().unwrap();
        assert_eq!(table.len(), OF_WHOLE.len());
        let row = |name: &str| table.iter().find(|row| row.encoding == name).unwrap();
        assert!(row("64 draws").quality.is_none() && row("64 draws").bytes_per_token > 1.0);
        assert!(row("plain f32").quality.unwrap().kept_kl_max < 1e-6);
        assert!(row("top-p 0.95, plain f16").k < 16.0 && row("top-p 0.95, plain f16").quality.unwrap().kl_mean > 0.0);
        assert!(table.iter().all(|row| row.against == Against::Whole));
        let json = serde_json::to_value(row("12 draws")).unwrap();
        assert_eq!((json.get("kl-mean"), &json["against"]), (None, &serde_json::json!("whole")));
    }

    #[test]
    fn a_servers_tokens_are_tried_against_themselves_and_no_row_says_the_same_twice() {
        let said =
            TopK { ids: (0..20).collect(), log_probs: (0..20).map(|i| (0.04f32 - i as f32 * 1e-3).ln()).collect() };
        let mut trial = Trial::on_captured(290, 8);
        (0..8).for_each(|_| trial.take_captured(0, &said));
        trial.take_captured(0, &TopK::default());
        trial.end_sequence(0, SequenceKey::of("t", &[1])).unwrap();
        let table = trial.finish().unwrap();
        let rows: Vec<(&str, f64)> = table.iter().map(|row| (row.encoding.as_str(), row.k)).collect();
        assert_eq!(rows[..3], [("plain f16", 5.0), ("plain f16", 20.0), ("plain f32", 20.0)]);
        assert!(rows.iter().filter(|row| **row == ("compact kl 0.001", 20.0)).count() <= 1, "{rows:?}");
        let cut = table[0].quality.unwrap();
        assert!(cut.measured == 8 && cut.kl_mean > 0.01 && cut.outside_mean > 0.5, "{cut:?}");
        assert!(table[2].quality.unwrap().kl_max < 1e-5);
        assert!(table.iter().all(|row| row.against == Against::Captured));
    }
}
