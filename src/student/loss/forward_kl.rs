//! Forward Kullback–Leibler divergence from the teacher's distribution.

use burn::tensor::{Int, Tensor, TensorData};
use rayon::prelude::*;
use stillhouse_data::signals::TopK;
use stillhouse_spec::Config;

use super::{Formula, LossSum, Positions};
use crate::kernels::Kernels;

/// Forward KL: `KL(P ‖ Q) = Σ p (log p − log q)` with the teacher's P and the student's Q, natural logarithm, over the
/// counted positions that carry a teacher's signal.
///
/// With a temperature T both distributions are `softmax(logits / T)`; a teacher's log-probabilities stand for its
/// logits, from which they differ by a constant.
#[derive(Clone, Debug, Config)]
pub struct ForwardKl {
    /// Factor in the sum of losses.
    #[config(default = 1.0, min = 0)]
    pub weight: f64,
    /// Softens both distributions before they are compared.
    #[config(default = 1.0, above = 0)]
    pub temperature: f64,
    /// Multiply by T², which keeps the gradient's size when T changes (Hinton et al., 2015).
    #[config(default = true)]
    pub t_squared: bool,
    /// What to do about the probability outside the teacher's top k. Without effect where signals are whole.
    #[config(default = Tail::RenormaliseTeacher)]
    pub tail: Tail,
}

/// What becomes of the probability outside the teacher's top k.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
pub enum Tail {
    /// The teacher's k are scaled to sum to 1; the student is judged on the whole vocabulary. Pushes the student's mass
    /// into the k.
    RenormaliseTeacher,
    /// Everything outside the k is one more outcome on both sides. With a temperature, the k + 1 probabilities of both
    /// sides are raised to 1/T and scaled to sum to 1.
    Bucket,
    /// Both are scaled to sum to 1 over the k: what the student does outside is not judged.
    RenormaliseBoth,
}

/// Least probability the student's bucket is taken to have: 1 − Σ q is no better known than this in f32.
const SMALLEST_BUCKET: f64 = 1e-7;

impl Formula for ForwardKl {
    const NEEDS_TEACHER: bool = true;

    fn weight(&self) -> f64 {
        self.weight
    }

    fn sum<B: Kernels>(&self, positions: &Positions<'_, B>) -> LossSum<B> {
        let (rows, said): (Vec<usize>, Vec<&TopK>) = positions.teacher.known().unzip();
        if rows.is_empty() {
            return LossSum { sum: None, positions: 0 };
        }
        let vocabulary = positions.logits.dims()[1];
        let whole = said.iter().all(|distribution| distribution.ids.is_empty());
        let targets = self.targets(&said, vocabulary, whole);
        let every = rows.len() == positions.labels.len();
        let pick = |matrix: Tensor<B, 2>| if every { matrix } else { select_rows(matrix, &rows) };
        let log_q = if whole {
            pick(positions.log_probs_at(self.temperature))
        } else {
            let ids = positions.ids(targets.ids, targets.width);
            match self.tail {
                Tail::RenormaliseTeacher => pick(positions.log_probs_at(self.temperature)).gather(1, ids),
                Tail::RenormaliseBoth => {
                    let absent = positions.numbers(targets.absent, targets.width);
                    let logits = pick(positions.logits.clone()).gather(1, ids) / self.temperature;
                    // Places that only fill the row get a logit so low that they carry no mass.
                    B::log_probabilities(logits + absent * -1e9)
                }
                Tail::Bucket => {
                    let absent = positions.numbers(targets.absent, targets.width);
                    self.with_bucket(pick(positions.log_probs()).gather(1, ids), absent)
                }
            }
        };
        let width = log_q.dims()[1];
        let crossed = (positions.numbers(targets.probabilities, width) * log_q).sum_dim(1).sum();
        let scale = if self.t_squared { self.temperature * self.temperature } else { 1.0 };
        let sum = (crossed.neg() + targets.negative_entropy) * scale;
        LossSum { sum: Some(sum), positions: rows.len() }
    }
}

