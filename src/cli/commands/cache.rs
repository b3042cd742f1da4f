//! `stillhouse cache stats|verify|gc|pin|unpin|replies`

use std::io::{BufReader, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use stillhouse_report::format::{bytes, duration};
use stillhouse_stage::{Class, Failure};
use stillhouse_store::{GcOptions, PinTarget, Store};
use stillhouse_teacher::replies::{self, exchange};

use crate::args::{Cache, CacheAction, ExportReplies, Format, Gc, Global, RepliesAction};
use crate::commands::show;
use crate::error::CliError;
use crate::render;

/// Looks after the store.
pub fn run(command: &Cache, global: &Global) -> Result<ExitCode, CliError> {
    if let CacheAction::Replies(replies) = &command.action
        && let RepliesAction::Import(import) = &replies.action
    {
        // The store that replies are brought to may be a new one.
        return import_replies(&Store::open(&global.cache)?, &import.file, global);
    }
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
        CacheAction::Replies(replies) => match &replies.action {
            RepliesAction::Export(export) => export_replies(&store, export, global),
            RepliesAction::Import(import) => import_replies(&store, &import.file, global),
        },
    }
}

fn export_replies(store: &Store, export: &ExportReplies, global: &Global) -> Result<ExitCode, CliError> {
    let (replies, teacher) = (store.replies_dir(), export.teacher.as_deref());
    let exported = match &export.file {
        Some(path) => export_to(path, |out| exchange::export(&replies, teacher, out)),
        None => exchange::export(&replies, teacher, &mut BufWriter::with_capacity(1 << 16, std::io::stdout().lock())),
    };
    let exported = match exported {
        // A reader that went away (`| head`) is no fault.
        Err(exchange::ExchangeError::Write(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            return Ok(ExitCode::SUCCESS);
        }
        exported => exported.map_err(Failure::from)?,
    };
    if global.format == Format::Json && export.file.is_some() {
        render::data(&json!(exported).to_string());
    } else {
        // The replies themselves may be on standard output.
        render::words(&format!("exported {} replies of {} teachers", exported.replies, exported.teachers));
    }
    if exported.damaged > 0 {
        let text = format!("{} damaged replies were left out; `cache verify` names their places", exported.damaged);
        render::remark("warning", &text, global);
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes beside the file and puts it in its place when it is whole: what is there stays when the disk is full.
fn export_to<T>(
    path: &Path,
    export: impl FnOnce(&mut dyn Write) -> Result<T, exchange::ExchangeError>,
) -> Result<T, exchange::ExchangeError> {
    let buffered = |file: std::fs::File| BufWriter::with_capacity(1 << 16, file);
    let write = exchange::ExchangeError::Write;
    // A pipe or a terminal has no place to be put into.
    if fs_err::metadata(path).is_ok_and(|there| !there.is_file()) {
        return export(&mut buffered(fs_err::File::create(path).map_err(write)?.into_file()));
    }
    // A link stays one.
    let path = fs_err::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temporary = tempfile::Builder::new();
    temporary.prefix(".stillhouse-export-");
    #[cfg(unix)]
    temporary.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let temporary = temporary.tempfile_in(folder).map_err(write)?;
    let exported = export(&mut buffered(temporary.as_file().try_clone().map_err(write)?))?;
    temporary.as_file().sync_all().map_err(write)?;
    temporary.persist(&path).map_err(|error| write(error.error))?;
    Ok(exported)
}

fn import_replies(store: &Store, file: &Path, global: &Global) -> Result<ExitCode, CliError> {
    let replies = store.replies_dir();
    let imported = if file == Path::new("-") {
        exchange::import(&replies, &mut std::io::stdin().lock())
    } else {
        let open = fs_err::File::open(file).map_err(exchange::ExchangeError::Read).map_err(Failure::from)?;
        exchange::import(&replies, &mut BufReader::with_capacity(1 << 16, open))
    };
    let imported = imported.map_err(Failure::from)?;
    if global.format == Format::Json {
        render::data(&json!(imported).to_string());
    } else {
        render::data(&format!("imported {} replies; {} were there already", imported.added, imported.known));
        if imported.others > 0 {
            render::words(&format!(
                "note: {} requests have another reply here, which stays what it is",
                imported.others
            ));
        }
        for fault in &imported.faults {
            render::words(&format!("error: {}, line {}: {}", file.display(), fault.line, fault.reason));
        }
        if imported.bad_lines > 0 {
            let lines = imported.bad_lines;
            render::words(&format!(
                "hint: {lines} lines were left out; importing a mended file again adds only what is missing"
            ));
        }
    }
    Ok(if imported.bad_lines == 0 { ExitCode::SUCCESS } else { ExitCode::from(Class::Input.exit_code()) })
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
        for index in &replies.wrong_indexes {
            let then = match index.removed {
                true => "taken away, the next start makes it from its replies",
                false => "it could not be taken away: remove it, the next start makes it from its replies",
            };
            render::data(&format!("wrong index: {}: {}; {then}", index.path, index.reason));
        }
        if sound {
            render::data("everything is as it was written");
        } else if !report.is_sound() || !replies.damaged.is_empty() {
            render::words(
                "hint: the next run makes what is missing again, and asks again what a damaged reply had answered; \
                 `stillhouse cache gc` takes damaged replies away",
            );
        }
    }
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::from(Class::Environment.exit_code()) })
}

