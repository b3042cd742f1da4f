//! The keys of a kind in columns.

use stillhouse_spec::listing::Listed;

/// Columns grow with what is in them, up to so many characters: one long cell must not push all docs out of sight.
const WIDEST: usize = 34;

/// `identity` or `execution`.
pub fn role(key: &Listed) -> &'static str {
    if key.execution { "execution" } else { "identity" }
}

/// One line a key or choice, and what the words of the columns mean.
pub fn keys(list: &[Listed]) -> String {
    let rows: Vec<[String; 4]> = list.iter().map(cells).collect();
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).filter(|width| *width <= WIDEST).max();
    let widths: Vec<usize> = (0..4).map(|column| width(column).unwrap_or(0)).collect();
    let mut lines: Vec<String> = rows
        .iter()
        .zip(list)
        .map(|(row, key)| {
            let columns = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            format!("  {}  {}", columns.collect::<Vec<_>>().join("  "), key.about).trim_end().to_owned()
        })
        .collect();
    lines.push(String::new());
    lines.push(
        "  identity: changes the result, so a part of the key (a name by what it names, a path by what it holds)"
            .into(),
    );
    lines.push("  execution: how the work is done, in no key      ·: one of the choices of the key above".into());
    lines.join("\n")
}

fn cells(key: &Listed) -> [String; 4] {
    let indent = "  ".repeat(key.depth);
    if key.choice {
        // `provider = "openai"`, or a choice with what it takes.
        let (name, kind) = match key.kind.starts_with('"') {
            true => (format!("{} = {}", key.name(), key.kind), String::new()),
            false => (key.name().to_owned(), key.kind.clone()),
        };
        return [format!("{indent}· {name}"), kind, String::new(), String::new()];
    }
    let left_out = match &key.default {
        Some(default) => format!("default {}", short(&default.to_string())),
        None if key.required => "required".to_owned(),
        None => "optional".to_owned(),
    };
    [format!("{indent}{}", key.name()), key.kind.clone(), left_out, role(key).to_owned()]
}

fn short(text: &str) -> String {
    const LONGEST: usize = WIDEST - 8;
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST - 1).chain(['…']).collect()
}
