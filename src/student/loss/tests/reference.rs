//! The formulas in f64, on whole distributions, written from their definitions and sharing nothing with the losses.

use super::*;

pub(super) fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mass = logits.iter().map(|logit| (logit - largest).exp()).sum::<f64>().ln() + largest;
    logits.iter().map(|logit| logit - mass).collect()
}

pub(super) fn softmax(logits: &[f64], temperature: f64) -> Vec<f64> {
    let softened: Vec<f64> = logits.iter().map(|logit| logit / temperature).collect();
    log_softmax(&softened).iter().map(|log_p| log_p.exp()).collect()
}

/// `Σ a log(a / b)`, where 0 · log 0 is 0.
pub(super) fn kl(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).filter(|(a, _)| **a > 0.0).map(|(a, b)| a * (a / b).ln()).sum()
}

pub(super) fn entropy(p: &[f64]) -> f64 {
    -p.iter().filter(|p| **p > 0.0).map(|p| p * p.ln()).sum::<f64>()
}

pub(super) fn mixture(share: f64, p: &[f64], q: &[f64]) -> Vec<f64> {
    p.iter().zip(q).map(|(p, q)| share * p + (1.0 - share) * q).collect()
}

pub(super) fn jsd(beta: f64, p: &[f64], q: &[f64]) -> f64 {
    match beta {
        0.0 => kl(p, q),
        1.0 => kl(q, p),
        beta => {
            let m = mixture(beta, p, q);
            beta * kl(p, &m) + (1.0 - beta) * kl(q, &m)
        }
    }
}

pub(super) fn adaptive_kl(alpha: f64, p: &[f64], q: &[f64], held: &[f64]) -> f64 {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|left, right| p[*left].total_cmp(&p[*right]));
    let (mut mass, mut tail, mut head) = (0.0, 0.0, 0.0);
    for place in order {
        mass += p[place];
        let gap = (p[place] - held[place]).abs();
        if mass <= alpha { tail += gap } else { head += gap }
    }
    if head + tail == 0.0 {
        return 0.0;
    }
    (head * kl(p, q) + tail * kl(q, p)) / (head + tail)
}

/// Both distributions over one set of outcomes, as a tail makes them from the teacher's most likely k.
pub(super) fn pair(teacher: &[f64], student: &[f64], k: usize, comparison: &Comparison) -> (Vec<f64>, Vec<f64>) {
    let Comparison { temperature, tail, .. } = *comparison;
    if k >= teacher.len() {
        return (softmax(teacher, temperature), softmax(student, temperature));
    }
    let mut order: Vec<usize> = (0..teacher.len()).collect();
    order.sort_by(|left, right| teacher[*right].total_cmp(&teacher[*left]));
    let inside = &order[..k];
    let raw = softmax(teacher, 1.0);
    let power = |values: Vec<f64>| {
        let raised: Vec<f64> = values.iter().map(|value| value.powf(1.0 / temperature)).collect();
        let mass: f64 = raised.iter().sum();
        raised.iter().map(|value| value / mass).collect::<Vec<f64>>()
    };
    let of = |values: &[f64]| inside.iter().map(|place| values[*place]).collect::<Vec<f64>>();
    match tail {
        Tail::RenormaliseTeacher => {
            let mut p = vec![0.0; teacher.len()];
            inside.iter().zip(power(of(&raw))).for_each(|(place, value)| p[*place] = value);
            (p, softmax(student, temperature))
        }
        Tail::RenormaliseBoth => (power(of(&raw)), power(of(&softmax(student, 1.0)))),
        Tail::Bucket => {
            let with_rest = |values: Vec<f64>| {
                // No better known than this from f32, on either side.
                let rest = (1.0 - values.iter().sum::<f64>()).max(1e-7);
                power(values.into_iter().chain([rest]).collect())
            };
            (with_rest(of(&raw)), with_rest(of(&softmax(student, 1.0))))
        }
    }
}

/// The mean of a case's formula over positions; `held` are the student's logits as far as no gradient goes through.
pub(super) fn mean(case: &Case, teacher: &[Vec<f64>], student: &[Vec<f64>], held: &[Vec<f64>], k: usize) -> f64 {
    let each = teacher.iter().zip(student).zip(held).map(|((teacher, student), held)| {
        let (p, q) = pair(teacher, student, k, &case.comparison);
        (case.formula)(&p, &q, &pair(teacher, held, k, &case.comparison).1)
    });
    each.sum::<f64>() / teacher.len() as f64 * case.comparison.scale()
}
