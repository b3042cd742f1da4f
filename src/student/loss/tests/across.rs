//! [`Uld`] against PyTorch, and what holds of it whatever the numbers.

use serde::Deserialize;

use super::super::uld::Uld;
use super::*;

/// Values and slopes in f64, made by `golden/uld.py`.
#[derive(Deserialize)]
struct Known {
    student: Vec<Vec<f64>>,
    cases: Vec<KnownCase>,
}

#[derive(Deserialize)]
struct KnownCase {
    teacher: Vec<Vec<f64>>,
    temperature: f64,
    mean: f64,
    gradient: Vec<Vec<f64>>,
}

fn uld(temperature: f64) -> Uld {
    Uld { weight: Weight::Constant(1.0), temperature }
}

/// A teacher beside a student that has so many tokens.
fn beside(teacher: &[Vec<f32>], ours: usize, places: Vec<u32>) -> Option<LiveLogits<CpuTape>> {
    Some(LiveLogits {
        logits: tensor(teacher),
        ours,
        theirs: teacher[0].len(),
        places: Some(places),
        same_tokens: false,
    })
}

/// Mean over the aligned positions, slopes, and how many positions there were.
fn measured(loss: &Uld, student: &[Vec<f32>], teacher: &[Vec<f32>], places: &[u32]) -> (f64, Vec<f32>, usize) {
    let logits = tensor(student).require_grad();
    let labels = vec![0; student.len()];
    let positions = Positions::new(logits.clone(), &labels, TeacherPositions::none());
    let positions = positions.beside(beside(teacher, student[0].len(), places.to_vec()));
    let (value, on_tape) = mean_of(loss, &positions);
    (value, gradient(&on_tape, &logits), loss.sum_on_cpu(&positions).positions)
}

fn every(rows: &[Vec<f32>]) -> Vec<u32> {
    (0..rows.len() as u32).collect()
}

#[test]
fn values_and_slopes_are_those_of_pytorch() {
    let known: Known = serde_json::from_str(include_str!("../../tests/golden/uld.json")).unwrap();
    let student = narrow(&known.student);
    let widths: std::collections::BTreeSet<usize> = known.cases.iter().map(|case| case.teacher[0].len()).collect();
    // A vocabulary that is smaller, as large, larger.
    assert!(widths.range(..student[0].len()).count() > 0 && widths.range(student[0].len()..).count() > 1);
    for KnownCase { teacher, temperature, mean, gradient } in known.cases {
        let teacher = narrow(&teacher);
        let (value, slopes, positions) = measured(&uld(temperature), &student, &teacher, &every(&student));
        let name = format!("{} tokens, T = {temperature}", teacher[0].len());
        assert_eq!(positions, student.len());
        assert!((value - mean).abs() < 1e-6, "{name}: {value} is not {mean}");
        for (slope, expected) in slopes.iter().zip(gradient.concat()) {
            assert!((f64::from(*slope) - expected).abs() < 1e-6, "{name}: {slope} is not {expected}");
        }
    }
}

#[test]
fn names_of_tokens_do_not_matter_and_equal_shapes_are_at_distance_nothing() {
    let student = vec![vec![2.0, 0.5, -1.0, 0.0], vec![0.1, 0.2, 0.3, 0.4]];
    let renamed = vec![vec![-1.0, 2.0, 0.0, 0.5], vec![0.4, 0.1, 0.2, 0.3]];
    let (value, ..) = measured(&uld(1.0), &student, &renamed, &every(&student));
    assert!(value.abs() < 1e-6, "{value}");
}

#[test]
fn it_is_never_more_than_two_and_comes_close_to_it() {
    let sure = vec![vec![60.0, 0.0, 0.0]];
    let unsure = vec![vec![0.0; 1_000]];
    let (value, slopes, _) = measured(&uld(1.0), &unsure, &sure, &[0]);
    assert!((1.99..=2.0).contains(&value), "{value}");
    assert!(slopes.iter().all(|slope| slope.is_finite()));
    let (value, ..) = measured(&uld(1.0), &sure, &unsure, &[0]);
    assert!((1.99..=2.0).contains(&value), "{value}");
}

