//! Drops completions that repeat themselves, by the rules of Gopher.
//!
//! Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher", section A.1.1 and
//! Table A1. A text goes when one of these exceeds its limit:
//!
//! - the share of lines (paragraphs) that are a line (paragraph) before them again, by number and by characters;
//! - for n = 2, 3, 4 the share of characters in the most frequent run of n words;
//! - for n = 5 … 10 the share of characters in runs of n words that occur more than once, each character counted once.
//!
//! Characters are those of words: white space and punctuation do not count, but they do in lines and paragraphs. A run
//! that occurs once is no repetition, however large its share of a short text.

use std::collections::HashMap;

use stillhouse_stage::Failure;
use stillhouse_stage::spec::Config;

use super::{EachRow, Filter, Judged, Pass, Place, Verdict, words};

/// Drops completions that repeat themselves, by the rules and limits of Gopher (Rae et al. 2021, Table A1).
#[derive(Clone, Debug, Config)]
pub struct Repetition {
    /// Shorter completions are not judged: the limits were made for texts of this length.
    #[config(default = 50)]
    pub min_words: usize,
    /// The share of lines that were there before.
    #[config(default = 0.3, min = 0.0)]
    pub lines: f64,
    /// The share of paragraphs that were there before.
    #[config(default = 0.3, min = 0.0)]
    pub paragraphs: f64,
    /// The share of characters in lines that were there before.
    #[config(default = 0.2, min = 0.0)]
    pub line_characters: f64,
    /// The share of characters in paragraphs that were there before.
    #[config(default = 0.2, min = 0.0)]
    pub paragraph_characters: f64,
    /// The share of characters in the most frequent run of 2, of 3 and of 4 words.
    #[config(default = vec![0.2, 0.18, 0.16])]
    pub most_frequent: Vec<f64>,
    /// The share of characters in runs of 5, 6, 7, 8, 9 and 10 words that occur more than once.
    #[config(default = vec![0.15, 0.14, 0.13, 0.12, 0.11, 0.10])]
    pub repeated: Vec<f64>,
}

impl Filter for Repetition {
    fn start(&self, _place: &Place<'_>) -> Result<Box<dyn Pass>, Failure> {
        let filter = self.clone();
        Ok(Box::new(EachRow(move |row: &Judged<'_>| match filter.fault(row.completion) {
            Some(reason) => Verdict::Drop(reason),
            None => Verdict::Keep,
        })))
    }
}

impl Repetition {
    fn fault(&self, text: &str) -> Option<String> {
        let words = words::spans(text);
        if words.len() < self.min_words {
            return None;
        }
        let beyond = |share: f64, limit: f64, what: &str| {
            (share > limit).then(|| format!("{:.0} % {what}, {:.0} % are allowed", share * 100.0, limit * 100.0))
        };
        let pieces: [(&str, &str, f64, f64); 2] = [
            ("\n", "lines", self.lines, self.line_characters),
            ("\n\n", "paragraphs", self.paragraphs, self.paragraph_characters),
        ];
        for (border, what, by_number, by_characters) in pieces {
            let (number, characters) = repeated_pieces(text.split(border));
            let fault = beyond(number, by_number, &format!("of the {what} are repeated"))
                .or_else(|| beyond(characters, by_characters, &format!("of the characters are in repeated {what}")));
            if fault.is_some() {
                return fault;
            }
        }
        let hashes: Vec<u64> = words.iter().map(|(hash, _)| *hash).collect();
        let lengths: Vec<usize> = words.iter().map(|(_, place)| text[place.clone()].chars().count()).collect();
        for (n, limit) in (2..).zip(&self.most_frequent) {
            let share = most_frequent_share(&hashes, &lengths, n);
            if let Some(fault) = beyond(share, *limit, &format!("of the characters are in one run of {n} words")) {
                return Some(fault);
            }
        }
        for (n, limit) in (5..).zip(&self.repeated) {
            let share = repeated_share(&hashes, &lengths, n);
            if let Some(fault) = beyond(share, *limit, &format!("of the characters are in repeated runs of {n} words"))
            {
                return Some(fault);
            }
        }
        None
    }
}

/// The share of pieces that were there before, by number and by characters. Blank ones do not count.
fn repeated_pieces<'a>(pieces: impl Iterator<Item = &'a str>) -> (f64, f64) {
    let mut seen: std::collections::HashSet<&str> = std::collections::HashSet::new();
    let (mut all, mut again) = ([0usize; 2], [0usize; 2]);
    for piece in pieces.map(str::trim).filter(|piece| !piece.is_empty()) {
        let size = [1, piece.chars().count()];
        let new = seen.insert(piece);
        for place in 0..2 {
            all[place] += size[place];
            again[place] += if new { 0 } else { size[place] };
        }
    }
    let share = |place: usize| again[place] as f64 / all[place].max(1) as f64;
    (share(0), share(1))
}

