//! An answer: what a teacher replied to a prompt, and the file `answers.jsonl` that lists them in prompt order.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::DataResult;
use crate::jsonl::{JsonlReader, JsonlWriter};
use crate::prompt::Message;

/// The file of an `answers` artifact: one [`Answer`] a line, by prompt, then by sample.
pub const ANSWERS_FILE: &str = "answers.jsonl";

/// One reply of a teacher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The id of the prompt ([`crate::prompt::Prompt::id`]).
    pub prompt: String,
    /// Which of the prompt's samples this is, from 0.
    #[serde(default)]
    pub sample: u32,
    /// The conversation that was answered.
    pub messages: Vec<Message>,
    /// The answer the prompt's source gave, where it gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// What the teacher said.
    pub text: String,
    /// Why the teacher stopped, in its own words: `stop`, `length`, …
    pub finish: String,
    /// What kind of reply this is.
    pub outcome: Outcome,
    /// The token ids the teacher saw and made, where it tells them (a local teacher does).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<AnswerTokens>,
}

/// The kind of a reply. Every kind is a result, none is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// A whole answer.
    Ok,
    /// The teacher declined.
    Refusal,
    /// Cut off at the token limit.
    Cut,
    /// Held back by the provider's content filter.
    ContentFilter,
    /// Nothing usable came back.
    Empty,
    /// A whole answer that is not of the format that was wanted.
    Unparseable,
    /// The teacher's server refused the request, for reasons that [`Answer::finish`] tells.
    Rejected,
    /// No usable reply came, however often it was asked, though others were answered; [`Answer::finish`] tells what came instead.
    Failed,
}

impl Outcome {
    /// The word used in files, tables and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refusal => "refusal",
            Self::Cut => "cut",
            Self::ContentFilter => "content-filter",
            Self::Empty => "empty",
            Self::Unparseable => "unparseable",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
        }
    }

    /// Whether the teacher came to an end of its own, so that the end is part of what it said.
    pub fn is_whole(self) -> bool {
        match self {
            Self::Ok | Self::Refusal | Self::Unparseable => true,
            Self::Cut | Self::ContentFilter | Self::Empty | Self::Rejected | Self::Failed => false,
        }
    }

    /// Whether a model replied at all. Where none did, [`Answer::finish`] tells why.
    pub fn was_answered(self) -> bool {
        match self {
            Self::Ok | Self::Refusal | Self::Cut | Self::ContentFilter | Self::Empty | Self::Unparseable => true,
            Self::Rejected | Self::Failed => false,
        }
    }

    /// Whether the text is what the teacher has to say, where it is not empty: what a provider held back is no answer, whatever came of it.
    pub fn has_words(self) -> bool {
        match self {
            Self::Ok | Self::Refusal | Self::Cut | Self::Empty | Self::Unparseable => true,
            Self::ContentFilter | Self::Rejected | Self::Failed => false,
        }
    }
}

impl Answer {
    /// Whether the teacher said something: there is a text, and it is its own.
    pub fn has_words(&self) -> bool {
        self.outcome.has_words() && !self.text.trim().is_empty()
    }
}

/// A reply as token ids. A dataset that uses the same tokenizer takes them as they are, so that the teacher's
/// signals, which are found by content, fit exactly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerTokens {
    /// [`crate::tokenizer::Tokenizer::digest`] of the tokenizer the ids belong to.
    pub tokenizer: String,
    /// The prompt as the teacher saw it, special tokens and generation prompt included.
    pub prompt: Vec<u32>,
    /// The tokens the teacher made, the end-of-sequence token included where it made one.
    pub completion: Vec<u32>,
}

impl AnswerTokens {
    /// Prompt and completion as one sequence: what a signal's key is made of.
    pub fn sequence(&self) -> Vec<u32> {
        self.prompt.iter().chain(&self.completion).copied().collect()
    }
}

/// Reads `answers.jsonl` one answer at a time.
pub fn read_answers(path: &Path) -> DataResult<JsonlReader<Answer>> {
    JsonlReader::open(path)
}

/// Writes `answers.jsonl` one answer at a time.
pub fn write_answers(path: &Path) -> DataResult<JsonlWriter<Answer>> {
    JsonlWriter::create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_survives_being_written_and_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(ANSWERS_FILE);
        let answer = Answer {
            prompt: "00ff00ff00ff00ff".into(),
            sample: 1,
            messages: vec![Message::user("hé\n\"quoted\"")],
            reference: None,
            text: "naïve \u{2028} text".into(),
            finish: "length".into(),
            outcome: Outcome::ContentFilter,
            tokens: Some(AnswerTokens { tokenizer: "t".into(), prompt: vec![1, 2], completion: vec![3] }),
        };
        let mut writer = write_answers(&path).unwrap();
        writer.write(&answer).unwrap();
        writer.finish().unwrap();
        let text = fs_err::read_to_string(&path).unwrap();
        assert!(text.contains(r#""outcome":"content-filter""#), "{text}");
        let back: Vec<Answer> = read_answers(&path).unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(back, vec![answer]);
    }
}
