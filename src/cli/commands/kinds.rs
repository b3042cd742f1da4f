//! `stillhouse kinds [KIND]`

use std::process::ExitCode;

use serde_json::{Value, json};
use stillhouse_spec::suggest;

use crate::args::{Format, Global, Kinds};
use crate::error::CliError;
use crate::kinds::KINDS;
use crate::render;

/// Lists the kinds, or the keys of one.
pub fn run(command: &Kinds, global: &Global) -> Result<ExitCode, CliError> {
    let chosen: Vec<_> = match &command.kind {
        None => KINDS.to_vec(),
        Some(name) => {
            let found = KINDS.iter().copied().find(|kind| kind.name() == name);
            let names = KINDS.iter().map(|kind| kind.name());
            let hint = match suggest::did_you_mean(name, names.clone()) {
                Some(close) => format!("did you mean `{close}`?"),
                None => format!("one of {}", suggest::list(&names.collect::<Vec<_>>())),
            };
            vec![found.ok_or_else(|| CliError::arguments(format!("there is no kind `{name}`"), hint))?]
        }
    };
    if global.format == Format::Json {
        let list: Vec<Value> = chosen
            .iter()
            .map(|kind| json!({ "name": kind.name(), "stage": kind.as_stage().is_some(), "schema": kind.schema() }))
            .collect();
        render::data(&Value::from(list).to_string());
        return Ok(ExitCode::SUCCESS);
    }
    for kind in &chosen {
        let schema = kind.schema();
        let what = if kind.as_stage().is_some() { "stage" } else { "definition" };
        render::data(&format!("[{}.…]  ({what})  {}", kind.name(), first_line(&schema)));
        if command.kind.is_some() {
            keys(&schema, 2);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn first_line(schema: &Value) -> &str {
    let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    text.lines().next().unwrap_or_default()
}

fn keys(schema: &Value, indent: usize) {
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, key) in schema["properties"].as_object().into_iter().flatten() {
        let mut notes = Vec::new();
        if required.contains(&name.as_str()) {
            notes.push("required".to_owned());
        }
        if let Some(default) = key.get("default") {
            notes.push(format!("default {default}"));
        }
        let notes = if notes.is_empty() { String::new() } else { format!(" ({})", notes.join(", ")) };
        render::data(&format!("{:indent$}{name}{notes}  {}", "", first_line(key)));
        keys(key, indent + 4);
        for choice in key["anyOf"].as_array().into_iter().flatten() {
            keys(choice, indent + 4);
        }
    }
}
