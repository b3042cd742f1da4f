//! Where numbers get extreme, or something is missing.

use super::*;

fn with_labels(count: usize) -> Vec<u32> {
    vec![0; count]
}

fn finite(name: &str, loss: &dyn Loss, student: &[Vec<f32>], teacher: &Teacher) -> (f64, Vec<f32>) {
    let logits = tensor(student).require_grad();
    let (value, on_tape) = mean(loss, logits.clone(), &with_labels(student.len()), teacher);
    let slopes = gradient(&on_tape, &logits);
    assert!(value.is_finite() && slopes.iter().all(|slope| slope.is_finite()), "{name}: {value} {slopes:?}");
    (value, slopes)
}

#[test]
fn equal_distributions_are_at_distance_nothing_and_pull_nowhere() {
    let rows: Vec<Vec<f32>> = vec![vec![0.3, -1.0, 2.0, 0.0], vec![40.0, -40.0, 0.0, 1.0], vec![0.0; 4]];
    for case in [1.0, 2.0].into_iter().flat_map(cases) {
        // A top k of everything: no mass is outside, whatever the tail.
        let teacher = top_k(&rows, 4);
        let (value, slopes) = finite(&case.name, case.loss.as_ref(), &rows, &teacher);
        // Total variation has no slope where p = q: rounding decides its sign, its size stays bounded.
        let bound = if case.name.starts_with("total") { 4.0 } else { 1e-5 };
        assert!(value.abs() < 2e-6, "{}: {value}", case.name);
        assert!(slopes.iter().all(|slope| slope.abs() < bound), "{}: {slopes:?}", case.name);
    }
}

#[test]
fn a_sure_teacher_is_at_distance_nothing_from_its_like_however_soft_both_are() {
    let rows = vec![vec![30.0, 0.0, -1.0, -2.0], vec![-4.0, 21.0, 1.0, 0.5], vec![-3.0, 0.0, 0.0, 24.0]];
    for case in [4.0, 2.0, 0.5].into_iter().flat_map(cases).filter(|case| case.comparison.tail == Tail::Bucket) {
        // Nothing that f32 knows of is outside.
        let (value, slopes) = finite(&case.name, case.loss.as_ref(), &rows, &top_k(&rows, 2));
        let bound = if case.name.starts_with("total") { 4.0 } else { 1e-5 };
        assert!(value.abs() < 2e-6, "{}: {value}", case.name);
        assert!(slopes.iter().all(|slope| slope.abs() < bound), "{}: {slopes:?}", case.name);
    }
}

#[test]
fn a_sure_teacher_is_as_far_from_others_as_the_formulas_in_f64_say() {
    let teacher = vec![vec![30.0, 0.0, -1.0, -2.0], vec![-4.0, 21.0, 1.0, 0.5]];
    // One as sure, one sure of something else, one that is not sure.
    let students = [
        vec![vec![26.0, 1.0, -3.0, 0.5], vec![-2.0, 24.0, 3.0, 0.0]],
        vec![vec![-3.0, 1.0, 2.0, 25.0], vec![1.0, 0.0, 22.0, 2.0]],
        vec![vec![0.5, 0.0, 1.0, -0.5], vec![1.0, 2.0, 0.0, 0.3]],
    ];
    let exact = |rows: &[Vec<f32>]| rows.iter().map(|row| wide(row)).collect::<Vec<_>>();
    for case in [1.0, 2.0, 4.0].into_iter().flat_map(cases).filter(|case| case.comparison.tail == Tail::Bucket) {
        for student in &students {
            let (value, _) = finite(&case.name, case.loss.as_ref(), student, &top_k(&teacher, 2));
            let expected = reference::mean(&case, &exact(&teacher), &exact(student), &exact(student), 2);
            let difference = (value - expected).abs();
            assert!(difference < 2e-5 * expected.abs().max(1.0), "{}: {value} is not {expected}", case.name);
        }
    }
}

#[test]
fn a_distribution_is_judged_alike_whatever_stands_beside_it() {
    let golden = Golden::read();
    let (whole, few) = (said(&golden.teacher(4), 8), said(&golden.teacher(2), 8));
    let mut mixed: Vec<TopK> = (0..8).map(|place| if place % 3 == 0 { &whole } else { &few }[place].clone()).collect();
    // A teacher with a smaller vocabulary.
    mixed[6] = TopK { ids: vec![], log_probs: vec![0.25f32.ln(), 0.5f32.ln(), 0.25f32.ln()] };
    // The student has an id more, which only pads its vocabulary.
    let padded: Vec<Vec<f32>> = golden.student_logits().iter().map(|row| [row.as_slice(), &[1.0]].concat()).collect();
    for case in [1.0, 2.0, 4.0].into_iter().flat_map(cases) {
        let logits = tensor(&padded).require_grad();
        let (together, on_tape) =
            mean(case.loss.as_ref(), logits.clone(), &golden.labels, &Teacher::new(mixed.clone()));
        let slopes = gradient(&on_tape, &logits);
        let mut sum = 0.0;
        for (place, said) in mixed.iter().enumerate() {
            let logits = tensor(&padded[place..=place]).require_grad();
            let teacher = Teacher::new(vec![said.clone()]);
            let (value, on_tape) = mean(case.loss.as_ref(), logits.clone(), &golden.labels[place..=place], &teacher);
            sum += value;
            for (alone, slope) in gradient(&on_tape, &logits).iter().zip(&slopes[place * 5..]) {
                assert!((alone / 8.0 - slope).abs() < 2e-6, "{} at {place}: {slope} is not {alone} / 8", case.name);
            }
        }
        assert!((together - sum / 8.0).abs() < 5e-6, "{}: {together} is not {}", case.name, sum / 8.0);
    }
}

