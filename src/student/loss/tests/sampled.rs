//! Targets drawn from the teacher.

use super::*;

fn sampled(samples: usize, proposal: f64, tail: Tail) -> SampledCrossEntropy {
    let comparison = Comparison { temperature: 1.0, t_squared: true, tail };
    SampledCrossEntropy { weight: Weight::Constant(1.0), samples, proposal, comparison }
}

fn drawn(golden: &Golden, loss: &SampledCrossEntropy, k: usize, seed: u8) -> f64 {
    let teacher = golden.teacher(k).with_draws([seed; 32]);
    mean(loss, golden.logits(), &golden.labels, &teacher).0
}

#[test]
fn the_mean_over_draws_is_the_cross_entropy_with_the_whole_distribution() {
    let golden = Golden::read();
    for (tail, k) in [(Tail::Bucket, 4), (Tail::Bucket, 2), (Tail::RenormaliseTeacher, 2), (Tail::RenormaliseBoth, 2)] {
        let comparison = Comparison { temperature: 1.0, t_squared: true, tail };
        let exact = golden.teacher.iter().zip(&golden.student).map(|(teacher, student)| {
            let (p, q) = reference::pair(teacher, student, k, &comparison);
            reference::kl(&p, &q) + reference::entropy(&p)
        });
        let exact = exact.sum::<f64>() / 8.0;
        for proposal in [1.0, 0.5, 0.0] {
            let values: Vec<f64> = (0..64).map(|seed| drawn(&golden, &sampled(256, proposal, tail), k, seed)).collect();
            let average = values.iter().sum::<f64>() / 64.0;
            let spread = (values.iter().map(|value| (value - average).powi(2)).sum::<f64>() / 63.0).sqrt();
            // Five standard errors; draws are the same for ever, so this never fails by chance.
            let error = (average - exact).abs();
            assert!(
                error < 5.0 * spread / 8.0 + 1e-6,
                "{tail:?} top {k} {proposal}: {average} is not {exact} ± {spread}"
            );
            assert!(spread < 0.1, "{tail:?} top {k} {proposal}: {spread}");
        }
    }
}

#[test]
fn draws_depend_on_step_and_position_and_on_nothing_else() {
    let golden = Golden::read();
    let loss = sampled(3, 1.0, Tail::Bucket);
    let value = drawn(&golden, &loss, 4, 1);
    assert_eq!(value, drawn(&golden, &loss, 4, 1));
    assert_ne!(value, drawn(&golden, &loss, 4, 2));
    // Cut into parts, every position draws what it drew before.
    let teacher = golden.teacher(4).with_draws([1; 32]);
    let parts = [0..3, 3..4, 4..8].map(|part| {
        let logits = golden.logits().narrow(0, part.start, part.len());
        let positions = Positions::new(logits, &golden.labels[part.clone()], teacher.part(0..8).part(part.clone()));
        mean_of(&loss, &positions).0 * part.len() as f64
    });
    assert!((parts.iter().sum::<f64>() / 8.0 - value).abs() < 1e-6);
    // A live teacher with the same distributions draws the same.
    let live =
        LiveLogits { logits: tensor(&golden.teacher_logits()), ours: 4, theirs: 4, places: None, same_tokens: true };
    let positions = Positions::new(golden.logits(), &golden.labels, teacher.part(0..8)).beside(Some(live));
    assert!((mean_of(&loss, &positions).0 - value).abs() < 1e-6);
}

#[test]
fn the_gradient_is_that_of_the_drawn_targets() {
    let golden = Golden::read();
    let logits = golden.logits();
    let teacher = golden.teacher(4).with_draws([9; 32]);
    let (value, on_tape) = mean(&sampled(5, 1.0, Tail::Bucket), logits.clone(), &golden.labels, &teacher);
    let slopes = gradient(&on_tape, &logits);
    // −Σ w log q has the slope q − w where the w of a position sum to 1, so the w can be read off and checked.
    let mut again = 0.0;
    for (row, slopes) in golden.student.iter().zip(slopes.chunks(4)) {
        let q = reference::softmax(row, 1.0);
        let weights: Vec<f64> = q.iter().zip(slopes).map(|(q, slope)| q - f64::from(*slope) * 8.0).collect();
        for weight in &weights {
            assert!((weight * 5.0 - (weight * 5.0).round()).abs() < 1e-4, "{weights:?}");
        }
        assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-5, "{weights:?}");
        again -= weights.iter().zip(&q).map(|(weight, q)| weight * q.ln()).sum::<f64>();
    }
    assert!((again / 8.0 - value).abs() < 1e-5);
}

#[test]
fn what_the_teacher_rules_out_is_never_drawn() {
    let log_probs = vec![0.5f32.ln(), f32::NEG_INFINITY, 0.5f32.ln(), f32::NEG_INFINITY];
    let teacher = Teacher::new(vec![TopK { ids: vec![], log_probs }]);
    let student = vec![vec![0.0, -1e4, 0.0, -1e4]];
    let (value, _) = mean(&sampled(500, 0.0, Tail::Bucket), tensor(&student).require_grad(), &[0], &teacher);
    assert!((value - 2f64.ln()).abs() < 1e-5, "{value}");
}
