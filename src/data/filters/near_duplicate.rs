//! Drops rows that are nearly a row that was kept before.
//!
//! A text is the set of its word triples (of its words where it has fewer than three). Two texts are near-duplicates
//! when the Jaccard similarity of their sets reaches the threshold. Candidates come from MinHash signatures
//! (Broder 1997) cut into bands (locality-sensitive hashing); every candidate is then compared exactly, so nothing is
//! dropped by chance, and what is missed is what no band brought together: under 1 in 1,000 at the threshold, fewer above.

use std::collections::BTreeMap;

use stillhouse_stage::spec::Config;

use super::{Filter, Judged, Pass};

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
    fn start(&self) -> Box<dyn Pass> {
        Box::new(Seen {
            threshold: self.threshold,
            rows_per_band: rows_per_band(self.threshold),
            bands: BTreeMap::new(),
            kept: Vec::new(),
        })
    }
}

/// The longest bands (fewest false candidates) that still miss a pair at the threshold `t` with a chance of at most
/// [`MISSED`]: `b` bands of `r` rows miss it with `(1 − t^r)^b`.
fn rows_per_band(threshold: f64) -> usize {
    let missed = |rows: usize| (1.0 - threshold.powi(rows as i32)).powf((HASHES / rows) as f64);
    (1..=16).rev().find(|rows| missed(*rows) <= MISSED).unwrap_or(1)
}

struct Seen {
    threshold: f64,
    rows_per_band: usize,
    /// (band, its hash) → the kept rows that have it.
    bands: BTreeMap<(u16, u64), Vec<u32>>,
    /// The shingles of each kept row, sorted.
    kept: Vec<Vec<u64>>,
}

impl Pass for Seen {
    fn keeps(&mut self, row: &Judged<'_>) -> bool {
        let shingles = shingles(row);
        let signature = signature(&shingles);
        let keys: Vec<(u16, u64)> = signature
            .chunks_exact(self.rows_per_band)
            .zip(0u16..)
            .map(|(rows, band)| (band, rows.iter().fold(0, |hash, row| mix(hash ^ row))))
            .collect();
        let mut candidates: Vec<u32> = keys.iter().filter_map(|key| self.bands.get(key)).flatten().copied().collect();
        candidates.sort_unstable();
        candidates.dedup();
        if candidates.iter().any(|other| jaccard(&shingles, &self.kept[*other as usize]) >= self.threshold) {
            return false;
        }
        let number = self.kept.len() as u32;
        keys.into_iter().for_each(|key| self.bands.entry(key).or_default().push(number));
        self.kept.push(shingles);
        true
    }
}

/// The hashes of a row's word triples, sorted, each once. Words are what stands between characters that are neither
/// letters nor digits, in lower case; a script that writes no spaces is cut into characters.
fn shingles(row: &Judged<'_>) -> Vec<u64> {
    let texts = row.messages.iter().map(|message| message.content.as_str()).chain([row.completion]);
    let words: Vec<u64> = texts.flat_map(words).collect();
    let mut shingles: Vec<u64> = match words.len() {
        0..3 => words,
        _ => words.windows(3).map(|three| three.iter().fold(0x5711_1e0f, |hash, word| mix(hash ^ word))).collect(),
    };
    shingles.sort_unstable();
    shingles.dedup();
    shingles
}

fn words(text: &str) -> impl Iterator<Item = u64> + '_ {
    text.split(|character: char| !character.is_alphanumeric()).filter(|word| !word.is_empty()).flat_map(|word| {
        let lower = word.to_lowercase();
        if lower.chars().all(writes_no_spaces) {
            lower.chars().map(|character| hash(character.encode_utf8(&mut [0; 4]))).collect()
        } else {
            vec![hash(&lower)]
        }
    })
}

/// Kana, Han and Thai.
fn writes_no_spaces(character: char) -> bool {
    matches!(u32::from(character), 0x0e00..=0x0e7f | 0x3040..=0x30ff | 0x3400..=0x9fff | 0x20000..=0x3ffff)
}

/// FNV-1a (64 bits), mixed.
fn hash(text: &str) -> u64 {
    mix(text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)))
}

/// The finaliser of SplitMix64: every bit of the input moves every bit of the output.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
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
    use crate::filters::judged;
    use crate::random::Stream;

    fn kept(threshold: f64, texts: &[&str]) -> Vec<bool> {
        let mut pass = NearDuplicate { threshold }.start();
        texts.iter().map(|text| pass.keeps(&judged(text))).collect()
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
