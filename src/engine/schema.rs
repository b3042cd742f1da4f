//! The JSON Schema of an experiment file, from the kinds themselves.

use serde_json::{Map, Value, json};
use stillhouse_spec::Config;
use stillhouse_spec::read::Header;
use stillhouse_stage::Kind;

/// The schema. Members are sorted, so that its text does not depend on how this program was built.
#[must_use]
pub fn experiment_schema(kinds: &[&'static dyn Kind]) -> Value {
    let mut properties = Map::new();
    properties.insert("experiment".into(), Header::schema());
    properties.insert(
        "include".into(),
        json!({
            "description": "Other experiment files that this one builds on, relative to it; what stands here overrides them.",
            "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }],
        }),
    );
    properties.insert(
        "sweep".into(),
        json!({
            "description": "Runs the experiment once for every combination of values.",
            "type": "object",
            "required": ["grid"],
            "additionalProperties": false,
            "properties": { "grid": {
                "description": "Path of a key → list of its values.",
                "type": "object",
                "minProperties": 1,
                "additionalProperties": { "anyOf": [{ "type": "array", "minItems": 1 }, { "type": "object" }] },
            } },
        }),
    );
    for kind in kinds {
        let body = body_schema(*kind);
        let description = body.get("description").cloned().unwrap_or_default();
        let tables = json!({ "type": "object", "description": description, "additionalProperties": body });
        properties.insert(kind.name().to_owned(), tables);
    }
    sorted(json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A stillhouse experiment",
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    }))
}

/// The schema of a table of a kind, with the key that the engine gives every stage.
#[must_use]
pub fn body_schema(kind: &dyn Kind) -> Value {
    let mut body = kind.schema();
    let seed = json!({ "type": "integer", "minimum": 0, "description": "The seed of this stage, instead of the experiment's." });
    if kind.as_stage().is_some()
        && let Some(members) = body.get_mut("properties").and_then(Value::as_object_mut)
    {
        members.insert("seed".into(), seed);
    }
    body
}

/// The same value with the members of every object in order.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut pairs: Vec<(String, Value)> = members.into_iter().collect();
            pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Object(pairs.into_iter().map(|(name, value)| (name, sorted(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}
