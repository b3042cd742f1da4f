use serde::Deserialize;
use stillhouse_data::signals::TopK;

use super::cross_entropy::CrossEntropy;
use super::forward_kl::{ForwardKl, Tail};
use super::*;
use crate::backend::CpuTape;

#[derive(Deserialize)]
struct Golden {
    student_logits: Vec<Vec<f32>>,
    teacher_logits: Vec<Vec<f32>>,
    labels: Vec<u32>,
    values: std::collections::BTreeMap<String, f64>,
}

impl Golden {
    fn read() -> Self {
        serde_json::from_str(include_str!("../tests/golden/losses.json")).unwrap()
    }

    fn value(&self, begins: &str) -> f64 {
        *self.values.iter().find(|(name, _)| name.starts_with(begins)).unwrap().1
    }

    fn logits(&self) -> Tensor<CpuTape, 2> {
        let data = TensorData::new(self.student_logits.concat(), [8, 4]);
        Tensor::from_data(data, &Default::default()).require_grad()
    }

    fn teacher(&self, k: usize) -> Teacher {
        let said = self.teacher_logits.iter().map(|logits| {
            let mass = logits.iter().map(|logit| f64::from(*logit).exp()).sum::<f64>().ln();
            let mut pairs: Vec<(u32, f32)> =
                (0..).zip(logits.iter().map(|logit| (f64::from(*logit) - mass) as f32)).collect();
            if k < 4 {
                pairs.sort_by(|left, right| right.1.total_cmp(&left.1));
                pairs.truncate(k);
            }
            let (ids, log_probs) = pairs.into_iter().unzip();
            TopK { ids: if k < 4 { ids } else { vec![] }, log_probs }
        });
        Teacher::new(said.collect())
    }
}

fn mean(loss: &impl Formula, logits: Tensor<CpuTape, 2>, labels: &[u32], teacher: &Teacher) -> (f64, Tensor<CpuTape, 1>) {
    let positions = Positions::new(logits, labels, teacher.part(0..labels.len()));
    let LossSum { sum, positions } = loss.sum(&positions);
    let mean = sum.unwrap() / positions as f64;
    (f64::from(mean.clone().into_scalar()), mean)
}

fn forward_kl(temperature: f64, t_squared: bool, tail: Tail) -> ForwardKl {
    ForwardKl { weight: 1.0, temperature, t_squared, tail }
}

#[test]
fn the_values_are_those_of_the_peers() {
    let golden = Golden::read();
    let cross_entropy = mean(&CrossEntropy { weight: 1.0 }, golden.logits(), &golden.labels, &Teacher::default()).0;
    assert!((cross_entropy - golden.value("CE(")).abs() < 1e-6, "{cross_entropy}");
    for (loss, k, name) in [
        (forward_kl(1.0, true, Tail::RenormaliseTeacher), 4, "KL(T||S) (TRL"),
        (forward_kl(1.0, true, Tail::Bucket), 4, "KL(T||S) (TRL"),
        (forward_kl(1.0, true, Tail::RenormaliseBoth), 4, "KL(T||S) (TRL"),
        (forward_kl(2.0, false, Tail::Bucket), 4, "KL(T||S) at tau=2.0 no"),
        (forward_kl(2.0, true, Tail::Bucket), 4, "KL(T||S) at tau=2.0 with"),
        (forward_kl(1.0, true, Tail::RenormaliseTeacher), 2, "top-2 FKL conv A"),
        (forward_kl(1.0, true, Tail::Bucket), 2, "top-2 FKL conv B"),
        (forward_kl(1.0, true, Tail::RenormaliseBoth), 2, "top-2 FKL conv C"),
    ] {
        let value = mean(&loss, golden.logits(), &golden.labels, &golden.teacher(k)).0;
        let expected = golden.value(name);
        assert!((value - expected).abs() < 1e-6, "{name} {loss:?}: {value} is not {expected}");
    }
}

#[test]
fn gradients_are_the_slopes() {
    let golden = Golden::read();
    check(&CrossEntropy { weight: 1.0 }, &golden, 4);
    for tail in [Tail::RenormaliseTeacher, Tail::Bucket, Tail::RenormaliseBoth] {
        for temperature in [1.0, 2.0] {
            check(&forward_kl(temperature, true, tail), &golden, 4);
            check(&forward_kl(temperature, true, tail), &golden, 2);
        }
    }

    fn check(loss: &impl Formula, golden: &Golden, k: usize) {
        let logits = golden.logits();
        let mut gradients = mean(loss, logits.clone(), &golden.labels, &golden.teacher(k)).1.backward();
        let gradient: Vec<f32> = logits.grad_remove(&mut gradients).unwrap().into_data().to_vec().unwrap();
        for (place, slope) in gradient.iter().enumerate() {
            let moved = |by: f32| {
                let mut values = golden.student_logits.concat();
                values[place] += by;
                let logits = Tensor::from_data(TensorData::new(values, [8, 4]), &Default::default());
                mean(loss, logits, &golden.labels, &golden.teacher(k)).0
            };
            let finite = (moved(0.02) - moved(-0.02)) / 0.04;
            assert!((finite - f64::from(*slope)).abs() < 2e-4, "{loss:?} top {k} at {place}: {slope} is not {finite}");
        }
    }
}

#[test]
fn positions_without_a_signal_are_left_out() {
    let golden = Golden::read();
    let full = golden.teacher(2);
    let mut said: Vec<TopK> = full.part(0..8).known().map(|(_, distribution)| distribution.clone()).collect();
    for place in [0, 3, 7] {
        said[place] = TopK::default();
    }
    // A position may carry fewer than the others.
    said[4].ids.truncate(1);
    said[4].log_probs.truncate(1);
    let sparse = Teacher::new(said.clone());
    for tail in [Tail::RenormaliseTeacher, Tail::Bucket, Tail::RenormaliseBoth] {
        let loss = forward_kl(1.0, true, tail);
        let together = mean(&loss, golden.logits(), &golden.labels, &sparse).0;
        let one_by_one = [1, 2, 4, 5, 6].map(|place| {
            let logits = golden.logits().narrow(0, place, 1);
            mean(&loss, logits, &golden.labels[place..=place], &Teacher::new(vec![said[place].clone()])).0
        });
        let expected = one_by_one.iter().sum::<f64>() / 5.0;
        assert!((together - expected).abs() < 1e-6, "{tail:?}: {together} is not {expected}");
    }
}

#[test]
fn a_batch_without_signals_has_no_divergence_and_no_nan() {
    let golden = Golden::read();
    let positions = Positions::new(golden.logits(), &golden.labels, TeacherPositions::none());
    let LossSum { sum, positions } = forward_kl(1.0, true, Tail::Bucket).sum(&positions);
    assert!(sum.is_none() && positions == 0);
}
