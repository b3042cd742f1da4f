//! A config struct is the component: its fields, docs, defaults and checks give the decoder, the JSON Schema,
//! the suggestions and the part of the key that the table contributes.
//!
//! `#[derive(Config)]` writes all of it from a struct (or an enum of choices):
//!
//! ```
//! use stillhouse_spec::{Config, Execution, Ref, Target};
//!
//! /// The stages that hold prompts.
//! #[derive(Clone, Debug)]
//! pub struct Prompts;
//! impl Target for Prompts { const KINDS: &'static [&'static str] = &["prompts"]; }
//!
//! /// Answers prompts with a teacher.
//! #[derive(Clone, Debug, Config)]
//! pub struct Answers {
//!     /// The prompt set to answer: an input, keyed by its output's digest.
//!     pub prompts: Ref<Prompts>,
//!     /// Answers a prompt.
//!     #[config(default = 1, min = 1)]
//!     pub samples: u32,
//!     /// Requests in flight: never in a key.
//!     #[config(default = Execution(16))]
//!     pub concurrency: Execution<u32>,
//! }
//! ```
//!
//! Field attributes: `default` / `default = expr` (a *frozen* default: a field equal to it is left out of the key, so a
//! new defaulted field moves no key; changing a default needs a new revision of the kind), `min`, `max`, `above`,
//! `below` (numbers), `name = "…"`, `parts = "train,tokenizer"` and `part_from = field` (for a [`Ref`](crate::Ref): which parts
//! of the artifact are read, hence keyed; given both, those of both), `inline` (alone: the fields of the struct that is the
//! field's type stand among those of the outer one, in the file, in the schema and in the key). On the struct: `check = function` with
//! `fn(&Self, &Node, &mut Diagnostics)`. Names are kebab-case. An enum is externally tagged: a choice without options
//! is a string, a choice with options is a table of one key; a choice whose options all have defaults may be
//! written as a string too. An attribute where it means nothing does not compile.
//!
//! A schema says with keywords of its own what JSON Schema has no word for: `x-execution` (in no key),
//! `x-names` (the kinds of table that a name may mean) and `x-path` (the content of what is named is in the key). An
//! editor passes over them; `stillhouse kinds` reads them.

use std::collections::BTreeMap;

use serde_json::json;

use crate::canonical::Canonical;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::node::{Node, Table, Value};
use crate::types::{FileUse, Reference};

/// JSON, as schemas are written in.
pub type Json = serde_json::Value;

/// A type that can stand in an experiment file.
pub trait Config: Sized {
    /// Reads it from a tree, reporting all that is wrong; `None` if anything was.
    fn decode(node: &Node, report: &mut Diagnostics) -> Option<Self>;

    /// Its JSON Schema.
    fn schema() -> serde_json::Value;

    /// What it contributes to a key.
    fn describe(&self) -> Described;

    /// Its value as listings show it: what [`Self::describe`] says, and settings that are in no key besides.
    fn shown(&self) -> Described {
        self.describe()
    }

    /// The value of a field that was left out and has no default; only `Option` has one.
    fn when_missing() -> Option<Self> {
        None
    }
}

/// A struct whose fields can stand among those of another: what `#[config(inline)]` asks of a type. Derived with [`Config`].
pub trait Inline: Config {
    /// The names of its fields.
    fn names() -> Vec<&'static str>;

    /// Decodes its fields from a table that may hold others besides.
    fn take(fields: &mut Fields<'_>, report: &mut Diagnostics) -> Option<Self>;
}

/// What a config value means to a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Described {
    /// It changes the result: part of the identity.
    Value(Canonical),
    /// A table of such; members that are [`Described::Nothing`] are not there.
    Table(BTreeMap<String, Described>),
    /// A list of such.
    List(Vec<Described>),
    /// A name: the digest of a stage's output, or a definition that is described in its place.
    Reference(Reference),
    /// A path: the digest of what it holds.
    File(FileUse),
    /// A name that kinds may follow when they check a file, and nothing else: it is in no key, and nothing waits for it.
    Mention(Reference),
    /// Execution only, or left out.
    Nothing,
}

impl Described {
    /// The members of a table; nothing else has any. Used by the derive.
    #[must_use]
    pub fn into_members(self) -> BTreeMap<String, Self> {
        if let Self::Table(members) = self { members } else { BTreeMap::new() }
    }

