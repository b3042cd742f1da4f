//! [`RunRecord`]: what a run came to, folded from its events.

use std::collections::{BTreeMap, HashMap};

use indexmap::IndexMap;
use serde::Serialize;
use serde_json::Value;
use stillhouse_stage::{Event, Failure, How, Spent, StageEvent};

/// A run, as far as its events tell. A live display and a replay of the log fold the same events into the same value.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RunRecord {
    /// The run's id; empty before the first event.
    pub run: String,
    /// The experiment's name.
    pub experiment: String,
    /// The experiment's file, as it was given.
    pub file: String,
    /// When it started, RFC 3339.
    pub started: String,
    /// The version of the program that ran it.
    pub version: String,
    /// How many stages the experiment has.
    pub planned: usize,
    /// The stages in the order of the experiment's file; empty in logs that do not tell.
    #[serde(skip)]
    pub order: Vec<String>,
    /// `kind.name` → what became of the stage, in the order of the experiment's file once the run has ended or all its
    /// events are there, and until then in the order in which they were first heard of.
    pub stages: IndexMap<String, StageResult>,
    /// How it ended; none for a run that is still going on or was killed.
    pub end: Option<RunEnd>,
}

/// What became of a stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageResult {
    /// Where it stands.
    pub state: State,
    /// Its key, once it is known.
    pub key: Option<String>,
    /// Why it ran, one reason a line; empty for a stage that was there.
    pub why: Vec<String>,
    /// How long it worked in this run.
    pub seconds: f64,
    /// The metrics of its record; null before it is there. They hold no names of tables.
    pub metrics: Value,
    /// Path of a field of its config → label of the table that it names in this run: `model` → `student.small`. Empty
    /// before its result is there.
    pub names: BTreeMap<String, String>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// How far it is: done, of, unit.
    pub progress: Option<Progress>,
    /// The latest figures of the work and their step.
    pub latest: Option<(u64, serde_json::Map<String, Value>)>,
    /// `teacher.name` → what it was paid for in this run, whatever became of the stage; empty for a stage that asked nobody,
    /// and in logs that do not tell.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub spent: BTreeMap<String, Spent>,
}

/// How far a stage is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Done.
    pub done: u64,
    /// Of, if known.
    pub total: Option<u64>,
    /// "prompts", "steps", …
    pub unit: String,
}

/// Where a stage stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It works.
    Running,
    /// Another run is making it, or another stage of this one goes first.
    Waiting {
        /// Which.
        holder: String,
    },
    /// Its result is there.
    Done {
        /// How it came about.
        how: How,
        /// The digest of its output.
        output: String,
    },
    /// It failed.
    Failed {
        /// Why.
        failure: Failure,
    },
    /// It was not tried.
    Skipped {
        /// Because of which stage, or that the run was stopped.
        because: String,
    },
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunEnd {
    /// Stages made.
    pub built: usize,
    /// Stages that were there.
    pub reused: usize,
    /// Stages continued.
    pub resumed: usize,
    /// Stages that failed.
    pub failed: usize,
    /// Stages not tried.
    pub skipped: usize,
    /// Wall time.
    pub seconds: f64,
    /// Whether the user stopped it.
    pub interrupted: bool,
}

/// Folds the events of a run.
pub fn fold<'a>(events: impl IntoIterator<Item = &'a Event>) -> RunRecord {
    let mut record = RunRecord::default();
    events.into_iter().for_each(|event| record.apply(event));
    record.arrange();
    record
}

impl RunRecord {
    /// Takes the next event.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::RunStarted { run, experiment, file, stages, time, version, order } => {
                self.order.clone_from(order);
                self.run.clone_from(run);
                self.experiment.clone_from(experiment);
                self.file.clone_from(file);
                self.started.clone_from(time);
                self.version.clone_from(version);
                self.planned = *stages;
            }
            Event::StageStarted { stage, key, why, at: _ } => {
                let result = self.stage(stage);
                result.state = State::Running;
                result.key = Some(key.clone());
                result.why.clone_from(why);
            }
            Event::StageWaiting { stage, holder } => {
                self.stage(stage).state = State::Waiting { holder: holder.clone() };
            }
            Event::StageHeldBack { stage, behind } => {
                self.stage(stage).state = State::Waiting { holder: behind.clone() };
            }
            Event::Stage { stage, said } => self.stage(stage).hear(said),
            Event::StageFinished { stage, key, output, how, seconds, metrics, names } => {
                let result = self.stage(stage);
                result.state = State::Done { how: *how, output: output.clone() };
                result.key = Some(key.clone());
                result.seconds = *seconds;
                result.metrics = metrics.clone();
                result.names.clone_from(names);
            }
            Event::StageFailed { stage, failure, seconds } => {
                let result = self.stage(stage);
                result.state = State::Failed { failure: failure.clone() };
                result.seconds = *seconds;
            }
            Event::StageSkipped { stage, because } => {
                self.stage(stage).state = State::Skipped { because: because.clone() };
            }
            // Worth a line while it happens; the end tells that the run was stopped.
            Event::RunStopping { .. } => {}
            Event::RunFinished { built, reused, resumed, failed, skipped, seconds, run: _, interrupted } => {
                self.end = Some(RunEnd {
                    built: *built,
                    reused: *reused,
                    resumed: *resumed,
                    failed: *failed,
                    skipped: *skipped,
                    seconds: *seconds,
                    interrupted: *interrupted,
                });
                self.arrange();
            }
        }
    }

    /// Two runs of one experiment read alike, whatever finished first.
    fn arrange(&mut self) {
        let places: HashMap<&str, usize> =
            self.order.iter().enumerate().map(|(place, name)| (name.as_str(), place)).collect();
        // Stable: those that the order does not know stay as they came, at the end.
        self.stages.sort_by_cached_key(|name, _| places.get(name.as_str()).copied().unwrap_or(usize::MAX));
    }

    /// The stages of a kind with their results.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'a str, &'a StageResult)> {
        let of_kind = move |stage: &str| stage.split_once('.').is_some_and(|(found, _)| found == kind);
        self.stages.iter().filter(move |(stage, _)| of_kind(stage)).map(|(stage, result)| (stage.as_str(), result))
    }

    fn stage(&mut self, name: &str) -> &mut StageResult {
        self.stages.entry(name.to_owned()).or_insert_with(StageResult::new)
    }
}

