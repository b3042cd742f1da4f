//! Drops rows that are nearly a row that was kept before.
//!
//! A text is the set of its word triples (of its words where it has fewer than three). Two texts are near-duplicates
//! when the Jaccard similarity of their sets reaches the threshold. Candidates come from MinHash signatures
//! (Broder 1997) cut into bands (locality-sensitive hashing); every candidate is then compared exactly, so nothing is
//! dropped by chance, and what is missed is what no band brought together: under 1 in 1,000 at the threshold, fewer above.

use std::collections::HashMap;

use rayon::prelude::*;
use stillhouse_stage::Failure;
use stillhouse_stage::spec::Config;

use super::words::mix;
use super::{Filter, Judged, Pass, Place, Verdict, words};
use crate::error::DataResult;

/// Drops rows whose text (prompt and completion) is nearly that of a row kept before.
#[derive(Clone, Copy, Debug, Config)]
pub struct NearDuplicate {
    /// The share of common word triples from which two rows are near-duplicates (Jaccard similarity).
    #[config(default = 0.8, above = 0.0, max = 1.0)]
    pub threshold: f64,
}

/// Hashes in a signature.
const HASHES: usize = 128;
/// The largest chance that a pair exactly at the threshold meets in no band.
const MISSED: f64 = 1e-3;

impl Filter for NearDuplicate {
    fn start(&self, _place: &Place<'_>) -> Result<Box<dyn Pass>, Failure> {
        Ok(Box::new(Seen::new(self.threshold)))
    }
}

/// The longest bands (fewest false candidates) that still miss a pair at the threshold `t` with a chance of at most
/// [`MISSED`]: `b` bands of `r` rows miss it with `(1 − t^r)^b`.
fn rows_per_band(threshold: f64) -> usize {
    let missed = |rows: usize| (1.0 - threshold.powi(rows as i32)).powf((HASHES / rows) as f64);
    (1..=16).rev().find(|rows| missed(*rows) <= MISSED).unwrap_or(1)
}

/// The rows kept so far. For a text of 15 words it takes about 450 bytes.
struct Seen {
    threshold: f64,
    rows_per_band: usize,
    bands: Vec<Band>,
    /// The shingles of every kept row, each row's sorted, one row behind the other.
    shingles: Vec<u64>,
    /// Where each kept row's shingles end.
    ends: Vec<usize>,
}

/// What is compared of a row.
struct Sketch {
    shingles: Vec<u64>,
    /// A hash for each band.
    keys: Vec<u32>,
}

impl Seen {
    fn new(threshold: f64) -> Self {
        let rows_per_band = rows_per_band(threshold);
        let bands = (0..HASHES / rows_per_band).map(|_| Band::default()).collect();
        Self { threshold, rows_per_band, bands, shingles: Vec::new(), ends: Vec::new() }
    }

    fn sketch(&self, row: &Judged<'_>) -> Sketch {
        let shingles = shingles(row);
        let signature = signature(&shingles);
        let bands = signature.chunks_exact(self.rows_per_band);
        let keys = bands.map(|rows| rows.iter().fold(0, |hash, row| mix(hash ^ row)) as u32).collect();
        Sketch { shingles, keys }
    }

    fn kept(&self, number: u32) -> &[u64] {
        let number = number as usize;
        let start = if number == 0 { 0 } else { self.ends[number - 1] };
        &self.shingles[start..self.ends[number]]
    }

    fn like(&self, a: &[u64], b: &[u64]) -> Option<f64> {
        // Sets of very different sizes are not similar, whatever they hold.
        let (small, large) = if a.len() < b.len() { (a.len(), b.len()) } else { (b.len(), a.len()) };
        if (small as f64) < self.threshold * large as f64 {
            return None;
        }
        let similarity = jaccard(a, b);
        (similarity >= self.threshold).then_some(similarity)
    }

    /// How like the row is to the first row of earlier batches that it is a near-duplicate of.
    fn like_earlier(&self, sketch: &Sketch) -> Option<f64> {
        let mut candidates: Vec<u32> = Vec::new();
        for (band, key) in self.bands.iter().zip(&sketch.keys) {
            band.find(*key, |row| candidates.push(row));
        }
        candidates.sort_unstable();
        candidates.dedup();
        candidates.iter().find_map(|row| self.like(&sketch.shingles, self.kept(*row)))
    }

