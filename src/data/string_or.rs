//! A table with a `path` that may be written as the path alone: `text = "a.txt"` for `text = { path = "a.txt" }`.

use std::ops::Deref;

use serde_json::json;
use stillhouse_stage::spec::{Config, Described, Diagnostics, Node, Origin, Table, Value};

/// See the module. Both ways of writing mean the same, so they have the same key.
#[derive(Clone, Debug)]
pub struct StringOr<T>(pub T);

impl<T> Deref for StringOr<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Config> Config for StringOr<T> {
    fn decode(node: &Node, report: &mut Diagnostics) -> Option<Self> {
        if node.as_str().is_none() {
            return T::decode(node, report).map(Self);
        }
        let mut table = Table::default();
        let at: Origin = node.at;
        table.set("path", at, node.clone());
        T::decode(&Node { value: Value::Table(table), at }, report).map(Self)
    }

    fn schema() -> serde_json::Value {
        let whole = T::schema();
        let about = whole["description"].clone();
        let mut schema =
            json!({ "anyOf": [ { "type": "string", "description": "a path, relative to this file" }, whole ] });
        if about.is_string() {
            schema["description"] = about;
        }
        schema
    }

    fn describe(&self) -> Described {
        self.0.describe()
    }
}
