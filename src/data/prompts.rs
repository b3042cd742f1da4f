//! The kind `[prompts.X]`: what is to be asked. Sources are in `prompts/`, one file each.

mod code;
mod conversation;
mod csv;
mod image;
mod jsonl;
mod keeper;
mod list;
mod parquet;
mod row;
mod source;
mod text;

use serde_json::json;
use stillhouse_stage::spec::config::Fields;
use stillhouse_stage::spec::{Config, Described, Diagnostic, Diagnostics, Node, OneOf, Registry as _, Table, Value};
use stillhouse_stage::{Context, Failure, Kind, Outcome, StageKind, kind};

use crate::bad_rows::{BadRows, OnBadRow};
use keeper::{Counts, Keeper};

pub use code::CodePrompts;
pub use csv::CsvPrompts;
pub use jsonl::JsonlPrompts;
pub use list::ListPrompts;
pub use parquet::ParquetPrompts;
pub use row::ImageAt;
pub use source::{Opening, PromptReader, PromptSource, SOURCES};
pub use text::TextPrompts;

/// A set of prompts. A prompt that was there before is left out.
#[derive(Clone, Debug)]
pub struct PromptsConfig {
    /// Where they come from: exactly one of [`SOURCES`], a key of the table itself.
    pub source: OneOf<dyn PromptSource>,
    /// The rest.
    pub settings: PromptsSettings,
}

/// A set of prompts, from exactly one source. A prompt that was there before is left out.
#[derive(Clone, Debug, Config)]
pub struct PromptsSettings {
    /// Instructions that stand before every prompt (for `list`, `text` and `code`; the others have their own).
    pub system: Option<String>,
    /// Use only so many.
    #[config(min = 1)]
    pub limit: Option<usize>,
    /// Put them into a random order first, by the experiment's seed: with `limit`, a random sample.
    #[config(default)]
    pub shuffle: bool,
    /// What becomes of a row that is not what it should be.
    #[config(default = OnBadRow::Stop)]
    pub on_bad_row: OnBadRow,
}

impl Config for PromptsConfig {
    fn decode(node: &Node, report: &mut Diagnostics) -> Option<Self> {
        let sources: Vec<&'static str> = SOURCES.iter().map(|entry| entry.name).collect();
        let schema = PromptsSettings::schema();
        let settings = schema["properties"].as_object();
        let known: Vec<&str> =
            sources.iter().copied().chain(settings.into_iter().flatten().map(|(name, _)| name.as_str())).collect();
        let whole = Fields::open(node, &known, report)?.whole();
        let table = node.as_table()?;
        let (mut rest, mut given) = (Table::default(), Vec::new());
        for (name, (at, value)) in &table.entries {
            if sources.contains(&name.as_str()) {
                given.push((name, *at, value));
            } else if known.contains(&name.as_str()) {
                rest.set(name, *at, value.clone());
            }
        }
        let settings = PromptsSettings::decode(&Node { value: Value::Table(rest), at: node.at }, report);
        let [(name, at, value)] = given[..] else {
            report.push(
                Diagnostic::error(node.at, format!("prompts come from exactly one of {}", one_of(&sources)))
                    .hint("make one table for each, and list them where they are used"),
            );
            return None;
        };
        let mut one = Table::default();
        one.set(name, at, value.clone());
        let source = OneOf::decode(&Node { value: Value::Table(one), at: node.at }, report);
        whole?;
        let config = Self { source: source?, settings: settings? };
        if config.source.value.has_own_system() && config.settings.system.is_some() {
            let at = table.entries.get("system").map_or(node.at, |(at, _)| *at);
            report.push(
                Diagnostic::error(at, format!("`system` stands beside `{name}`"))
                    .hint(format!("write it in the table: `{name} = {{ …, system = \"…\" }}`")),
            );
        }
        Some(config)
    }

    fn schema() -> serde_json::Value {
        let mut schema = PromptsSettings::schema();
        if let Some(properties) = schema["properties"].as_object_mut() {
            let settings = std::mem::take(properties);
            properties.extend(<dyn PromptSource>::entries().iter().map(|entry| (entry.name.into(), (entry.schema)())));
            properties.extend(settings);
        }
        schema
    }

    fn describe(&self) -> Described {
        match (self.source.describe(), self.settings.describe()) {
            (Described::Table(mut source), Described::Table(settings)) => {
                source.extend(settings);
                Described::Table(source)
            }
            (source, _) => source,
        }
    }
}

/// Rows that are looked at before anything runs.
const LOOKED_AT: usize = 1000;

impl PromptsConfig {
    /// Where the first rows show an image, if they do: for teachers that cannot see, before a run. Of a random sample it cannot be told.
    #[must_use]
    pub fn first_image(&self) -> Option<ImageAt> {
        let PromptsSettings { limit, shuffle, .. } = &self.settings;
        let most = match (limit, shuffle) {
            (Some(_), true) => return None,
            (limit, _) => limit.map_or(LOOKED_AT, |limit| limit.min(LOOKED_AT)),
        };
        self.source.value.first_image(most)
    }
}

/// `` `list`, `text` and `code` ``
fn one_of(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} and {last}", others.join(", ")),
        _ => quoted.join(""),
    }
}

/// The kind.
pub struct Prompts;

impl Kind for Prompts {
    kind!("prompts", PromptsConfig);

    fn as_stage(&self) -> Option<&dyn StageKind> {
        Some(self)
    }
}

impl StageKind for Prompts {
    // 1: the first.
    // 2: a field that is null is empty text in a template and not the word `None`; lists and objects are JSON.
    // 3: so is a part of such a field (`a[:200]`), and what filters make of one.
    fn revision(&self) -> u32 {
        3
    }

    fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        let PromptsConfig { source, settings } = context.config()?;
        let opening = Opening { context, name: source.name, system: settings.system.as_deref() };
        let mut source = source.value.open(&opening)?;
        let mut bad_rows = BadRows::new(settings.on_bad_row);
        let mut kept = Keeper::new(&settings, context)?;
        while !kept.is_full() {
            if context.is_cancelled() {
                return Err(Failure::interrupted());
            }
            match source.next_prompt() {
                Ok(Some(prompt)) => kept.take(prompt)?,
                Ok(None) => break,
                Err(fault) => bad_rows.pass(fault)?,
            }
        }
        // A file in which nothing was found is no set of prompts.
        bad_rows.some_are_good(kept.rows())?;
        if let Some(nothing) = source.without_rows().filter(|_| kept.rows() == 0) {
            return Err(nothing.into());
        }
        bad_rows.warn(context);
        let Counts { rows, duplicates, written } = kept.finish(context.seed())?;
        let mut metrics = json!({
            "prompts": written,
            "rows": rows,
            "dropped": { "duplicate": duplicates, "blank-line": 0 },
        });
        for (what, count) in source.dropped() {
            metrics["dropped"][what] = count.into();
        }
        if let Some(figures) = bad_rows.figures() {
            metrics["dropped"]["bad-row"] = figures["count"].clone();
            metrics["bad-rows"] = figures;
        }
        Ok(Outcome::with_metrics(metrics))
    }
}

#[cfg(test)]
mod tests;
