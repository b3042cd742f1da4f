//! What a stage's kind says of how its work is shared, for `why`.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use stillhouse_stage::{
    Against, Cancel, Context, Definition, EventSink, Explained, Input, Recipe, StageEvent, WorkOrder,
};
use stillhouse_store::{Digest, Store, StoreError};

use crate::experiment::{Experiment, StageId};
use crate::plan::{Decision, Plan, PlannedStage, view};
use crate::resolve::references::Definitions;
use crate::why::Comparison;

/// What the stage's kind says beside a comparison (see [`stillhouse_stage::StageKind::remarks`]).
///
/// # Errors
/// A store that cannot be read.
pub fn remarks(
    plan: &Plan,
    stage: &PlannedStage,
    comparison: &Comparison,
    experiment: &Experiment,
    store: &Store,
) -> Result<Vec<String>, StoreError> {
    let node = &experiment.graph[stage.id];
    let definitions = Definitions::of(node);
    let explained = Explained {
        view: view(node, &definitions),
        context: as_it_would_run(plan, stage, experiment, store),
        against: against(comparison, store)?,
    };
    Ok(node.kind.remarks(&explained))
}

fn against(comparison: &Comparison, store: &Store) -> Result<Option<Against>, StoreError> {
    let Some(earlier) = &comparison.against else { return Ok(None) };
    let Some(record) = store.recorded(&earlier.key)? else { return Ok(None) };
    let Ok(mut recipe) = serde_json::from_str::<Value>(&record.recipe) else { return Ok(None) };
    let fields = comparison.reasons.iter().map(|reason| reason.field.clone()).collect();
    Ok(Some(Against { fields, identity: recipe["identity"].take() }))
}

/// A stage that is not there, but all that it reads is.
fn as_it_would_run(plan: &Plan, stage: &PlannedStage, experiment: &Experiment, store: &Store) -> Option<Context> {
    let made = |id: StageId| match &plan.stage(id)?.decision {
        Decision::Reuse(record) => Some(record.output),
        _ => None,
    };
    let recipe = stage.recipe.as_ref().filter(|_| !matches!(stage.decision, Decision::Reuse(_)))?;
    let order = work_order(experiment, stage, recipe, made, store);
    Some(Context::new(order, store.clone(), Arc::new(Nobody), Cancel::default()))
}

/// Hears nothing.
struct Nobody;

impl EventSink for Nobody {
    fn send(&self, _event: StageEvent) {}
}

/// What a stage is and what it reads, as an order. How it runs is for others to say: here it is on the processor, alone, for
/// no run, and without a folder.
pub(crate) fn work_order(
    experiment: &Experiment,
    planned: &PlannedStage,
    recipe: &Recipe,
    outputs: impl Fn(StageId) -> Option<Digest>,
    store: &Store,
) -> WorkOrder {
    let stage = &experiment.graph[planned.id];
    let definitions = stage.definitions.iter().map(|(path, table)| {
        let (kind, name) = table.label.split_once('.').unwrap_or((&table.label, ""));
        let config = table.body.to_json();
        (path.clone(), Definition { kind: kind.to_owned(), name: name.to_owned(), config })
    });
    let inputs = stage.inputs.iter().filter_map(|(path, (upstream, _))| {
        let stage = experiment.graph[*upstream].name.clone();
        Some((path.clone(), Input { stage, output: outputs(*upstream)? }))
    });
    WorkOrder {
        stage: stage.name.clone(),
        kind: stage.kind.name().to_owned(),
        key: recipe.key(),
        recipe: recipe.text(),
        config: stage.table.body.to_json(),
        definitions: definitions.collect(),
        inputs: inputs.collect(),
        files: planned.files.clone(),
        seed: stage.seed,
        device: "cpu".to_owned(),
        threads: 1,
        offline: true,
        less_at_once: false,
        store: store.root().to_owned(),
        attempt: PathBuf::new(),
        run: String::new(),
    }
}
