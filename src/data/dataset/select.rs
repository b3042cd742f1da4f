//! Weights and holdout: which of the rows that stay are used, and on which side.

use super::config::Source;
use super::gate::Kept;
use crate::error::{DataError, DataResult};

/// The rows used of those at `places`, which ascend, in the same order.
///
/// Without weights all of them. With weights `w`, source `i` gets `⌊T · wᵢ / Σw⌋` rows for the largest `T` for which
/// every source has enough. A source gives up the rows whose content hashes highest, so a larger source keeps what a
/// smaller one kept, whatever the order of the rows.
pub(super) fn by_weight(mix: &[Source], kept: &[Kept], places: Vec<usize>) -> DataResult<Vec<usize>> {
    let Some(weights) = mix.iter().map(|source| source.weight).collect::<Option<Vec<f64>>>() else {
        return Ok(places);
    };
    let mut by_source: Vec<Vec<usize>> = vec![Vec::new(); mix.len()];
    places.into_iter().for_each(|place| by_source[kept[place].source as usize].push(place));
    if let Some(empty) = by_source.iter().position(Vec::is_empty) {
        return Err(DataError::invalid(
            format!("source {empty} (from 0) of `mix` has a weight, but no row of it stays"),
            "remove it, or look in the filters for why: every dropped row is listed with its reason",
        ));
    }
    let sum: f64 = weights.iter().sum();
    let rows = |source: &Vec<usize>, weight: &f64| source.len() as f64 * sum / weight;
    let total =
        by_source.iter().zip(&weights).map(|(source, weight)| rows(source, weight)).fold(f64::INFINITY, f64::min);
    let mut chosen = Vec::new();
    for (source, weight) in by_source.iter_mut().zip(&weights) {
        // The source that limits the total gets all its rows, whatever rounding says.
        let share = ((total * weight / sum) * (1.0 + 1e-12)).floor() as usize;
        source.sort_by_key(|place| kept[*place].rank);
        chosen.extend(source.iter().take(share.max(1)));
    }
    chosen.sort_unstable();
    Ok(chosen)
}

/// The two sides.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) train: Vec<usize>,
    pub(super) holdout: Vec<usize>,
}

/// Splits by group: a group whose hash lies in the first `share` of all hashes is held out. Where that leaves a side
/// empty and there are two groups at least, the group nearest to the border changes sides.
pub(super) fn split(kept: &[Kept], chosen: &[usize], share: f64) -> Parts {
    let group = |place: &usize| kept[*place].group;
    let (least, most) = (chosen.iter().map(group).min(), chosen.iter().map(group).max());
    let border = (share * 2f64.powi(64)) as u64;
    let border = match (least, most) {
        (Some(least), Some(most)) if share > 0.0 && least < most => border.clamp(least + 1, most),
        _ => 0,
    };
    let (holdout, train) = chosen.iter().partition(|place| group(place) < border);
    Parts { train, holdout }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(weight: Option<f64>) -> Source {
        Source { answers: None, jsonl: None, text: None, weight }
    }

    fn kept(rows: &[(u32, u64)]) -> Vec<Kept> {
        let spread = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let row = |(source, group): &(u32, u64)| Kept {
            source: *source,
            group: spread(*group),
            rank: spread(group + 1),
            signal_keys: Vec::new(),
            embedded: None,
        };
        rows.iter().map(row).collect()
    }

    #[test]
    fn weights_are_shares_of_rows_and_nothing_is_repeated() {
        let rows = kept(&(0..130).map(|i| (u32::from(i >= 100), i)).collect::<Vec<_>>());
        let all: Vec<usize> = (0..rows.len()).collect();
        let shares = |weights: [f64; 2]| {
            let chosen = by_weight(&weights.map(|weight| source(Some(weight))), &rows, all.clone()).unwrap();
            let second = chosen.iter().filter(|place| **place >= 100).count();
            (chosen.len() - second, second)
        };
        assert_eq!(shares([0.8, 0.2]), (100, 25));
        assert_eq!(shares([0.5, 0.5]), (30, 30));
        assert_eq!(shares([1.0, 3.0]), (10, 30));
        assert_eq!(by_weight(&[source(None), source(None)], &rows, all.clone()).unwrap().len(), 130);
    }

    #[test]
    fn a_weighted_source_without_rows_is_an_error() {
        let error = by_weight(&[source(Some(1.0)), source(Some(1.0))], &kept(&[(0, 1)]), vec![0]).unwrap_err();
        assert_eq!(error.to_string(), "source 1 (from 0) of `mix` has a weight, but no row of it stays");
    }

    #[test]
    fn the_share_is_about_right_and_rows_of_a_group_stay_together() {
        let rows = kept(&(0..4_000).map(|i| (0, i / 2)).collect::<Vec<_>>());
        let all: Vec<usize> = (0..rows.len()).collect();
        let Parts { train, holdout } = split(&rows, &all, 0.1);
        assert_eq!(train.len() + holdout.len(), 4_000);
        assert!((300..500).contains(&holdout.len()), "{}", holdout.len());
        assert!(holdout.iter().all(|place| !train.contains(&(place ^ 1))));
        let later = kept(&(0..6_000).map(|i| (0, i / 2)).collect::<Vec<_>>());
        let more = split(&later, &(0..6_000).collect::<Vec<_>>(), 0.1);
        assert!(holdout.iter().all(|place| more.holdout.contains(place)), "rows that come later move none");
    }

    #[test]
    fn no_side_is_empty_when_there_are_two_prompts() {
        for count in 2..30u64 {
            for share in [0.01, 0.5, 0.9] {
                let rows = kept(&(0..count).map(|i| (0, i)).collect::<Vec<_>>());
                let Parts { train, holdout } = split(&rows, &(0..rows.len()).collect::<Vec<_>>(), share);
                assert!(!train.is_empty() && !holdout.is_empty(), "{count} {share}");
            }
        }
        let one = kept(&[(0, 5), (0, 5)]);
        assert_eq!(split(&one, &[0, 1], 0.5), Parts { train: vec![0, 1], holdout: vec![] });
        assert_eq!(split(&one, &[0, 1], 0.0), Parts { train: vec![0, 1], holdout: vec![] });
    }
}
