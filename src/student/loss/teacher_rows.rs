//! A teacher's stored distributions at a temperature, on the host: everything that does not depend on the student.

use rayon::prelude::*;
use stillhouse_data::signals::TopK;

use super::comparison::{Comparison, Tail};

/// Least probability a bucket is taken to have, on either side and before the temperature: in f32, where a sum is 1 but
/// for rounding, what is left of it says nothing. Were it put to the sides at different places, equal distributions
/// would differ as soon as they are softened: at T = 4 this is 0.018 of the mass.
pub(super) const SMALLEST_BUCKET: f64 = 1e-7;

/// Least log-probability. What a teacher rules out (log 0) counts as this where a loss needs the logarithm itself, so
/// that reverse divergences stay numbers.
pub(super) const LEAST_LOG_PROBABILITY: f64 = -100.0;

/// Log-probability of a place that only fills its row: so low that it carries no mass, and still a number.
pub(super) const ABSENT: f64 = -1e9;

/// Distributions as rows of one width. With top-k signals a row holds the k (fewer, and filled up, where the teacher
/// gave fewer than its longest row), and with a bucket one more. What is made of a row depends on nothing but itself:
/// beside top-k signals a whole distribution still has no tail.
pub(super) struct TeacherRows<'a> {
    said: Vec<&'a TopK>,
    temperature: f64,
    whole: bool,
    bucket: bool,
    /// Tokens a row.
    tokens: usize,
}

impl<'a> TeacherRows<'a> {
    /// Some distributions, none of them empty.
    pub(super) fn new(said: Vec<&'a TopK>, comparison: &Comparison) -> Self {
        let longest = said.iter().map(|distribution| distribution.log_probs.len()).max().unwrap_or(0);
        let whole = said.iter().all(|row| is_whole(row) && row.log_probs.len() == longest);
        let bucket = comparison.tail == Tail::Bucket && !said.iter().all(|row| is_whole(row));
        Self { said, temperature: comparison.temperature, whole, bucket, tokens: longest }
    }

    /// Whether every row is a whole distribution over the same tokens, by token id.
    pub(super) fn whole(&self) -> bool {
        self.whole
    }

    /// 1 where a row is a whole distribution, else 0: `[rows]`. None when no row is.
    pub(super) fn whole_rows(&self) -> Option<Vec<f32>> {
        let rows = self.said.iter().map(|row| if is_whole(row) { 1.0 } else { 0.0 });
        self.said.iter().any(|row| is_whole(row)).then(|| rows.collect())
    }

    /// Whether the rows have a bucket.
    pub(super) fn bucket(&self) -> bool {
        self.bucket
    }

    /// Tokens a row, without a bucket.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Outcomes a row, with a bucket.
    pub(super) fn width(&self) -> usize {
        self.tokens + usize::from(self.bucket)
    }

    /// Token ids, `[rows × tokens]`; 0 where a place only fills its row.
    pub(super) fn ids(&self) -> Vec<i32> {
        let mut ids = Vec::with_capacity(self.said.len() * self.tokens);
        for distribution in &self.said {
            let filled = distribution.log_probs.len();
            if distribution.ids.is_empty() {
                ids.extend(0..filled as i32);
            } else {
                ids.extend(distribution.ids.iter().map(|id| *id as i32));
            }
            ids.extend(std::iter::repeat_n(0, self.tokens - filled));
        }
        ids
    }

    /// 1 where a place only fills its row, else 0: `[rows × tokens]`. None when no place does.
    pub(super) fn absent(&self) -> Option<Vec<f32>> {
        if self.said.iter().all(|distribution| distribution.log_probs.len() == self.tokens) {
            return None;
        }
        let fill = |row: &&TopK| {
            let filled = row.log_probs.len();
            std::iter::repeat_n(0.0, filled).chain(std::iter::repeat_n(1.0, self.tokens - filled))
        };
        Some(self.said.iter().flat_map(fill).collect())
    }

    /// Log-probabilities of one row at the temperature, a bucket last; −∞ where there is no probability.
    pub(super) fn row(&self, number: usize) -> Vec<f64> {
        let said = self.said[number];
        let mut row = vec![f64::NEG_INFINITY; self.width()];
        row.iter_mut().zip(&said.log_probs).for_each(|(row, log_p)| *row = f64::from(*log_p));
        if self.bucket && !is_whole(said) {
            let inside: f64 = row.iter().map(|log_p| log_p.exp()).sum();
            row[self.tokens] = (1.0 - inside).max(SMALLEST_BUCKET).ln();
        }
        row.iter_mut().for_each(|log_p| *log_p /= self.temperature);
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mass: f64 = row.iter().map(|log_p| (log_p - largest).exp()).sum();
        let log_mass = largest + mass.ln();
        row.iter_mut().for_each(|log_p| *log_p -= log_mass);
        row
    }

    /// Probabilities `[rows × width]`, and `Σ p log p` over all of them (0 · log 0 is 0).
    pub(super) fn probabilities(&self) -> (Vec<f32>, f64) {
        let mut probabilities = vec![0.0; self.said.len() * self.width()];
        // Row by row on all processors; each row's sum has one order, and the rows are added up in theirs.
        let negative_entropies: Vec<f64> = probabilities
            .par_chunks_mut(self.width())
            .enumerate()
            .map(|(number, row)| {
                let mut negative_entropy = 0.0;
                for (place, log_p) in row.iter_mut().zip(self.row(number)) {
                    let p = log_p.exp();
                    *place = p as f32;
                    if p > 0.0 {
                        negative_entropy += p * log_p;
                    }
                }
                negative_entropy
            })
            .collect();
        (probabilities, negative_entropies.iter().sum())
    }

    /// Log-probabilities `[rows × width]`; numbers that the constants above name stand for −∞.
    pub(super) fn log_probabilities(&self) -> Vec<f32> {
        let mut log_probabilities = vec![0.0; self.said.len() * self.width()];
        log_probabilities.par_chunks_mut(self.width()).enumerate().for_each(|(number, row)| {
            let filled = self.said[number].log_probs.len();
            for (place, (log_p, exact)) in row.iter_mut().zip(self.row(number)).enumerate() {
                // A bucket has its least probability already; a whole distribution's is not there.
                let least = if place < filled { LEAST_LOG_PROBABILITY } else { ABSENT };
                *log_p = exact.max(least) as f32;
            }
        });
        log_probabilities
    }
}

/// Whether a signal is a whole distribution, by token id.
fn is_whole(said: &TopK) -> bool {
    said.ids.is_empty()
}
