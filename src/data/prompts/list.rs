//! `list`: prompts written in the experiment file.

use stillhouse_stage::Failure;
use stillhouse_stage::spec::{Config, Described, Diagnostic, Diagnostics, Node, Value};

use super::source::{Opening, PromptReader, PromptSource, plain};
use crate::error::DataResult;
use crate::prompt::Prompt;

/// The prompts themselves.
#[derive(Clone, Debug)]
pub struct ListPrompts(pub Vec<String>);

impl Config for ListPrompts {
    fn decode(node: &Node, report: &mut Diagnostics) -> Option<Self> {
        let list = Vec::<String>::decode(node, report)?;
        if list.is_empty() {
            report.push(Diagnostic::error(node.at, "`list` is empty"));
            return None;
        }
        if let Some(place) = list.iter().position(|prompt| prompt.trim().is_empty()) {
            let at = match &node.value {
                Value::Array(items) => items.get(place).map_or(node.at, |item| item.at),
                _ => node.at,
            };
            report.push(
                Diagnostic::error(at, format!("prompt {} of `list` is blank", place + 1))
                    .hint("remove it: it asks nothing"),
            );
            return None;
        }
        Some(Self(list))
    }

    fn schema() -> serde_json::Value {
        let mut schema = Vec::<String>::schema();
        schema["description"] = "The prompts themselves.".into();
        schema
    }

    fn describe(&self) -> Described {
        self.0.describe()
    }
}

impl PromptSource for ListPrompts {
    fn open(&self, opening: &Opening<'_>) -> Result<Box<dyn PromptReader>, Failure> {
        Ok(Box::new(List { texts: self.0.clone().into_iter(), system: opening.system.map(str::to_owned) }))
    }
}

struct List {
    texts: std::vec::IntoIter<String>,
    system: Option<String>,
}

impl PromptReader for List {
    fn next_prompt(&mut self) -> DataResult<Option<Prompt>> {
        Ok(self.texts.next().map(|text| plain(text, self.system.as_deref())))
    }
}
