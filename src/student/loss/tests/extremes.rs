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
        let live = LiveLogits { logits: tensor(&teacher), shared: 4 };
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
