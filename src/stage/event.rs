//! What happened, as it happens: one JSON object a line. All display is a fold over these.

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// How a stage's result came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// Made in this run.
    Built,
    /// It was there.
    Reused,
    /// It was in another store.
    Fetched,
    /// Made in this run, from where an earlier attempt had stopped.
    Resumed,
}

/// One event of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The first event.
    RunStarted {
        /// The run's id.
        run: String,
        /// The experiment's name.
        experiment: String,
        /// The experiment's file, as given.
        file: String,
        /// How many stages there are.
        stages: usize,
        /// RFC 3339.
        time: String,
        /// The version of this program.
        version: String,
        /// The stages in the order of the experiment's file: events come in the order of what happens.
        #[serde(default)]
        order: Vec<String>,
    },
    /// A stage's recipe is known and its work begins.
    StageStarted {
        /// `kind.name`
        stage: String,
        /// Its key.
        key: String,
        /// Why it runs, one reason a line.
        why: Vec<String>,
        /// Seconds since the run began.
        at: f64,
    },
    /// A stage waits for another run that is making the same thing.
    StageWaiting {
        /// `kind.name`
        stage: String,
        /// Who is making it.
        holder: String,
    },
    /// A stage is held back behind another one of this run, so that it can go on from what that leaves.
    StageHeldBack {
        /// `kind.name`
        stage: String,
        /// The stage that goes first.
        behind: String,
    },
    /// Something that a stage said while working.
    Stage {
        /// `kind.name`
        stage: String,
        /// What it said.
        said: StageEvent,
    },
    /// A stage's result is there.
    StageFinished {
        /// `kind.name`
        stage: String,
        /// Its key.
        key: String,
        /// The digest of its output.
        output: String,
        /// How the result came about.
        how: How,
        /// How long it worked.
        seconds: f64,
        /// The metrics of its record.
        metrics: serde_json::Value,
        /// Path of the config field → label of the table that it names today. A record holds no names, since names are in no
        /// key; whoever shows it takes them from here.
        #[serde(default)]
        names: std::collections::BTreeMap<String, String>,
    },
    /// A stage failed.
    StageFailed {
        /// `kind.name`
        stage: String,
        /// Why.
        failure: Failure,
        /// How long it worked.
        seconds: f64,
    },
    /// A stage was not tried.
    StageSkipped {
        /// `kind.name`
        stage: String,
        /// Because of which stage, or that the run was stopped.
        because: String,
    },
    /// The user asked to stop: nothing new begins, and running stages go to a good point.
    RunStopping {
        /// Stages that run.
        running: usize,
    },
    /// The last event (its fields are API).
    RunFinished {
        /// Stages made.
        built: usize,
        /// Stages that were there.
        reused: usize,
        /// Stages continued.
        resumed: usize,
        /// Stages that failed.
        failed: usize,
        /// Stages not tried.
        skipped: usize,
        /// Wall time.
        seconds: f64,
        /// The run's id.
        run: String,
        /// Whether the user stopped it.
        interrupted: bool,
    },
}

/// What a stage says while it works: a worker writes these to its standard output, one a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum StageEvent {
    /// So much of so much is done.
    Progress {
        /// Done.
        done: u64,
        /// Of, if known.
        total: Option<u64>,
        /// "prompts", "steps", …
        unit: String,
    },
    /// Figures at a point of the work (training loss at a step).
    Metrics {
        /// At which step.
        step: u64,
        /// Name → value.
        values: serde_json::Map<String, serde_json::Value>,
    },
    /// Something that the user should know though the work goes on.
    Warning {
        /// One line.
        message: String,
    },
    /// Something worth a line.
    Note {
        /// One line.
        message: String,
    },
    /// The work goes on from where an earlier attempt stopped.
    Resumed {
        /// From where: "step 120 of 400", "230 of 252 replies".
        from: String,
    },
    /// What a teacher was paid for so far. Said now and then and at the end, so that it is known of a stage that fails too.
    Spent(Spent),
}

/// What a stage has asked of one teacher since it began, answered and kept: each time the whole of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Spent {
    /// `teacher.name`
    pub teacher: String,
    /// Requests.
    pub requests: u64,
    /// Texts in them, where a request carries several: those that got vectors. 0 where a request is a question of its own.
    #[serde(default, skip_serializing_if = "is_none")]
    pub texts: u64,
    /// Tokens of their prompts.
    pub prompt_tokens: u64,
    /// Tokens of their replies.
    pub completion_tokens: u64,
    /// US dollars; nothing where the teacher has no prices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd: Option<f64>,
    /// Requests of which nobody said what they took: the figures are the most that it can be.
    #[serde(default, skip_serializing_if = "is_none")]
    pub not_reported: u64,
    /// The part of tokens and dollars that went to requests that brought no reply: only the rest is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_vain: Option<InVain>,
}

/// What requests took that brought no reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct InVain {
    /// Tokens of their prompts.
    pub prompt_tokens: u64,
    /// Tokens of their replies.
    pub completion_tokens: u64,
    /// US dollars; nothing where the teacher has no prices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd: Option<f64>,
    /// Those of which nobody said what they took: the figures are the most that it can be.
    #[serde(default, skip_serializing_if = "is_none")]
    pub not_reported: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn is_none(count: &u64) -> bool {
    *count == 0
}
