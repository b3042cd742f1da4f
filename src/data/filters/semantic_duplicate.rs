//! Drops rows that mean what a row kept before means, by the vectors of an embedding model.
//!
//! Up to `exact-rows` kept rows each row is compared with all of them: half the square of the rows, times the numbers of a
//! vector, in products. Behind that only with rows that random hyperplanes bring together (see
//! [`crate::embeddings::hyperplanes`]), which are compared exactly, too: nothing is dropped by chance, and a pair at the
//! similarity is missed once in 1,000 times.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use stillhouse_stage::spec::{Config, Ref};
use stillhouse_stage::{Cancel, Failure};

use super::near_duplicate::Band;
use super::{Filter, Judged, Pass, Place, Unknown, Verdict};
use crate::embeddings::cosine::{Near, Units};
use crate::embeddings::hyperplanes::Hyperplanes;
use crate::embeddings::{EMBEDDINGS_FILE, EmbeddingReader, Embeddings, REFUSED_FILE, TextDigest, refused};
use crate::error::{DataError, DataResult};

/// Drops rows whose vector points nearly where that of a row kept before points. A stage `[embeddings.X]` makes the vectors; which
/// texts they stand for is said there.
#[derive(Clone, Debug, Config)]
pub struct SemanticDuplicate {
    /// The stage that made the vectors.
    #[config(parts = "embeddings.bin")]
    pub embeddings: Ref<Embeddings>,
    /// The cosine of two vectors from which their rows are duplicates.
    #[config(default = 0.95, above = 0.0, max = 1.0)]
    pub similarity: f64,
    /// What becomes of rows whose text has no vector.
    #[config(default = Unknown::Error)]
    pub unknown: Unknown,
    /// Up to so many kept rows a row is compared with every one of them. With more, only with those that hashing brings together,
    /// which misses at most one pair in 1,000.
    #[config(default = 50_000, min = 1)]
    pub exact_rows: usize,
}

/// Rows that are compared with all kept ones at once, and then with each other.
const STEP: usize = 256;
/// Rows that one thread looks at together.
const TOGETHER: usize = 64;
/// What rounding to four bytes a number may take from a cosine.
const ROUNDING: f64 = 1e-6;

impl Filter for SemanticDuplicate {
    fn start(&self, place: &Place<'_>) -> Result<Box<dyn Pass>, Failure> {
        let artifact = place.input("embeddings")?;
        let vectors = EmbeddingReader::open(&artifact.path(EMBEDDINGS_FILE)?)?;
        let cancel = place.context()?.cancel().clone();
        // Only for the words of a failure: what is in it changes no row, so it is no part that is in a key.
        let refused = artifact.find(REFUSED_FILE);
        Ok(Box::new(Seen { refused, ..Seen::new(self, vectors, artifact.stage, cancel) }))
    }

    fn of_changed_texts(&self) -> Option<&'static str> {
        Some(match self.unknown {
            Unknown::Error => "stops the dataset",
            Unknown::Keep => "is compared with no other",
            Unknown::Drop => "is dropped",
        })
    }

    fn embeddings_field(&self) -> Option<&'static str> {
        Some("embeddings")
    }
}

/// The rows kept so far.
struct Seen {
    vectors: EmbeddingReader,
    /// The stage that made them.
    stage: String,
    /// Its list of texts that the server refused.
    refused: Option<PathBuf>,
    similarity: f64,
    unknown: Unknown,
    exact_rows: usize,
    cancel: Cancel,
    units: Units,
    /// Source and line of each.
    names: Vec<(u32, u64)>,
    /// Once there are more than `exact_rows`.
    hashed: Option<Hashed>,
}

/// What brings rows together.
struct Hashed {
    planes: Hyperplanes,
    bands: Vec<Band>,
}

/// A row while it is compared.
struct Compared {
    unit: Vec<f32>,
    keys: Vec<u32>,
    near: Option<Near>,
}

