//! Why a stage runs or is reused: today's recipe against the nearest earlier one, field by field.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use stillhouse_store::{Digest, IndexEntry, Key, Lookup, Record, Store, StoreError};

use crate::experiment::Experiment;
use crate::plan::{Decision, Plan, PlannedStage};

/// How many earlier results are looked at to find the nearest.
const CANDIDATES: usize = 16;
/// How deep a changed input is followed to the change that caused it.
const DEPTH: usize = 6;

/// One field that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Reason {
    /// `optimizer.adamw.lr`, `inputs.data`, `files.jsonl.path`, `seed`, `revision`.
    pub field: String,
    /// What it was; nothing where it was not there (or was at its default).
    pub old: Option<String>,
    /// What it is.
    pub new: Option<String>,
    /// For an input: the upstream stage, and what changed there.
    pub upstream: Option<(String, Vec<Reason>)>,
}

/// A stage's comparison with an earlier result.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// One line that says it in words.
    pub summary: String,
    /// The earlier result that it is compared with.
    pub against: Option<Earlier>,
    /// The fields that differ.
    pub reasons: Vec<Reason>,
}

/// An earlier result.
#[derive(Clone, Debug)]
pub struct Earlier {
    /// The name the stage had.
    pub stage: String,
    /// Its key.
    pub key: Key,
    /// The run that made it.
    pub run: String,
    /// When: RFC 3339.
    pub created: String,
}

impl Earlier {
    fn of(record: &Record) -> Self {
        Self { stage: record.stage.clone(), key: record.key, run: record.run.clone(), created: record.created.clone() }
    }
}

impl Comparison {
    /// One line a reason, as plan and events show them.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        if self.reasons.is_empty() { vec![self.summary.clone()] } else { self.reasons.iter().map(Reason::line).collect() }
    }

    /// The comparison as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "summary": self.summary,
            "against": self.against.as_ref().map(|earlier| json!({
                "stage": earlier.stage, "key": earlier.key, "run": earlier.run, "created": earlier.created,
            })),
            "reasons": self.reasons.iter().map(Reason::to_json).collect::<Vec<_>>(),
        })
    }
}

impl Reason {
    /// `optimizer.adamw.lr: 0.0001 → 0.0005`
    #[must_use]
    pub fn line(&self) -> String {
        let side = |value: &Option<String>| value.as_deref().unwrap_or("(not set)").to_owned();
        let mut line = format!("{}: {} → {}", self.field, side(&self.old), side(&self.new));
        if let Some((stage, reasons)) = &self.upstream {
            let inner: Vec<String> = reasons.iter().map(Self::line).collect();
            if inner.is_empty() {
                line.push_str(&format!(" ({stage})"));
            } else {
                line.push_str(&format!(" ({stage}: {})", inner.join("; ")));
            }
        }
        line
    }

    fn to_json(&self) -> Value {
        json!({
            "field": self.field,
            "old": self.old,
            "new": self.new,
            "upstream": self.upstream.as_ref().map(|(stage, reasons)| json!({
                "stage": stage, "reasons": reasons.iter().map(Self::to_json).collect::<Vec<_>>(),
            })),
        })
    }
}

/// See [`Plan::why`].
pub(crate) fn compare(
    stage: &PlannedStage,
    plan: &Plan,
    experiment: &Experiment,
    store: &Store,
) -> Result<Comparison, StoreError> {
    if let Decision::Reuse(record) = &stage.decision {
        let summary = format!("made in run {} ({}); nothing it depends on changed", record.run, record.created);
        return Ok(Comparison { summary, against: Some(Earlier::of(record)), reasons: Vec::new() });
    }
    if let Some(reason) = &stage.broken {
        let summary = format!("its result is damaged and will be made again: {reason}");
        return Ok(Comparison { summary, against: None, reasons: Vec::new() });
    }
    let today = Today { plan, experiment, store };
    let Some((record, reasons)) = today.nearest(stage, &mut BTreeSet::new(), DEPTH)? else {
        return Ok(Comparison { summary: first_time(stage), against: None, reasons: Vec::new() });
    };
    let summary = match &stage.decision {
        Decision::Maybe { waits_for } if reasons.is_empty() => {
            format!("waits for {}: reused if that comes out as before", waits_for.join(", "))
        }
        _ if reasons.is_empty() => "its key is new".to_owned(),
        _ => format!("{} changed since run {}", plural(reasons.len(), "field"), record.run),
    };
    Ok(Comparison { summary, against: Some(Earlier::of(&record)), reasons })
}

fn first_time(stage: &PlannedStage) -> String {
    match &stage.decision {
        Decision::Maybe { waits_for } => format!("never made before; waits for {}", waits_for.join(", ")),
        _ => "never made before".to_owned(),
    }
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

struct Today<'a> {
    plan: &'a Plan,
    experiment: &'a Experiment,
    store: &'a Store,
}