    /// The value as it could stand in a file; `None` where nothing is there to show.
    fn to_json(&self) -> Option<Json> {
        match self {
            Self::Value(value) => serde_json::from_str(&value.text()).ok(),
            Self::Table(members) => match members.iter().next() {
                // A choice whose options are all at their defaults is written as its name.
                Some((name, Self::Table(options))) if members.len() == 1 && options.is_empty() => Some(json!(name)),
                _ => {
                    let members = members.iter().filter_map(|(name, value)| Some((name.clone(), value.to_json()?)));
                    Some(Json::Object(members.collect()))
                }
            },
            Self::List(items) => Some(items.iter().filter_map(Self::to_json).collect()),
            Self::Reference(reference) | Self::Mention(reference) => Some(json!(reference.name)),
            Self::File(_) | Self::Nothing => None,
        }
    }

    /// Restricts a reference (also within an `Option` or a list) to parts of the artifact.
    #[must_use]
    pub fn with_parts(self, parts: &[&'static str]) -> Self {
        match self {
            Self::Reference(reference) => {
                let mut once: Vec<&'static str> = Vec::new();
                for part in parts {
                    if !once.contains(part) {
                        once.push(part);
                    }
                }
                Self::Reference(Reference { parts: once, ..reference })
            }
            Self::List(items) => Self::List(items.into_iter().map(|item| item.with_parts(parts)).collect()),
            other => other,
        }
    }
}

/// What a JSON Schema says of a struct; used by the derive.
pub struct StructSchema {
    properties: serde_json::Map<String, serde_json::Value>,
    required: Vec<Json>,
    about: &'static str,
}

impl StructSchema {
    /// A struct without fields so far.
    #[must_use]
    pub fn new(about: &'static str) -> Self {
        Self { properties: serde_json::Map::new(), required: Vec::new(), about }
    }

    /// Adds a field.
    #[must_use]
    pub fn field<T: Config>(
        mut self,
        name: &'static str,
        about: &'static str,
        default: Option<&T>,
        bounds: &Bounds,
    ) -> Self {
        let mut schema = T::schema();
        if let Some(members) = schema.as_object_mut() {
            if !about.is_empty() {
                members.insert("description".into(), about.into());
            }
            if let Some(value) = default.and_then(|default| default.shown().to_json()) {
                members.insert("default".into(), value);
            }
            for (keyword, bound) in [
                ("minimum", bounds.min),
                ("maximum", bounds.max),
                ("exclusiveMinimum", bounds.above),
                ("exclusiveMaximum", bounds.below),
            ] {
                if let Some(bound) = bound {
                    members.insert(keyword.into(), number(bound));
                }
            }
        }
        if default.is_none() && T::when_missing().is_none() {
            self.required.push(name.into());
        }
        self.properties.insert(name.into(), schema);
        self
    }

    /// Adds the fields of another struct.
    #[must_use]
    pub fn inline<T: Inline>(mut self) -> Self {
        let mut schema = T::schema();
        if let Some(Json::Object(properties)) = schema.get_mut("properties").map(Json::take) {
            self.properties.extend(properties);
        }
        if let Some(Json::Array(required)) = schema.get_mut("required").map(Json::take) {
            self.required.extend(required);
        }
        self
    }

    /// The schema.
    #[must_use]
    pub fn finish(self) -> serde_json::Value {
        let mut schema = json!({ "type": "object", "properties": self.properties, "additionalProperties": false });
        if let Some(members) = schema.as_object_mut() {
            if !self.about.is_empty() {
                members.insert("description".into(), self.about.into());
            }
            if !self.required.is_empty() {
                members.insert("required".into(), json!(self.required));
            }
        }
        schema
    }
}

fn number(value: f64) -> serde_json::Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

/// The range a number must lie in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bounds {
    /// Smallest value.
    pub min: Option<f64>,
    /// Largest value.
    pub max: Option<f64>,
    /// A value that it must exceed.
    pub above: Option<f64>,
    /// A value that it must stay below.
    pub below: Option<f64>,
}

impl Bounds {
    fn check(&self, name: &str, node: &Node, report: &mut Diagnostics) -> Option<()> {
        let value = match node.value {
            Value::Integer(value) => value as f64,
            Value::Float(value) => value,
            _ => return Some(()),
        };
        if !value.is_finite() {
            // No number lies beside it: the decoder says so.
            return Some(());
        }
        let wrong = if self.min.is_some_and(|min| value < min) {
            format!("at least {}", number(self.min.unwrap_or_default()))
        } else if self.max.is_some_and(|max| value > max) {
            format!("at most {}", number(self.max.unwrap_or_default()))
        } else if self.above.is_some_and(|above| value <= above) {
            format!("more than {}", number(self.above.unwrap_or_default()))
        } else if self.below.is_some_and(|below| value >= below) {
            format!("less than {}", number(self.below.unwrap_or_default()))
        } else {
            return Some(());
        };
        report.push(Diagnostic::error(node.at, format!("`{name}` must be {wrong}, not {}", number(value))));
        None
    }
}