impl Hashed {
    fn of(units: &Units, width: usize, similarity: f64) -> Self {
        let planes = Hyperplanes::new(width, similarity);
        let bands = (0..planes.bands()).map(|_| Band::default()).collect();
        let mut hashed = Self { planes, bands };
        let keys: Vec<Vec<u32>> =
            (0..units.len()).into_par_iter().map(|place| hashed.planes.keys(units.row(place))).collect();
        for (keys, place) in keys.iter().zip(0..) {
            hashed.insert(keys, place);
        }
        hashed
    }

    fn insert(&mut self, keys: &[u32], place: u32) {
        self.bands.iter_mut().zip(keys).for_each(|(band, key)| band.insert(*key, place));
    }

    fn candidates(&self, keys: &[u32]) -> Vec<usize> {
        let mut places = Vec::new();
        for (band, key) in self.bands.iter().zip(keys) {
            band.find(*key, |place| places.push(place as usize));
        }
        places.sort_unstable();
        places.dedup();
        places
    }
}

impl Seen {
    fn new(filter: &SemanticDuplicate, vectors: EmbeddingReader, stage: String, cancel: Cancel) -> Self {
        let SemanticDuplicate { embeddings: _, similarity, unknown, exact_rows } = *filter;
        let units = Units::new(vectors.width());
        Self {
            vectors,
            stage,
            refused: None,
            similarity,
            unknown,
            exact_rows,
            cancel,
            units,
            names: Vec::new(),
            hashed: None,
        }
    }

    /// How many rows may be compared at once, so that each is compared exactly or by hashing whatever batches they come in.
    fn step(&self) -> usize {
        if self.hashed.is_some() { STEP } else { (self.exact_rows + 1).saturating_sub(self.units.len()).clamp(1, STEP) }
    }

    /// The vectors of rows; nothing for those that have none.
    fn units_of(&self, rows: &[Judged<'_>]) -> DataResult<Vec<Option<Vec<f32>>>> {
        let of = self.vectors.of();
        let unit = |row: &Judged<'_>| match of.text(row.messages, row.completion) {
            Some(text) => self.vectors.unit(&text),
            None => Ok(None),
        };
        rows.par_iter().map(unit).collect()
    }

    /// The kept row that is most like each.
    fn near_kept(&self, units: &[Vec<f32>]) -> Vec<Compared> {
        // Filled up with zeros, as the kept ones are.
        let mut filled = Units::new(self.vectors.width());
        units.iter().for_each(|unit| filled.push(unit));
        let rows: Vec<&[f32]> = (0..filled.len()).map(|place| filled.row(place)).collect();
        let compared = |row: &&[f32]| match &self.hashed {
            None => Compared { unit: row.to_vec(), keys: Vec::new(), near: None },
            Some(hashed) => {
                let keys = hashed.planes.keys(row);
                let candidates = hashed.candidates(&keys);
                let mut near = None;
                for (cosine, place) in self.units.cosines(row, &candidates).into_iter().zip(&candidates) {
                    Near::keep(&mut near, *place, cosine);
                }
                Compared { unit: row.to_vec(), keys, near }
            }
        };
        let mut all: Vec<Compared> = rows.par_iter().map(compared).collect();
        if self.hashed.is_none() {
            let near: Vec<Option<Near>> =
                rows.par_chunks(TOGETHER).flat_map_iter(|rows| self.units.nearest(rows)).collect();
            all.iter_mut().zip(near).for_each(|(row, near)| row.near = near);
        }
        all
    }

    /// Judges a row after it was compared with what was kept before `first`.
    fn settle(&mut self, row: &Judged<'_>, compared: Compared, new: &mut Vec<Vec<u32>>, first: usize) -> Verdict {
        let Compared { unit, keys, mut near } = compared;
        // Rows of the same step are looked at one by one: one decides about the next.
        let meets = |others: &[u32]| self.hashed.is_none() || keys.iter().zip(others).any(|(a, b)| a == b);
        let beside: Vec<usize> =
            (first..).zip(new.iter()).filter(|(_, keys)| meets(keys)).map(|(place, _)| place).collect();
        for (cosine, place) in self.units.cosines(&unit, &beside).into_iter().zip(beside) {
            Near::keep(&mut near, place, cosine);
        }
        if let Some(Near { place, cosine }) = near.filter(|near| f64::from(near.cosine) + ROUNDING >= self.similarity) {
            let (source, line) = self.names[place];
            return Verdict::Drop(format!("cosine {cosine:.3} to row {source}:{line}, which stays"));
        }
        self.units.push(&unit);
        self.names.push((row.source, row.line));
        new.push(keys);
        Verdict::Keep
    }