impl Today<'_> {
    /// The earlier result that differs least, and how.
    fn nearest(
        &self,
        stage: &PlannedStage,
        visited: &mut BTreeSet<String>,
        depth: usize,
    ) -> Result<Option<(Record, Vec<Reason>)>, StoreError> {
        let history = self.store.history(&stage.kind, &stage.name, CANDIDATES)?;
        let same_name: Vec<&IndexEntry> = history.iter().filter(|entry| entry.stage == stage.name).collect();
        let candidates: Vec<&IndexEntry> = if same_name.is_empty() { history.iter().collect() } else { same_name };
        let mut best: Option<(usize, Record)> = None;
        for entry in candidates {
            // A record whose blobs are gone is no longer a result, but its recipe still explains.
            let Lookup::Found(record) = self.store.lookup(&entry.key)? else { continue };
            let distance = self.differences(stage, &record).len();
            // Newest first: an older one must be nearer to be better.
            if best.as_ref().is_none_or(|(nearest, _)| distance < *nearest) {
                best = Some((distance, record));
            }
        }
        let Some((_, record)) = best else { return Ok(None) };
        let mut reasons = self.differences(stage, &record);
        if depth > 0 && visited.insert(stage.name.clone()) {
            for reason in &mut reasons {
                self.follow(stage, reason, visited, depth - 1)?;
            }
        }
        Ok(Some((record, reasons)))
    }

    /// The fields in which a stage differs from a record.
    fn differences(&self, stage: &PlannedStage, record: &Record) -> Vec<Reason> {
        let before = flatten_recipe(&record.recipe);
        let after = self.flatten_stage(stage, &before);
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        names
            .into_iter()
            .filter(|name| before.get(*name) != after.get(*name))
            .map(|name| Reason {
                field: name.clone(),
                old: before.get(name).cloned(),
                new: after.get(name).cloned(),
                upstream: None,
            })
            .collect()
    }

    /// Field → value of a stage today. An input that is not known yet differs only if its stage is certain to change;
    /// else it is taken to stay as it was.
    fn flatten_stage(&self, stage: &PlannedStage, before: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        if let Some(recipe) = &stage.recipe {
            return flatten_recipe(&recipe.text());
        }
        let node = &self.experiment.graph[stage.id];
        let partial = crate::plan::recipe_of(node, BTreeMap::new(), &stage.files);
        let mut fields = flatten_recipe(&partial.text());
        for (path, (upstream, _)) in &node.inputs {
            let field = format!("inputs.{}", path.strip_prefix("inputs.").unwrap_or(path));
            let known = self.plan.stage(*upstream).is_some_and(|stage| matches!(stage.decision, Decision::Reuse(_)));
            let value = match (known, before.get(&field)) {
                (true, Some(old)) => old.clone(),
                _ => "not known yet".to_owned(),
            };
            fields.insert(field, value);
        }
        fields
    }

    /// Explains a changed input by what changed upstream.
    fn follow(
        &self,
        stage: &PlannedStage,
        reason: &mut Reason,
        visited: &mut BTreeSet<String>,
        depth: usize,
    ) -> Result<(), StoreError> {
        let node = &self.experiment.graph[stage.id];
        let path = reason.field.strip_prefix("inputs.");
        let upstream = path.and_then(|path| node.inputs.get(path).or_else(|| node.inputs.get(&reason.field)));
        let Some((upstream, _)) = upstream else { return Ok(()) };
        let Some(planned) = self.plan.stage(*upstream) else { return Ok(()) };
        let deeper = if matches!(planned.decision, Decision::Reuse(_)) {
            Vec::new()
        } else {
            self.nearest(planned, visited, depth)?.map(|(_, reasons)| reasons).unwrap_or_default()
        };
        reason.upstream = Some((planned.name.clone(), deeper));
        Ok(())
    }
}

/// Field → value of a recipe: settings by their path, inputs and files as short digests.
fn flatten_recipe(text: &str) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    let Ok(Value::Object(members)) = serde_json::from_str::<Value>(text) else { return fields };
    for (name, value) in members {
        match name.as_str() {
            // Never differs between records of one kind.
            "kind" => {}
            "identity" => flatten("", &value, &mut fields),
            "inputs" | "files" => {
                for (path, digest) in value.as_object().into_iter().flatten() {
                    let short = digest.as_str().and_then(|text| text.parse::<Digest>().ok());
                    let shown = short.map_or_else(|| digest.to_string(), |digest| format!("{}…", digest.short()));
                    // `[command.X]` calls its own tables `inputs` and `files`: once is enough.
                    let path = path.strip_prefix(&format!("{name}.")).unwrap_or(path);
                    fields.insert(format!("{name}.{path}"), shown);
                }
            }
            _ => flatten(&name, &value, &mut fields),
        }
    }
    fields
}

fn flatten(path: &str, value: &Value, out: &mut BTreeMap<String, String>) {
    let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(members) if !members.is_empty() => {
            members.iter().for_each(|(name, value)| flatten(&join(name), value, out));
        }
        // A list of tables is compared item by item, a list of plain values as a whole.
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            items.iter().enumerate().for_each(|(index, item)| flatten(&join(&index.to_string()), item, out));
        }
        Value::String(text) => _ = out.insert(path.to_owned(), shorten(text)),
        other => _ = out.insert(path.to_owned(), shorten(&other.to_string())),
    }
}

/// Long values (an inline prompt list, a template) are cut, with a digest so that two of them still differ.
fn shorten(text: &str) -> String {
    const LONGEST: usize = 60;
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    let start: String = text.chars().take(LONGEST - 12).collect();
    format!("{start}… #{}", Digest::of(text.as_bytes()).short())
}
