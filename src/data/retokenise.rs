//! The same text in the tokens of another tokenizer, and which tokens of both begin at the same byte.
//!
//! Text is text: what one vocabulary writes, to the byte, the other reads. Special tokens are no text and mean something
//! else to every model, so of each it is decided what the other side reads in its place:
//!
//! | special token | becomes |
//! |---|---|
//! | the one that begins the text | what the other tokenizer puts before any text; where that is nothing, its beginning of sequence |
//! | one that the other knows under the same name | that one |
//! | end of sequence | the other's end of sequence |
//! | any other | nothing |
//!
//! Special tokens that became others are paired with them like tokens that begin at the same byte. Text between two
//! special tokens is tokenised by itself, and where scoring begins or ends the other side has a border, too: it reads what it
//! would have written as a continuation of what stands before. Bytes that are no whole character, as where a row was cut, are
//! left out of what the other reads; tokens that begin at or within them have no partner.

use std::collections::{BTreeMap, BTreeSet};

use crate::align::{align, common_ends};
use crate::error::DataResult;
use crate::tokenizer::{Pieces, Tokenizer};

/// Writes sequences of one tokenizer in the tokens of another.
#[derive(Clone)]
pub struct Retokeniser {
    from: Tokenizer,
    to: Tokenizer,
    /// Special tokens that may begin a sequence of `from`.
    openings: BTreeSet<u32>,
    /// What `to` puts before any text.
    begin: Vec<u32>,
    /// What it has for a beginning that `from` marks.
    marked_begin: Vec<u32>,
    /// Special tokens of `from`, and those of `to` that they become.
    marks: BTreeMap<u32, u32>,
    longest: usize,
}

/// A sequence in other tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Retokenised {
    /// The other tokens.
    pub tokens: Vec<u32>,
    /// For each of the original tokens which of the others begins at the same byte, never the first: nothing is read before
    /// it, so it is not predicted.
    pub partners: Vec<Option<usize>>,
    /// How many of the original tokens that are scored begin behind the last of the others, because these are so many and no
    /// more.
    pub behind: usize,
}

impl Retokeniser {
    /// From one tokenizer's tokens to another's, of which at most `longest` are made: the rest of the text has no partner.
    ///
    /// # Errors
    /// A tokenizer that can't encode an empty text.
    pub fn new(from: Tokenizer, to: Tokenizer, longest: usize) -> DataResult<Self> {
        let openings = from.encode_start("", true)?.first().copied().into_iter().chain(from.bos()).chain(from.eos());
        let openings: BTreeSet<u32> = openings.filter(|id| from.is_special(*id)).collect();
        let to_special: BTreeMap<String, u32> = to.special_ids().filter_map(|id| Some((to.token(id)?, id))).collect();
        let becomes = |id: u32| {
            let same_name = to_special.get(&from.token(id)?).copied();
            let end = if from.eos() == Some(id) { to.eos() } else { None };
            Some((id, same_name.or(end)?))
        };
        let marks: BTreeMap<u32, u32> = from.special_ids().filter_map(becomes).collect();
        let begin = to.encode_start("", true)?;
        let marked_begin = match (begin.is_empty(), to.bos()) {
            (true, Some(bos)) => vec![bos],
            _ => begin.clone(),
        };
        let to = to.with_special_tokens_as_text();
        Ok(Self { from, to, openings, begin, marked_begin, marks, longest })
    }

    /// The tokenizer whose tokens are rewritten.
    pub fn from(&self) -> &Tokenizer {
        &self.from
    }

    /// The tokenizer in whose tokens they are.
    pub fn to(&self) -> &Tokenizer {
        &self.to
    }

