//! The tree of a file: values that remember the characters they were read from.

use std::ops::Range;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;

/// Where a value was written: a source and a range of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// Index into [`Sources`].
    pub source: u32,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Origin {
    /// A place for values that nobody wrote (decoded again from a work order).
    pub const NOWHERE: Self = Self { source: u32::MAX, start: 0, end: 0 };

    /// The place of a span in a source.
    #[must_use]
    pub fn new(source: u32, span: Range<usize>) -> Self {
        let clamp = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self { source, start: clamp(span.start), end: clamp(span.end) }
    }

    /// The range of bytes.
    #[must_use]
    pub fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// One text that values were read from: a file, or an argument of the command line.
#[derive(Clone, Debug)]
pub struct Source {
    /// How messages name it: the path as given, or `--set #1`.
    pub name: String,
    /// The folder that paths written in it are relative to.
    pub folder: PathBuf,
    /// The text, with secrets already masked (so no message can repeat one).
    pub text: String,
}

/// Every text that took part in an experiment.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    list: Vec<Source>,
}

impl Sources {
    /// Adds a text and answers its index.
    pub fn add(&mut self, name: String, folder: PathBuf, text: String) -> u32 {
        self.list.push(Source { name, folder, text });
        u32::try_from(self.list.len() - 1).unwrap_or(u32::MAX)
    }

    /// The source of a place, if it has one.
    #[must_use]
    pub fn get(&self, origin: Origin) -> Option<&Source> {
        self.list.get(origin.source as usize)
    }

    /// Line and column of a place, both counted from 1, columns in characters.
    #[must_use]
    pub fn line_column(&self, origin: Origin) -> Option<(usize, usize)> {
        let before = self.get(origin)?.text.get(..origin.start as usize)?;
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Some((line, column))
    }

    /// A path written at `origin`, relative to the folder of its file.
    #[must_use]
    pub fn resolve(&self, origin: Origin, written: &str) -> PathBuf {
        match self.get(origin) {
            Some(source) => source.folder.join(written),
            None => Path::new(written).to_owned(),
        }
    }

    /// Overwrites the characters of a place so that no message shows them.
    pub(crate) fn mask(&mut self, origin: Origin) {
        if let Some(source) = self.list.get_mut(origin.source as usize) {
            cover(&mut source.text, origin.range());
        }
    }
}

/// Overwrites a range of a text with stars. Quotes stay, so that a reader still sees a string, and line ends, so that
/// later places keep their lines; every byte keeps its place.
pub(crate) fn cover(text: &mut String, range: Range<usize>) {
    if let Some(secret) = text.get(range.clone()) {
        let keep = |byte: u8| matches!(byte, b'"' | b'\'' | b'\n' | b'\r');
        let stars: String = secret.bytes().map(|byte| if keep(byte) { char::from(byte) } else { '*' }).collect();
        text.replace_range(range, &stars);
    }
}

/// A value and its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it was written.
    pub at: Origin,
}

/// What a value is.
#[derive(Clone, Debug)]
pub enum Value {
    /// A string.
    String(String),
    /// An integer.
    Integer(i64),
    /// A float.
    Float(f64),
    /// `true` or `false`
    Boolean(bool),
    /// A TOML date or time, as text; no field takes one, so it only appears in messages.
    Datetime(String),
    /// A list.
    Array(Vec<Node>),
    /// A table.
    Table(Table),
}

/// A table in the order it was written.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Name → (place of the name, value).
    pub entries: IndexMap<String, (Origin, Node)>,
    /// Written as `{ … }`: such a table is one value, an including file replaces it whole.
    pub inline: bool,
}

impl Table {
    /// The value under a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Node> {
        self.entries.get(name).map(|(_, node)| node)
    }

    /// Sets a value; a value that was there keeps its position.
    pub fn set(&mut self, name: &str, at: Origin, node: Node) {
        self.entries.insert(name.to_owned(), (at, node));
    }
}

impl Node {
    /// A table that nobody wrote: what `"name"` stands for where `{ name = { … } }` may stand too.
    #[must_use]
    pub fn empty_table(at: Origin) -> Self {
        Self { value: Value::Table(Table::default()), at }
    }

    /// The table, if it is one.
    #[must_use]
    pub fn as_table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The string, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The node at a dotted path of table keys.
    #[must_use]
    pub fn at_path(&self, path: &[String]) -> Option<&Self> {
        path.iter().try_fold(self, |node, name| node.as_table()?.get(name))
    }

    /// Sets the node at a path, making tables on the way.
    ///
    /// # Errors
    /// The place of the value on the way that is not a table, with how many names of the path lead to it.
    pub fn set_path(&mut self, path: &[String], at: Origin, new: Self) -> Result<(), (Origin, usize)> {
        self.set_path_from(0, path, at, new)
    }

