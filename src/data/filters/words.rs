//! Words, as filters and figures count them: what stands between characters that are neither letters nor digits, in
//! lower case; a script that writes no spaces is cut into characters.

use std::ops::Range;

/// The hashes of a text's words, in order.
pub(crate) fn hashes(text: &str) -> Vec<u64> {
    let mut hashes = Vec::with_capacity(text.len() / 5);
    each(text, |hash, _| hashes.push(hash));
    hashes
}

/// The hashes of a text's words with the place of each in the text.
pub(crate) fn spans(text: &str) -> Vec<(u64, Range<usize>)> {
    let mut spans = Vec::with_capacity(text.len() / 5);
    each(text, |hash, place| spans.push((hash, place)));
    spans
}

fn each(text: &str, mut take: impl FnMut(u64, Range<usize>)) {
    let words = text.split(|character: char| !character.is_alphanumeric());
    for word in words.filter(|word| !word.is_empty()) {
        // A piece of the text: its address tells its place.
        let start = word.as_ptr().addr() - text.as_ptr().addr();
        let end = start + word.len();
        if word.is_ascii() {
            take(mix(word.bytes().fold(START, |hash, byte| step(hash, byte.to_ascii_lowercase()))), start..end);
            continue;
        }
        let lower = word.to_lowercase();
        if !lower.chars().all(writes_no_spaces) {
            take(hash(&lower), start..end);
            continue;
        }
        for (offset, character) in word.char_indices() {
            let place = start + offset..start + offset + character.len_utf8();
            character.to_lowercase().for_each(|lower| take(hash(lower.encode_utf8(&mut [0; 4])), place.clone()));
        }
    }
}

/// Kana, Han and Thai.
fn writes_no_spaces(character: char) -> bool {
    matches!(u32::from(character), 0x0e00..=0x0e7f | 0x3040..=0x30ff | 0x3400..=0x9fff | 0x20000..=0x3ffff)
}

const START: u64 = 0xcbf2_9ce4_8422_2325;

fn step(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
}

/// FNV-1a (64 bits), mixed.
pub(crate) fn hash(text: &str) -> u64 {
    mix(text.bytes().fold(START, step))
}

/// The finaliser of SplitMix64: every bit of the input moves every bit of the output.
pub(crate) fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The hash of some words in a row.
pub(crate) fn run(words: &[u64]) -> u64 {
    words.iter().fold(0x5711_1e0f, |hash, word| mix(hash ^ word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_same_whatever_their_case_and_what_stands_between_them() {
        assert_eq!(hashes("Two and two?"), hashes("two AND\ttwo"));
        assert_eq!(hashes("na\u{ef}ve"), hashes("NA\u{cf}VE"));
        assert_eq!(hashes("two").len(), 1);
        assert_eq!(hashes("?!").len(), 0);
    }

    #[test]
    fn a_script_without_spaces_is_cut_into_characters_and_every_place_is_right() {
        let text = "a, \u{6771}\u{4eac} b\u{e9}";
        let found: Vec<&str> = spans(text).into_iter().map(|(_, place)| &text[place]).collect();
        assert_eq!(found, ["a", "\u{6771}", "\u{4eac}", "b\u{e9}"]);
        assert_eq!(spans(text).into_iter().map(|(hash, _)| hash).collect::<Vec<_>>(), hashes(text));
    }
}
