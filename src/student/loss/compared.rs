//! Teacher and student side by side, over the same outcomes: the one place where signals, live logits, temperature
//! and tail become two distributions. Each loss is then a few lines.

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};
use rayon::prelude::*;

use super::Positions;
use super::comparison::{Comparison, Tail};
use super::targets::LiveLogits;
use super::teacher_rows::{ABSENT, SMALLEST_BUCKET, TeacherRows};
use crate::kernels::Kernels;

/// Two distributions at each of some positions: the teacher's P and the student's Q.
///
/// Outcomes are the tokens of the vocabulary, or the teacher's k, or its k and a bucket for all others.
pub struct Compared<'a, B: Backend> {
    teacher: TeacherSide<'a, B>,
    /// The student's log-probabilities, `[rows, outcomes]`.
    pub log_q: Tensor<B, 2>,
    /// Places of the rows among the positions.
    pub places: Vec<usize>,
    /// Whether the student has probability on outcomes that are not listed, where the teacher has none.
    open: bool,
}

enum TeacherSide<'a, B: Backend> {
    Stored(TeacherRows<'a>),
    /// Log-probabilities on the device.
    Live(Tensor<B, 2>),
}

impl<'a, B: Kernels> Compared<'a, B> {
    /// The distributions at the positions where the teacher says something; none if it says nothing at all.
    pub fn of(positions: &Positions<'a, B>, comparison: &Comparison) -> Option<Self> {
        match &positions.live {
            Some(live) => Self::with_live(positions, live, comparison),
            None => Self::with_stored(positions, comparison),
        }
    }

    fn with_live(positions: &Positions<'a, B>, live: &LiveLogits<B>, comparison: &Comparison) -> Option<Self> {
        let rows = positions.labels.len();
        // Other tokens can't be compared one by one.
        if rows == 0 || !live.same_tokens {
            return None;
        }
        let log_p = positions.live_log_probs(comparison.temperature)?;
        let log_q = positions.log_probs_of_first(live.ours, comparison.temperature);
        let (log_q, places) = match &live.places {
            None => (log_q, (0..rows).collect()),
            Some(places) => {
                let places: Vec<usize> = places.iter().map(|place| *place as usize).collect();
                (select_rows(log_q, &places), places)
            }
        };
        Some(Self { teacher: TeacherSide::Live(log_p), log_q, places, open: false })
    }

    fn with_stored(positions: &Positions<'a, B>, comparison: &Comparison) -> Option<Self> {
        let (places, said): (Vec<usize>, Vec<_>) = positions.teacher.known().unzip();
        if places.is_empty() {
            return None;
        }
        let temperature = comparison.temperature;
        let every = places.len() == positions.labels.len();
        let pick = |matrix: Tensor<B, 2>| if every { matrix } else { select_rows(matrix, &places) };
        let teacher = TeacherRows::new(said, comparison);
        let tokens = teacher.tokens();
        let (log_q, open) = if teacher.whole() {
            (pick(positions.log_probs_of_first(tokens, temperature)), false)
        } else {
            let ids = positions.ids(teacher.ids(), tokens);
            let absent = teacher.absent().map(|absent| positions.numbers(absent, tokens));
            // Places that only fill the row get a logit so low that they carry no mass.
            let without_absent = |matrix: Tensor<B, 2>| match &absent {
                Some(absent) => matrix + absent.clone() * ABSENT,
                None => matrix,
            };
            let renormalised = |ids| {
                let logits = pick(positions.logits.clone()).gather(1, ids) / temperature;
                B::log_probabilities(without_absent(logits))
            };
            let (log_q, open) = match comparison.tail {
                Tail::RenormaliseTeacher => {
                    (without_absent(pick(positions.log_probs_at(temperature)).gather(1, ids.clone())), true)
                }
                Tail::RenormaliseBoth => (renormalised(ids.clone()), false),
                Tail::Bucket => {
                    let inside = without_absent(pick(positions.log_probs()).gather(1, ids.clone()));
                    (if teacher.bucket() { with_bucket(inside, temperature) } else { inside }, false)
                }
            };
            match teacher.whole_rows() {
                Some(whole) if comparison.tail != Tail::RenormaliseBoth => {
                    // Both sides of a whole distribution are over its tokens alone, whatever stands beside it.
                    let mut of_whole = renormalised(ids);
                    if teacher.bucket() {
                        let none = of_whole.clone().narrow(1, 0, 1).full_like(ABSENT);
                        of_whole = Tensor::cat(vec![of_whole, none], 1);
                    }
                    let whole = positions.numbers(whole, 1);
                    (log_q * (whole.clone().neg() + 1.0) + of_whole * whole, open)
                }
                _ => (log_q, open),
            }
        };
        Some(Self { teacher: TeacherSide::Stored(teacher), log_q, places, open })
    }

    /// The teacher's log-probabilities. Where it rules an outcome out, a number far below all others stands for −∞.
    ///
    /// # Shapes
    /// - output: `[rows, outcomes]`
    pub fn log_p(&self) -> Tensor<B, 2> {
        match &self.teacher {
            TeacherSide::Stored(rows) => self.matrix(rows.log_probabilities(), rows.width()),
            TeacherSide::Live(log_p) => log_p.clone(),
        }
    }