#[test]
fn positions_without_a_partner_are_in_no_sum_and_get_no_slope() {
    let student = vec![vec![2.0, 0.5, -1.0], vec![0.1, 0.2, 0.3], vec![1.0, 0.0, 3.0]];
    let teacher = vec![vec![0.0, 1.0], vec![3.0, 1.0]];
    let (value, slopes, positions) = measured(&uld(1.0), &student, &teacher, &[0, 2]);
    assert_eq!(positions, 2);
    assert!(slopes[3..6].iter().all(|slope| *slope == 0.0) && slopes[..3].iter().any(|slope| *slope != 0.0));
    let alone = |place: usize, partner: usize| {
        let (rows, row) = (vec![student[place].clone()], vec![teacher[partner].clone()]);
        measured(&uld(1.0), &rows, &row, &[0]).0
    };
    assert!((value - (alone(0, 0) + alone(2, 1)) / 2.0).abs() < 1e-6);
}

#[test]
fn rows_that_are_no_tokens_are_in_neither_distribution() {
    let student = vec![vec![2.0, 0.5, -1.0], vec![0.1, 0.2, 0.3]];
    let teacher = vec![vec![0.0, 1.0], vec![3.0, 1.0]];
    let padded = |rows: &[Vec<f32>]| rows.iter().map(|row| [&row[..], &[9.0, 4.0]].concat()).collect::<Vec<_>>();
    let (expected, slopes, _) = measured(&uld(2.0), &student, &teacher, &[0, 1]);
    let logits = tensor(&padded(&student)).require_grad();
    let live = LiveLogits {
        logits: tensor(&padded(&teacher)),
        ours: 3,
        theirs: 2,
        places: Some(vec![0, 1]),
        same_tokens: false,
    };
    let positions = Positions::new(logits.clone(), &[0, 0], TeacherPositions::none()).beside(Some(live));
    let (value, on_tape) = mean_of(&uld(2.0), &positions);
    assert_eq!(value, expected);
    let with_padding = gradient(&on_tape, &logits);
    for (row, slopes) in with_padding.chunks(5).zip(slopes.chunks(3)) {
        assert!(row[..3] == *slopes && row[3..] == [0.0, 0.0], "{row:?}");
    }
}

#[test]
fn a_teachers_log_probabilities_are_computed_once_for_each_temperature() {
    let teacher = vec![vec![0.0, 1.0, 5.0], vec![3.0, 1.0, 5.0]];
    let live = LiveLogits { logits: tensor(&teacher), ours: 2, theirs: 2, places: None, same_tokens: true };
    let positions = Positions::new(tensor(&teacher), &[0, 0], TeacherPositions::none());
    assert!(positions.live_log_probs(1.0).is_none());
    let positions = positions.beside(Some(live));
    let numbers = |tensor: Tensor<CpuTape, 2>| tensor.into_data().to_vec::<f32>().unwrap();
    for temperature in [1.0, 2.0] {
        let known = numbers(positions.live_log_probs(temperature).unwrap());
        assert_eq!(known, numbers(positions.live_log_probs(temperature).unwrap()));
        let logits = tensor(&[vec![0.0, 1.0], vec![3.0, 1.0]]) / temperature;
        assert_eq!(known, numbers(<CpuTape as Kernels>::log_probabilities(logits)));
    }
    assert_eq!(positions.live_log_probs.borrow().len(), 2);
}

#[test]
fn without_a_live_teacher_there_is_nothing_to_compare() {
    let golden = Golden::read();
    let teacher = golden.teacher(4);
    let positions = Positions::new(golden.logits(), &golden.labels, teacher.part(0..8));
    let LossSum { sum, positions } = uld(1.0).sum_on_cpu(&positions);
    assert!(sum.is_none() && positions == 0);
}

#[test]
fn no_other_loss_reads_a_teacher_with_other_tokens() {
    let golden = Golden::read();
    let live = beside(&golden.teacher_logits(), 4, (0..8).collect());
    let positions = Positions::new(golden.logits(), &golden.labels, TeacherPositions::none()).beside(live);
    for entry in LOSSES {
        let node = stillhouse_spec::Node::from_json(&serde_json::json!({}));
        let loss = (entry.decode)(&node, &mut Default::default()).unwrap();
        let reads = loss.reads().teacher() && loss.sum_on_cpu(&positions).sum.is_some();
        assert_eq!(reads, matches!(loss.reads(), Reads::OtherTokens), "{}", entry.name);
    }
}