    fn set_path_from(&mut self, depth: usize, path: &[String], at: Origin, new: Self) -> Result<(), (Origin, usize)> {
        let Some(name) = path.get(depth) else {
            *self = new;
            return Ok(());
        };
        let Value::Table(table) = &mut self.value else {
            return Err((self.at, depth));
        };
        let (_, child) = table.entries.entry(name.clone()).or_insert_with(|| (at, Self::empty_table(at)));
        child.set_path_from(depth + 1, path, at, new)
    }

    /// Merges another tree over this one: tables member by member, all else (inline tables too) replaced.
    pub fn merge(&mut self, over: Self) {
        match (&mut self.value, over.value) {
            (Value::Table(below), Value::Table(above)) if !above.inline => {
                for (name, (at, node)) in above.entries {
                    match below.entries.get_mut(&name) {
                        Some((name_at, existing)) => {
                            *name_at = at;
                            existing.merge(node);
                        }
                        None => _ = below.entries.insert(name, (at, node)),
                    }
                }
                self.at = over.at;
            }
            (_, value) => *self = Self { value, at: over.at },
        }
    }

    /// What kind of value it is, in a message's words.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match &self.value {
            Value::String(_) => "a string",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Boolean(_) => "a boolean",
            Value::Datetime(_) => "a date or time",
            Value::Array(_) => "a list",
            Value::Table(_) => "a table",
        }
    }

    /// The tree as JSON, for a work order; places are lost.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::String(text) | Value::Datetime(text) => text.clone().into(),
            Value::Integer(value) => (*value).into(),
            Value::Float(value) => serde_json::Number::from_f64(*value).map_or(serde_json::Value::Null, Into::into),
            Value::Boolean(value) => (*value).into(),
            Value::Array(items) => items.iter().map(Self::to_json).collect(),
            Value::Table(table) => {
                table.entries.iter().map(|(name, (_, node))| (name.clone(), node.to_json())).collect()
            }
        }
    }

    /// The tree of JSON that [`Node::to_json`] wrote, with every place [`Origin::NOWHERE`].
    #[must_use]
    pub fn from_json(json: &serde_json::Value) -> Self {
        use serde_json::Value as Json;
        let value = match json {
            Json::Null => Value::Float(f64::NAN),
            Json::Bool(value) => Value::Boolean(*value),
            Json::Number(number) => match number.as_i64() {
                Some(value) => Value::Integer(value),
                None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::String(text.clone()),
            Json::Array(items) => Value::Array(items.iter().map(Self::from_json).collect()),
            Json::Object(members) => Value::Table(Table {
                entries: members
                    .iter()
                    .map(|(name, value)| (name.clone(), (Origin::NOWHERE, Self::from_json(value))))
                    .collect(),
                inline: false,
            }),
        };
        Self { value, at: Origin::NOWHERE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_counted_in_characters() {
        let mut sources = Sources::default();
        let source = sources.add("file".into(), PathBuf::new(), "first\näöü = x\n".into());
        assert_eq!(sources.line_column(Origin::new(source, 0..1)), Some((1, 1)));
        assert_eq!(sources.line_column(Origin::new(source, 15..16)), Some((2, 7)));
        assert_eq!(sources.line_column(Origin::NOWHERE), None);
    }

    #[test]
    fn a_masked_value_keeps_its_quotes_lines_and_bytes() {
        let mut sources = Sources::default();
        let text = "a = \"\"\"one\r\nzwö\n\"\"\"\nb = 1\n";
        let source = sources.add("file".into(), PathBuf::new(), text.into());
        let at = Origin::new(source, 4..text.len() - 7);
        sources.mask(at);
        assert_eq!(sources.get(at).unwrap().text, "a = \"\"\"***\r\n****\n\"\"\"\nb = 1\n");
        sources.mask(Origin::new(source, 0..1000));
        sources.mask(Origin::NOWHERE);
    }

    #[test]
    fn a_tree_survives_the_way_through_json() {
        let json = serde_json::json!({ "a": { "b": [1, -2, 0.5, true, "text", {}] } });
        assert_eq!(Node::from_json(&json).to_json(), json);
    }

    #[test]
    fn a_path_through_a_value_is_an_error_with_its_depth() {
        let mut tree = Node::from_json(&serde_json::json!({ "a": { "b": 1 } }));
        let path = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
        let new = || Node::from_json(&serde_json::json!(2));
        assert_eq!(tree.set_path(&path("a.b.c.d"), Origin::NOWHERE, new()), Err((Origin::NOWHERE, 2)));
        assert_eq!(tree.set_path(&path("a.c.d"), Origin::NOWHERE, new()), Ok(()));
        assert_eq!(tree.to_json(), serde_json::json!({ "a": { "b": 1, "c": { "d": 2 } } }));
    }
}
