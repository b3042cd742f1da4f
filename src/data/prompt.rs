//! A prompt: the conversation a teacher is asked to continue, and the file `prompts.jsonl` that lists them.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::DataResult;
use crate::jsonl::{JsonlReader, JsonlWriter};

/// The file of a `prompts` artifact: one [`Prompt`] a line, in source order.
pub const PROMPTS_FILE: &str = "prompts.jsonl";

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text of the turn.
    pub content: String,
}

impl Message {
    /// A turn of the user.
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: "user".into(), content: content.into() }
    }

    /// A turn of the model.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self { role: "assistant".into(), content: content.into() }
    }

    /// The instructions that stand before a conversation.
    pub fn system(content: impl Into<String>) -> Self {
        Self { role: "system".into(), content: content.into() }
    }
}

/// A question to a teacher, known by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// [`Prompt::id_of`] the messages.
    pub id: String,
    /// The conversation so far; its last turn is the one to answer.
    pub messages: Vec<Message>,
    /// The answer the source gives, where it gives one (for exact match and the like).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

impl Prompt {
    /// A prompt with the id its messages give it.
    pub fn new(messages: Vec<Message>, reference: Option<String>) -> Self {
        Self { id: Self::id_of(&messages), messages, reference }
    }

    /// The id as a number: [`Prompt::new`] makes no other ids than 16 hexadecimal digits.
    pub(crate) fn id_bits(&self) -> u64 {
        u64::from_str_radix(&self.id, 16).unwrap_or_default()
    }

    /// The name of a conversation: the first 16 hexadecimal digits of
    /// `blake3("stillhouse/prompt/1\0" ‖ for each message: len(role) ‖ role ‖ len(content) ‖ content)`, the lengths
    /// in bytes as u64 little-endian. The reference is not part of what is asked, so it is not part of the name.
    pub fn id_of(messages: &[Message]) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"stillhouse/prompt/1\0");
        for Message { role, content } in messages {
            for text in [role, content] {
                hasher.update(&(text.len() as u64).to_le_bytes());
                hasher.update(text.as_bytes());
            }
        }
        hasher.finalize().to_hex()[..16].to_string()
    }
}

/// Reads `prompts.jsonl` one prompt at a time.
pub fn read_prompts(path: &Path) -> DataResult<JsonlReader<Prompt>> {
    JsonlReader::open(path)
}

/// Writes `prompts.jsonl` one prompt at a time.
pub fn write_prompts(path: &Path) -> DataResult<JsonlWriter<Prompt>> {
    JsonlWriter::create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_depends_on_the_messages_only() {
        let plain = Prompt::new(vec![Message::user("two and two?")], None);
        let with_reference = Prompt::new(vec![Message::user("two and two?")], Some("four".into()));
        assert_eq!(plain.id, with_reference.id);
        assert_eq!(plain.id, "5abf7791e28240fd");
    }

    #[test]
    fn text_cannot_move_between_role_and_content_without_changing_the_id() {
        let left = [Message { role: "ab".into(), content: "c".into() }];
        let right = [Message { role: "a".into(), content: "bc".into() }];
        assert_ne!(Prompt::id_of(&left), Prompt::id_of(&right));
    }
}
