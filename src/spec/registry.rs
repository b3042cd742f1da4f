//! Open choices: a static slice of entries, one file and one line each.
//!
//! Where a closed set of choices is an enum, a set that grows (losses, metrics, filters, providers) is a trait and a
//! slice. Decoder, schema, suggestions and listings walk the slice:
//!
//! ```
//! use stillhouse_spec::registry::{Component, Entry, OneOf, Registry};
//! use stillhouse_spec::{Config, entry};
//!
//! /// Decides whether a row stays.
//! pub trait Filter: Component + Send + Sync { fn keeps(&self, text: &str) -> bool; }
//!
//! /// Keeps rows of a length.
//! #[derive(Clone, Debug, Config)]
//! pub struct Length { /// Longest, in characters.
//!     pub max_characters: usize }
//! impl Filter for Length { fn keeps(&self, text: &str) -> bool { text.chars().count() <= self.max_characters } }
//!
//! /// Every filter.
//! pub static FILTERS: &[Entry<dyn Filter>] = &[entry!("length", Length as dyn Filter)];
//! impl Registry for dyn Filter {
//!     const WHAT: &'static str = "filter";
//!     fn entries() -> &'static [Entry<Self>] { FILTERS }
//! }
//! type Filters = Vec<OneOf<dyn Filter>>;   // in a config: [ { length = { max-characters = 100 } }, … ]
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::json;

use crate::config::{Config, Described, choice, choice_schema, expected};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::node::{Node, Value};

/// What every entry of a registry can say of itself; each [`Config`] can.
pub trait Component: fmt::Debug {
    /// See [`Config::describe`].
    fn described(&self) -> Described;
}

impl<C: Config + fmt::Debug> Component for C {
    fn described(&self) -> Described {
        self.describe()
    }
}

/// One line of a slice.
pub struct Entry<T: ?Sized + 'static> {
    /// The name in the file.
    pub name: &'static str,
    /// Its schema; the description is the first of its docs.
    pub schema: fn() -> serde_json::Value,
    /// Its decoder.
    pub decode: fn(&Node, &mut Diagnostics) -> Option<Arc<T>>,
}

impl<T: ?Sized> Entry<T> {
    /// What it is for: the docs of its config struct.
    #[must_use]
    pub fn about(&self) -> String {
        (self.schema)().get("description").and_then(|text| text.as_str()).unwrap_or_default().to_owned()
    }
}

/// Makes an [`Entry`]: `entry!("length", Length as dyn Filter)`.
#[macro_export]
macro_rules! entry {
    ($name:literal, $config:ty as $object:ty) => {
        $crate::registry::Entry::<$object> {
            name: $name,
            schema: <$config as $crate::Config>::schema,
            decode: |node, report| {
                <$config as $crate::Config>::decode(node, report)
                    .map(|made| std::sync::Arc::new(made) as std::sync::Arc<$object>)
            },
        }
    };
}

/// A trait whose implementations stand in a slice.
pub trait Registry: Component + 'static {
    /// What one of them is called in messages: "loss", "filter".
    const WHAT: &'static str;

    /// The slice.
    fn entries() -> &'static [Entry<Self>];
}

fn find<T: Registry + ?Sized>(name: &str) -> Option<&'static Entry<T>> {
    T::entries().iter().find(|entry| entry.name == name)
}

fn names<T: Registry + ?Sized>() -> Vec<&'static str> {
    T::entries().iter().map(|entry| entry.name).collect()
}

/// One of a registry: `"name"` or `{ name = { … } }`.
pub struct OneOf<T: ?Sized> {
    /// Its name.
    pub name: &'static str,
    /// The component.
    pub value: Arc<T>,
}

impl<T: ?Sized> Clone for OneOf<T> {
    fn clone(&self) -> Self {
        Self { name: self.name, value: Arc::clone(&self.value) }
    }
}

impl<T: Component + ?Sized> fmt::Debug for OneOf<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {:?}", self.name, self.value)
    }
}

impl<T: Registry + ?Sized> Config for OneOf<T> {
    fn decode(node: &Node, report: &mut Diagnostics) -> Option<Self> {
        let (name, body) = choice(node, &names::<T>(), report)?;
        let entry = find::<T>(&name)?;
        Some(Self { name: entry.name, value: (entry.decode)(&body, report)? })
    }

    fn schema() -> serde_json::Value {
        let choices: Vec<_> = T::entries()
            .iter()
            .flat_map(|entry| choice_schema(entry.name, &entry.about(), Some((entry.schema)())))
            .collect();
        json!({ "anyOf": choices })
    }

    fn describe(&self) -> Described {
        Described::Table(BTreeMap::from([(self.name.to_owned(), self.value.described())]))
    }
}

/// Any number of a registry, each at most once: `{ a = { … }, b = { … } }`.
pub struct Each<T: ?Sized> {
    /// Name → component, sorted by name.
    pub values: BTreeMap<&'static str, Arc<T>>,
}

impl<T: ?Sized> Clone for Each<T> {
    fn clone(&self) -> Self {
        Self { values: self.values.clone() }
    }
}

impl<T: Component + ?Sized> fmt::Debug for Each<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.values.fmt(f)
    }
}

impl<T: Registry + ?Sized> Config for Each<T> {
    fn decode(node: &Node, report: &mut Diagnostics) -> Option<Self> {
        let known = names::<T>();
        let table = match &node.value {
            Value::Table(table) => table,
            // A single one without options may be written as a string, as everywhere else.
            Value::String(_) => {
                let one = OneOf::<T>::decode(node, report)?;
                return Some(Self { values: BTreeMap::from([(one.name, one.value)]) });
            }
            _ => {
                report.push(expected(&format!("a table of each {}", T::WHAT), node));
                return None;
            }
        };
        if table.entries.is_empty() {
            report.push(
                Diagnostic::error(node.at, format!("at least one {} is needed", T::WHAT))
                    .hint(format!("one of {}", crate::suggest::list(&known))),
            );
            return None;
        }
        let decoded: Vec<_> = table
            .entries
            .iter()
            .map(|(name, (at, body))| {
                let Some(entry) = find::<T>(name) else {
                    report.push(
                        Diagnostic::error(*at, format!("unknown {} `{name}`", T::WHAT))
                            .suggest(name, known.iter().copied()),
                    );
                    return None;
                };
                Some((entry.name, (entry.decode)(body, report)?))
            })
            .collect();
        Some(Self { values: decoded.into_iter().collect::<Option<_>>()? })
    }

    fn schema() -> serde_json::Value {
        let properties: serde_json::Map<String, serde_json::Value> =
            T::entries().iter().map(|entry| (entry.name.to_owned(), (entry.schema)())).collect();
        json!({ "type": "object", "properties": properties, "additionalProperties": false, "minProperties": 1 })
    }

    fn describe(&self) -> Described {
        Described::Table(self.values.iter().map(|(name, value)| ((*name).to_owned(), value.described())).collect())
    }
}
