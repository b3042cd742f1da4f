//! Why a stage runs or is reused: today's recipe against the nearest earlier one, field by field.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use serde_json::{Value, json};
use stillhouse_store::{Digest, History, Key, Record, Store, StoreError};

use crate::experiment::{Experiment, StageId};
use crate::plan::{Decision, Plan, PlannedStage, part_digest, recipe_of};

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
    /// For an input: the nearest stage upstream that changed by itself, and what changed there.
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
        if self.reasons.is_empty() {
            vec![self.summary.clone()]
        } else {
            self.reasons.iter().map(Reason::line).collect()
        }
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

/// Explains the stages of one plan. What it finds out about a stage serves all that read it.
pub struct Explainer<'a> {
    plan: &'a Plan,
    experiment: &'a Experiment,
    store: &'a Store,
    /// Results as they were before this run: its own are no earlier ones.
    history: History,
    nearest: RefCell<HashMap<StageId, Option<Rc<Nearest>>>>,
}

/// The earlier result that differs least, and how.
struct Nearest {
    record: Record,
    reasons: Vec<Reason>,
}

impl<'a> Explainer<'a> {
    /// An explainer of a plan.
    #[must_use]
    pub fn new(plan: &'a Plan, experiment: &'a Experiment, store: &'a Store, history: History) -> Self {
        Self { plan, experiment, store, history, nearest: RefCell::default() }
    }

