//! The values of TRL, torchtune, DistiLLM, KDFlow and DistillKit, and the f64 formulas on the same fixture.

use super::*;

/// How far an f32 loss may be from its f64 value on the fixture.
const F32: f64 = 1e-6;
/// How far an f64 formula may be from a value that is written with ten digits.
const F64: f64 = 1e-9;

#[test]
fn all_values_of_the_peers_are_met() {
    let golden = Golden::read();
    let (teacher, student) = (&golden.teacher, &golden.student);
    let weight = Weight::Constant(1.0);
    let tail = Tail::Bucket;
    let comparison = Comparison { temperature: 1.0, t_squared: true, tail };
    let p_entropy = teacher.iter().map(|row| reference::entropy(&reference::softmax(row, 1.0))).sum::<f64>() / 8.0;
    let jsd = |beta| Jsd { weight, beta, comparison };
    let skewed = || Box::new(SkewedKl { weight, alpha: 0.1, comparison });
    // Some give cross-entropies for divergences: less the entropy of P, which no gradient sees, they are the same.
    let rows: Vec<(&str, Box<dyn Loss>, usize, f64)> = vec![
        ("CE(student,label)", Box::new(CrossEntropy { weight }), 4, 0.0),
        ("torchtune/distillm forward_kl", Box::new(forward_kl(1.0, true, tail)), 4, p_entropy),
        ("KL(T||S) (TRL", Box::new(forward_kl(1.0, true, Tail::RenormaliseTeacher)), 4, 0.0),
        ("KL(T||S) (TRL", Box::new(forward_kl(1.0, true, Tail::RenormaliseBoth)), 4, 0.0),
        ("KL(T||S) (TRL", Box::new(jsd(0.0)), 4, 0.0),
        ("KL(S||T) (TRL", Box::new(ReverseKl { weight, comparison }), 4, 0.0),
        ("KL(S||T) (TRL", Box::new(jsd(1.0)), 4, 0.0),
        ("TRL JSD beta=0.1", Box::new(jsd(0.1)), 4, 0.0),
        ("TRL JSD beta=0.5", Box::new(jsd(0.5)), 4, 0.0),
        ("TRL JSD beta=0.9", Box::new(jsd(0.9)), 4, 0.0),
        ("DistiLLM/KDFlow JSD lam=0.1", Box::new(jsd(0.9)), 4, 0.0),
        ("DistiLLM/KDFlow JSD lam=0.9", Box::new(jsd(0.1)), 4, 0.0),
        ("skew FKL a=0.1 KL", skewed(), 4, 0.0),
        ("skew FKL a=0.1 DistiLLM-repo", skewed(), 4, p_entropy),
        ("skew RKL", Box::new(ReverseSkewedKl { weight, alpha: 0.1, comparison }), 4, 0.0),
        ("TVD", Box::new(TotalVariation { weight, comparison }), 4, 0.0),
        ("KL(T||S) at tau=2.0 no", Box::new(forward_kl(2.0, false, tail)), 4, 0.0),
        ("KL(T||S) at tau=2.0 with", Box::new(forward_kl(2.0, true, tail)), 4, 0.0),
        ("AKL", Box::new(AdaptiveKl { weight, alpha: 0.5, comparison }), 4, 0.0),
        ("top-2 FKL conv A", Box::new(forward_kl(1.0, true, Tail::RenormaliseTeacher)), 2, 0.0),
        ("top-2 FKL conv B", Box::new(forward_kl(1.0, true, Tail::Bucket)), 2, 0.0),
        ("top-2 FKL conv C", Box::new(forward_kl(1.0, true, Tail::RenormaliseBoth)), 2, 0.0),
    ];
    let mut met = std::collections::BTreeSet::new();
    for (name, loss, k, entropy) in rows {
        let value = mean(loss.as_ref(), golden.logits(), &golden.labels, &golden.teacher(k)).0 + entropy;
        let expected = golden.value(name);
        assert!((value - expected).abs() < F32, "{name} {loss:?}: {value} is not {expected}");
        met.extend(golden.values.keys().find(|key| key.starts_with(name)));
    }
    // A sum over the k alone without anything for the rest is no divergence (it can be negative): it is not offered.
    let missing: Vec<&String> = golden.values.keys().filter(|name| !met.contains(name)).collect();
    assert!(matches!(missing[..], [raw] if raw.contains("conv D")), "{missing:?}");
    let raw: f64 = teacher
        .iter()
        .zip(student)
        .map(|(teacher, student)| {
            let (p, q) = (reference::softmax(teacher, 1.0), reference::softmax(student, 1.0));
            let mut order: Vec<usize> = (0..4).collect();
            order.sort_by(|left, right| p[*right].total_cmp(&p[*left]));
            order[..2].iter().map(|place| p[*place] * (p[*place] / q[*place]).ln()).sum::<f64>()
        })
        .sum();
    assert!((raw / 8.0 - golden.value("top-2 FKL conv D")).abs() < F64);
}

