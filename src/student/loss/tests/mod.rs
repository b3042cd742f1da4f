//! Every loss against the values of other implementations, against itself in f64, and where numbers get extreme.

mod across;
mod drawn;
mod extremes;
mod golden;
mod hidden;
mod reference;
mod refused;
mod sampled;
mod stories;

use serde::Deserialize;
use stillhouse_data::signals::TopK;

use super::adaptive_kl::AdaptiveKl;
use super::cross_entropy::CrossEntropy;
use super::forward_kl::ForwardKl;
use super::jsd::Jsd;
use super::reverse_kl::ReverseKl;
use super::reverse_skewed_kl::ReverseSkewedKl;
use super::sampled_cross_entropy::SampledCrossEntropy;
use super::skewed_kl::SkewedKl;
use super::total_variation::TotalVariation;
use super::*;
use crate::backend::{Cpu, CpuTape};

/// The fixture of eight positions over four tokens.
#[derive(Deserialize)]
struct Golden {
    #[serde(rename = "student_logits")]
    student: Vec<Vec<f64>>,
    #[serde(rename = "teacher_logits")]
    teacher: Vec<Vec<f64>>,
    labels: Vec<u32>,
    values: std::collections::BTreeMap<String, f64>,
}

impl Golden {
    fn read() -> Self {
        serde_json::from_str(include_str!("../../tests/golden/losses.json")).unwrap()
    }

    fn value(&self, begins: &str) -> f64 {
        *self.values.iter().find(|(name, _)| name.starts_with(begins)).unwrap().1
    }

    fn logits(&self) -> Tensor<CpuTape, 2> {
        tensor(&self.student_logits()).require_grad()
    }

    fn student_logits(&self) -> Vec<Vec<f32>> {
        narrow(&self.student)
    }

    fn teacher_logits(&self) -> Vec<Vec<f32>> {
        narrow(&self.teacher)
    }

    fn teacher(&self, k: usize) -> Teacher {
        top_k(&self.teacher_logits(), k)
    }
}

fn narrow(rows: &[Vec<f64>]) -> Vec<Vec<f32>> {
    rows.iter().map(|row| row.iter().map(|value| *value as f32).collect()).collect()
}

fn tensor(rows: &[Vec<f32>]) -> Tensor<CpuTape, 2> {
    Tensor::from_data(TensorData::new(rows.concat(), [rows.len(), rows[0].len()]), &Default::default())
}

/// The teacher's most likely k as stored; whole distributions where k is the vocabulary.
fn top_k(logits: &[Vec<f32>], k: usize) -> Teacher {
    let said = logits.iter().map(|logits| {
        let log_probs = reference::log_softmax(&wide(logits));
        let mut pairs: Vec<(u32, f32)> = (0..).zip(log_probs.iter().map(|log_p| *log_p as f32)).collect();
        let whole = k >= logits.len();
        if !whole {
            pairs.sort_by(|left, right| right.1.total_cmp(&left.1));
            pairs.truncate(k);
        }
        let (ids, log_probs) = pairs.into_iter().unzip();
        TopK { ids: if whole { vec![] } else { ids }, log_probs }
    });
    Teacher::new(said.collect())
}

fn wide(row: &[f32]) -> Vec<f64> {
    row.iter().map(|value| f64::from(*value)).collect()
}

fn said(teacher: &Teacher, positions: usize) -> Vec<TopK> {
    teacher.part(0..positions).known().map(|(_, distribution)| distribution.clone()).collect()
}

/// The mean over the positions that a loss applies to, as a number and on the tape.
fn mean(loss: &dyn Loss, logits: Tensor<CpuTape, 2>, labels: &[u32], teacher: &Teacher) -> (f64, Tensor<CpuTape, 1>) {
    mean_of(loss, &Positions::new(logits, labels, teacher.part(0..labels.len())))
}

