//! Conversations that a row holds: the turns that are asked, and the answer where the last turn gives one.

use std::path::Path;

use serde_json::{Map, Value};
use stillhouse_stage::spec::suggest::list;

pub(super) use super::image::Images;
use crate::error::{DataError, DataResult};
use crate::prompt::{ImageUrl, Message, Part};
use crate::source::{Object, hint_for_missing};

/// Finds the conversation of a row.
pub(super) struct Conversation {
    field: String,
    images: Images,
}

/// What is wrong with a turn, and what to do.
pub(super) struct Fault {
    pub message: String,
    pub hint: String,
}

impl Fault {
    pub(super) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }
}

impl Conversation {
    pub(super) fn new(field: String, images: Images) -> Self {
        Self { field, images }
    }

    /// The turns to answer, and the assistant's last turn where the conversation ends with one.
    pub(super) fn of(&self, path: &Path, row: &Object) -> DataResult<(Vec<Message>, Option<String>)> {
        self.find(row).map_err(|Fault { message, hint }| DataError::Row {
            path: path.to_path_buf(),
            line: row.line,
            column: None,
            message,
            hint: Some(hint),
        })
    }

    fn find(&self, row: &Object) -> Result<(Vec<Message>, Option<String>), Fault> {
        let field = &self.field;
        let Some(value) = row.fields.get(field) else {
            let have: Vec<&str> = row.fields.keys().map(String::as_str).collect();
            let hint = hint_for_missing(field, &have).unwrap_or_else(|| format!("the row has {}", list(&have)));
            return Err(Fault::new(format!("the row has no field `{field}`, which `messages` names"), hint));
        };
        // Formats without lists keep a conversation as JSON.
        let parsed: Value;
        let value = match value {
            Value::String(text) => {
                parsed = serde_json::from_str(text)
                    .map_err(|error| Fault::new(format!("`{field}` is text that is not valid JSON: {error}"), SHAPE))?;
                &parsed
            }
            other => other,
        };
        let Value::Array(turns) = value else {
            return Err(Fault::new(format!("`{field}` is no list of turns"), SHAPE));
        };
        let mut messages = Vec::with_capacity(turns.len());
        for (number, turn) in turns.iter().enumerate() {
            let told =
                |Fault { message, hint }| Fault::new(format!("turn {} of `{field}`: {message}", number + 1), hint);
            messages.push(self.turn(turn).map_err(told)?);
        }
        let reference = messages.pop_if(|last| last.role == "assistant").map(|last| last.content);
        match messages.last() {
            Some(last) if last.role == "user" => Ok((messages, reference)),
            Some(last) => Err(Fault::new(
                format!("`{field}` has no turn of the user to answer: it ends with one of role `{}`", last.role),
                "a conversation ends with a turn of the user, or with one and its answer",
            )),
            None => Err(Fault::new(
                format!("`{field}` has no turn of the user to answer"),
                "remove the row: it asks nothing",
            )),
        }
    }

    fn turn(&self, turn: &Value) -> Result<Message, Fault> {
        let Value::Object(turn) = turn else { return Err(Fault::new("it is no object", SHAPE)) };
        let of = |names: [&str; 2]| names.iter().find_map(|name| turn.get(*name));
        let Some(Value::String(role)) = of(["role", "from"]) else {
            return Err(Fault::new("it has neither `role` nor `from`", SHAPE));
        };
        let role = role_of(role)?;
        let content = of(["content", "value"]).unwrap_or(&Value::Null);
        let message = match content {
            Value::String(text) => Message::text(role, text.as_str()),
            Value::Array(parts) => self.parts(role, parts)?,
            _ => return Err(Fault::new("it has no text in `content` or `value`", SHAPE)),
        };
        if message.content.trim().is_empty() && !message.has_images() {
            return Err(Fault::new("it is empty", "remove the turn, or the row"));
        }
        if message.has_images() && role != "user" {
            return Err(Fault::new(
                format!("an image stands in a turn of role `{role}`"),
                "only a user's turn shows images",
            ));
        }
        Ok(message)
    }

    /// A content of parts: text alone becomes plain text, so that both ways of writing it are one prompt.
    fn parts(&self, role: &str, parts: &[Value]) -> Result<Message, Fault> {
        let parts = parts.iter().map(|part| self.part(part)).collect::<Result<Vec<Part>, Fault>>()?;
        let texts: Vec<&str> = parts
            .iter()
            .filter_map(|part| match part {
                Part::Text { text } => Some(text.as_str()),
                Part::ImageUrl { .. } => None,
            })
            .collect();
        let plain = Message::text(role, texts.join("\n"));
        let shows = texts.len() < parts.len();
        Ok(if shows { Message { parts, ..plain } } else { plain })
    }

    fn part(&self, part: &Value) -> Result<Part, Fault> {
        const PARTS: &str = "a part is { type = \"text\", text } or { type = \"image_url\", image_url = { url } }";
        let Value::Object(part) = part else { return Err(Fault::new("a part of its content is no object", PARTS)) };
        let text = |part: &Map<String, Value>, name: &str| part.get(name).and_then(Value::as_str).map(str::to_owned);
        match part.get("type").and_then(Value::as_str) {
            Some("text") => match text(part, "text") {
                Some(text) => Ok(Part::Text { text }),
                None => Err(Fault::new("a part of type `text` has no `text`", PARTS)),
            },
            Some(kind @ ("image_url" | "image")) => {
                let (url, detail) = match part.get("image_url") {
                    Some(Value::Object(image)) => (text(image, "url"), text(image, "detail")),
                    Some(Value::String(url)) => (Some(url.clone()), None),
                    _ => (["url", "image", "path"].iter().find_map(|name| text(part, name)), None),
                };
                let url = url.ok_or_else(|| Fault::new(format!("a part of type `{kind}` names no image"), PARTS))?;
                Ok(Part::ImageUrl { image_url: ImageUrl { url: self.images.resolve(&url)?, detail } })
            }
            Some(other) => Err(Fault::new(format!("a part of its content is of the unknown type `{other}`"), PARTS)),
            None => Err(Fault::new("a part of its content has no `type`", PARTS)),
        }
    }
}

/// Whether a conversation, as it is written, shows an image.
pub(super) fn shows_image(conversation: &Value) -> bool {
    let of = |turn: &Value| {
        let parts = turn.get("content").or_else(|| turn.get("value")).and_then(Value::as_array);
        let kind = |part: &Value| matches!(part.get("type").and_then(Value::as_str), Some("image_url" | "image"));
        parts.is_some_and(|parts| parts.iter().any(kind))
    };
    match conversation {
        Value::Array(turns) => turns.iter().any(of),
        Value::String(text) => serde_json::from_str::<Vec<Value>>(text).is_ok_and(|turns| turns.iter().any(of)),
        _ => false,
    }
}

const SHAPE: &str = "a conversation is a list of { role, content }, or of { from, value }";

fn role_of(written: &str) -> Result<&'static str, Fault> {
    match written {
        "user" | "human" => Ok("user"),
        "assistant" | "gpt" | "chatgpt" | "model" => Ok("assistant"),
        "system" | "developer" => Ok("system"),
        _ => Err(Fault::new(
            format!("unknown role `{written}`"),
            "one of `system`, `user`, `assistant` (or `human` and `gpt`); turns of tools are not asked",
        )),
    }
}
