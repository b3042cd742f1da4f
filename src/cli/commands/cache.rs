//! `stillhouse cache stats|verify|gc|pin|unpin`

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use stillhouse_report::format::bytes;
use stillhouse_stage::{Class, Failure};
use stillhouse_store::{GcOptions, PinTarget, Store};
use stillhouse_teacher::replies;

use crate::args::{Cache, CacheAction, Format, Gc, Global};
use crate::commands::show;
use crate::error::CliError;
use crate::render;

/// Looks after the store.
pub fn run(command: &Cache, global: &Global) -> Result<ExitCode, CliError> {
    let store = Store::open_existing(&global.cache)?;
    match &command.action {
        CacheAction::Stats => stats(&store, global),
        CacheAction::Verify => verify(&store, global),
        CacheAction::Gc(options) => gc(&store, options, global),
        CacheAction::Pin(pin) => {
            let Some(record) = show::result_of(&store, &pin.what)? else {
                return Err(CliError::arguments(
                    format!("there is no result `{}`", pin.what),
                    "give a stage or a key that has one",
                ));
            };
            store.pin(&pin.name, PinTarget::Record(record.key))?;
            render::words(&format!("pinned {} as {}", record.stage, pin.name));
            Ok(ExitCode::SUCCESS)
        }
        CacheAction::Unpin(unpin) => {
            if !store.unpin(&unpin.name)? {
                return Err(CliError::arguments(
                    format!("there is no pin `{}`", unpin.name),
                    "pins are the files in the store's `pins/`",
                ));
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn stats(store: &Store, global: &Global) -> Result<ExitCode, CliError> {
    let stats = store.stats()?;
    if global.format == Format::Json {
        let areas: Vec<_> = stats
            .areas
            .iter()
            .map(|area| json!({ "name": area.name, "files": area.files, "bytes": area.bytes }))
            .collect();
        let value = json!({ "root": store.root().display().to_string(), "files": stats.files(), "bytes": stats.bytes(), "areas": areas });
        render::data(&value.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    render::data(&format!("{}", store.root().display()));
    for area in &stats.areas {
        render::data(&format!("  {:<12} {:>8} files {:>12}", area.name, area.files, bytes(area.bytes)));
    }
    render::data(&format!("  {:<12} {:>8} files {:>12}", "all", stats.files(), bytes(stats.bytes())));
    Ok(ExitCode::SUCCESS)
}

fn verify(store: &Store, global: &Global) -> Result<ExitCode, CliError> {
    let report = store.verify()?;
    let replies = replies::verify(&store.replies_dir()).map_err(Failure::from)?;
    let sound = report.is_sound() && replies.is_sound();
    if global.format == Format::Json {
        let corrupt: Vec<String> = report.corrupt.iter().map(ToString::to_string).collect();
        let broken: Vec<_> =
            report.broken.iter().map(|record| json!({ "key": record.key, "reason": record.reason })).collect();
        let value = json!({
            "ok": sound, "blobs": report.blobs, "bytes": report.bytes, "records": report.records,
            "corrupt": corrupt, "broken": broken, "replies": replies,
        });
        render::data(&value.to_string());
    } else {
        render::data(&format!(
            "read {} blobs ({}), {} records and {} replies ({})",
            report.blobs,
            bytes(report.bytes),
            report.records,
            replies.replies,
            bytes(replies.bytes),
        ));
        for digest in &report.corrupt {
            render::data(&format!("damaged: blob {digest}, set aside in quarantine/"));
        }
        for record in &report.broken {
            render::data(&format!("not whole: record {}: {}", record.key.short(), record.reason));
        }
        for damage in &replies.damaged {
            let (path, place) = (&damage.path, damage.offset);
            render::data(&format!("damaged: {path}, {} bytes from byte {place} on: {}", damage.bytes, damage.reason));
        }
        if sound {
            render::data("everything is as it was written");
        } else {
            render::words(
                "hint: the next run makes what is missing again, and asks again what a damaged reply had answered",
            );
        }
    }
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::from(Class::Environment.exit_code()) })
}

fn gc(store: &Store, options: &Gc, global: &Global) -> Result<ExitCode, CliError> {
    let keep = options.keep_days.map(|days| Duration::from_secs(days.saturating_mul(86_400)));
    let report = store.gc(&GcOptions { dry_run: options.dry_run, keep, ..GcOptions::default() })?;
    if global.format == Format::Json {
        let value = json!({
            "dry-run": report.dry_run, "records": report.records.len(), "checkpoints": report.checkpoints.len(),
            "blobs": report.blobs, "bytes": report.blob_bytes, "kept-blobs": report.kept_blobs,
            "kept-bytes": report.kept_bytes, "temporary": report.temporary, "held": report.held,
        });
        render::data(&value.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    let verb = if report.dry_run { "would remove" } else { "removed" };
    render::data(&format!(
        "{verb} {} records, {} checkpoints, {} blobs ({}), {} unfinished files; {} blobs ({}) stay",
        report.records.len(),
        report.checkpoints.len(),
        report.blobs,
        bytes(report.blob_bytes),
        report.temporary,
        report.kept_blobs,
        bytes(report.kept_bytes),
    ));
    if !report.held.is_empty() {
        render::words("note: runs are in progress, so no record and no checkpoint was touched");
    }
    Ok(ExitCode::SUCCESS)
}
