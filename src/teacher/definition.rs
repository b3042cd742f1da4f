//! The definition `[teacher.X]`: which provider, and that provider's own settings.

use std::sync::Arc;

use serde_json::json;
use stillhouse_spec::config::{Json, expected};
use stillhouse_spec::{Canonical, Config, Described, Diagnostic, Diagnostics, Entry, Node, Target};
use stillhouse_stage::{Kind, Needs, View, kind};

use crate::provider::{PROVIDERS, Provider, capability};

/// Someone to ask. Which further keys there are depends on the `provider`.
#[derive(Clone, Debug)]
pub struct TeacherConfig {
    /// The provider's name.
    pub provider: &'static str,
    /// Its settings.
    pub settings: Arc<dyn Provider>,
}

/// What a stage may name as its teacher.
#[derive(Clone, Copy, Debug)]
pub struct Teachers;

impl Target for Teachers {
    const KINDS: &'static [&'static str] = &["teacher"];
}

/// What a stage needs that asks the teacher which its table names.
#[must_use]
pub fn needs_of(view: &View<'_>) -> Needs {
    let teacher = view.follow("teacher").and_then(|teacher| teacher.config_as::<TeacherConfig>());
    teacher.map_or_else(Needs::default, |teacher| teacher.settings.needs())
}

/// The kind.
pub struct Teacher;

impl Kind for Teacher {
    kind!("teacher", TeacherConfig);
}

fn names() -> Vec<&'static str> {
    PROVIDERS.iter().map(|entry| entry.name).collect()
}

/// Written by hand: the derive has no table whose keys depend on the value of one of them.
impl Config for TeacherConfig {
    fn decode(node: &Node, report: &mut Diagnostics) -> Option<Self> {
        let Some(table) = node.as_table() else {
            report.push(expected("a table", node));
            return None;
        };
        let Some(provider) = table.get("provider") else {
            let hint = format!("one of {}: `provider = \"openai\"`", stillhouse_spec::suggest::list(&names()));
            report.push(Diagnostic::error(node.at, "missing `provider`").hint(hint));
            return None;
        };
        let Some(name) = provider.as_str() else {
            report.push(expected("the name of a provider", provider));
            return None;
        };
        let Some(entry) = PROVIDERS.iter().find(|entry| entry.name == name) else {
            report.push(Diagnostic::error(provider.at, format!("unknown provider `{name}`")).suggest(name, names()));
            return None;
        };
        let mut rest = table.clone();
        rest.entries.shift_remove("provider");
        let rest = Node { value: stillhouse_spec::Value::Table(rest), at: node.at };
        Some(Self { provider: entry.name, settings: (entry.decode)(&rest, report)? })
    }

    fn schema() -> Json {
        let choices: Vec<Json> = PROVIDERS.iter().map(schema_of).collect();
        json!({ "description": "Someone to ask. Which further keys there are depends on the `provider`.", "anyOf": choices })
    }

    fn describe(&self) -> Described {
        let mut members = match self.settings.described() {
            Described::Table(members) => members,
            _ => std::collections::BTreeMap::new(),
        };
        members.insert("provider".to_owned(), Described::Value(Canonical::from(self.provider)));
        Described::Table(members)
    }
}

/// A provider's schema with the key that chooses it.
fn schema_of(entry: &Entry<dyn Provider>) -> Json {
    let mut schema = (entry.schema)();
    let about = format!("{} Gives {}.", entry.about(), capability::summary(entry.name));
    schema["properties"]["provider"] = json!({ "const": entry.name, "description": about });
    let mut required = vec![json!("provider")];
    if let Some(others) = schema["required"].as_array() {
        required.extend(others.iter().cloned());
    }
    schema["required"] = json!(required);
    schema
}