    /// The teacher's probabilities.
    ///
    /// # Shapes
    /// - output: `[rows, outcomes]`
    pub fn p(&self) -> Tensor<B, 2> {
        match &self.teacher {
            TeacherSide::Stored(rows) => self.matrix(rows.probabilities().0, rows.width()),
            TeacherSide::Live(log_p) => log_p.clone().exp(),
        }
    }

    /// `Σ KL(P ‖ M)` over the rows, for a distribution M that has probability wherever P has.
    ///
    /// # Shapes
    /// - log_m: `[rows, outcomes]`
    /// - output: `[1]`
    pub fn forward_kl(&self, log_m: Tensor<B, 2>) -> Tensor<B, 1> {
        let crossed = |p: Tensor<B, 2>| (p * log_m).sum_dim(1).sum().neg();
        match &self.teacher {
            TeacherSide::Stored(rows) => {
                let (p, negative_entropy) = rows.probabilities();
                crossed(self.matrix(p, rows.width())) + negative_entropy
            }
            TeacherSide::Live(log_p) => {
                let p = log_p.clone().exp();
                let negative_entropy = (p.clone() * log_p.clone()).sum_dim(1).sum();
                crossed(p) + negative_entropy
            }
        }
    }

    /// `Σ KL(Q ‖ M)` over the rows, as far as the listed outcomes go.
    ///
    /// # Shapes
    /// - log_m: `[rows, outcomes]`
    /// - output: `[1]`
    pub fn reverse_kl(&self, log_m: Tensor<B, 2>) -> Tensor<B, 1> {
        (self.log_q.clone().exp() * (self.log_q.clone() - log_m)).sum_dim(1).sum()
    }

    /// The student's probability of all outcomes that are not listed, summed over the rows; none where it has none.
    /// The teacher's is 0 there. Only [`Tail::RenormaliseTeacher`] leaves such outcomes.
    pub fn outside(&self) -> Option<Tensor<B, 1>> {
        let inside = || self.log_q.clone().exp().sum_dim(1);
        self.open.then(|| (inside().neg() + 1.0).clamp_min(0.0).sum())
    }

    /// Calls `work(row, log-probabilities)` for each row of the teacher's on the host, on all processors. −∞ stands
    /// where an outcome has no probability.
    pub fn map_rows<R: Send>(&self, work: impl Fn(usize, &[f64]) -> R + Sync) -> Vec<R> {
        match &self.teacher {
            TeacherSide::Stored(rows) => {
                (0..self.places.len()).into_par_iter().map(|row| work(row, &rows.row(row))).collect()
            }
            TeacherSide::Live(log_p) => {
                let width = log_p.dims()[1];
                // f32 by the conversion, so the fallback is never taken.
                let values: Vec<f32> = log_p.to_data().convert::<f32>().into_vec().unwrap_or_default();
                let one = |(row, log_p): (usize, &[f32])| {
                    work(row, &log_p.iter().map(|log_p| f64::from(*log_p)).collect::<Vec<f64>>())
                };
                values.par_chunks(width.max(1)).enumerate().map(one).collect()
            }
        }
    }

    /// A matrix of numbers beside the student's.
    pub fn matrix(&self, numbers: Vec<f32>, width: usize) -> Tensor<B, 2> {
        let rows = numbers.len() / width.max(1);
        Tensor::from_data(TensorData::new(numbers, [rows, width]), &self.log_q.device())
    }
}

/// `log(share · L + (1 − share) · R)` from the logarithms of both, without leaving log-space: exact where either is tiny.
///
/// # Shapes
/// - all: `[rows, outcomes]`
pub fn log_mixture<B: Backend>(share: f64, log_left: Tensor<B, 2>, log_right: Tensor<B, 2>) -> Tensor<B, 2> {
    if share == 0.0 {
        return log_right;
    }
    if share == 1.0 {
        return log_left;
    }
    let (left, right) = (log_left + share.ln(), log_right + (1.0 - share).ln());
    // Only a shift: the result does not depend on it, so no gradient goes through it.
    let largest = left.clone().detach().max_pair(right.clone().detach());
    ((left - largest.clone()).exp() + (right - largest.clone()).exp()).log() + largest
}

/// The student's k + 1 log-probabilities from its k.
fn with_bucket<B: Kernels>(log_q: Tensor<B, 2>, temperature: f64) -> Tensor<B, 2> {
    let inside = log_q.clone().exp().sum_dim(1);
    let outside = (inside.neg() + 1.0).clamp_min(SMALLEST_BUCKET).log();
    let all = Tensor::cat(vec![log_q, outside], 1);
    if temperature == 1.0 { all } else { B::log_probabilities(all / temperature) }
}

pub(super) fn softened<B: Backend>(logits: Tensor<B, 2>, temperature: f64) -> Tensor<B, 2> {
    if temperature == 1.0 { logits } else { logits / temperature }
}

pub(super) fn first_columns<B: Backend>(matrix: Tensor<B, 2>, count: usize) -> Tensor<B, 2> {
    if matrix.dims()[1] == count { matrix } else { matrix.narrow(1, 0, count) }
}

pub(super) fn select_rows<B: Kernels>(matrix: Tensor<B, 2>, rows: &[usize]) -> Tensor<B, 2> {
    let rows: Vec<i32> = rows.iter().map(|row| *row as i32).collect();
    let count = rows.len();
    let rows = Tensor::<B, 1, Int>::from_data(TensorData::new(rows, [count]), &matrix.device());
    matrix.select(0, rows)
}