    /// Why a stage is as it is, against the nearest earlier result of it.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn why(&self, stage: &PlannedStage) -> Result<Comparison, StoreError> {
        if let Decision::Reuse(record) = &stage.decision {
            let summary = format!("made in run {} ({}); nothing it depends on changed", record.run, record.created);
            return Ok(Comparison { summary, against: Some(Earlier::of(record)), reasons: Vec::new() });
        }
        if let Some(reason) = &stage.broken {
            let summary = format!("its result is damaged and will be made again: {reason}");
            return Ok(Comparison { summary, against: None, reasons: Vec::new() });
        }
        let Some(nearest) = self.nearest(stage, DEPTH)? else {
            return Ok(Comparison { summary: first_time(stage), against: None, reasons: Vec::new() });
        };
        let Nearest { record, reasons } = &*nearest;
        let summary = match &stage.decision {
            Decision::Maybe { waits_for } if reasons.is_empty() => {
                format!("waits for {}: reused if that comes out as before", waits_for.join(", "))
            }
            _ if reasons.is_empty() && record.key == stage.key.unwrap_or(record.key) => {
                "its result was removed".to_owned()
            }
            _ => format!("{} changed since run {}", plural(reasons.len(), "field"), record.run),
        };
        Ok(Comparison { summary, against: Some(Earlier::of(record)), reasons: reasons.clone() })
    }

    fn nearest(&self, stage: &PlannedStage, depth: usize) -> Result<Option<Rc<Nearest>>, StoreError> {
        if let Some(known) = self.nearest.borrow().get(&stage.id) {
            return Ok(known.clone());
        }
        let found = self.search(stage, depth)?.map(Rc::new);
        self.nearest.borrow_mut().insert(stage.id, found.clone());
        Ok(found)
    }

    fn search(&self, stage: &PlannedStage, depth: usize) -> Result<Option<Nearest>, StoreError> {
        let mut candidates = self.history.of(&stage.kind, &stage.name, CANDIDATES);
        let has_own = candidates.iter().any(|entry| entry.stage == stage.name);
        if has_own {
            candidates.retain(|entry| entry.stage == stage.name);
        }
        let mut best: Option<Nearest> = None;
        for entry in candidates {
            // A record whose blobs are gone is no longer a result, but its recipe still explains.
            let Some(record) = self.store.recorded(&entry.key)? else { continue };
            let reasons = self.differences(stage, &record)?;
            // Under another name only what is nearly the same (a renamed stage, another cell) is an earlier result of it.
            if !has_own && reasons.len() * 4 > flatten_recipe(&record.recipe).len() {
                continue;
            }
            // Newest first: an older one must be nearer to be better.
            if best.as_ref().is_none_or(|best| reasons.len() < best.reasons.len()) {
                best = Some(Nearest { record, reasons });
            }
        }
        let Some(mut nearest) = best else { return Ok(None) };
        if depth > 0 {
            self.follow_inputs(stage, &mut nearest, depth - 1)?;
        }
        Ok(Some(nearest))
    }

    /// The fields in which a stage differs from a record; inputs that are not known yet are left to
    /// [`Self::follow_inputs`].
    fn differences(&self, stage: &PlannedStage, record: &Record) -> Result<Vec<Reason>, StoreError> {
        let before = flatten_recipe(&record.recipe);
        let after = self.flatten_stage(stage, &before)?;
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        let differing = names.into_iter().filter(|name| before.get(*name) != after.get(*name));
        let reason = |name: &String| Reason {
            field: name.clone(),
            old: before.get(name).cloned(),
            new: after.get(name).cloned(),
            upstream: None,
        };
        Ok(differing.map(reason).collect())
    }

    /// Field → value of a stage today. An input that is not known yet is taken to be as it was.
    fn flatten_stage(
        &self,
        stage: &PlannedStage,
        before: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, StoreError> {
        if let Some(recipe) = &stage.recipe {
            return Ok(flatten_recipe(&recipe.text()));
        }
        let node = &self.experiment.graph[stage.id];
        let (mut inputs, mut unknown) = (BTreeMap::new(), Vec::new());
        for (path, (upstream, parts)) in &node.inputs {
            match self.plan.stage(*upstream).map(|stage| &stage.decision) {
                Some(Decision::Reuse(record)) => {
                    let digest = part_digest(self.store, record.output, parts, &mut HashMap::new())?;
                    inputs.insert(path.clone(), digest);
                }
                _ => unknown.push(field_of_input(path)),
            }
        }
        let mut fields = flatten_recipe(&recipe_of(node, inputs, &stage.files).text());
        for field in unknown {
            if let Some(old) = before.get(&field) {
                fields.insert(field, old.clone());
            }
        }
        Ok(fields)
    }

    /// Explains changed inputs by what changed upstream, and adds those that are bound to change because something did.
    fn follow_inputs(&self, stage: &PlannedStage, nearest: &mut Nearest, depth: usize) -> Result<(), StoreError> {
        let node = &self.experiment.graph[stage.id];
        let before = flatten_recipe(&nearest.record.recipe);
        for (path, (upstream, _)) in &node.inputs {
            let Some(planned) = self.plan.stage(*upstream) else { continue };
            let deeper = match planned.decision {
                Decision::Reuse(_) => Vec::new(),
                _ => self.nearest(planned, depth)?.map_or_else(Vec::new, |nearest| nearest.reasons.clone()),
            };
            let field = field_of_input(path);
            if let Some(reason) = nearest.reasons.iter_mut().find(|reason| reason.field == field) {
                reason.upstream = Some(cause(planned, &deeper));
            } else if !deeper.is_empty() {
                let (old, new) = (before.get(&field).cloned(), Some("not known yet".to_owned()));
                nearest.reasons.push(Reason { field, old, new, upstream: Some(cause(planned, &deeper)) });
            }
        }
        Ok(())
    }
}

/// The nearest stage upstream that changed by itself, with what changed there. What changed only because of others is
/// passed over: with it, reasons would double from stage to stage wherever two ways lead to one place.
fn cause(upstream: &PlannedStage, reasons: &[Reason]) -> (String, Vec<Reason>) {
    let own: Vec<Reason> = reasons.iter().filter(|reason| reason.upstream.is_none()).cloned().collect();
    let further = reasons.iter().find_map(|reason| reason.upstream.clone());
    match further {
        Some(further) if own.is_empty() => further,
        _ => (upstream.name.clone(), own),
    }
}

/// `inputs.data`; `[command.X]` calls its own table `inputs`, and once is enough.
fn field_of_input(path: &str) -> String {
    format!("inputs.{}", path.strip_prefix("inputs.").unwrap_or(path))
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