/// The teacher's side, ready for the device: everything that does not depend on the student.
struct Targets {
    /// Places a row.
    width: usize,
    /// Token ids, `[rows × width]`; empty for whole distributions.
    ids: Vec<i32>,
    /// Probabilities, `[rows × width]`, one more a row with a bucket.
    probabilities: Vec<f32>,
    /// 1 where a place only fills its row, `[rows × width]`; empty for whole distributions.
    absent: Vec<f32>,
    /// `Σ p log p` over all rows.
    negative_entropy: f64,
}

impl ForwardKl {
    fn targets(&self, said: &[&TopK], vocabulary: usize, whole: bool) -> Targets {
        let longest = said.iter().map(|distribution| distribution.log_probs.len()).max().unwrap_or(0);
        let width = if whole { vocabulary } else { longest };
        let bucket = !whole && self.tail == Tail::Bucket;
        let row_width = width + usize::from(bucket);
        let mut probabilities = vec![0.0; said.len() * row_width];
        // Row by row on all processors; each row's sum has one order, and the rows are added up in theirs.
        let negative_entropies: Vec<f64> = probabilities
            .par_chunks_mut(row_width)
            .zip(said)
            .map(|(row, distribution)| self.teacher_row(distribution, row, bucket))
            .collect();
        let mut targets =
            Targets { width, ids: Vec::new(), probabilities, absent: Vec::new(), negative_entropy: negative_entropies.iter().sum() };
        if !whole {
            for distribution in said {
                let filled = distribution.log_probs.len();
                if distribution.ids.is_empty() {
                    targets.ids.extend(0..filled as i32);
                } else {
                    targets.ids.extend(distribution.ids.iter().map(|id| *id as i32));
                }
                targets.ids.extend(std::iter::repeat_n(0, width - filled));
                targets.absent.extend(std::iter::repeat_n(0.0, filled));
                targets.absent.extend(std::iter::repeat_n(1.0, width - filled));
            }
        }
        targets
    }

    /// Fills a row with the teacher's probabilities at the temperature; gives `Σ p log p`.
    fn teacher_row(&self, distribution: &TopK, row: &mut [f32], bucket: bool) -> f64 {
        let log_probs = &distribution.log_probs;
        let mut softened: Vec<f64> = log_probs.iter().map(|log_p| f64::from(*log_p)).collect();
        if bucket {
            let inside: f64 = softened.iter().map(|log_p| log_p.exp()).sum();
            softened.push((1.0 - inside).max(0.0).ln());
        }
        softened.iter_mut().for_each(|log_p| *log_p /= self.temperature);
        let largest = softened.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mass: f64 = softened.iter().map(|log_p| (log_p - largest).exp()).sum();
        let log_mass = largest + mass.ln();
        let mut negative_entropy = 0.0;
        let bucket_place = row.len() - 1;
        for (place, log_p) in softened.iter().enumerate() {
            let log_p = log_p - log_mass;
            let p = log_p.exp();
            let is_bucket = bucket && place == log_probs.len();
            row[if is_bucket { bucket_place } else { place }] = p as f32;
            // 0 · log 0 is 0.
            if p > 0.0 {
                negative_entropy += p * log_p;
            }
        }
        negative_entropy
    }

    /// The student's k + 1 log-probabilities from its k.
    fn with_bucket<B: Kernels>(&self, log_q: Tensor<B, 2>, absent: Tensor<B, 2>) -> Tensor<B, 2> {
        let inside = (log_q.clone().exp() * (absent.clone().neg() + 1.0)).sum_dim(1);
        let outside = (inside.neg() + 1.0).clamp_min(SMALLEST_BUCKET).log();
        let all = Tensor::cat(vec![log_q + absent.clone() * -1e9, outside], 1);
        if self.temperature == 1.0 { all } else { B::log_probabilities(all / self.temperature) }
    }
}

fn select_rows<B: Kernels>(matrix: Tensor<B, 2>, rows: &[usize]) -> Tensor<B, 2> {
    let rows: Vec<i32> = rows.iter().map(|row| *row as i32).collect();
    let count = rows.len();
    let rows = Tensor::<B, 1, Int>::from_data(TensorData::new(rows, [count]), &matrix.device());
    matrix.select(0, rows)
}