/// The share of characters that lie in the most frequent run of `n` words, if it occurs at least twice; of several, in
/// the one that covers most.
fn most_frequent_share(hashes: &[u64], lengths: &[usize], n: usize) -> f64 {
    let occurrences = occurrences(hashes, n);
    let repeated = occurrences.values().filter(|places| places.len() > 1);
    let most = repeated.map(|places| (places.len(), covered(places, lengths, n))).max();
    most.map_or(0, |(_, characters)| characters) as f64 / total(lengths)
}

/// The share of characters that lie in any run of `n` words that occurs at least twice.
fn repeated_share(hashes: &[u64], lengths: &[usize], n: usize) -> f64 {
    let occurrences = occurrences(hashes, n);
    let mut places: Vec<usize> = occurrences.into_values().filter(|places| places.len() > 1).flatten().collect();
    places.sort_unstable();
    covered(&places, lengths, n) as f64 / total(lengths)
}

fn total(lengths: &[usize]) -> f64 {
    lengths.iter().sum::<usize>().max(1) as f64
}

fn occurrences(hashes: &[u64], n: usize) -> HashMap<u64, Vec<usize>> {
    let mut occurrences: HashMap<u64, Vec<usize>> = HashMap::new();
    for (place, run) in hashes.windows(n).enumerate() {
        occurrences.entry(words::run(run)).or_default().push(place);
    }
    occurrences
}

/// The characters of the words in runs of `n` that begin at `places`, which ascend; each word counts once.
fn covered(places: &[usize], lengths: &[usize], n: usize) -> usize {
    let mut next = 0;
    let mut characters = 0;
    for place in places {
        let (from, to) = ((*place).max(next), place + n);
        characters += lengths[from.min(to)..to].iter().sum::<usize>();
        next = to;
    }
    characters
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::testing::{judged, reasons};

    fn why(filter: &Repetition, text: &str) -> String {
        reasons(filter, &[judged(text)]).remove(0)
    }

    fn strict() -> Repetition {
        let mut report = stillhouse_stage::spec::Diagnostics::default();
        let empty = stillhouse_stage::spec::Node::from_json(&serde_json::json!({ "min-words": 1 }));
        Repetition::decode(&empty, &mut report).unwrap()
    }

    /// Words that do not repeat.
    fn prose(words: usize) -> String {
        (0..words).map(|word| format!("w{word} ")).collect()
    }

    #[test]
    fn prose_stays_and_a_loop_goes() {
        assert_eq!(why(&strict(), &prose(200)), "");
        let looping = "I do not know what to say. ".repeat(12);
        assert_eq!(why(&strict(), &looping), "42 % of the characters are in one run of 2 words, 20 % are allowed");
        assert_eq!(why(&Repetition { min_words: 100, ..strict() }, &looping), "", "too short to be judged");
    }

    #[test]
    fn repeated_lines_and_paragraphs_are_counted_after_the_first() {
        let lines = format!("{}\nagain\nagain\nagain", prose(60));
        assert_eq!(why(&strict(), &lines), "50 % of the lines are repeated, 30 % are allowed");
        let (one, two) = (prose(30), prose(29));
        let paragraphs = format!("{one}\n{two}\n\n{one}\n{two}\n\nx");
        let reason = why(&Repetition { lines: 1.0, line_characters: 1.0, ..strict() }, &paragraphs);
        assert_eq!(reason, "33 % of the paragraphs are repeated, 30 % are allowed");
    }

    #[test]
    fn shares_of_runs_are_those_counted_by_hand() {
        // a b c a b c d: "a b" twice (4 of 7), "a b c" twice (6 of 7), a run of 5 never.
        let hashes = words::hashes("a b c a b c d");
        let lengths = vec![1; 7];
        assert_eq!(most_frequent_share(&hashes, &lengths, 2), 4.0 / 7.0);
        assert_eq!(most_frequent_share(&hashes, &lengths, 3), 6.0 / 7.0);
        assert_eq!(repeated_share(&hashes, &lengths, 2), 6.0 / 7.0);
        assert_eq!(repeated_share(&hashes, &lengths, 5), 0.0);
        // Overlapping occurrences count each word once: a a a a.
        let hashes = words::hashes("a a a a");
        assert_eq!(most_frequent_share(&hashes, &[1; 4], 2), 1.0);
        assert_eq!(most_frequent_share(&hashes, &[1; 4], 5), 0.0, "a text may be shorter than a run");
    }

    #[test]
    fn a_run_that_occurs_once_repeats_nothing() {
        assert_eq!(why(&strict(), "yes sir"), "");
    }
}
