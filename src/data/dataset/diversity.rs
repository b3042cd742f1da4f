//! How varied a dataset's completions are: the figures that show a model collapse.
//!
//! | figure | definition |
//! |---|---|
//! | `distinct-1`, `-2`, `-3` | different runs of n words / all runs of n words (Li et al. 2016) |
//! | `self-bleu` | the mean BLEU-4 of each completion against all others (Zhu et al. 2018), smoothed as method 1 of Chen and Cherry 2014 with ε = 0.1 |
//! | `compression-ratio` | bytes / bytes after zstd, level 3, all completions one behind the other |
//! | `near-duplicates` | the share that the filter `near-duplicate` would drop at a Jaccard similarity of 0.8 |
//! | `topic-spread`, `embedding-spread`, `embedding-topics` | see [`super::spread`] |
//!
//! All depend on how much is looked at, so a fixed number of rows is: the [`SAMPLE`] rows whose content hashes lowest,
//! the first [`BLEU_SAMPLE`] of them for self-BLEU, the first [`spread::TOPIC_SAMPLE`] for topics. Datasets with at least so many rows can be compared.

use std::collections::{HashMap, HashSet};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::spread;
use crate::error::{DataError, DataResult};
use crate::filters::{Filter, Judged, NearDuplicate, Place, Verdict, words};

/// Rows that are looked at.
pub(super) const SAMPLE: usize = 5_000;
/// Rows that are looked at for self-BLEU.
const BLEU_SAMPLE: usize = 500;
/// zstd's own default.
const ZSTD_LEVEL: i32 = 3;

/// The variety of the completions that are trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Diversity {
    /// Rows looked at.
    pub rows: u64,
    /// Different words / words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distinct_1: Option<f64>,
    /// Different pairs of words / pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distinct_2: Option<f64>,
    /// Different triples of words / triples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distinct_3: Option<f64>,
    /// Rows looked at for self-BLEU.
    pub self_bleu_rows: u64,
    /// How like each other the completions are, from 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_bleu: Option<f64>,
    /// How much shorter zstd makes the completions.
    pub compression_ratio: f64,
    /// The share that is nearly a completion before it.
    pub near_duplicates: f64,
    /// Words of a completion.
    pub words: Spread,
    /// Rows looked at for topics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_rows: Option<u64>,
    /// As so many topics without a common word, all equally frequent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_spread: Option<f64>,
    /// Rows with a vector, where the dataset names embeddings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding_rows: Option<u64>,
    /// The mean cosine distance of two rows' vectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding_spread: Option<f64>,
    /// As so many topics whose vectors stand at right angles to each other, all equally frequent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding_topics: Option<f64>,
}

/// What is measured of a row.
#[derive(Debug, Clone, Default)]
pub(super) struct Sampled {
    pub(super) completion: String,
    /// At length 1, where the dataset names embeddings and they have the row's text.
    pub(super) vector: Option<Vec<f32>>,
}

/// The spread of a number: so many in 100 are at most this.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// 5 in 100.
    pub p5: u64,
    /// 25 in 100.
    pub p25: u64,
    /// 50 in 100.
    pub median: u64,
    /// 75 in 100.
    pub p75: u64,
    /// 95 in 100.
    pub p95: u64,
}

impl Spread {
    fn of(mut numbers: Vec<u64>) -> Self {
        numbers.sort_unstable();
        let at = |share: usize| numbers.get((numbers.len() * share).div_ceil(100).max(1) - 1).copied().unwrap_or(0);
        Self { p5: at(5), p25: at(25), median: at(50), p75: at(75), p95: at(95) }
    }
}

