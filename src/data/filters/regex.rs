//! Keeps and drops rows by patterns.

use stillhouse_stage::Failure;
use stillhouse_stage::spec::{Config, Diagnostic, Diagnostics, Node};

use super::{EachRow, Filter, Judged, On, Pass, Place, Verdict};

/// Keeps rows in which one of some patterns is found, drops rows in which one of others is. Patterns are Rust's regular
/// expressions: `(?i)` for any case, `(?s)` for a dot that crosses lines, no look-around.
#[derive(Clone, Debug, Config)]
#[config(check = sound)]
pub struct Regex {
    /// One of these must be found, where there are any.
    #[config(default)]
    pub keep: Vec<String>,
    /// None of these may be found.
    #[config(default)]
    pub drop: Vec<String>,
    /// Where they are looked for.
    #[config(default = On::Completion)]
    pub on: On,
}

fn sound(config: &Regex, node: &Node, report: &mut Diagnostics) {
    if config.keep.is_empty() && config.drop.is_empty() {
        report.push(
            Diagnostic::error(node.at, "`regex` has no pattern").hint("give it `keep = [ … ]` or `drop = [ … ]`"),
        );
    }
    for (name, patterns) in [("keep", &config.keep), ("drop", &config.drop)] {
        let list = node.as_table().and_then(|table| table.get(name));
        for pattern in patterns {
            if let Err(reason) = compile(pattern) {
                report.push(Diagnostic::error(list.map_or(node.at, |list| list.at), reason));
            }
        }
    }
}

/// A pattern, or what is wrong with it in one line.
pub(super) fn compile(pattern: &str) -> Result<regex::Regex, String> {
    regex::Regex::new(pattern).map_err(|error| {
        // The parser draws the pattern with a caret over several lines; the reason is in the last one.
        let text = error.to_string();
        let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
        format!("the pattern `{pattern}` is not a regular expression: {reason}")
    })
}

impl Filter for Regex {
    fn start(&self, _place: &Place<'_>) -> Result<Box<dyn Pass>, Failure> {
        let all = |patterns: &[String]| -> Result<Vec<regex::Regex>, Failure> {
            patterns.iter().map(|pattern| compile(pattern).map_err(Failure::input)).collect()
        };
        let (keep, drop, on) = (all(&self.keep)?, all(&self.drop)?, self.on);
        Ok(Box::new(EachRow(move |row: &Judged<'_>| {
            let found = |pattern: &&regex::Regex| on.texts(row).any(|text| pattern.is_match(text));
            if let Some(pattern) = drop.iter().find(found) {
                return Verdict::Drop(format!("`{pattern}` is found"));
            }
            if keep.is_empty() || keep.iter().any(|pattern| found(&pattern)) {
                return Verdict::Keep;
            }
            Verdict::Drop("no pattern of `keep` is found".into())
        })))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::filters::testing::{judged, reasons};
    use crate::prompt::Message;

    #[test]
    fn dropping_goes_before_keeping() {
        let filter = Regex { keep: vec!["four|five".into()], drop: vec!["(?i)as an ai".into()], on: On::Completion };
        let reasons = reasons(&filter, &["four", "five, AS AN AI", "six"].map(judged));
        assert_eq!(reasons, ["", "`(?i)as an ai` is found", "no pattern of `keep` is found"]);
    }

    #[test]
    fn the_chosen_texts_are_looked_at() {
        let messages = [Message::user("four?")];
        let row = Judged { messages: &messages, ..judged("five") };
        let drops = |on| reasons(&Regex { keep: vec![], drop: vec!["four".into()], on }, &[row])[0].is_empty();
        assert_eq!([On::Completion, On::Prompt, On::Both].map(drops), [true, false, false]);
    }

    #[test]
    fn a_broken_pattern_is_found_when_the_file_is_read() {
        let faults = |table: serde_json::Value| {
            let mut report = Diagnostics::default();
            Regex::decode(&Node::from_json(&table), &mut report);
            report.sorted().iter().map(|one| one.message.clone()).collect::<Vec<_>>()
        };
        let unclosed = "the pattern `(a` is not a regular expression: unclosed group";
        assert_eq!(faults(json!({ "keep": ["(a"], "drop": ["b"] })), [unclosed]);
        assert_eq!(faults(json!({})), ["`regex` has no pattern"]);
    }
}
