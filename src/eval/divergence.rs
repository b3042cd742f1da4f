//! How two distributions over one vocabulary differ.

use std::borrow::Cow;

/// A distribution over the first `count` of its tokens alone, given and returned as natural log-probabilities; as it is
/// where there are no others. NaN where there is any, or no probability at all.
pub fn among_first(log_probabilities: &[f32], count: usize) -> Cow<'_, [f32]> {
    let Some(first) = log_probabilities.get(..count).filter(|first| first.len() < log_probabilities.len()) else {
        return Cow::Borrowed(log_probabilities);
    };
    let largest = first.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mass: f64 = first.iter().map(|log_p| f64::from(*log_p - largest).exp()).sum();
    let log_mass = f64::from(largest) + mass.ln();
    Cow::Owned(first.iter().map(|log_p| (f64::from(*log_p) - log_mass) as f32).collect())
}

/// KL(teacher ‖ student) in nats, Σ p·(ln p − ln q) in `f64`, both given as natural log-probabilities over
/// the same vocabulary (slices of equal length).
///
/// A token the teacher never says adds nothing, also where the student never says it either. A token the
/// teacher says and the student cannot gives infinity. Rounding of `f32` log-probabilities can leave a value
/// some 1e-7 below 0.
pub fn kl_divergence(teacher: &[f32], student: &[f32]) -> f64 {
    debug_assert_eq!(teacher.len(), student.len());
    let mut sum = 0.0;
    for (&teacher, &student) in teacher.iter().zip(student) {
        let log_probability = f64::from(teacher);
        let probability = log_probability.exp();
        // Not `0 · (−∞ − x)`, which is NaN.
        if probability > 0.0 {
            sum += probability * (log_probability - f64::from(student));
        } else if teacher.is_nan() {
            return f64::NAN;
        }
    }
    sum
}

/// The id of the most likely token; the lowest id among equals, as greedy decoding takes it. 0 for an empty slice.
pub fn most_likely(log_probabilities: &[f32]) -> usize {
    let mut best = 0;
    for (id, &value) in log_probabilities.iter().enumerate() {
        if value > log_probabilities[best] {
            best = id;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs(probabilities: &[f64]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln() as f32).collect()
    }

    #[test]
    fn kl_has_a_direction() {
        let (teacher, student) = (logs(&[0.9, 0.1]), logs(&[0.5, 0.5]));
        // 0.9 ln 1.8 + 0.1 ln 0.2 and 0.5 ln (5/9) + 0.5 ln 5.
        assert!((kl_divergence(&teacher, &student) - 0.368_064_2).abs() < 1e-6);
        assert!((kl_divergence(&student, &teacher) - 0.510_825_6).abs() < 1e-6);
    }

    #[test]
    fn what_is_left_of_a_distribution_sums_to_one_again() {
        let left = among_first(&logs(&[0.1, 0.3, 0.6]), 2).into_owned();
        for (left, expected) in left.iter().zip(logs(&[0.25, 0.75])) {
            assert!((left - expected).abs() < 1e-6, "{left} {expected}");
        }
        let whole = logs(&[0.1, 0.3, 0.6]);
        assert!(matches!(among_first(&whole, 3), Cow::Borrowed(all) if all == whole));
        assert!(among_first(&[-1.0, f32::NAN, -1.0], 2).iter().all(|log_p| log_p.is_nan()));
    }

    #[test]
    fn equal_distributions_differ_by_exactly_nothing() {
        let same = logs(&[0.7, 0.2, 0.1]);
        assert_eq!(kl_divergence(&same, &same), 0.0);
    }

    #[test]
    fn a_token_nobody_says_adds_nothing() {
        let never = [0.0, f32::NEG_INFINITY];
        assert_eq!(kl_divergence(&never, &never), 0.0);
    }

    #[test]
    fn a_token_the_student_cannot_say_makes_the_divergence_infinite() {
        assert_eq!(kl_divergence(&logs(&[0.5, 0.5]), &[0.0, f32::NEG_INFINITY]), f64::INFINITY);
    }

    #[test]
    fn nan_from_either_side_is_not_lost() {
        assert!(kl_divergence(&[f32::NAN, -1.0], &[-1.0, -1.0]).is_nan());
        assert!(kl_divergence(&logs(&[0.5, 0.5]), &[-0.5, f32::NAN]).is_nan());
    }

    #[test]
    fn the_lowest_id_wins_among_equally_likely_tokens() {
        assert_eq!(most_likely(&[-3.0, -1.0, -2.0, -1.0]), 1);
    }
}
