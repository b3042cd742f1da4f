//! The keys of a table, listed from its schema: what `stillhouse kinds` shows.

use serde_json::{Map, Value};

/// A line of a listing: a key, or one of the choices that a key has.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// Where it stands: `optimizer.adamw.lr`; a choice stands under the key that it is one of.
    pub path: String,
    /// How deep it is to be indented.
    pub depth: usize,
    /// Whether it is a choice rather than a key.
    pub choice: bool,
    /// What may be written: `integer ≥ 1`, `list of strings`, `name of a model`.
    pub kind: String,
    /// Whether it must be given.
    pub required: bool,
    /// What it is when left out.
    pub default: Option<Value>,
    /// Whether it is in no key.
    pub execution: bool,
    /// Its docs in one line.
    pub about: String,
}

impl Listed {
    /// The last part of the path.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.rsplit_once('.').map_or(&self.path, |(_, name)| name)
    }
}

/// Every key and choice of a schema, outer ones first.
#[must_use]
pub fn keys(schema: &Value) -> Vec<Listed> {
    let mut list = Vec::new();
    Walk { list: &mut list }.inside(schema, &At { path: "", depth: 0, execution: false });
    list
}

/// A schema's docs in one line: the first paragraph, and of a long one the first sentence.
#[must_use]
pub fn about(schema: &Value) -> String {
    const LONG: usize = 110;
    let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let paragraph = lines.join(" ");
    if paragraph.chars().count() <= LONG {
        return paragraph;
    }
    let begins_one = |at: usize| paragraph[at + 2..].starts_with(|c: char| c.is_uppercase() || c == '`');
    match paragraph.match_indices(". ").find(|(at, _)| begins_one(*at)) {
        Some((at, _)) => paragraph[..=at].to_owned(),
        None => paragraph,
    }
}

#[derive(Clone, Copy)]
struct At<'a> {
    path: &'a str,
    depth: usize,
    /// Whether something around it is in no key: then all in it is in none.
    execution: bool,
}

struct Walk<'a> {
    list: &'a mut Vec<Listed>,
}

impl Walk<'_> {
    fn inside(&mut self, schema: &Value, at: &At<'_>) {
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            self.members(properties, schema, at);
        }
        // A list and a table of any names hold what their items hold; neither adds a level of its own.
        for items in ["items", "additionalProperties"] {
            if let Some(items) = schema.get(items).filter(|items| items.is_object()) {
                self.inside(items, at);
            }
        }
        for choice in schema.get("anyOf").and_then(Value::as_array).into_iter().flatten() {
            self.choice(choice, at);
        }
    }

    fn members(&mut self, properties: &Map<String, Value>, schema: &Value, at: &At<'_>) {
        // What must be given comes first.
        for wanted in [true, false] {
            for (name, member) in properties.iter().filter(|(name, _)| is_required(schema, name) == wanted) {
                let row = Listed { required: wanted, ..row(name, member, at) };
                self.key(row, member, at);
            }
        }
    }

    fn key(&mut self, row: Listed, schema: &Value, at: &At<'_>) {
        let (path, execution) = (row.path.clone(), row.execution);
        self.list.push(row);
        self.inside(schema, &At { path: &path, depth: at.depth + 1, execution });
    }

    fn choice(&mut self, schema: &Value, at: &At<'_>) {
        if let Some(name) = schema.get("const").and_then(Value::as_str) {
            self.push_choice(name, schema, at);
            return;
        }
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
            return self.inside(schema, at);
        };
        if let Some((name, options)) = tagged(schema) {
            let path = self.push_choice(name, schema, at);
            return self.inside(options, &At { path: &path, depth: at.depth + 1, ..*at });
        }
        let Some((tag, value)) = tag(properties) else { return self.inside(schema, at) };
        let named = Listed { required: true, choice: true, kind: value.to_string(), ..row(tag, &properties[tag], at) };
        self.list.push(named);
        let others: Map<String, Value> = properties
            .iter()
            .filter(|(name, _)| *name != tag)
            .map(|(name, member)| (name.clone(), member.clone()))
            .collect();
        self.members(&others, schema, &At { depth: at.depth + 1, ..*at });
    }

    /// Adds a choice, unless it is there: one whose options may all be left out is in a schema twice.
    fn push_choice(&mut self, name: &str, schema: &Value, at: &At<'_>) -> String {
        let options = tagged(schema).map(|(_, options)| kind(options, false)).filter(|kind| kind != "table");
        let row = Listed { choice: true, kind: options.unwrap_or_default(), ..row(name, schema, at) };
        let path = row.path.clone();
        if !self.list.iter().any(|listed| listed.choice && listed.path == path) {
            self.list.push(row);
        }
        path
    }
}