/// A table being decoded; used by the derive.
pub struct Fields<'a> {
    node: &'a Node,
    table: &'a Table,
    whole: bool,
}

impl<'a> Fields<'a> {
    /// Opens a table, reporting every key that is none of `known`.
    pub fn open(node: &'a Node, known: &[&str], report: &mut Diagnostics) -> Option<Self> {
        let Some(table) = node.as_table() else {
            report.push(expected("a table", node).hint(format!("its keys are {}", crate::suggest::list(known))));
            return None;
        };
        let mut whole = true;
        for (name, (at, _)) in &table.entries {
            if !known.contains(&name.as_str()) {
                let error = Diagnostic::error(*at, format!("unknown key `{name}`"));
                report.push(match crate::secrets::hint_for_key(name) {
                    Some(hint) => error.hint(hint),
                    None => error.suggest(name, known.iter().copied()),
                });
                whole = false;
            }
        }
        Some(Self { node, table, whole })
    }

    /// Decodes a field; `default` stands for it where it was left out.
    pub fn field<T: Config>(
        &mut self,
        name: &str,
        bounds: &Bounds,
        default: Option<T>,
        report: &mut Diagnostics,
    ) -> Option<T> {
        let Some(node) = self.table.get(name) else {
            let value = default.or_else(T::when_missing);
            if value.is_none() {
                report.push(Diagnostic::error(self.node.at, format!("missing `{name}`")).hint(field_hint::<T>(name)));
            }
            return value;
        };
        bounds.check(name, node, report)?;
        T::decode(node, report)
    }

    /// The table.
    #[must_use]
    pub fn node(&self) -> &'a Node {
        self.node
    }

    /// `None` if a key was unknown.
    #[must_use]
    pub fn whole(&self) -> Option<()> {
        self.whole.then_some(())
    }
}

fn field_hint<T: Config>(name: &str) -> String {
    let schema = T::schema();
    let example = match schema.get("type").and_then(|kind| kind.as_str()) {
        Some("string") => "\"…\"",
        Some("integer") => "1",
        Some("number") => "1.0",
        Some("boolean") => "true",
        Some("array") => "[ … ]",
        _ => "{ … }",
    };
    format!("add `{name} = {example}`")
}

/// An error for a value of the wrong type.
#[must_use]
pub fn expected(wanted: &str, node: &Node) -> Diagnostic {
    Diagnostic::error(node.at, format!("expected {wanted}, found {}", node.type_name()))
}

/// The tag and the options of a choice: `"name"` or `{ name = … }`; used by the derive and the registries.
pub fn choice(node: &Node, names: &[&str], report: &mut Diagnostics) -> Option<(String, Node)> {
    let (at, name, body) = match &node.value {
        Value::String(name) => (node.at, name, Node::empty_table(node.at)),
        Value::Table(table) if table.entries.len() == 1 => {
            let (name, (at, body)) = table.entries.first()?;
            (*at, name, body.clone())
        }
        Value::Table(table) => {
            let given: Vec<&str> = table.entries.keys().map(String::as_str).collect();
            let found = if given.is_empty() { "none".to_owned() } else { crate::suggest::list(&given) };
            report.push(
                Diagnostic::error(node.at, format!("expected exactly one choice, found {found}"))
                    .hint(format!("one of {}", crate::suggest::list(names))),
            );
            return None;
        }
        _ => {
            report.push(expected("a choice", node).hint(format!("one of {}", crate::suggest::list(names))));
            return None;
        }
    };
    if !names.contains(&name.as_str()) {
        report.push(Diagnostic::error(at, format!("unknown choice `{name}`")).suggest(name, names.iter().copied()));
        return None;
    }
    Some((name.clone(), body))
}

/// The schema of one choice; `body` is `None` for a choice without options.
#[must_use]
pub fn choice_schema(name: &str, about: &str, body: Option<serde_json::Value>) -> Vec<serde_json::Value> {
    let bare = json!({ "const": name, "description": about });
    let Some(body) = body else { return vec![bare] };
    let optional = body.get("required").is_none() && body.get("type") == Some(&json!("object"));
    let tagged = json!({
        "type": "object", "properties": { name: body }, "required": [name],
        "additionalProperties": false, "description": about,
    });
    if optional { vec![bare, tagged] } else { vec![tagged] }
}

/// The schema of a set of choices; used by the derive.
#[must_use]
pub fn choices_schema(about: &str, choices: Vec<Json>) -> Json {
    json!({ "description": about, "anyOf": choices })
}
