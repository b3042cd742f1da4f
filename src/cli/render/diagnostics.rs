//! Diagnostics under the characters that they are about.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde_json::{Value, json};
use stillhouse_spec::{Diagnostic, Diagnostics, Origin, Severity};

use super::{colours, words};
use crate::args::{Format, Global};

/// Prints all of them, in the order of the text, and a line that counts the errors.
pub fn print(report: &Diagnostics, global: &Global) {
    let all = report.sorted();
    if all.is_empty() {
        return;
    }
    if global.format == Format::Json {
        words(&json!({ "diagnostics": to_json(report) }).to_string());
        return;
    }
    let renderer = if colours(global) { Renderer::styled() } else { Renderer::plain() };
    for diagnostic in &all {
        words(&renderer.render(&[group(diagnostic, report)]).to_string());
        words("");
    }
    match report.error_count() {
        0 => {}
        1 => words("1 error"),
        count => words(&format!("{count} errors")),
    }
}

fn group<'a>(diagnostic: &'a Diagnostic, report: &'a Diagnostics) -> Group<'a> {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut group = Group::with_title(level.primary_title(diagnostic.message.as_str()));
    let places = diagnostic.at.iter().map(|at| (*at, None));
    let related = diagnostic.related.iter().map(|(at, text)| (*at, Some(text.as_str())));
    for (at, label) in places.chain(related) {
        let Some(source) = report.sources.get(at) else { continue };
        let kind = if label.is_none() { AnnotationKind::Primary } else { AnnotationKind::Context };
        let annotation = kind.span(visible(at, &source.text)).label(label);
        group = group.element(Snippet::source(source.text.as_str()).path(source.name.as_str()).annotation(annotation));
    }
    match &diagnostic.hint {
        Some(hint) => group.element(Level::HELP.with_name("hint").message(hint.as_str())),
        None => group,
    }
}

/// The range of a place, cut to its first line and to whole characters.
fn visible(at: Origin, text: &str) -> std::ops::Range<usize> {
    let range = at.range();
    let (mut start, mut end) = (range.start.min(text.len()), range.end.min(text.len()));
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let end = end.max(start);
    let line = text[start..end].find('\n').map_or(end, |line| start + line);
    start..line
}

/// Diagnostics as JSON: severity, message, hint, file, line, column.
pub fn to_json(report: &Diagnostics) -> Value {
    let list = report.sorted().into_iter().map(|diagnostic| {
        let place = diagnostic.at.and_then(|at| {
            let (line, column) = report.sources.line_column(at)?;
            Some(json!({ "file": report.sources.get(at)?.name, "line": line, "column": column }))
        });
        let severity = match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        json!({ "severity": severity, "message": diagnostic.message, "hint": diagnostic.hint, "at": place })
    });
    list.collect()
}
