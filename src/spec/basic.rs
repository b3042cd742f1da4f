//! [`Config`] for the types that fields are made of: numbers, booleans, strings, options, lists and maps.

use std::collections::BTreeMap;

use serde_json::json;

use crate::canonical::Canonical;
use crate::config::{Config, Described, expected};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::node::{Node, Value};

macro_rules! integer {
    ($($type:ty),*) => {$(
        impl Config for $type {
            fn decode(node: &Node, report: &mut Diagnostics) -> Option<Self> {
                let Value::Integer(value) = node.value else {
                    let found = expected("an integer", node);
                    let number = node.as_str().and_then(|text| text.trim().parse::<i64>().ok());
                    report.push(match number {
                        Some(number) => found.hint(format!("without quotes: {number}")),
                        None => found,
                    });
                    return None;
                };
                <$type>::try_from(value).map_err(|_| {
                    report.push(Diagnostic::error(node.at, format!("{value} is out of range"))
                        .hint(format!("an integer from {} to {}", <$type>::MIN, <$type>::MAX)));
                }).ok()
            }

            fn schema() -> serde_json::Value {
                let mut schema = json!({ "type": "integer" });
                if <$type>::MIN == 0 { schema["minimum"] = json!(0); }
                schema
            }

            fn describe(&self) -> Described { Described::Value(Canonical::from(*self)) }
        }
    )*};
}
integer!(u32, u64, usize, i64);

impl Config for f64 {
    fn decode(node: &Node, report: &mut Diagnostics) -> Option<Self> {
        match node.value {
            Value::Float(value) if value.is_finite() => Some(value),
            Value::Integer(value) => Some(value as Self),
            Value::Float(_) => {
                report.push(Diagnostic::error(node.at, "not a finite number").hint("NaN and inf are not settings"));
                None
            }
            _ => {
                report.push(expected("a number", node));
                None
            }
        }
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "number" })
    }

    fn describe(&self) -> Described {
        Described::Value(Canonical::Float(*self))
    }
}

impl Config for bool {
    fn decode(node: &Node, report: &mut Diagnostics) -> Option<Self> {
        if let Value::Boolean(value) = node.value {
            return Some(value);
        }
        report.push(expected("`true` or `false`", node));
        None
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "boolean" })
    }

    fn describe(&self) -> Described {
        Described::Value(Canonical::Bool(*self))
    }
}

impl Config for String {
    fn decode(node: &Node, report: &mut Diagnostics) -> Option<Self> {
        let text = node.as_str().map(str::to_owned);
        if text.is_none() {
            report.push(expected("a string", node));
        }
        text
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "string" })
    }

    fn describe(&self) -> Described {
        Described::Value(Canonical::String(self.clone()))
    }
}

impl<T: Config> Config for Option<T> {
    fn decode(node: &Node, report: &mut Diagnostics) -> Option<Self> {
        T::decode(node, report).map(Some)
    }

    fn schema() -> serde_json::Value {
        T::schema()
    }

    fn describe(&self) -> Described {
        self.as_ref().map_or(Described::Nothing, Config::describe)
    }

    fn when_missing() -> Option<Self> {
        Some(None)
    }
}

impl<T: Config> Config for Vec<T> {
    fn decode(node: &Node, report: &mut Diagnostics) -> Option<Self> {
        let Value::Array(items) = &node.value else {
            report.push(expected("a list", node));
            return None;
        };
        // Every item is decoded before the first failure counts, so that all errors are reported.
        let decoded: Vec<_> = items.iter().map(|item| T::decode(item, report)).collect();
        decoded.into_iter().collect()
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "array", "items": T::schema() })
    }

    fn describe(&self) -> Described {
        Described::List(self.iter().map(Config::describe).collect())
    }
}

impl<T: Config> Config for BTreeMap<String, T> {
    fn decode(node: &Node, report: &mut Diagnostics) -> Option<Self> {
        let Value::Table(table) = &node.value else {
            report.push(expected("a table", node));
            return None;
        };
        let decoded: Vec<_> =
            table.entries.iter().map(|(name, (_, item))| Some((name.clone(), T::decode(item, report)?))).collect();
        decoded.into_iter().collect()
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "object", "additionalProperties": T::schema() })
    }

    fn describe(&self) -> Described {
        Described::Table(self.iter().map(|(name, value)| (name.clone(), value.describe())).collect())
    }
}