    /// Adds the rows of a batch that stay.
    fn add(&mut self, sketches: &[&Sketch]) {
        let first = self.ends.len() as u32;
        for sketch in sketches {
            self.shingles.extend_from_slice(&sketch.shingles);
            self.ends.push(self.shingles.len());
        }
        self.bands.par_iter_mut().enumerate().for_each(|(band, table)| {
            for (sketch, row) in sketches.iter().zip(first..) {
                table.insert(sketch.keys[band], row);
            }
        });
    }
}

impl Pass for Seen {
    fn judge(&mut self, rows: &[Judged<'_>]) -> DataResult<Vec<Verdict>> {
        let judged: Vec<(Sketch, Option<f64>)> = rows
            .par_iter()
            .map(|row| {
                let sketch = self.sketch(row);
                let like = self.like_earlier(&sketch);
                (sketch, like)
            })
            .collect();
        // Within the batch one row decides about the next, so they go one by one.
        let mut buckets: HashMap<(usize, u32), Vec<usize>> = HashMap::new();
        let mut new: Vec<&Sketch> = Vec::new();
        let mut verdicts = Vec::with_capacity(rows.len());
        for (sketch, like_earlier) in &judged {
            let like = like_earlier.or_else(|| {
                let known = sketch.keys.iter().enumerate().filter_map(|(band, key)| buckets.get(&(band, *key)));
                let mut candidates: Vec<usize> = known.flatten().copied().collect();
                candidates.sort_unstable();
                candidates.dedup();
                candidates.iter().find_map(|row| self.like(&sketch.shingles, &new[*row].shingles))
            });
            if let Some(similarity) = like {
                verdicts.push(Verdict::Drop(format!("similarity {similarity:.2} to a row before it")));
                continue;
            }
            for (band, key) in sketch.keys.iter().enumerate() {
                buckets.entry((band, *key)).or_default().push(new.len());
            }
            new.push(sketch);
            verdicts.push(Verdict::Keep);
        }
        self.add(&new);
        Ok(verdicts)
    }
}

/// A band: its hash → the kept rows that have it. Open addressing with linear probing, at most half full, and nothing
/// is ever removed: a third of the memory of a map of lists.
#[derive(Default)]
pub(super) struct Band {
    /// Row + 1; 0 is empty. A power of two of them.
    slots: Vec<u32>,
    /// The hash of every row.
    keys: Vec<u32>,
}

impl Band {
    pub(super) fn find(&self, key: u32, mut take: impl FnMut(u32)) {
        if self.slots.is_empty() {
            return;
        }
        let mask = self.slots.len() - 1;
        let mut slot = key as usize & mask;
        while self.slots[slot] != 0 {
            let row = self.slots[slot] - 1;
            if self.keys[row as usize] == key {
                take(row);
            }
            slot = (slot + 1) & mask;
        }
    }

    /// Rows come in order: 0, 1, 2, ….
    pub(super) fn insert(&mut self, key: u32, row: u32) {
        self.keys.push(key);
        if self.keys.len() * 2 > self.slots.len() {
            self.slots = vec![0; (self.slots.len() * 2).max(1 << 10)];
            for row in 0..self.keys.len() as u32 {
                self.place(self.keys[row as usize], row);
            }
        } else {
            self.place(key, row);
        }
    }