fn mean_of(loss: &dyn Loss, positions: &Positions<'_, CpuTape>) -> (f64, Tensor<CpuTape, 1>) {
    let LossSum { sum, positions } = loss.sum_on_cpu(positions);
    let mean = sum.unwrap() / positions as f64;
    (f64::from(mean.clone().into_scalar()), mean)
}

fn gradient(mean: &Tensor<CpuTape, 1>, logits: &Tensor<CpuTape, 2>) -> Vec<f32> {
    let mut gradients = mean.backward();
    logits.grad_remove(&mut gradients).unwrap().into_data().to_vec().unwrap()
}

fn forward_kl(temperature: f64, t_squared: bool, tail: Tail) -> ForwardKl {
    ForwardKl { weight: Weight::Constant(1.0), temperature, t_squared, tail }
}

/// A divergence with its formula on two distributions in f64, both over all outcomes. The third is the student's as
/// far as no gradient goes through it.
struct Case {
    name: String,
    loss: Box<dyn Loss>,
    comparison: Comparison,
    formula: InF64,
}

type InF64 = Box<dyn Fn(&[f64], &[f64], &[f64]) -> f64>;

/// Every divergence with every tail that it can be defined with.
fn cases(temperature: f64) -> Vec<Case> {
    let weight = Weight::Constant(1.0);
    let mut cases = Vec::new();
    for tail in [Tail::RenormaliseTeacher, Tail::Bucket, Tail::RenormaliseBoth] {
        let t_squared = tail != Tail::RenormaliseBoth;
        let comparison = Comparison { temperature, t_squared, tail };
        let mut add = |name: &str, loss: Box<dyn Loss>, formula: InF64| {
            cases.push(Case { name: format!("{name} {tail:?} T={temperature}"), loss, comparison, formula });
        };
        add(
            "forward-kl",
            Box::new(ForwardKl { weight, temperature, t_squared, tail }),
            Box::new(|p, q, _| reference::kl(p, q)),
        );
        for beta in [0.0, 0.1, 0.5, 0.9] {
            let loss = Jsd { weight, beta, comparison };
            add(&format!("jsd {beta}"), Box::new(loss), Box::new(move |p, q, _| reference::jsd(beta, p, q)));
        }
        for alpha in [0.0, 0.1, 0.7] {
            let loss = SkewedKl { weight, alpha, comparison };
            add(
                &format!("skewed-kl {alpha}"),
                Box::new(loss),
                Box::new(move |p, q, _| reference::kl(p, &reference::mixture(alpha, p, q))),
            );
        }
        for alpha in [0.1, 0.7] {
            let loss = ReverseSkewedKl { weight, alpha, comparison };
            add(
                &format!("reverse-skewed-kl {alpha}"),
                Box::new(loss),
                Box::new(move |p, q, _| reference::kl(q, &reference::mixture(1.0 - alpha, p, q))),
            );
        }
        add(
            "total-variation",
            Box::new(TotalVariation { weight, comparison }),
            Box::new(|p, q, _| 0.5 * p.iter().zip(q).map(|(p, q)| (p - q).abs()).sum::<f64>()),
        );
        if tail == Tail::RenormaliseTeacher {
            continue;
        }
        add("reverse-kl", Box::new(ReverseKl { weight, comparison }), Box::new(|p, q, _| reference::kl(q, p)));
        add("jsd 1", Box::new(Jsd { weight, beta: 1.0, comparison }), Box::new(|p, q, _| reference::kl(q, p)));
        add(
            "reverse-skewed-kl 0",
            Box::new(ReverseSkewedKl { weight, alpha: 0.0, comparison }),
            Box::new(|p, q, _| reference::kl(q, p)),
        );
        add(
            "adaptive-kl",
            Box::new(AdaptiveKl { weight, alpha: 0.5, comparison }),
            Box::new(|p, q, held| reference::adaptive_kl(0.5, p, q, held)),
        );
    }
    cases
}
