//! One stage's result: what was asked, what came out.

use serde_json::Value;
use stillhouse_stage::store::{Record, Tree};

use crate::format::{bytes, duration, plain};
use crate::grid::{Grid, Layout};

/// The member of a record's provenance that tells which tables its fields named.
const NAMES: &str = "names";

/// A record and the files of its output, for `show`. Recipe and metrics know other tables by the paths of the fields
/// that name them; what these were called by the experiment that made the record stands in a section of its own.
pub fn stage_page(record: &Record, files: &Tree, layout: Layout) -> String {
    let recipe: Value = serde_json::from_str(&record.recipe).unwrap_or(Value::Null);
    let mut provenance = record.provenance.clone();
    let names = provenance.as_object_mut().and_then(|members| members.remove(NAMES)).unwrap_or(Value::Null);
    let sections = [
        (String::new(), facts(record, files)),
        ("recipe".to_owned(), grid_of(&recipe)),
        ("metrics".to_owned(), grid_of(&record.metrics)),
        ("names, when it was made".to_owned(), grid_of(&names)),
        ("provenance".to_owned(), grid_of(&provenance)),
        ("files".to_owned(), file_grid(files)),
    ];
    let page = match layout {
        Layout::Text => format!("{}\n\n", record.stage),
        Layout::Markdown => format!("# {}\n\n", record.stage),
    };
    let shown: Vec<String> = sections
        .iter()
        .filter(|(_, grid)| !grid.rows.is_empty())
        .map(|(title, grid)| format!("{}{}", heading(title, layout), grid.render(layout)))
        .collect();
    page + &shown.join("\n")
}

/// The record and the list of its files as one JSON object.
pub fn stage_json(record: &Record, files: &Tree) -> Value {
    let files: Vec<Value> = files
        .entries()
        .iter()
        .map(|file| serde_json::json!({ "path": file.path, "digest": file.digest.to_string(), "bytes": file.length }))
        .collect();
    let recipe: Value = serde_json::from_str(&record.recipe).unwrap_or(Value::Null);
    serde_json::json!({
        "stage": record.stage,
        "kind": record.kind,
        "key": record.key.to_string(),
        "output": record.output.to_string(),
        "recipe": recipe,
        "metrics": record.metrics,
        "provenance": record.provenance,
        "created": record.created,
        "seconds": record.seconds,
        "run": record.run,
        "files": files,
    })
}

fn heading(title: &str, layout: Layout) -> String {
    match layout {
        _ if title.is_empty() => String::new(),
        Layout::Text => format!("{title}\n"),
        Layout::Markdown => format!("## {title}\n\n"),
    }
}

fn facts(record: &Record, files: &Tree) -> Grid {
    let total: u64 = files.entries().iter().map(|file| file.length).sum();
    let mut grid = Grid::pairs();
    grid.row(["key", &record.key.to_string()]);
    grid.row(["output", &record.output.to_string()]);
    grid.row(["made", &format!("{} by run {}, in {}", record.created, record.run, duration(record.seconds))]);
    grid.row(["size", &format!("{} in {}", bytes(total), plural(files.entries().len(), "file"))]);
    grid
}

fn file_grid(files: &Tree) -> Grid {
    let mut grid = Grid { words: 2, ..Grid::new(["path", "digest", "size"]) };
    for file in files.entries() {
        grid.row([file.path.clone(), short(&file.digest.to_string()), bytes(file.length)]);
    }
    grid
}

/// The leaves of a JSON value by their dotted path. Lists of plain values stay on one line.
fn grid_of(value: &Value) -> Grid {
    let mut grid = Grid::pairs();
    leaves("", value, &mut grid);
    grid
}

fn leaves(path: &str, value: &Value, grid: &mut Grid) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(members) => members.iter().for_each(|(name, value)| leaves(&below(name), value, grid)),
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            items.iter().enumerate().for_each(|(index, item)| leaves(&below(&index.to_string()), item, grid));
        }
        Value::Array(items) => grid.row([path.to_owned(), items.iter().map(leaf).collect::<Vec<_>>().join(", ")]),
        Value::Null if path.is_empty() => {}
        _ => grid.row([path.to_owned(), leaf(value)]),
    }
}

fn leaf(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => plain_float(number.as_f64().unwrap_or(f64::NAN)),
        Value::Null => "–".to_owned(),
        other => other.to_string(),
    }
}

/// Settings such as 0.0005 are shown as they are; measured values get the digits a reader can use.
fn plain_float(value: f64) -> String {
    let exact = format!("{value:?}");
    if exact.len() <= 8 { exact } else { plain(value) }
}

fn short(digest: &str) -> String {
    digest.chars().take(12).collect()
}

fn plural(count: usize, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}