    fn place(&mut self, key: u32, row: u32) {
        let mask = self.slots.len() - 1;
        let mut slot = key as usize & mask;
        while self.slots[slot] != 0 {
            slot = (slot + 1) & mask;
        }
        self.slots[slot] = row + 1;
    }
}

/// The hashes of a row's word triples, sorted, each once.
fn shingles(row: &Judged<'_>) -> Vec<u64> {
    let texts = row.messages.iter().map(|message| message.content.as_str()).chain([row.completion]);
    let words: Vec<u64> = texts.flat_map(words::hashes).collect();
    let mut shingles: Vec<u64> = match words.len() {
        0..3 => words,
        _ => words.windows(3).map(words::run).collect(),
    };
    shingles.sort_unstable();
    shingles.dedup();
    shingles
}

/// For each of [`HASHES`] hash functions the least hash of the set.
fn signature(shingles: &[u64]) -> [u64; HASHES] {
    let mut least = [u64::MAX; HASHES];
    for shingle in shingles {
        for (place, least) in least.iter_mut().enumerate() {
            *least = (*least).min(mix(shingle ^ (place as u64).wrapping_mul(0xa076_1d64_78bd_642f)));
        }
    }
    least
}

/// Of two sorted sets; two empty ones are equal.
fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    let (mut i, mut j, mut common) = (0, 0, 0usize);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                common += 1;
                i += 1;
                j += 1;
            }
        }
    }
    let all = a.len() + b.len() - common;
    if all == 0 { 1.0 } else { common as f64 / all as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::testing::judged;
    use crate::random::Stream;

    /// In batches of several sizes: where they end must not matter.
    fn kept(threshold: f64, texts: &[&str]) -> Vec<bool> {
        let rows: Vec<Judged<'_>> = texts.iter().map(|text| judged(text)).collect();
        let in_batches = |size: usize| -> Vec<bool> {
            let mut pass = NearDuplicate { threshold }.start(&Place::nowhere()).unwrap();
            let verdicts = rows.chunks(size).flat_map(|rows| pass.judge(rows).unwrap());
            verdicts.map(|verdict| verdict == Verdict::Keep).collect()
        };
        let kept = in_batches(1);
        assert_eq!(kept, in_batches(7));
        assert_eq!(kept, in_batches(10_000));
        kept
    }

    #[test]
    fn case_punctuation_and_a_changed_word_make_a_near_duplicate() {
        let base =
            "The quick brown fox jumps over the lazy dog while the small cat sleeps on a warm stone by the river";
        let shouted =
            "THE QUICK, BROWN FOX: jumps over the lazy dog, while the small cat sleeps on a warm stone by the river!";
        let ended =
            "The quick brown fox jumps over the lazy dog while the small cat sleeps on a warm stone by the lake";
        let other =
            "A completely different sentence about the weather in the mountains and what to wear for a long walk";
        assert_eq!(kept(0.8, &[base, shouted, ended, other]), [true, false, false, true]);
        assert_eq!(kept(1.0, &[base, shouted, ended, other]), [true, false, true, true]);
    }

    #[test]
    fn short_texts_and_scripts_without_spaces_work() {
        assert_eq!(kept(0.8, &["Yes.", "yes", "No.", "", "!"]), [true, false, true, true, false]);
        let base = "\u{6771}\u{4eac}\u{306f}\u{65e5}\u{672c}\u{306e}\u{9996}\u{90fd}\u{3067}\u{3042}\u{308b}";
        assert_eq!(
            kept(0.7, &[base, &format!("{base}\u{3002}"), "\u{5927}\u{962a}\u{306f}\u{90fd}\u{5e02}"]),
            [true, false, true]
        );
    }

    #[test]
    fn it_decides_as_comparing_every_pair_would() {
        let mut stream = Stream::new("near-duplicate-test", 1, 0);
        let mut texts: Vec<Vec<u64>> = Vec::new();
        for _ in 0..300 {
            let mut words: Vec<u64> = match texts.len() {
                known if known > 10 && stream.below(2) == 0 => texts[stream.below(known as u64) as usize].clone(),
                _ => (0..40).map(|_| stream.below(5_000)).collect(),
            };
            (0..stream.below(6)).for_each(|_| words[stream.below(40) as usize] = stream.below(5_000));
            texts.push(words);
        }
        let texts: Vec<String> =
            texts.iter().map(|words| words.iter().map(|word| format!("w{word} ")).collect()).collect();
        for threshold in [0.5, 0.8, 0.95] {
            let mut seen: Vec<Vec<u64>> = Vec::new();
            let exact: Vec<bool> = texts
                .iter()
                .map(|text| {
                    let set = shingles(&judged(text));
                    let new = seen.iter().all(|other| jaccard(&set, other) < threshold);
                    if new {
                        seen.push(set);
                    }
                    new
                })
                .collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            assert_eq!(kept(threshold, &texts), exact, "{threshold}");
            assert!(exact.iter().any(|kept| !kept));
        }
    }
}
