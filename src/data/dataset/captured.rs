//! A server's log-probabilities on their way to being signals: found in the rows' tokens while rows are read, kept in a file
//! of signals for as long as the dataset is made.

use std::path::{Path, PathBuf};

use super::assemble::Draft;
use crate::answer::Answer;
use crate::captured::{CAPTURED_FILE, Captured, TokenLogProbs, teacher_of};
use crate::error::{DataError, DataResult};
use crate::jsonl::JsonlReader;
use crate::server_tokens::{Answered, Matched};
use crate::signals::{Precision, SignalHeader, SignalReader, SignalWriter};

/// The log-probabilities of one source.
pub(super) struct CapturedSource {
    path: PathBuf,
    /// What their signals are known under.
    pub(super) teacher: String,
    signals: PathBuf,
    writer: SignalWriter,
    matched: Matched,
}

/// What a row's answer says, found in its tokens.
pub(super) struct Found {
    /// Index in the row of the token that the first position predicts.
    pub(super) first: u32,
    pub(super) answered: Answered,
}

impl CapturedSource {
    /// Creates the file of signals over `vocabulary` tokens. It is exact: what is kept of them is measured against it.
    pub(super) fn open(path: PathBuf, signals: PathBuf, tokenizer: &str, vocabulary: u32) -> DataResult<Self> {
        let teacher = teacher_of(&path)?;
        let header = SignalHeader { teachers: vec![teacher.clone()], tokenizer: tokenizer.to_owned(), vocabulary };
        let writer = SignalWriter::create(&signals, header, Precision::F32)?;
        Ok(Self { path, teacher, signals, writer, matched: Matched::default() })
    }

    /// Reads the lines beside the answers.
    pub(super) fn lines(&self) -> DataResult<Lines> {
        Ok(Lines { path: self.path.clone(), reader: JsonlReader::open(&self.path)? })
    }

    /// Takes what was found of the drafts.
    pub(super) fn take(&mut self, drafts: &mut [Draft]) -> DataResult<()> {
        for made in drafts.iter_mut().filter_map(|draft| draft.made.as_mut().ok()) {
            let Some(Found { first, answered }) = made.found.take() else { continue };
            self.matched.add(&answered.matched);
            if answered.matched.matched == 0 {
                made.signal_keys.clear();
            }
            if let Some(key) = made.signal_keys.first() {
                self.writer.add(*key, first, &answered.positions)?;
            }
        }
        Ok(())
    }

    /// The signals, and what could be made of the log-probabilities.
    pub(super) fn finish(self) -> DataResult<(SignalReader, Matched)> {
        self.writer.finish()?;
        Ok((SignalReader::open(&self.signals)?, self.matched))
    }
}

/// The file's lines, in the order of the answers.
pub(super) struct Lines {
    path: PathBuf,
    reader: JsonlReader<Captured>,
}

impl Lines {
    /// The next line, which must be that of the answer.
    pub(super) fn beside(&mut self, answer: &Answer) -> DataResult<Vec<TokenLogProbs>> {
        match self.reader.next().transpose()? {
            Some(line) if line.prompt == answer.prompt && line.sample == answer.sample => Ok(line.tokens),
            _ => Err(self.apart(answer)),
        }
    }

    fn apart(&self, answer: &Answer) -> DataError {
        let path: &Path = &self.path;
        DataError::corrupt(
            path,
            format!("{CAPTURED_FILE} has no line for sample {} of prompt {}", answer.sample, answer.prompt),
        )
    }
}