/// The figures of some rows, in an order that does not depend on where they come from; `embedded` where the dataset names
/// embeddings.
pub(super) fn measure(rows: Vec<Sampled>, embedded: bool) -> DataResult<Option<Diversity>> {
    if rows.is_empty() {
        return Ok(None);
    }
    let (completions, vectors): (Vec<String>, Vec<Option<Vec<f32>>>) =
        rows.into_iter().map(|row| (row.completion, row.vector)).unzip();
    let vectors: Vec<Vec<f32>> = vectors.into_iter().flatten().collect();
    let texts: Vec<Vec<u64>> = completions.par_iter().map(|text| words::hashes(text)).collect();
    let bleu = &texts[..texts.len().min(BLEU_SAMPLE)];
    let topics = spread::topics(&texts[..texts.len().min(spread::TOPIC_SAMPLE)]);
    Ok(Some(Diversity {
        rows: texts.len() as u64,
        distinct_1: distinct(&texts, 1),
        distinct_2: distinct(&texts, 2),
        distinct_3: distinct(&texts, 3),
        self_bleu_rows: bleu.len() as u64,
        self_bleu: self_bleu(bleu),
        compression_ratio: compression_ratio(&completions)?,
        near_duplicates: near_duplicates(&completions)?,
        words: Spread::of(texts.iter().map(|words| words.len() as u64).collect()),
        topic_rows: topics.map(|(rows, _)| rows as u64),
        topic_spread: topics.map(|(_, spread)| spread),
        embedding_rows: embedded.then_some(vectors.len() as u64),
        embedding_spread: spread::distance(&vectors),
        embedding_topics: spread::vector_topics(&vectors[..vectors.len().min(spread::TOPIC_SAMPLE)]),
    }))
}

fn distinct(texts: &[Vec<u64>], n: usize) -> Option<f64> {
    let all: Vec<u64> = texts.iter().flat_map(|words| words.windows(n)).map(words::run).collect();
    let different: HashSet<u64> = all.iter().copied().collect();
    (!all.is_empty()).then(|| different.len() as f64 / all.len() as f64)
}

fn compression_ratio(completions: &[String]) -> DataResult<f64> {
    let whole = completions.join("\n");
    let packed = zstd::bulk::compress(whole.as_bytes(), ZSTD_LEVEL).map_err(DataError::io("a compressed text"))?;
    Ok(whole.len() as f64 / packed.len().max(1) as f64)
}

fn near_duplicates(completions: &[String]) -> DataResult<f64> {
    let rows: Vec<Judged<'_>> = completions.iter().map(|completion| Judged::of_text(completion)).collect();
    let filter = NearDuplicate { threshold: 0.8 };
    let mut pass = filter.start(&Place::nowhere()).map_err(|failure| DataError::invalid(failure.message, ""))?;
    let verdicts = pass.judge(&rows)?;
    let dropped = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Drop(_))).count();
    Ok(dropped as f64 / rows.len().max(1) as f64)
}

/// The longest runs of words that BLEU looks at.
const ORDERS: usize = 4;
/// What stands for no match at all.
const EPSILON: f64 = 0.1;

/// How often a run occurs in the text where it is most frequent, which text that is, and how often elsewhere at most:
/// what is needed to clip a text's counts by all others without comparing every pair.
#[derive(Clone, Copy, Default)]
struct Most {
    count: usize,
    text: usize,
    elsewhere: usize,
}

fn counts(words: &[u64], n: usize) -> HashMap<u64, usize> {
    let mut counts = HashMap::new();
    words.windows(n).for_each(|run| *counts.entry(words::run(run)).or_default() += 1);
    counts
}

/// The mean over texts of BLEU-4 (Papineni et al. 2002) against all others: modified precisions of runs of 1 to 4 words,
/// their geometric mean, and the penalty for being shorter than the nearest other text.
fn self_bleu(texts: &[Vec<u64>]) -> Option<f64> {
    if texts.len() < 2 {
        return None;
    }
    let most: Vec<HashMap<u64, Most>> = (1..=ORDERS).map(|n| most_frequent(texts, n)).collect();
    let mut lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
    lengths.sort_unstable();
    let scores: Vec<f64> =
        texts.par_iter().enumerate().map(|(place, words)| bleu(place, words, &most, &lengths)).collect();
    Some(scores.iter().sum::<f64>() / texts.len() as f64)
}