#[test]
fn the_formulas_in_f64_meet_the_peers_to_the_last_digit_written() {
    let golden = Golden::read();
    let (teacher, student) = (&golden.teacher, &golden.student);
    for (case, k, name) in [
        ("forward-kl Bucket", 4, "KL(T||S) (TRL"),
        ("reverse-kl Bucket", 4, "KL(S||T) (TRL"),
        ("jsd 0.1 Bucket", 4, "TRL JSD beta=0.1"),
        ("jsd 0.5 Bucket", 4, "TRL JSD beta=0.5"),
        ("jsd 0.9 Bucket", 4, "TRL JSD beta=0.9"),
        ("skewed-kl 0.1 Bucket", 4, "skew FKL a=0.1 KL"),
        ("reverse-skewed-kl 0.1 Bucket", 4, "skew RKL"),
        ("total-variation Bucket", 4, "TVD"),
        ("adaptive-kl Bucket", 4, "AKL"),
        ("forward-kl RenormaliseTeacher", 2, "top-2 FKL conv A"),
        ("forward-kl Bucket", 2, "top-2 FKL conv B"),
        ("forward-kl RenormaliseBoth", 2, "top-2 FKL conv C"),
    ] {
        let found = cases(1.0).into_iter().find(|one| one.name.starts_with(case)).unwrap();
        let value = reference::mean(&found, teacher, student, student, k);
        let expected = golden.value(name);
        assert!((value - expected).abs() < F64, "{case} top {k}: {value} is not {expected}");
    }
}

#[test]
fn values_and_gradients_are_those_of_the_formulas_in_f64() {
    let golden = Golden::read();
    let (teacher, student) = (&golden.teacher, &golden.student);
    for case in [1.0, 2.0, 0.5].into_iter().flat_map(cases) {
        for k in [4, 3, 2, 1] {
            let logits = golden.logits();
            let (value, on_tape) = mean(case.loss.as_ref(), logits.clone(), &golden.labels, &golden.teacher(k));
            let expected = reference::mean(&case, teacher, student, student, k);
            let name = &case.name;
            assert!(
                (value - expected).abs() < F32 * expected.abs().max(1.0),
                "{name} top {k}: {value} is not {expected}"
            );
            for (place, slope) in gradient(&on_tape, &logits).into_iter().enumerate() {
                let moved = |by: f64| {
                    let mut moved = student.clone();
                    moved[place / 4][place % 4] += by;
                    reference::mean(&case, teacher, &moved, student, k)
                };
                let finite = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                let difference = (finite - f64::from(slope)).abs();
                assert!(
                    difference < 2e-6 * finite.abs().max(1.0),
                    "{name} top {k} at {place}: {slope} is not {finite}"
                );
            }
        }
    }
}

#[test]
fn the_gradient_of_cross_entropy_is_the_slope() {
    let golden = Golden::read();
    let logits = golden.logits();
    let loss = CrossEntropy { weight: Weight::Constant(1.0) };
    let (_, on_tape) = mean(&loss, logits.clone(), &golden.labels, &Teacher::default());
    for (place, slope) in gradient(&on_tape, &logits).into_iter().enumerate() {
        let q = reference::softmax(&golden.student[place / 4], 1.0);
        let hit = f64::from(u8::from(golden.labels[place / 4] as usize == place % 4));
        assert!((f64::from(slope) - (q[place % 4] - hit) / 8.0).abs() < 1e-7);
    }
}

#[test]
fn a_live_teacher_gives_what_its_whole_distributions_give() {
    let golden = Golden::read();
    for case in [1.0, 2.0].into_iter().flat_map(cases) {
        let logits = golden.logits();
        let (stored, on_tape) = mean(case.loss.as_ref(), logits.clone(), &golden.labels, &golden.teacher(4));
        let stored_gradient = gradient(&on_tape, &logits);
        let live = LiveLogits {
            logits: tensor(&golden.teacher_logits()),
            ours: 4,
            theirs: 4,
            places: None,
            same_tokens: true,
        };
        let logits = golden.logits();
        let positions = Positions::new(logits.clone(), &golden.labels, TeacherPositions::none()).beside(Some(live));
        let (value, on_tape) = mean_of(case.loss.as_ref(), &positions);
        assert!((stored - value).abs() < F32, "{}: {stored} {value}", case.name);
        for (stored, live) in stored_gradient.iter().zip(gradient(&on_tape, &logits)) {
            assert!((stored - live).abs() < 1e-6, "{}: {stored} {live}", case.name);
        }
    }
}

#[test]
fn ids_that_only_pad_a_vocabulary_are_in_neither_distribution() {
    let golden = Golden::read();
    let padded = |logits: &[Vec<f32>], more: &[f32]| -> Vec<Vec<f32>> {
        logits.iter().map(|row| [row.as_slice(), more].concat()).collect()
    };
    for case in [1.0, 2.0].into_iter().flat_map(cases) {
        let expected = mean(case.loss.as_ref(), golden.logits(), &golden.labels, &golden.teacher(4)).0;
        for (student, teacher) in
            [(&[][..], &[9.0, 0.0][..]), (&[7.0, 0.0][..], &[][..]), (&[1.0][..], &[2.0, 3.0][..])]
        {
            let live = LiveLogits {
                logits: tensor(&padded(&golden.teacher_logits(), teacher)),
                ours: 4,
                theirs: 4,
                places: None,
                same_tokens: true,
            };
            let logits = tensor(&padded(&golden.student_logits(), student)).require_grad();
            let positions = Positions::new(logits, &golden.labels, TeacherPositions::none()).beside(Some(live));
            let value = mean_of(case.loss.as_ref(), &positions).0;
            assert!((value - expected).abs() < F32, "{}: {value} is not {expected}", case.name);
        }
    }
}
