//! Experiment → Plan: per stage whether it is there already, must run, or depends on what an upstream stage will make.

use std::collections::{BTreeMap, HashMap};

use serde_json::json;
use stillhouse_spec::Diagnostics;
use stillhouse_stage::{Ahead, FileInput, Forecast, Recipe, View};
use stillhouse_store::{Digest, Key, Lookup, Record, Store, StoreError};

use crate::experiment::{Experiment, Stage, StageId};
use crate::files::Files;
use crate::resolve::references::Definitions;
use crate::why::Explainer;

/// What will become of a stage.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Its result is in the store.
    Reuse(Box<Record>),
    /// It must run: nothing is recorded under its key.
    Run,
    /// Its key depends on outputs that are not there yet. If they turn out as before, it is reused.
    Maybe {
        /// The stages whose outputs are not known.
        waits_for: Vec<String>,
    },
}

impl Decision {
    /// `reuse`, `run` or `maybe`: API.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Reuse(_) => "reuse",
            Self::Run => "run",
            Self::Maybe { .. } => "maybe",
        }
    }
}

/// A stage of a plan.
#[derive(Clone, Debug)]
pub struct PlannedStage {
    /// The node.
    pub id: StageId,
    /// `kind.name`
    pub name: String,
    /// The kind.
    pub kind: String,
    /// What will become of it.
    pub decision: Decision,
    /// Its recipe; not known where an upstream output is not.
    pub recipe: Option<Recipe>,
    /// Its key; likewise.
    pub key: Option<Key>,
    /// Why a recorded result cannot be used, if there is one and it is damaged.
    pub broken: Option<String>,
    /// The files that it names.
    pub files: BTreeMap<String, FileInput>,
    /// What making it would ask of teachers, where its kind can tell.
    pub forecast: Option<Forecast>,
}

/// What would be done, in order.
#[derive(Clone, Debug)]
pub struct Plan {
    /// One entry a stage, upstream first.
    pub stages: Vec<PlannedStage>,
    /// Node → position in `stages`.
    positions: HashMap<StageId, usize>,
}

/// How many stages fall to each decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// There already.
    pub reuse: usize,
    /// Must run.
    pub run: usize,
    /// Depends.
    pub maybe: usize,
}

/// Makes the plan. Faults of files go into `report`.
///
/// # Errors
/// A store that cannot be read.
pub fn plan(experiment: &Experiment, store: &Store, report: &mut Diagnostics) -> Result<Plan, StoreError> {
    let mut planner =
        Planner { experiment, store, files: Files::default(), outputs: HashMap::new(), parts: HashMap::new() };
    let mut stages = Vec::with_capacity(experiment.order.len());
    for (id, stage) in experiment.stages() {
        stages.push(planner.stage(id, stage, report)?);
    }
    let positions = stages.iter().enumerate().map(|(position, stage)| (stage.id, position)).collect();
    let mut plan = Plan { stages, positions };
    let forecasts: Vec<Option<Forecast>> =
        plan.stages.iter().map(|stage| forecast(&plan, stage, experiment, store)).collect();
    for (stage, forecast) in plan.stages.iter_mut().zip(forecasts) {
        stage.forecast = forecast;
    }
    Ok(plan)
}

/// What making a stage would ask of teachers.
fn forecast(plan: &Plan, planned: &PlannedStage, experiment: &Experiment, store: &Store) -> Option<Forecast> {
    if matches!(planned.decision, Decision::Reuse(_)) {
        return None;
    }
    let stage = &experiment.graph[planned.id];
    let definitions = Definitions::of(stage);
    let view = view(stage, &definitions);
    let made = |id: &StageId| match &plan.stage(*id)?.decision {
        Decision::Reuse(record) => Some(&**record),
        _ => None,
    };
    let inputs =
        stage.inputs.iter().filter_map(|(path, (upstream, _))| Some((path.as_str(), made(upstream)?))).collect();
    // A mention makes no edge of the graph: its stage is found by its table, where only one stage came of that.
    let mentioned = stage.mentions.iter().filter_map(|(path, table)| {
        let mut stages = experiment.stages().filter(|(_, stage)| std::sync::Arc::ptr_eq(&stage.table, table));
        let (id, _) = stages.next().filter(|_| stages.next().is_none())?;
        Some((path.as_str(), made(&id)?))
    });
    let mentioned = mentioned.collect();
    stage.kind.forecast(&Ahead { view, inputs, mentioned, files: &planned.files, store, seed: stage.seed })
}

/// A stage as its kind looks at it.
pub(crate) fn view<'a>(stage: &'a Stage, definitions: &'a Definitions<'a>) -> View<'a> {
    let table = &stage.table;
    View::new(&table.label, table.kind, table.config.as_ref(), table.at, definitions)
}

struct Planner<'a> {
    experiment: &'a Experiment,
    store: &'a Store,
    files: Files,
    /// Outputs of stages that are there already.
    outputs: HashMap<StageId, Digest>,
    /// Digests of parts of outputs.
    parts: HashMap<(Digest, Vec<&'static str>), Digest>,
}

