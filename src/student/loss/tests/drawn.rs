//! Draws in the teacher's place: right on average for the losses that say so, and for no other.

use stillhouse_data::signals::{SequenceKey, draw};

use super::*;

const TIMES: usize = 1_000;

/// The gradient of a loss at the fixture's positions; where draws stand for the teacher, its mean over many.
fn slope(golden: &Golden, loss: &dyn Loss, samples: Option<u32>) -> Vec<f32> {
    let log_probs: Vec<Vec<f32>> =
        golden.teacher.iter().map(|row| reference::log_softmax(row).iter().map(|x| *x as f32).collect()).collect();
    let times = if samples.is_some() { TIMES } else { 1 };
    let (mut said, mut student) = (Vec::new(), Vec::new());
    for time in 0..times {
        for (place, log_probs) in (0u32..).zip(&log_probs) {
            let key = SequenceKey::of("t", &[time as u32]);
            said.push(match samples {
                Some(samples) => draw(log_probs, samples, 3, &key, place).unwrap(),
                None => TopK { ids: vec![], log_probs: log_probs.clone() },
            });
        }
        student.extend(golden.student_logits());
    }
    let labels = golden.labels.repeat(times);
    let logits = tensor(&student).require_grad();
    let (_, mean) = mean(loss, logits.clone(), &labels, &Teacher::new(said));
    let rows = golden.student.len() * 4;
    // A mean over `times` as many positions has slopes so many times smaller, which the sum over them makes good.
    gradient(&mean, &logits)
        .chunks(rows)
        .fold(vec![0.0; rows], |sum, part| sum.iter().zip(part).map(|(sum, slope)| sum + slope).collect())
}

fn furthest(one: &[f32], other: &[f32]) -> f32 {
    one.iter().zip(other).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max)
}

#[test]
fn the_losses_that_take_draws_have_the_slope_of_the_whole_distribution_on_average_and_others_do_not() {
    let golden = Golden::read();
    let exact = slope(&golden, &forward_kl(1.0, true, Tail::RenormaliseTeacher), None);
    let sampled = SampledCrossEntropy {
        weight: Weight::Constant(1.0),
        samples: 8,
        proposal: 1.0,
        comparison: Comparison { temperature: 1.0, t_squared: true, tail: Tail::Bucket },
    };
    let all: [&dyn Loss; 3] =
        [&forward_kl(1.0, true, Tail::RenormaliseTeacher), &forward_kl(1.0, true, Tail::Bucket), &sampled];
    for loss in all {
        assert_eq!(loss.refuses_draws(), None, "{loss:?}");
        let away = furthest(&slope(&golden, loss, Some(2)), &exact);
        assert!(away < 0.004, "{loss:?}: {away}");
    }
    for (loss, why) in [
        (forward_kl(2.0, true, Tail::RenormaliseTeacher), "at temperature 2 their mean"),
        (forward_kl(1.0, true, Tail::RenormaliseBoth), "`tail = \"renormalise-both\"`"),
    ] {
        let refused = Loss::refuses_draws(&loss).unwrap();
        assert!(refused.contains(why), "{refused}");
        let away = furthest(&slope(&golden, &loss, Some(2)), &slope(&golden, &loss, None));
        assert!(away > 0.01, "{loss:?}: {away}");
    }
    for case in cases(1.0) {
        let linear = case.name.starts_with("forward-kl") && case.comparison.tail != Tail::RenormaliseBoth;
        assert_eq!(case.loss.refuses_draws().is_none(), linear, "{}", case.name);
    }
}