    /// What the result depends on beside the tokens: 64 hexadecimal digits.
    pub fn digest(&self) -> String {
        let Self { from, to, openings, begin, marked_begin, marks, longest } = self;
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"stillhouse/retokenise/1\0");
        hasher.update(from.digest().as_bytes());
        hasher.update(to.digest().as_bytes());
        let openings: Vec<u32> = openings.iter().copied().collect();
        let marks: Vec<u32> = marks.iter().flat_map(|(from, to)| [*from, *to]).collect();
        for ids in [&openings, begin, marked_begin, &marks] {
            hasher.update(&(ids.len() as u64).to_le_bytes());
            ids.iter().for_each(|id| {
                hasher.update(&id.to_le_bytes());
            });
        }
        hasher.update(&(*longest as u64).to_le_bytes());
        hasher.finalize().to_hex().to_string()
    }

    /// A sequence in the other tokens. `scored` has a mark for each token.
    ///
    /// # Errors
    /// Text that the other tokenizer has no tokens for.
    pub fn rewrite(&self, tokens: &[u32], scored: &[bool]) -> DataResult<Retokenised> {
        let mut ours = vec![None; tokens.len()];
        let mut theirs = Written::default();
        let opened = tokens.first().is_some_and(|id| self.openings.contains(id));
        let mut place = usize::from(opened);
        match tokens.first().and_then(|id| self.marks.get(id)).filter(|_| opened && self.marked_begin.is_empty()) {
            Some(mark) => theirs.add(&[*mark], &[None], 0),
            None if opened => theirs.add(&self.marked_begin, &[], 0),
            None => theirs.add(&self.begin, &[], 0),
        }
        let (mut at, mut first) = (0, true);
        while let Some(id) = tokens.get(place) {
            if self.from.is_special(*id) {
                if let Some(mark) = self.marks.get(id) {
                    // As if it were a byte of its own, so that both sides have it at the same place.
                    ours[place] = Some(at);
                    theirs.add(&[*mark], &[Some(0)], at);
                    at += 1;
                }
                place += 1;
                continue;
            }
            let text = tokens[place..].iter().take_while(|id| !self.from.is_special(**id)).count();
            let end = place + text;
            let pieces = self.from.pieces(&tokens[place..end], std::mem::take(&mut first))?;
            for (slot, start) in ours[place..end].iter_mut().zip(&pieces.starts) {
                *slot = start.map(|start| at + start);
            }
            let borders = (place + 1..end).filter(|token| scored[*token] != scored[token - 1]);
            let borders: Vec<usize> = borders.filter_map(|token| pieces.starts[token - place]).collect();
            self.write(&pieces.bytes, &borders, at, &mut theirs)?;
            at += pieces.bytes.len();
            place = end;
        }
        let predicted = |partner: &usize| (1..self.longest).contains(partner);
        let partners = align(&ours, &theirs.starts).into_iter().map(|partner| partner.filter(predicted)).collect();
        // Where the first token begins that is left out; one that begins nowhere comes before one that does.
        let left_out = theirs.starts.get(self.longest..).unwrap_or_default().iter().flatten().min();
        let behind = |start: &Option<usize>| start.zip(left_out).is_some_and(|(start, left_out)| start >= *left_out);
        let behind = ours.iter().zip(scored).filter(|(start, scored)| **scored && behind(start)).count();
        theirs.tokens.truncate(self.longest);
        Ok(Retokenised { tokens: theirs.tokens, partners, behind })
    }

    /// Writes a text without special tokens, in parts between the borders.
    fn write(&self, bytes: &[u8], borders: &[usize], at: usize, theirs: &mut Written) -> DataResult<()> {
        let mut offset = 0;
        for chunk in bytes.utf8_chunks() {
            let text = chunk.valid();
            let inner = borders.iter().filter_map(|border| border.checked_sub(offset));
            let inner = inner.filter(|border| *border < text.len() && text.is_char_boundary(*border));
            let (mut from, mut ids) = (0, Vec::new());
            for to in inner.chain([text.len()]).filter(|to| *to > 0) {
                ids.extend(match from {
                    0 => self.to.encode(&text[..to], false)?,
                    _ => self.to.completion_tokens(&text[..from], &text[from..to])?,
                });
                from = to;
            }
            let pieces = self.to.pieces(&ids, false)?;
            // Where that is not the text, its first space may be the tokenizer's own.
            let pieces = if pieces.bytes == text.as_bytes() { pieces } else { self.to.pieces(&ids, true)? };
            theirs.add(&ids, &starts_in(text.as_bytes(), &pieces), at + offset);
            offset += text.len() + chunk.invalid().len();
        }
        Ok(())
    }
}

/// Tokens with the places at which they begin.
#[derive(Default)]
struct Written {
    tokens: Vec<u32>,
    starts: Vec<Option<usize>>,
}

impl Written {
    /// Adds tokens that begin so far behind `at`; those without a start begin nowhere.
    fn add(&mut self, ids: &[u32], starts: &[Option<usize>], at: usize) {
        self.tokens.extend_from_slice(ids);
        self.starts.extend(starts.iter().map(|start| start.map(|start| at + start)));
        self.starts.resize(self.tokens.len(), None);
    }
}

/// Where pieces begin in a text that they may not write to the byte: a tokenizer may put a space before it, or normalise
/// characters. What is the same up to the first difference and from the last one on has its place; what is between has none.
pub(crate) fn starts_in(text: &[u8], pieces: &Pieces) -> Vec<Option<usize>> {
    let Pieces { bytes, starts } = pieces;
    if bytes == text {
        return starts.clone();
    }
    let (prefix, suffix) = common_ends(text, bytes);
    let placed = |start: usize| match start + suffix >= bytes.len() {
        true => Some(start + text.len() - bytes.len()),
        // One that begins where the difference does has the same text before it.
        false => (start <= prefix).then_some(start),
    };
    let mut found: Vec<Option<usize>> = starts.iter().map(|start| start.and_then(placed)).collect();
    // A space that was put there and is a token of its own: what begins at that byte is the token behind it.
    let mut next = None;
    for start in found.iter_mut().rev() {
        if start.is_some() && *start == next {
            *start = None;
        }
        next = start.or(next);
    }
    found
}

#[cfg(test)]
mod tests;