impl Planner<'_> {
    fn stage(&mut self, id: StageId, stage: &Stage, report: &mut Diagnostics) -> Result<PlannedStage, StoreError> {
        let files = self.stage_files(stage, report);
        let mut planned = PlannedStage {
            id,
            name: stage.name.clone(),
            kind: stage.kind.name().to_owned(),
            decision: Decision::Run,
            recipe: None,
            key: None,
            broken: None,
            files,
            forecast: None,
        };
        let unknown: Vec<String> = stage
            .inputs
            .values()
            .filter(|(upstream, _)| !self.outputs.contains_key(upstream))
            .map(|(upstream, _)| self.experiment.graph[*upstream].name.clone())
            .collect();
        if !unknown.is_empty() {
            let mut waits_for = unknown;
            waits_for.sort();
            waits_for.dedup();
            planned.decision = Decision::Maybe { waits_for };
            return Ok(planned);
        }
        let mut inputs = BTreeMap::new();
        for (path, (upstream, parts)) in &stage.inputs {
            let Some(output) = self.outputs.get(upstream).copied() else { continue };
            inputs.insert(path.clone(), part_digest(self.store, output, parts, &mut self.parts)?);
        }
        let recipe = recipe_of(stage, inputs, &planned.files);
        let key = recipe.key();
        match self.store.lookup(&key)? {
            Lookup::Found(record) => {
                self.outputs.insert(id, record.output);
                planned.decision = Decision::Reuse(Box::new(record));
            }
            Lookup::Missing => {}
            Lookup::Broken { reason } => planned.broken = Some(reason),
        }
        planned.recipe = Some(recipe);
        planned.key = Some(key);
        Ok(planned)
    }

    fn stage_files(&mut self, stage: &Stage, report: &mut Diagnostics) -> BTreeMap<String, FileInput> {
        let mut inputs = BTreeMap::new();
        for (path, file) in &stage.files {
            match self.files.digest(file, self.store) {
                Ok(input) => _ = inputs.insert(path.clone(), input),
                Err(problem) => report.push(problem.at(file.at)),
            }
        }
        inputs
    }
}

/// The digest that stands for an input in a recipe: of the output, or of the parts of it that are read.
pub(crate) fn part_digest(
    store: &Store,
    output: Digest,
    parts: &[&'static str],
    known: &mut HashMap<(Digest, Vec<&'static str>), Digest>,
) -> Result<Digest, StoreError> {
    if parts.is_empty() {
        return Ok(output);
    }
    let question = (output, parts.to_vec());
    if let Some(digest) = known.get(&question) {
        return Ok(*digest);
    }
    let digest = match store.tree(&output)? {
        Some(tree) => tree.part(parts).digest(),
        // Lost since it was looked up: the same error as for any blob that is gone.
        None => return Err(store.read(&output).err().unwrap_or(StoreError::MissingBlob { digest: output })),
    };
    known.insert(question, digest);
    Ok(digest)
}

/// The recipe of a stage once the digests of its inputs are known.
pub(crate) fn recipe_of(
    stage: &Stage,
    inputs: BTreeMap<String, Digest>,
    files: &BTreeMap<String, FileInput>,
) -> Recipe {
    Recipe {
        kind: stage.kind.name().to_owned(),
        revision: stage.kind.revision(),
        identity: stage.identity.clone(),
        inputs,
        files: files.iter().map(|(path, file)| (path.clone(), file.digest)).collect(),
        seed: stage.seed,
    }
}

impl Plan {
    /// How many stages fall to each decision.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for stage in &self.stages {
            match stage.decision {
                Decision::Reuse(_) => counts.reuse += 1,
                Decision::Run => counts.run += 1,
                Decision::Maybe { .. } => counts.maybe += 1,
            }
        }
        counts
    }

    /// How many of these stages are not there, or may not be.
    #[must_use]
    pub fn work(&self, stages: &[StageId]) -> usize {
        let open = |id: &&StageId| self.stage(**id).is_some_and(|stage| !matches!(stage.decision, Decision::Reuse(_)));
        stages.iter().filter(open).count()
    }

    /// What all stages together would ask of teachers; nothing where no stage can tell.
    #[must_use]
    pub fn forecast(&self) -> Option<Forecast> {
        self.stages.iter().filter_map(|stage| stage.forecast).reduce(|mut sum, stage| {
            sum += stage;
            sum
        })
    }

    /// The stage of a node.
    #[must_use]
    pub fn stage(&self, id: StageId) -> Option<&PlannedStage> {
        self.positions.get(&id).map(|position| &self.stages[*position])
    }

    /// The plan as JSON (API): `summary`, and per stage `name`, `decision`, `why` and more.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn to_json(&self, experiment: &Experiment, store: &Store) -> Result<serde_json::Value, StoreError> {
        let counts = self.counts();
        let mut stages = Vec::with_capacity(self.stages.len());
        let explainer = Explainer::new(self, experiment, store, store.histories()?);
        for stage in &self.stages {
            let why = explainer.why(stage)?;
            stages.push(json!({
                "name": stage.name,
                "kind": stage.kind,
                "decision": stage.decision.word(),
                "key": stage.key,
                "why": why.to_json(),
                "forecast": stage.forecast,
            }));
        }
        Ok(json!({
            "experiment": experiment.name,
            "file": experiment.file.display().to_string(),
            "summary": { "reuse": counts.reuse, "run": counts.run, "maybe": counts.maybe },
            "forecast": self.forecast(),
            "sweep": { "cells": experiment.cells, "stages": self.stages.len(), "unshared": experiment.stages_unshared },
            "stages": stages,
        }))
    }
}