/// The one key of `{ llama = { … } }`, and its options.
fn tagged(schema: &Value) -> Option<(&str, &Value)> {
    let properties = schema.get("properties")?.as_object()?;
    let (name, options) = properties.iter().next()?;
    let tagged = properties.len() == 1 && is_required(schema, name) && options.get("const").is_none();
    tagged.then_some((name, options))
}

/// `provider = "openai"` beside the keys that this choice has.
fn tag(properties: &Map<String, Value>) -> Option<(&String, &Value)> {
    properties.iter().find_map(|(name, member)| Some((name, member.get("const")?)))
}

fn row(name: &str, schema: &Value, at: &At<'_>) -> Listed {
    Listed {
        path: if at.path.is_empty() { name.to_owned() } else { format!("{}.{name}", at.path) },
        depth: at.depth,
        choice: false,
        kind: kind(schema, false),
        required: false,
        default: schema.get("default").cloned(),
        execution: at.execution || schema.get("x-execution").is_some(),
        about: about(schema),
    }
}

fn is_required(schema: &Value, name: &str) -> bool {
    schema.get("required").and_then(Value::as_array).is_some_and(|names| names.iter().any(|listed| listed == name))
}

/// What may be written, in words.
fn kind(schema: &Value, many: bool) -> String {
    let plural = |one: &str| if many { format!("{one}s") } else { one.to_owned() };
    if let Some(kinds) = schema.get("x-names").and_then(Value::as_array) {
        let kinds: Vec<&str> = kinds.iter().filter_map(Value::as_str).collect();
        let of = if kinds.is_empty() { "stage".to_owned() } else { kinds.join(" or ") };
        return format!("{} of {of}", plural("name"));
    }
    if let Some(what) = schema.get("x-path").and_then(Value::as_str) {
        return what.split(" or ").map(plural).collect::<Vec<_>>().join(" or ");
    }
    if let Some(choices) = schema.get("anyOf").and_then(Value::as_array) {
        let is_choice = |choice: &Value| {
            let properties = choice.get("properties").and_then(Value::as_object);
            choice.get("const").is_some()
                || tagged(choice).is_some()
                || properties.is_some_and(|members| tag(members).is_some())
        };
        let mut kinds: Vec<String> = Vec::new();
        for choice in choices {
            let kind = if is_choice(choice) { plural("choice") } else { kind(choice, many) };
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        return kinds.join(" or ");
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("array") => {
            let of = schema.get("items").map_or_else(|| "values".to_owned(), |items| kind(items, true));
            format!("{} of {of}", plural("list"))
        }
        Some("object") => match schema.get("additionalProperties").filter(|items| items.is_object()) {
            Some(items) => format!("{} of {}", plural("table"), kind(items, true)),
            None => plural("table"),
        },
        Some("boolean") => plural("true or false"),
        Some(number @ ("integer" | "number")) => format!("{}{}", plural(number), bounds(schema)),
        Some(other) => plural(other),
        None => String::new(),
    }
}

fn bounds(schema: &Value) -> String {
    let signs = [("exclusiveMinimum", ">"), ("minimum", "≥"), ("exclusiveMaximum", "<"), ("maximum", "≤")];
    let bounds = signs.iter().filter_map(|(keyword, sign)| Some(format!(" {sign} {}", schema.get(*keyword)?)));
    bounds.collect::<Vec<_>>().join(",")
}
