//! `stillhouse kinds [KIND]`

use std::process::ExitCode;

use serde_json::{Value, json};
use stillhouse_engine::schema::body_schema;
use stillhouse_spec::{listing, suggest};

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
            let hint = || suggest::hint(name, KINDS.iter().map(|kind| kind.name()));
            vec![found.ok_or_else(|| CliError::arguments(format!("there is no kind `{name}`"), hint()))?]
        }
    };
    if global.format == Format::Json {
        let list = chosen.iter().map(|kind| {
            let schema = body_schema(*kind);
            let keys: Value = listing::keys(&schema).iter().map(key_json).collect();
            json!({
                "name": kind.name(),
                "stage": kind.as_stage().is_some(),
                "about": listing::about(&schema),
                "keys": keys,
                "schema": schema,
            })
        });
        render::data(&list.collect::<Value>().to_string());
        return Ok(ExitCode::SUCCESS);
    }
    for kind in &chosen {
        let schema = body_schema(*kind);
        let what = if kind.as_stage().is_some() { "stage" } else { "definition" };
        render::data(&format!("[{}.…]  ({what})  {}", kind.name(), listing::about(&schema)));
        if command.kind.is_some() {
            render::data(&format!("\n{}", render::kinds::keys(&listing::keys(&schema))));
        }
    }
    if command.kind.is_none() {
        render::words("\nhint: `stillhouse kinds KIND` lists the keys of one");
    }
    Ok(ExitCode::SUCCESS)
}

fn key_json(key: &listing::Listed) -> Value {
    json!({
        "path": key.path,
        "what": if key.choice { "choice" } else { "key" },
        "type": key.kind,
        "required": key.required,
        "default": key.default,
        "role": render::kinds::role(key),
        "about": key.about,
    })
}