fn gc(store: &Store, options: &Gc, global: &Global) -> Result<ExitCode, CliError> {
    let keep = options.keep_days.map(|days| Duration::from_secs(days.saturating_mul(86_400)));
    let report = store.gc(&GcOptions { dry_run: options.dry_run, keep, ..GcOptions::default() })?;
    let mended = replies::mend(&store.replies_dir(), options.dry_run).map_err(Failure::from)?;
    if global.format == Format::Json {
        let value = json!({
            "dry-run": report.dry_run, "records": report.records.len(), "checkpoints": report.checkpoints.len(),
            "blobs": report.blobs, "bytes": report.blob_bytes, "kept-blobs": report.kept_blobs,
            "kept-bytes": report.kept_bytes, "temporary": report.temporary, "held": report.held,
            "grace-seconds": report.grace_seconds, "young-blobs": report.young_blobs, "young-bytes": report.young_bytes,
            "young-temporary": report.young_temporary, "replies": mended,
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
    if mended.segments > 0 {
        let replies::Mended { segments, bytes: damaged, replies, .. } = mended;
        let (damaged, files) = (bytes(damaged), if segments == 1 { "1 file" } else { &format!("{segments} files") });
        render::data(&format!("{verb} {damaged} of damaged replies from {files}; {replies} whole ones there stay"));
    }
    if mended.held > 0 {
        render::data(&format!("{} files with damaged replies are being written to and stay as they are", mended.held));
    }
    // Whoever sees garbage stay shall know why, and until when.
    let grace = duration(report.grace_seconds as f64);
    render::data(&match report.young_blobs + report.young_temporary {
        0 => format!("nothing was kept for being younger than the grace period of {grace}"),
        _ => format!(
            "of what stays, {} blobs ({}) and {} unfinished files are part of no result and younger than the grace period of \
             {grace}: a run may be about to use them; a later `cache gc` takes them",
            report.young_blobs,
            bytes(report.young_bytes),
            report.young_temporary,
        ),
    });
    if !report.held.is_empty() {
        render::words("note: runs are in progress, so no record and no checkpoint was touched");
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_that_fails_leaves_the_earlier_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replies.jsonl");
        let files = || fs_err::read_dir(folder.path()).unwrap().count();
        export_to(&path, |out| out.write_all(b"whole").map_err(exchange::ExchangeError::Write)).unwrap();
        let full = |out: &mut dyn Write| {
            out.write_all(b"torn").map_err(exchange::ExchangeError::Write)?;
            Err::<(), _>(exchange::ExchangeError::Write(std::io::ErrorKind::StorageFull.into()))
        };
        export_to(&path, full).unwrap_err();
        assert_eq!((fs_err::read_to_string(&path).unwrap().as_str(), files()), ("whole", 1));
        export_to(&path, |out| out.write_all(b"new").map_err(exchange::ExchangeError::Write)).unwrap();
        assert_eq!((fs_err::read_to_string(&path).unwrap().as_str(), files()), ("new", 1));
    }
}
