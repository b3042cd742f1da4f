//! A server's log-probabilities in the tokens of a tokenizer here.
//!
//! A server names tokens by their bytes, and its tokenizer is not known. Two tokens that write the same bytes are taken to be
//! one; where the server also tells ids, and the tokens it chose have these very ids here, ids are taken, which tell special
//! tokens apart, too. A position of the answer has a distribution where
//!
//! - the server's token and one of the answer's tokens here begin at the same byte: both have then read the same text
//!   ([`crate::align`]), and
//! - they are the same token.
//!
//! Of its alternatives, those that are no token here, or several, are left out: they stay in the mass outside the kept ones.
//! With one vocabulary on both sides that is all but everything; with two, only what they share, which a loss token by token
//! must not be told is a distribution. So [`Matched`] counts.

use std::collections::HashMap;

use crate::align::{align, common_ends, starts};
use crate::captured::{Candidate, TokenLogProbs};
use crate::error::DataResult;
use crate::retokenise::starts_in;
use crate::signals::TopK;
use crate::tokenizer::{Pieces, Tokenizer};

/// U+FFFD, which servers write for what is no whole character.
const LOSSY: &[u8] = "\u{FFFD}".as_bytes();
/// Probabilities are rounded by servers, too; what sums to more than this is no distribution at temperature 1.
const MOST_MASS: f64 = 1.01;

/// The tokens of a tokenizer by what they write.
pub struct ServerTokens {
    tokenizer: Tokenizer,
    /// By id.
    bytes: Vec<Vec<u8>>,
    /// The token that writes some bytes, and what it is; no id where several do.
    by_bytes: HashMap<Vec<u8>, (Kind, Option<u32>)>,
}

/// Of tokens that write the same, the first kind is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Ordinary,
    /// Stands for a byte that no other token writes.
    Byte,
    Special,
}

/// What could be made of an answer's log-probabilities.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answered {
    /// A distribution for each token of the completion; an empty one where there is none.
    pub positions: Vec<TopK>,
    /// How much that is.
    pub matched: Matched,
}

/// Figures of many answers.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Matched {
    /// Tokens of the completions.
    pub tokens: u64,
    /// Those with a distribution.
    pub matched: u64,
    /// What the server's alternatives held there, summed.
    pub mass: f64,
    /// What of it is kept.
    pub kept_mass: f64,
    /// Alternatives that are no token here, or several.
    pub left_out: u64,
}

impl Matched {
    /// Counts others, too.
    pub fn add(&mut self, other: &Self) {
        self.tokens += other.tokens;
        self.matched += other.matched;
        self.mass += other.mass;
        self.kept_mass += other.kept_mass;
        self.left_out += other.left_out;
    }

    /// The share of tokens with a distribution; 0 of none.
    pub fn share(&self) -> f64 {
        self.matched as f64 / self.tokens.max(1) as f64
    }

    /// The share of the server's mass that is kept there; 0 of none.
    pub fn mass_share(&self) -> f64 {
        if self.mass > 0.0 { self.kept_mass / self.mass } else { 0.0 }
    }
}

impl ServerTokens {
    /// Spells every token once.
    ///
    /// # Errors
    /// Tokens that can't be decoded.
    pub fn new(tokenizer: &Tokenizer) -> DataResult<Self> {
        let count = u32::try_from(tokenizer.vocabulary()).unwrap_or(u32::MAX);
        let bytes: Vec<Vec<u8>> = (0..count).map(|id| tokenizer.token_bytes(id)).collect::<DataResult<_>>()?;
        let mut by_bytes: HashMap<Vec<u8>, (Kind, Option<u32>)> = HashMap::with_capacity(bytes.len());
        for (id, bytes) in (0u32..).zip(&bytes).filter(|(_, bytes)| !bytes.is_empty()) {
            let kind = match () {
                () if tokenizer.is_special(id) => Kind::Special,
                () if tokenizer.is_byte(id) => Kind::Byte,
                () => Kind::Ordinary,
            };
            let known = by_bytes.entry(bytes.clone()).or_insert((kind, Some(id)));
            if kind < known.0 {
                *known = (kind, Some(id));
            } else if kind == known.0 && known.1 != Some(id) {
                known.1 = None;
            }
        }
        Ok(Self { tokenizer: tokenizer.clone(), bytes, by_bytes })
    }

