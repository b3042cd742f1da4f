//! Plain text becomes rows of at most `max-length` tokens.
//!
//! A document is one sequence: what begins a text for the tokenizer, its tokens, end of sequence. It is cut into
//! windows that share one token: the last of a window is the first, unscored one of the next, so that every token of
//! the document is learned exactly once.

use super::assemble::{Draft, Made};
use crate::error::DataResult;
use crate::example::{Example, Row};
use crate::tokenizer::Tokenizer;

/// The tokens of a document that are in no window yet.
pub(super) struct Windows<'a> {
    tokenizer: &'a Tokenizer,
    max_length: usize,
    source: u32,
    /// Tokens, each with the bytes of the document up to its end.
    pending: Vec<(u32, u64)>,
    bytes: u64,
    made: u64,
}

impl<'a> Windows<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, max_length: usize, source: u32) -> Self {
        Self { tokenizer, max_length, source, pending: Vec::new(), bytes: 0, made: 0 }
    }

    /// Begins a document. A tokenizer without a beginning-of-sequence token has its end stand there, as in a row of
    /// documents, so that the first token of the text is learned too.
    pub(super) fn begin(&mut self) -> DataResult<()> {
        self.pending.clear();
        self.bytes = 0;
        let added = self.tokenizer.encode_start("", true)?.first().copied();
        let begin = added.or(self.tokenizer.bos()).or(self.tokenizer.eos());
        self.pending.extend(begin.map(|id| (id, 0)));
        Ok(())
    }

    /// Adds a piece of the document.
    pub(super) fn add(&mut self, text: &str) -> DataResult<()> {
        let ids = self.tokenizer.encode_with_ends(text)?;
        self.pending.extend(ids.into_iter().map(|(id, end)| (id, self.bytes + end as u64)));
        self.bytes += text.len() as u64;
        Ok(())
    }

    /// Ends the document.
    pub(super) fn end(&mut self) {
        self.pending.extend(self.tokenizer.eos().map(|id| (id, self.bytes)));
    }

    /// The windows that are full; at a document's end all of them.
    pub(super) fn take(&mut self, ended: bool) -> DataResult<Vec<Draft>> {
        let mut drafts = Vec::new();
        let mut start = 0;
        while start + self.max_length <= self.pending.len() {
            drafts.push(self.window(start, start + self.max_length)?);
            start += self.max_length - 1;
        }
        if ended && start + 2 <= self.pending.len() {
            drafts.push(self.window(start, self.pending.len())?);
            start = self.pending.len();
        }
        self.pending.drain(..start);
        Ok(drafts)
    }

    fn window(&mut self, start: usize, end: usize) -> DataResult<Draft> {
        let tokens: Vec<u32> = self.pending[start..end].iter().map(|(id, _)| *id).collect();
        let bytes = self.pending[end - 1].1 - self.pending[start].1;
        let scored = (0..tokens.len()).map(|place| place > 0).collect();
        self.made += 1;
        let row = Row {
            source: self.source,
            line: self.made,
            prompt: None,
            sample: 0,
            messages: Vec::new(),
            completion: self.tokenizer.decode(&tokens[1..], false)?,
            reference: None,
            prompt_tokens: 1,
        };
        let example = Example { tokens, scored, bytes, source: self.source };
        Ok(Draft {
            row,
            outcome: None,
            finished: true,
            made: Ok(Made { example, signal_keys: Vec::new(), found: None }),
        })
    }
}