fn most_frequent(texts: &[Vec<u64>], n: usize) -> HashMap<u64, Most> {
    let mut most: HashMap<u64, Most> = HashMap::new();
    for (text, words) in texts.iter().enumerate() {
        for (run, count) in counts(words, n) {
            let known = most.entry(run).or_default();
            if count > known.count {
                *known = Most { count, text, elsewhere: known.count };
            } else {
                known.elsewhere = known.elsewhere.max(count);
            }
        }
    }
    most
}

fn bleu(place: usize, words: &[u64], most: &[HashMap<u64, Most>], lengths: &[usize]) -> f64 {
    let mut logs = 0.0;
    for (n, most) in (1..).zip(most) {
        let matches: usize = counts(words, n)
            .into_iter()
            .map(|(run, count)| {
                let most = most.get(&run).copied().unwrap_or_default();
                count.min(if most.text == place { most.elsewhere } else { most.count })
            })
            .sum();
        if n == 1 && matches == 0 {
            return 0.0;
        }
        let all = (words.len() + 1).saturating_sub(n).max(1) as f64;
        let matches = if matches == 0 { EPSILON } else { matches as f64 };
        logs += (matches / all).ln() / ORDERS as f64;
    }
    brevity(words.len(), lengths) * logs.exp()
}

/// BLEU's penalty for texts shorter than the other text that is nearest in length, the shorter of two equally near.
fn brevity(length: usize, lengths: &[usize]) -> f64 {
    // Among all lengths the text's own stands once: it is passed over.
    let first = lengths.partition_point(|other| *other < length);
    let below = first.checked_sub(1).map(|place| lengths[place]);
    let above = lengths.get(first + 1).copied();
    let nearest = match (below, above) {
        (Some(below), Some(above)) if length - below <= above - length => below,
        (_, Some(above)) => above,
        (Some(below), None) => below,
        (None, None) => length,
    };
    if length >= nearest || length == 0 { 1.0 } else { (1.0 - nearest as f64 / length as f64).exp() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts() -> Vec<String> {
        [
            "the cat sat on the mat and the cat slept all day",
            "the cat sat on the mat and the dog slept all day long",
            "a dog sat on the mat",
            "the cat sat on the mat and then it left",
            "two and two is four",
            "yes",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// The values are those of NLTK 3.10: `sentence_bleu` of each text against all others, `SmoothingFunction().method1`.
    #[test]
    fn self_bleu_is_what_nltk_says() {
        let texts: Vec<Vec<u64>> = texts().iter().map(|text| words::hashes(text)).collect();
        let nltk =
            [0.676130446299448, 0.6850836912969523, 0.537284965911771, 0.5231223689135341, 0.0439891724758422, 0.0];
        let most: Vec<HashMap<u64, Most>> = (1..=ORDERS).map(|n| most_frequent(&texts, n)).collect();
        let mut lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
        lengths.sort_unstable();
        for (place, expected) in nltk.into_iter().enumerate() {
            let found = bleu(place, &texts[place], &most, &lengths);
            assert!((found - expected).abs() < 1e-12, "text {place}: {found}, NLTK {expected}");
        }
        let mean = self_bleu(&texts).unwrap();
        assert!((mean - 0.41093510748292467).abs() < 1e-12, "{mean}");
    }

    #[test]
    fn figures_that_nothing_can_be_said_of_are_left_out() {
        assert_eq!(measure(Vec::new(), true).unwrap(), None);
        let silent = Sampled { completion: "?!".to_owned(), vector: None };
        let one = measure(vec![silent], false).unwrap().unwrap();
        assert_eq!((one.distinct_1, one.self_bleu, one.words), (None, None, Spread::default()));
        assert_eq!((one.topic_spread, one.embedding_rows, one.embedding_spread), (None, None, None));
    }

    #[test]
    fn a_spread_has_the_smallest_numbers_that_so_many_do_not_exceed() {
        let spread = Spread::of((1..=100).rev().collect());
        assert_eq!(spread, Spread { p5: 5, p25: 25, median: 50, p75: 75, p95: 95 });
        assert_eq!(Spread::of(vec![7]).p5, 7);
    }
}