    /// What a server said of `text`, which is `completion` in tokens of this tokenizer; the last may be the end of sequence.
    ///
    /// # Errors
    /// Tokens that can't be decoded.
    pub fn distributions(&self, text: &str, completion: &[u32], said: &[TokenLogProbs]) -> DataResult<Answered> {
        let mut answered = Answered { positions: vec![TopK::default(); completion.len()], ..Answered::default() };
        answered.matched.tokens = completion.len() as u64;
        if said.is_empty() {
            return Ok(answered);
        }
        let answer = Said { tokens: self, by_ids: self.has_these_ids(text, said), said };
        let end = completion.last().filter(|last| self.tokenizer.eos() == Some(**last)).map(|_| completion.len() - 1);
        let theirs = answer.pieces(text);
        let mut partners = align(&self.starts(text, &completion[..end.unwrap_or(completion.len())])?, &theirs.starts);
        partners.extend(end.map(|_| answer.end(text, &theirs)));
        for (place, partner) in partners.into_iter().enumerate() {
            let Some(partner) = partner else { continue };
            let ends = end == Some(place);
            if !ends && answer.id_of(&said[partner].chosen, partner) != Some(completion[place]) {
                continue;
            }
            if let Some(distribution) = answer.distribution(partner, ends, &mut answered.matched) {
                answered.positions[place] = distribution;
                answered.matched.matched += 1;
            }
        }
        Ok(answered)
    }

    /// Where tokens of this tokenizer begin in a text that they write.
    fn starts(&self, text: &str, ids: &[u32]) -> DataResult<Vec<Option<usize>>> {
        let pieces = self.tokenizer.pieces(ids, false)?;
        // Where that is not the text, its first space may be the tokenizer's own.
        let pieces = if pieces.bytes == text.as_bytes() { pieces } else { self.tokenizer.pieces(ids, true)? };
        Ok(starts_in(text.as_bytes(), &pieces))
    }

    /// Whether the ids that a server tells are those of this tokenizer: the tokens that it chose are then the same, or,
    /// where it tells ids alone, write the same text.
    fn has_these_ids(&self, text: &str, said: &[TokenLogProbs]) -> bool {
        let mut agreeing = 0;
        let told = said.iter().enumerate().filter_map(|(place, token)| Some((place, token.chosen.id?, &token.chosen)));
        for (place, id, chosen) in told.filter(|(_, _, chosen)| !chosen.bytes.is_empty() && !is_lossy(&chosen.bytes)) {
            if !self.writes(id, &chosen.bytes, place) {
                return false;
            }
            agreeing += 1;
        }
        if agreeing > 0 {
            return true;
        }
        // One that is told by neither stands for the end.
        let told = said.iter().filter(|token| token.chosen.id.is_some() || !token.chosen.bytes.is_empty());
        let Some(ids) = told.map(|token| token.chosen.id).collect::<Option<Vec<u32>>>() else { return false };
        let ordinary = ids.iter().filter(|id| !self.tokenizer.is_special(**id));
        let written: Vec<u8> = ordinary.flat_map(|id| self.bytes.get(*id as usize)).flatten().copied().collect();
        let begins = |written: &[u8]| written.starts_with(text.as_bytes());
        !text.is_empty() && (begins(&written) || written.strip_prefix(b" ").is_some_and(begins))
    }

    /// Whether a token writes these bytes; the first of a text may keep its space for itself.
    fn writes(&self, id: u32, bytes: &[u8], place: usize) -> bool {
        self.bytes
            .get(id as usize)
            .is_some_and(|own| own == bytes || (place == 0 && own.strip_prefix(b" ").is_some_and(|own| own == bytes)))
    }

    fn is_special_text(&self, bytes: &[u8]) -> bool {
        matches!(self.by_bytes.get(bytes), Some((Kind::Special, _)))
    }
}

fn is_lossy(bytes: &[u8]) -> bool {
    bytes.windows(LOSSY.len()).any(|window| window == LOSSY)
}

/// One answer's log-probabilities.
struct Said<'a> {
    tokens: &'a ServerTokens,
    /// Whether ids mean the same on both sides.
    by_ids: bool,
    said: &'a [TokenLogProbs],
}

