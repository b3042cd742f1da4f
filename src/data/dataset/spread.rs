//! Over how many topics a dataset's texts spread: by the words in them, and by their vectors where there are some.
//!
//! | figure | definition |
//! |---|---|
//! | `topic-spread` | n² / Σᵢⱼ cos²(xᵢ, xⱼ), where x is a completion's words weighted by (1 + ln count) · ln((n + 1) / (rows with the word + ½)) |
//! | `embedding-spread` | the mean of 1 − cos(uᵢ, uⱼ) over all pairs of different rows: 1 − (‖Σ uᵢ‖² − Σ ‖uᵢ‖²) / (n (n − 1)) |
//! | `embedding-topics` | n² / Σᵢⱼ cos²(uᵢ, uⱼ) |
//!
//! n² / Σ cos² is the Vendi score of order 2 (Friedman and Dieng 2023; Pasarkar and Dieng 2024): rows that fall into k groups of one
//! size, equal within a group and without anything in common between groups, give k. No clusters have to be found for it. It is n at
//! most, so the first [`TOPIC_SAMPLE`] rows are taken.

use std::collections::{BTreeMap, HashMap};

use rayon::prelude::*;

use crate::embeddings::cosine::Units;

/// Rows that are looked at for the number of topics.
pub(super) const TOPIC_SAMPLE: usize = 1_000;

/// The number of topics by words, with the rows that it is of; `texts` are the hashes of their words. Rows without words are left
/// out; nothing where all are.
pub(super) fn topics(texts: &[Vec<u64>]) -> Option<(usize, f64)> {
    let texts: Vec<BTreeMap<u64, u32>> =
        texts.iter().filter(|words| !words.is_empty()).map(|words| counts(words)).collect();
    let rows = texts.len();
    if rows == 0 {
        return None;
    }
    let mut with: HashMap<u64, u32> = HashMap::new();
    texts.iter().flat_map(BTreeMap::keys).for_each(|word| *with.entry(*word).or_default() += 1);
    let weight = |word: &u64, count: u32| {
        let with = with.get(word).copied().unwrap_or_default();
        (1.0 + f64::from(count).ln()) * ((rows as f64 + 1.0) / (f64::from(with) + 0.5)).ln()
    };
    let mut lists: HashMap<u64, Vec<(usize, f64)>> = HashMap::new();
    let mut units: Vec<Vec<(u64, f64)>> = Vec::with_capacity(rows);
    for (row, text) in texts.iter().enumerate() {
        let mut unit: Vec<(u64, f64)> = text.iter().map(|(word, count)| (*word, weight(word, *count))).collect();
        let length = unit.iter().map(|(_, weight)| weight * weight).sum::<f64>().sqrt();
        for (word, weight) in &mut unit {
            *weight /= length;
            lists.entry(*word).or_default().push((row, *weight));
        }
        units.push(unit);
    }
    let squares = |unit: &Vec<(u64, f64)>| {
        let mut cosines = vec![0.0; rows];
        for (word, weight) in unit {
            for (row, other) in lists.get(word).into_iter().flatten() {
                cosines[*row] += weight * other;
            }
        }
        cosines.iter().map(|cosine| cosine * cosine).sum::<f64>()
    };
    // Row by row and then in their order: the sum does not depend on the threads.
    let sums: Vec<f64> = units.par_iter().map(squares).collect();
    Some((rows, (rows * rows) as f64 / sums.iter().sum::<f64>()))
}

fn counts(words: &[u64]) -> BTreeMap<u64, u32> {
    let mut counts = BTreeMap::new();
    words.iter().for_each(|word| *counts.entry(*word).or_default() += 1);
    counts
}

/// The mean cosine distance of pairs of unit vectors; nothing where there is no pair.
pub(super) fn distance(units: &[Vec<f32>]) -> Option<f64> {
    let rows = units.len() as f64;
    if units.len() < 2 {
        return None;
    }
    let mut sum = vec![0.0f64; units[0].len()];
    let mut own = 0.0;
    for unit in units {
        for (sum, number) in sum.iter_mut().zip(unit) {
            *sum += f64::from(*number);
            own += f64::from(*number) * f64::from(*number);
        }
    }
    let whole: f64 = sum.iter().map(|sum| sum * sum).sum();
    Some(1.0 - (whole - own) / (rows * (rows - 1.0)))
}

/// The number of topics by unit vectors; nothing where there is none.
pub(super) fn vector_topics(units: &[Vec<f32>]) -> Option<f64> {
    let mut all = Units::new(units.first()?.len());
    units.iter().for_each(|unit| all.push(unit));
    let sums: Vec<f64> = (0..all.len()).into_par_iter().map(|place| all.squares(all.row(place))).collect();
    Some((all.len() * all.len()) as f64 / sums.iter().sum::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embeddings::cosine::tests::random_unit;
    use crate::filters::words::hashes;

    #[test]
    fn equal_groups_without_a_common_word_are_so_many_topics() {
        for groups in [1, 2, 5, 10] {
            let texts: Vec<Vec<u64>> =
                (0..40).map(|row| row % groups).map(|group| hashes(&format!("a{group} b{group} c{group}"))).collect();
            let (rows, topics) = topics(&texts).unwrap();
            assert_eq!(rows, 40);
            assert!((topics - groups as f64).abs() < 1e-9, "{groups}: {topics}");
        }
        assert_eq!(topics(&[Vec::new()]), None);
    }

    #[test]
    fn words_that_stand_everywhere_are_no_common_topic() {
        let text = |row: usize| hashes(&format!("the of and to in is it x{row} y{row} z{row}"));
        let texts: Vec<Vec<u64>> = (0..200).map(text).collect();
        let (_, topics) = topics(&texts).unwrap();
        assert!(topics > 195.0, "{topics}");
    }

    #[test]
    fn the_distance_from_the_sum_is_that_of_all_pairs() {
        let units: Vec<Vec<f32>> = (0..60).map(|seed| random_unit(seed % 50, 9)).collect();
        let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let (mut distances, mut squares) = (0.0, 0.0);
        for (i, a) in units.iter().enumerate() {
            for (j, b) in units.iter().enumerate() {
                squares += cosine(a, b).powi(2);
                distances += if i == j { 0.0 } else { 1.0 - cosine(a, b) };
            }
        }
        assert!((distance(&units).unwrap() - distances / (60.0 * 59.0)).abs() < 1e-9);
        assert!((vector_topics(&units).unwrap() - 3_600.0 / squares).abs() < 1e-4);
        assert_eq!((distance(&units[..1]), vector_topics(&[])), (None, None));
        let equal = vec![random_unit(1, 9); 7];
        assert!(distance(&equal).unwrap().abs() < 1e-6 && (vector_topics(&equal).unwrap() - 1.0).abs() < 1e-5);
    }
}
