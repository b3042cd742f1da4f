//! A turn as the messages API takes it: its content is a text, or a list of texts and images.

use serde::Serialize;
use stillhouse_data::prompt::{ImageUrl, Message, Part};

/// A turn on its way.
#[derive(Debug, Serialize)]
pub struct Turn<'r> {
    role: &'r str,
    content: Content<'r>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Content<'r> {
    Text(&'r str),
    Blocks(Vec<Block<'r>>),
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block<'r> {
    Text { text: &'r str },
    Image { source: Source<'r> },
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Source<'r> {
    Base64 { media_type: &'r str, data: &'r str },
    Url { url: &'r str },
}

impl<'r> From<&'r Message> for Turn<'r> {
    fn from(Message { role, content, parts }: &'r Message) -> Self {
        let content = if parts.is_empty() {
            Content::Text(content)
        } else {
            Content::Blocks(parts.iter().map(Block::from).collect())
        };
        Self { role, content }
    }
}

impl<'r> From<&'r Part> for Block<'r> {
    fn from(part: &'r Part) -> Self {
        match part {
            Part::Text { text } => Self::Text { text },
            // How closely to look cannot be said here.
            Part::ImageUrl { image_url: ImageUrl { url, detail: _ } } => {
                let data = url.strip_prefix("data:").and_then(|data| data.split_once(";base64,"));
                let source = match data {
                    Some((media_type, data)) => Source::Base64 { media_type, data },
                    None => Source::Url { url },
                };
                Self::Image { source }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_turn_of_text_is_a_string_and_images_are_blocks_by_bytes_or_by_address() {
        let wire = |message: &Message| serde_json::to_value(Turn::from(message)).unwrap();
        assert_eq!(wire(&Message::user("hi")), json!({ "role": "user", "content": "hi" }));
        let image = |url: &str| Part::ImageUrl { image_url: ImageUrl { url: url.into(), detail: None } };
        let text = Part::Text { text: "what is this?".into() };
        let parts = vec![text, image("https://example.org/a.png"), image("data:image/png;base64,AAAA")];
        assert_eq!(
            wire(&Message { parts, ..Message::user("what is this?") }),
            json!({ "role": "user", "content": [
                { "type": "text", "text": "what is this?" },
                { "type": "image", "source": { "type": "url", "url": "https://example.org/a.png" } },
                { "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": "AAAA" } },
            ] })
        );
    }
}