    fn judge_step(&mut self, rows: &[Judged<'_>]) -> DataResult<Vec<Verdict>> {
        if self.cancel.is_cancelled() {
            return Err(DataError::Cancelled);
        }
        if self.hashed.is_none() && self.units.len() > self.exact_rows {
            self.hashed = Some(Hashed::of(&self.units, self.vectors.width(), self.similarity));
        }
        let units = self.units_of(rows)?;
        let known: Vec<Vec<f32>> = units.iter().flatten().cloned().collect();
        let mut compared = self.near_kept(&known).into_iter();
        let (first, mut new) = (self.units.len(), Vec::new());
        let mut verdicts = Vec::with_capacity(rows.len());
        for (row, unit) in rows.iter().zip(units) {
            verdicts.push(match unit.and_then(|_| compared.next()) {
                Some(compared) => self.settle(row, compared, &mut new, first),
                None => self.unknown(row)?,
            });
        }
        if let Some(hashed) = &mut self.hashed {
            new.iter().zip(first as u32..).for_each(|(keys, place)| hashed.insert(keys, place));
        }
        Ok(verdicts)
    }

    fn unknown(&self, row: &Judged<'_>) -> DataResult<Verdict> {
        match self.unknown {
            Unknown::Keep => Ok(Verdict::Keep),
            Unknown::Drop => Ok(Verdict::Drop("its text has no vector".into())),
            Unknown::Error => Err(self.no_vector(row)?),
        }
    }

    /// Why a row has no vector, and what lets the dataset be made all the same.
    fn no_vector(&self, row: &Judged<'_>) -> DataResult<DataError> {
        let Judged { source, line, prompt, sample, .. } = *row;
        let named = match prompt {
            Some(prompt) => format!("row {line} of source {source} (prompt {prompt}, sample {sample})"),
            None => format!("row {line} of source {source}"),
        };
        let setting = "set `unknown = \"keep\"` in `semantic-duplicate`: such a row is compared with no other; with `\"drop\"` it goes";
        let fault = |message: String, hint: String| DataError::File {
            path: Path::new(&self.stage).join(EMBEDDINGS_FILE),
            message,
            hint: Some(hint),
        };
        let Some(text) = self.vectors.of().text(row.messages, row.completion) else {
            return Ok(fault(format!("{named} has no text, and so no vector"), setting.to_owned()));
        };
        let listed = self.refused.as_deref().filter(|path| path.exists());
        let (refusal, all) = match listed {
            Some(path) => refused::find(path, TextDigest::of(&text), prompt, sample)?,
            None => (None, 0),
        };
        Ok(match refusal {
            Some(refusal) => fault(
                format!(
                    "the server refused the text of {named}, one of {all}, so there is no vector for it: {}",
                    refusal.why
                ),
                format!("{setting}; `dropped.jsonl` of {} lists all of them", self.stage),
            ),
            None => fault(
                format!("there is no vector for the text of {named}"),
                format!(
                    "it embeds other texts, or a filter before this one changes them: put this one first; or {setting}"
                ),
            ),
        })
    }
}

impl Pass for Seen {
    fn judge(&mut self, rows: &[Judged<'_>]) -> DataResult<Vec<Verdict>> {
        let mut verdicts = Vec::with_capacity(rows.len());
        let mut rest = rows;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.step().min(rest.len()));
            verdicts.extend(self.judge_step(now)?);
            rest = later;
        }
        Ok(verdicts)
    }
}

#[cfg(test)]
mod tests;
