//! Which texts say something new beside those that were taken before: what a teacher writes by itself comes back, word
//! for word or nearly so.

use std::collections::BTreeSet;

use stillhouse_stage::Failure;

use crate::error::DataResult;
use crate::filters::{Filter as _, Judged, NearDuplicate, Pass, Place, Verdict, declines, words};

/// The texts taken so far.
pub struct Novelty {
    seen: BTreeSet<u128>,
    near: Box<dyn Pass>,
}

/// Why a text is not new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// A text of the same words was there before.
    Duplicate,
    /// One of nearly the same was; in words, how like it is.
    NearDuplicate(String),
}

impl Novelty {
    /// No texts yet. Two texts are near-duplicates from this share of common word triples on (see
    /// [`NearDuplicate::threshold`]).
    ///
    /// # Errors
    /// None that is known of.
    pub fn new(near_duplicate: f64) -> Result<Self, Failure> {
        let near = NearDuplicate { threshold: near_duplicate }.start(&Place::nowhere())?;
        Ok(Self { seen: BTreeSet::new(), near })
    }

    /// Takes a text if it is new; else says what it is.
    ///
    /// # Errors
    /// None that is known of.
    pub fn take(&mut self, text: &str) -> DataResult<Option<Known>> {
        if !self.seen.insert(same_words(text)) {
            return Ok(Some(Known::Duplicate));
        }
        Ok(match self.near.judge(&[Judged::of_text(text)])?.pop() {
            Some(Verdict::Drop(why)) => Some(Known::NearDuplicate(why)),
            _ => None,
        })
    }
}

/// Texts of the same words, without case and punctuation, have the same number; texts without words are told apart.
fn same_words(text: &str) -> u128 {
    let mut hasher = blake3::Hasher::new();
    let words = words::hashes(text);
    words.iter().for_each(|word| _ = hasher.update(&word.to_le_bytes()));
    if words.is_empty() {
        hasher.update(text.trim().as_bytes());
    }
    let mut half = [0; 16];
    half.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    u128::from_le_bytes(half)
}

/// Words of a text, as filters count them.
#[must_use]
pub fn count_words(text: &str) -> usize {
    words::hashes(text).len()
}

/// Whether a text begins like a refusal (in English).
#[must_use]
pub fn sounds_like_a_refusal(text: &str) -> bool {
    declines(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_words_are_told_from_nearly_equal_ones() {
        let mut novelty = Novelty::new(0.7).unwrap();
        let mut take = |text: &str| novelty.take(text).unwrap();
        let long = "Write a letter to the owner of a small bakery in which you ask her for the recipe of the rye bread \
                    that she sells on Sundays";
        assert_eq!(take(long), None);
        assert_eq!(take(&format!("  {}!", long.to_uppercase())), Some(Known::Duplicate));
        let near = take(&long.replace("Sundays", "Mondays"));
        assert!(matches!(&near, Some(Known::NearDuplicate(why)) if why.starts_with("similarity 0.9")), "{near:?}");
        assert_eq!(take("Name three rivers."), None);
        assert_eq!(take("?"), None);
        assert_eq!(take(" ?"), Some(Known::Duplicate));
        assert_eq!(count_words("Name three rivers."), 3);
    }
}
