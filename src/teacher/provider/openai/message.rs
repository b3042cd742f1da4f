//! A turn as chat APIs take it: its content is a text, or a list of texts and images.

use serde::Serialize;
use stillhouse_data::prompt::{Message, Part};

/// A turn on its way.
#[derive(Debug, Serialize)]
pub struct WireMessage<'r> {
    role: &'r str,
    content: WireContent<'r>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum WireContent<'r> {
    Text(&'r str),
    Parts(&'r [Part]),
}

impl<'r> From<&'r Message> for WireMessage<'r> {
    fn from(Message { role, content, parts }: &'r Message) -> Self {
        let content = if parts.is_empty() { WireContent::Text(content) } else { WireContent::Parts(parts) };
        Self { role, content }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stillhouse_data::prompt::ImageUrl;

    use super::*;

    #[test]
    fn a_turn_of_text_is_a_string_and_one_with_images_is_a_list() {
        let wire = |message: &Message| serde_json::to_value(WireMessage::from(message)).unwrap();
        assert_eq!(wire(&Message::user("hi")), json!({ "role": "user", "content": "hi" }));
        let url = "https://example.org/a.png".to_owned();
        let parts = vec![
            Part::Text { text: "what is this?".into() },
            Part::ImageUrl { image_url: ImageUrl { url: url.clone(), detail: Some("low".into()) } },
        ];
        assert_eq!(
            wire(&Message { parts, ..Message::user("what is this?") }),
            json!({ "role": "user", "content": [
                { "type": "text", "text": "what is this?" },
                { "type": "image_url", "image_url": { "url": url, "detail": "low" } },
            ] })
        );
    }
}
