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
    /// The text of the turn; of one with images, its texts.
    pub content: String,
    /// Texts and images in their order, where there are images; empty for a turn of text alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
}

/// A part of a turn, as chat APIs write it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part {
    /// A text.
    Text {
        /// The text.
        text: String,
    },
    /// An image.
    ImageUrl {
        /// Where it is.
        image_url: ImageUrl,
    },
}

/// An image of a turn.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ImageUrl {
    /// An address on the web, or the image itself as a `data:` URI.
    pub url: String,
    /// How closely the server shall look: `low`, `high` or `auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Message {
    /// A turn of text.
    pub fn text(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), parts: Vec::new() }
    }

    /// Whether the turn shows images.
    #[must_use]
    pub fn has_images(&self) -> bool {
        !self.parts.is_empty()
    }

    /// The turn with its texts changed.
    #[must_use]
    pub fn with_texts(&self, mut change: impl FnMut(&str) -> String) -> Self {
        let content = change(&self.content);
        let part = |part: &Part| match part {
            Part::Text { text } => Part::Text { text: change(text) },
            image @ Part::ImageUrl { .. } => image.clone(),
        };
        let parts = self.parts.iter().map(part).collect();
        Self { role: self.role.clone(), content, parts }
    }

    /// The images of the turn.
    pub fn images(&self) -> impl Iterator<Item = &ImageUrl> {
        self.parts.iter().filter_map(|part| match part {
            Part::ImageUrl { image_url } => Some(image_url),
            Part::Text { .. } => None,
        })
    }

    /// A turn of the user.
    pub fn user(content: impl Into<String>) -> Self {
        Self::text("user", content)
    }

    /// A turn of the model.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::text("assistant", content)
    }

    /// The instructions that stand before a conversation.
    pub fn system(content: impl Into<String>) -> Self {
        Self::text("system", content)
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
    /// in bytes as u64 little-endian. Behind a message with parts stand a length that no text has (2^64 - 1), their number, and for
    /// each its kind (0 text, 1 image), its length and its text, or the URL and the detail of the image. An image that is
    /// in the prompt is so named by its bytes. The reference is not part of what is asked, so it is not part of the name.
    pub fn id_of(messages: &[Message]) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"stillhouse/prompt/1\0");
        let text = |hasher: &mut blake3::Hasher, text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        for Message { role, content, parts } in messages {
            text(&mut hasher, role);
            text(&mut hasher, content);
            if parts.is_empty() {
                continue;
            }
            hasher.update(&u64::MAX.to_le_bytes());
            hasher.update(&(parts.len() as u64).to_le_bytes());
            for part in parts {
                match part {
                    Part::Text { text: words } => {
                        hasher.update(&[0]);
                        text(&mut hasher, words);
                    }
                    Part::ImageUrl { image_url: ImageUrl { url, detail } } => {
                        hasher.update(&[1]);
                        text(&mut hasher, url);
                        text(&mut hasher, detail.as_deref().unwrap_or_default());
                    }
                }
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
        let left = [Message::text("ab", "c")];
        let right = [Message::text("a", "bc")];
        assert_ne!(Prompt::id_of(&left), Prompt::id_of(&right));
    }

    #[test]
    fn images_are_in_the_id_and_parts_are_written_as_chat_apis_do() {
        let image = |url: &str| Message {
            parts: vec![
                Part::Text { text: "what is this?".into() },
                Part::ImageUrl { image_url: ImageUrl { url: url.into(), detail: None } },
            ],
            ..Message::user("what is this?")
        };
        let ids = [
            Prompt::id_of(&[Message::user("what is this?")]),
            Prompt::id_of(&[image("data:image/png;base64,AAAA")]),
            Prompt::id_of(&[image("data:image/png;base64,AAAB")]),
        ];
        assert!(ids[0] != ids[1] && ids[1] != ids[2], "{ids:?}");
        let written = serde_json::to_string(&image("data:image/png;base64,AAAA").parts).unwrap();
        assert_eq!(
            written,
            r#"[{"type":"text","text":"what is this?"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]"#
        );
        let plain = serde_json::to_string(&Message::user("x")).unwrap();
        assert_eq!(plain, r#"{"role":"user","content":"x"}"#);
    }
}
