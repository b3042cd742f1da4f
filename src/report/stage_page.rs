//! One stage's result: what was asked, what came out.

use serde_json::Value;
use stillhouse_stage::store::{Record, Tree};

use crate::format::{bytes, duration, plain};
use crate::grid::{Grid, Layout};

/// The member of a record's provenance that tells which tables its fields named.
const NAMES: &str = "names";

/// What is known of how a server's log-probabilities can be kept: they get their tokens in a dataset.
#[derive(Clone, Copy, Debug)]
pub enum Encodings<'a> {
    /// The record's own, where it has any.
    Own,
    /// What the dataset of this name tried, as its record has it.
    Of(&'a str, &'a Value),
    /// Nothing yet.
    Unknown,
}

/// Where to look for the encodings of what a server told.
const UNKNOWN: &str = "what each encoding of the teacher's signals takes and costs is known in a student's tokens: make a dataset of these \
                       answers, then `stillhouse show dataset.X`";

/// A record and the files of its output, for `show`. Recipe and metrics know other tables by the paths of the fields
/// that name them; what these were called by the experiment that made the record stands in a section of its own.
pub fn stage_page(record: &Record, files: &Tree, tried: Encodings<'_>, layout: Layout) -> String {
    let recipe: Value = serde_json::from_str(&record.recipe).unwrap_or(Value::Null);
    let mut provenance = record.provenance.clone();
    let names = provenance.as_object_mut().and_then(|members| members.remove(NAMES)).unwrap_or(Value::Null);
    let mut metrics = record.metrics.clone();
    let own = encodings(&mut metrics);
    let (of, rows) = match tried {
        Encodings::Of(dataset, rows) if table(&own).rows.is_empty() => (format!(" (in {dataset})"), rows),
        _ => (String::new(), &own),
    };
    let against = if is_against_the_captured(rows) { ", against what was captured" } else { "" };
    let sections = [
        (String::new(), facts(record, files)),
        ("recipe".to_owned(), grid_of(&recipe)),
        ("metrics".to_owned(), grid_of(&metrics)),
        (format!("what each encoding of the teacher's signals takes and costs{against}{of}"), table(rows)),
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
    let unknown = match tried {
        Encodings::Unknown => format!("\n{UNKNOWN}\n"),
        Encodings::Own | Encodings::Of(..) => String::new(),
    };
    page + &shown.join("\n") + &unknown
}

/// The record and the list of its files as one JSON object. Where another stage tried encodings on what it holds, `encodings`
/// has that stage and its table; null where one would have to, and none did.
pub fn stage_json(record: &Record, files: &Tree, tried: Encodings<'_>) -> Value {
    let files: Vec<Value> = files
        .entries()
        .iter()
        .map(|file| serde_json::json!({ "path": file.path, "digest": file.digest.to_string(), "bytes": file.length }))
        .collect();
    let recipe: Value = serde_json::from_str(&record.recipe).unwrap_or(Value::Null);
    let mut json = serde_json::json!({
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
    });
    match tried {
        Encodings::Own => {}
        Encodings::Of(dataset, rows) => json["encodings"] = serde_json::json!({ "of": dataset, "tried": rows }),
        Encodings::Unknown => json["encodings"] = Value::Null,
    }
    json
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

/// The encodings that a stage tried on its first answers, taken out of its metrics: `answers` on a local teacher's, `dataset` on
/// what a server told.
fn encodings(metrics: &mut Value) -> Value {
    let tried = metrics.get_mut("signals").and_then(Value::as_object_mut).and_then(|it| it.remove("encodings"));
    tried.unwrap_or(Value::Null)
}

/// Whether divergences are those from what was captured, the rest of the vocabulary being unknown.
fn is_against_the_captured(tried: &Value) -> bool {
    tried.as_array().is_some_and(|rows| !rows.is_empty() && rows.iter().all(|row| row["against"] == "captured"))
}

fn table(tried: &Value) -> Grid {
    let mut grid = Grid::new(["encoding", "k", "bytes/token", "KL mean", "KL max", "rounding KL mean", "mass outside"]);
    // Where it is all of them, the heading says so.
    let all = is_against_the_captured(tried);
    for row in tried.as_array().into_iter().flatten() {
        let number = |name: &str| leaf(&row[name]);
        let encoding = row["encoding"].as_str().unwrap_or("–");
        let of = if !all && row["against"] == "captured" { ", against what was captured" } else { "" };
        grid.row([
            format!("{encoding}{of}"),
            number("k"),
            number("bytes-per-token"),
            number("kl-mean"),
            number("kl-max"),
            number("kept-kl-mean"),
            number("outside-mean"),
        ]);
    }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_dataset_tried_is_shown_with_the_answers_or_where_it_would_be() {
        let record_of = |metrics: Value| Record {
            format: 1,
            key: stillhouse_stage::store::Key::of("test", b""),
            kind: "answers".into(),
            revision: 1,
            stage: "answers.a".into(),
            recipe: "{}".into(),
            output: stillhouse_stage::store::Digest::of(b"tree"),
            metrics,
            provenance: Value::Null,
            created: String::new(),
            seconds: 0.0,
            run: String::new(),
        };
        let page = |metrics: Value, tried: Encodings<'_>| {
            stage_page(&record_of(metrics), &Tree::default(), tried, Layout::Text)
        };
        let rows = json!([{ "encoding": "plain f16", "k": 5, "bytes-per-token": 31.0, "against": "captured" }]);
        let text = page(json!({}), Encodings::Of("dataset.d", &rows));
        assert!(
            text.contains("takes and costs, against what was captured (in dataset.d)\n")
                && text.contains("\nplain f16 "),
            "{text}"
        );
        let unknown = page(json!({}), Encodings::Unknown);
        assert!(
            unknown.ends_with("then `stillhouse show dataset.X`\n")
                && !page(json!({}), Encodings::Own).contains("dataset.X")
        );
        // As data it is the same.
        let data = |tried: Encodings<'_>| stage_json(&record_of(json!({})), &Tree::default(), tried);
        let of = json!({ "of": "dataset.d", "tried": rows });
        assert_eq!(data(Encodings::Of("dataset.d", &rows)).get("encodings"), Some(&of));
        assert_eq!(data(Encodings::Unknown).get("encodings"), Some(&Value::Null));
        assert_eq!(data(Encodings::Own).get("encodings"), None);
        // What it has itself counts first.
        let own =
            page(json!({ "signals": { "encodings": [{ "encoding": "compact" }] } }), Encodings::Of("dataset.d", &rows));
        assert!(own.contains("compact") && !own.contains("dataset.d"), "{own}");
    }

    #[test]
    fn tried_encodings_are_a_table_and_no_metrics() {
        let mut metrics = json!({ "signals": { "positions": 7, "encodings": [
            { "encoding": "compact kl 0.001", "k": 50, "bytes-per-token": 77.4, "kl-mean": 0.538, "kl-max": 2.31,
              "kept-kl-mean": 0.00066, "outside-mean": 0.148 }] } });
        let grid = table(&encodings(&mut metrics));
        assert_eq!(grid.rows.len(), 1);
        assert_eq!(grid.rows[0][..3], ["compact kl 0.001", "50", "77.4"]);
        assert_eq!(metrics, json!({ "signals": { "positions": 7 } }));
        let mixed = json!([{ "encoding": "plain f16", "k": 5, "against": "whole" },
            { "encoding": "12 draws", "k": 6.5, "bytes-per-token": 13.8, "against": "captured" }]);
        assert_eq!(table(&mixed).rows[1][..4], ["12 draws, against what was captured", "6.5", "13.8", "–"]);
        assert_eq!(encodings(&mut json!({ "rows": 3 })), Value::Null);
    }
}
