//! How long the filter `near-duplicate` takes for many short texts: `cargo bench -p stillhouse-data --bench
//! near_duplicates [-- TEXTS [FILE]]`. With a file, the texts are written to it, one a line, so that another program can
//! be measured on the same.
#![expect(clippy::print_stdout, reason = "a bench prints")]

use std::fmt::Write as _;
use std::time::Instant;

use stillhouse_data::filters::{Filter, Judged, NearDuplicate, Place, Verdict};

const TEXTS: usize = 1_000_000;
const BATCH: usize = 4096;

/// Numbers that look random and are the same each time (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % bound
    }
}

/// Texts of 10 to 30 words of a vocabulary in which some words are frequent; every fifth is an earlier one with a word
/// changed.
fn texts(count: usize) -> Vec<String> {
    let mut numbers = Numbers(17);
    let mut all: Vec<Vec<u64>> = Vec::with_capacity(count);
    for _ in 0..count {
        let words = if !all.is_empty() && numbers.below(5) == 0 {
            let mut words = all[numbers.below(all.len() as u64) as usize].clone();
            let place = numbers.below(words.len() as u64) as usize;
            words[place] = numbers.below(50_000);
            words
        } else {
            let length = 10 + numbers.below(21);
            (0..length)
                .map(|_| {
                    let most = 1 + numbers.below(50_000);
                    numbers.below(most)
                })
                .collect()
        };
        all.push(words);
    }
    let text = |words: Vec<u64>| {
        words.iter().fold(String::new(), |mut text, word| {
            _ = write!(text, "w{word} ");
            text
        })
    };
    all.into_iter().map(text).collect()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let count = arguments.first().and_then(|count| count.parse().ok()).unwrap_or(TEXTS);
    let texts = texts(count);
    if let Some(file) = arguments.get(1)
        && let Err(error) = fs_err::write(file, texts.join("\n"))
    {
        println!("{error}");
    }
    let rows: Vec<Judged<'_>> = texts.iter().map(|text| Judged::of_text(text)).collect();
    let started = Instant::now();
    let Ok(mut pass) = (NearDuplicate { threshold: 0.8 }).start(&Place::nowhere()) else { return };
    let mut dropped = 0;
    for rows in rows.chunks(BATCH) {
        let Ok(verdicts) = pass.judge(rows) else { return };
        dropped += verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Drop(_))).count();
    }
    println!("{count} texts: {:.1} s, {dropped} near-duplicates", started.elapsed().as_secs_f64());
}