#[test]
fn tokens_that_a_teacher_rules_out_leave_every_loss_a_number() {
    let nothing = f32::NEG_INFINITY;
    let whole = Teacher::new(vec![
        TopK { ids: vec![], log_probs: vec![0.0, nothing, nothing, nothing] },
        TopK { ids: vec![], log_probs: vec![nothing, 0.5f32.ln(), 0.5f32.ln(), nothing] },
    ]);
    let few = Teacher::new(vec![
        TopK { ids: vec![2, 0], log_probs: vec![0.0, nothing] },
        TopK { ids: vec![3, 1], log_probs: vec![-1e-4, nothing] },
    ]);
    let student = vec![vec![0.5, 1.0, -2.0, 0.0], vec![0.0, 3.0, 1.0, -1.0]];
    for case in [1.0, 2.0].into_iter().flat_map(cases) {
        for teacher in [&whole, &few] {
            let (value, _) = finite(&case.name, case.loss.as_ref(), &student, teacher);
            assert!(value > 0.0 || case.name.contains("RenormaliseBoth"), "{}: {value}", case.name);
        }
    }
}

#[test]
fn logits_far_apart_leave_every_loss_a_number() {
    let student = vec![vec![90.0, -90.0, 0.0, 5.0], vec![-300.0, 300.0, -300.0, -300.0], vec![1e4, -1e4, 0.0, 0.0]];
    let teacher = vec![vec![-90.0, 90.0, 0.0, 5.0], vec![300.0, -300.0, 0.0, 0.0], vec![-1e4, 1e4, 0.0, 0.0]];
    for case in [1.0, 2.0].into_iter().flat_map(cases) {
        for k in [4, 2, 1] {
            finite(&format!("{} top {k}", case.name), case.loss.as_ref(), &student, &top_k(&teacher, k));
        }
        let live = LiveLogits { logits: tensor(&teacher), ours: 4, theirs: 4, places: None, same_tokens: true };
        let logits = tensor(&student).require_grad();
        let labels = with_labels(3);
        let positions = Positions::new(logits.clone(), &labels, TeacherPositions::none()).beside(Some(live));
        let (value, on_tape) = mean_of(case.loss.as_ref(), &positions);
        let slopes = gradient(&on_tape, &logits);
        assert!(value.is_finite() && slopes.iter().all(|slope| slope.is_finite()), "{}: {value} {slopes:?}", case.name);
    }
}

#[test]
fn f16_signals_that_sum_to_more_than_one_leave_every_loss_a_number() {
    // Rounded to f16, a sure teacher's k can sum to a little more than 1: its bucket is empty, never negative.
    let teacher = Teacher::new(vec![TopK { ids: vec![1, 2], log_probs: vec![-0.001, -6.5] }]);
    for case in [1.0, 2.0].into_iter().flat_map(cases) {
        finite(&case.name, case.loss.as_ref(), &[vec![0.0, 1.0, 2.0, 3.0]], &teacher);
        finite(&case.name, case.loss.as_ref(), &[vec![-60.0, 60.0, 2.0, -60.0]], &teacher);
    }
}

#[test]
fn positions_without_a_signal_are_left_out() {
    let golden = Golden::read();
    let mut rows = said(&golden.teacher(2), 8);
    for place in [0, 3, 7] {
        rows[place] = TopK::default();
    }
    // A position may carry fewer than the others.
    rows[4].ids.truncate(1);
    rows[4].log_probs.truncate(1);
    let sparse = Teacher::new(rows.clone());
    for case in [1.0, 2.0].into_iter().flat_map(cases) {
        let together = mean(case.loss.as_ref(), golden.logits(), &golden.labels, &sparse).0;
        let one_by_one = [1, 2, 4, 5, 6].map(|place| {
            let logits = golden.logits().narrow(0, place, 1);
            let teacher = Teacher::new(vec![rows[place].clone()]);
            mean(case.loss.as_ref(), logits, &golden.labels[place..=place], &teacher).0
        });
        let expected = one_by_one.iter().sum::<f64>() / 5.0;
        assert!((together - expected).abs() < 1e-6, "{}: {together} is not {expected}", case.name);
    }
}

#[test]
fn a_batch_without_signals_has_no_divergence_and_no_nan() {
    let golden = Golden::read();
    for case in cases(1.0) {
        let positions = Positions::new(golden.logits(), &golden.labels, TeacherPositions::none());
        let LossSum { sum, positions } = case.loss.sum_on_cpu(&positions);
        assert!(sum.is_none() && positions == 0, "{}", case.name);
    }
}