impl StageResult {
    fn new() -> Self {
        Self {
            state: State::Running,
            key: None,
            why: Vec::new(),
            seconds: 0.0,
            metrics: Value::Null,
            names: BTreeMap::new(),
            warnings: Vec::new(),
            progress: None,
            latest: None,
            spent: BTreeMap::new(),
        }
    }

    fn hear(&mut self, said: &StageEvent) {
        match said {
            StageEvent::Progress { done, total, unit } => {
                self.progress = Some(Progress { done: *done, total: *total, unit: unit.clone() });
            }
            StageEvent::Metrics { step, values } => self.latest = Some((*step, values.clone())),
            StageEvent::Warning { message } => self.warnings.push(message.clone()),
            // Each tells the whole.
            StageEvent::Spent(spent) => _ = self.spent.insert(spent.teacher.clone(), spent.clone()),
            // Worth a line while it happens; the log keeps it.
            StageEvent::Note { .. } | StageEvent::Resumed { .. } => {}
        }
    }

    /// Whether its result is there, and how it came about.
    #[must_use]
    pub fn how(&self) -> Option<How> {
        match self.state {
            State::Done { how, .. } => Some(how),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{eval_finished, failed_run, finished};

    #[test]
    fn a_stage_goes_from_running_to_done_with_its_metrics() {
        let started = Event::StageStarted {
            stage: "student.a".into(),
            key: "k1".into(),
            why: vec!["steps: 100 → 200".into()],
            at: 0.5,
        };
        let warned =
            Event::Stage { stage: "student.a".into(), said: StageEvent::Warning { message: "3 rows cut".into() } };
        let events = [started, warned, finished("student.a", How::Resumed, 9.0, serde_json::json!({ "steps": 200 }))];
        let running = fold(&events[..1]);
        assert_eq!(running.stages["student.a"].state, State::Running);
        assert_eq!(running.stages["student.a"].how(), None);
        let done = fold(&events);
        let stage = &done.stages["student.a"];
        assert_eq!((stage.how(), stage.seconds), (Some(How::Resumed), 9.0));
        assert_eq!(stage.why, ["steps: 100 → 200"]);
        assert_eq!(stage.warnings, ["3 rows cut"]);
        assert_eq!(stage.metrics["steps"], 200);
    }

    #[test]
    fn events_in_pieces_and_at_once_give_the_same_record() {
        let events = failed_run();
        let mut record = fold(&events[..3]);
        events[3..].iter().for_each(|event| record.apply(event));
        assert_eq!(record, fold(&events));
        assert_eq!(record.end.map(|end| end.failed), Some(1));
    }

    #[test]
    fn stages_stand_in_the_order_of_the_file_whatever_finished_first() {
        let started = |order: &[&str]| {
            let mut event = crate::testing::run_started(3);
            if let Event::RunStarted { order: told, .. } = &mut event {
                *told = order.iter().map(|stage| (*stage).to_owned()).collect();
            }
            event
        };
        let made = |stage| finished(stage, How::Built, 1.0, Value::Null);
        let names = |events: &[Event]| fold(events).stages.keys().cloned().collect::<Vec<_>>();
        let order = ["eval.z", "eval.b", "eval.a"];
        assert_eq!(names(&[started(&order), made("eval.a"), made("eval.z"), made("eval.b")]), order);
        assert_eq!(names(&[started(&order), made("eval.b"), made("eval.a"), made("eval.z")]), order);
        // A log of a version that did not tell the order.
        assert_eq!(names(&[started(&[]), made("eval.b"), made("eval.a")]), ["eval.b", "eval.a"]);
    }

    #[test]
    fn a_run_that_was_killed_has_no_end() {
        let record = fold(&failed_run()[..4]);
        assert_eq!(record.end, None);
        assert_eq!(record.planned, 4);
    }

    #[test]
    fn stages_are_found_by_their_whole_kind() {
        let record =
            fold(&[eval_finished("eval.a", "student.a", &[]), finished("evaluate.b", How::Built, 0.0, Value::Null)]);
        let found: Vec<&str> = record.of_kind("eval").map(|(stage, _)| stage).collect();
        assert_eq!(found, ["eval.a"]);
    }
}
