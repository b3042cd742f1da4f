//! `stillhouse doctor`

use std::process::ExitCode;

use serde_json::json;
use stillhouse_store::Store;

use crate::args::{Format, Global};
use crate::error::CliError;
use crate::{render, session};

/// Says what was found on this machine, and why not.
pub fn run(global: &Global) -> Result<ExitCode, CliError> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let gpus = session::gpus();
    let store = Store::open(&global.cache);
    if global.format == Format::Json {
        let value = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "processors": processors,
            "gpus": gpus.as_ref().ok(),
            "no-gpu-because": gpus.as_ref().err(),
            "store": global.cache.display().to_string(),
            "store-problem": store.as_ref().err().map(ToString::to_string),
        });
        render::data(&value.to_string());
    } else {
        render::data(&format!("stillhouse   {}", env!("CARGO_PKG_VERSION")));
        render::data(&format!("processors   {processors}"));
        match &gpus {
            Ok(found) => render::data(&format!("GPUs         {}", found.join(", "))),
            Err(reason) => render::data(&format!("GPUs         none: {reason}")),
        }
        render::data(&format!("device auto  {}", if gpus.is_ok() { "cuda:0" } else { "cpu" }));
        match &store {
            Ok(store) => render::data(&format!("store        {}", store.root().display())),
            Err(error) => render::data(&format!("store        {error}")),
        }
    }
    store?;
    Ok(ExitCode::SUCCESS)
}
