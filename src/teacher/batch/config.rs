//! `batch = true`, or a table of how.

use serde_json::json;
use stillhouse_spec::node::{Table, Value};
use stillhouse_spec::{Config, Described, Diagnostics, Node};

/// How requests are handed in together.
#[derive(Clone, Debug, PartialEq, Config)]
pub struct BatchOptions {
    /// Requests in one batch at most.
    #[config(default = 50_000, min = 1, max = 50_000)]
    pub max_requests: usize,
    /// The size of one batch's file at most, in megabytes.
    #[config(default = 200, min = 1, max = 200)]
    pub max_megabytes: u64,
    /// Batches on their way at once.
    #[config(default = 4, min = 1)]
    pub at_once: usize,
    /// The longest pause between two looks at a batch, in seconds; the first looks come sooner.
    #[config(default = 60.0, above = 0, max = 3600)]
    pub poll_seconds: f64,
}

/// `true` hands in with every option at its default, `false` does not.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchConfig(pub Option<BatchOptions>);

/// Written by hand: the derive has no table that may be written as a boolean.
impl Config for BatchConfig {
    fn decode(node: &Node, report: &mut Diagnostics) -> Option<Self> {
        match &node.value {
            Value::Boolean(false) => Some(Self(None)),
            Value::Boolean(true) => {
                let defaults = Node { value: Value::Table(Table::default()), at: node.at };
                BatchOptions::decode(&defaults, report).map(|options| Self(Some(options)))
            }
            _ => BatchOptions::decode(node, report).map(|options| Self(Some(options))),
        }
    }

    fn schema() -> serde_json::Value {
        json!({ "anyOf": [ { "type": "boolean" }, BatchOptions::schema() ] })
    }

    fn describe(&self) -> Described {
        self.0.as_ref().map_or(Described::Nothing, Config::describe)
    }
}