impl Said<'_> {
    /// What the chosen tokens write. A special token is no part of the text unless the text has it just there.
    fn pieces(&self, text: &str) -> Pieces {
        let mut bytes = Vec::with_capacity(text.len());
        let lengths = self.said.iter().map(|TokenLogProbs { chosen, .. }| {
            let own = self.known_id(chosen).and_then(|id| self.tokens.bytes.get(id as usize));
            let written = match own {
                Some(own) if chosen.bytes.is_empty() || is_lossy(&chosen.bytes) => own.as_slice(),
                _ => chosen.bytes.as_slice(),
            };
            let rest = text.as_bytes().get(bytes.len()..).unwrap_or_default();
            let apart = self.tokens.is_special_text(written) && !rest.starts_with(written);
            let written = if apart { &[] } else { written };
            bytes.extend_from_slice(written);
            written.len()
        });
        let starts = starts(lengths.collect::<Vec<_>>());
        let starts = starts_in(text.as_bytes(), &Pieces { bytes: bytes.clone(), starts });
        Pieces { bytes, starts }
    }

    /// The server's position that predicts the end of the text, where it told that.
    fn end(&self, text: &str, theirs: &Pieces) -> Option<usize> {
        let (prefix, suffix) = common_ends(text.as_bytes(), &theirs.bytes);
        let whole = prefix == text.len() && prefix == theirs.bytes.len();
        let place = theirs.starts.iter().rposition(Option::is_some)? + 1;
        let chosen = &self.said.get(place)?.chosen;
        let eos = self.tokens.tokenizer.eos()?;
        let ends = match self.known_id(chosen) {
            Some(id) => id == eos,
            // A token without a text behind the last one, of a server that writes no special tokens.
            None if chosen.bytes.is_empty() => place + 1 == self.said.len(),
            None => self.tokens.bytes.get(eos as usize) == Some(&chosen.bytes),
        };
        ((whole || suffix > 0) && ends).then_some(place)
    }

    fn known_id(&self, candidate: &Candidate) -> Option<u32> {
        candidate.id.filter(|id| self.by_ids && (*id as usize) < self.tokens.bytes.len())
    }

    /// The one token here that a candidate is.
    fn id_of(&self, candidate: &Candidate, place: usize) -> Option<u32> {
        let Candidate { bytes, .. } = candidate;
        if let Some(id) = self.known_id(candidate) {
            let same = bytes.is_empty() || is_lossy(bytes) || self.tokens.writes(id, bytes, place);
            return same.then_some(id);
        }
        if is_lossy(bytes) {
            return None;
        }
        self.tokens.by_bytes.get(bytes)?.1
    }

    /// The alternatives at a position; none where they are no distribution, or none of them is a token here. `ends`: the
    /// token chosen there is the end of sequence.
    fn distribution(&self, place: usize, ends: bool, matched: &mut Matched) -> Option<TopK> {
        let TokenLogProbs { chosen, top } = &self.said[place];
        let mut kept: Vec<(u32, f32)> = Vec::with_capacity(top.len());
        let (mut mass, mut left_out) = (0.0, 0);
        // The smallest number stands for minus infinity.
        for candidate in top.iter().filter(|candidate| candidate.log_prob > f32::MIN || candidate.log_prob.is_nan()) {
            mass += f64::from(candidate.log_prob).exp();
            let end = || self.tokens.tokenizer.eos().filter(|_| ends && candidate == chosen);
            match self.id_of(candidate, place).or_else(end) {
                Some(id) => kept.push((id, candidate.log_prob)),
                None => left_out += 1,
            }
        }
        if mass.is_nan() || mass > MOST_MASS || kept.is_empty() {
            return None;
        }
        let likelier = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        kept.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(likelier(a, b)));
        let all = kept.len();
        kept.dedup_by_key(|(id, _)| *id);
        kept.sort_unstable_by(likelier);
        matched.left_out += left_out + (all - kept.len()) as u64;
        matched.mass += mass;
        matched.kept_mass += kept.iter().map(|(_, log_prob)| f64::from(*log_prob).exp()).sum::<f64>();
        // Rounding may lift a certain token above 1.
        let (ids, log_probs) = kept.into_iter().map(|(id, log_prob)| (id, log_prob.min(0.0))).unzip();
        Some(TopK { ids, log_probs })
    }
}

#[cfg(test)]
mod tests;
