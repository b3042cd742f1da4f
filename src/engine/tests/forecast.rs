//! What a kind says it would ask of teachers reaches the plan, for stages that are not there and only for those.

#![allow(clippy::unwrap_used, reason = "tests")]

use stillhouse_engine::{Experiment, Plan, plan, resolve};
use stillhouse_spec::{Config, Diagnostics, Ref, Spec, Target};
use stillhouse_stage::{Ahead, Context, Failure, Forecast, Kind, Outcome, StageKind, kind};
use stillhouse_store::Store;

/// Questions.
#[derive(Clone, Debug, Config)]
struct QuestionsConfig {
    /// How many.
    count: u32,
}

struct Questions;

impl Kind for Questions {
    kind!("questions", QuestionsConfig);

    fn as_stage(&self) -> Option<&dyn StageKind> {
        Some(self)
    }
}

impl StageKind for Questions {
    fn revision(&self) -> u32 {
        1
    }

    fn run(&self, _context: &Context) -> Result<Outcome, Failure> {
        Ok(Outcome::default())
    }
}

#[derive(Clone, Debug)]
struct AnyQuestions;

impl Target for AnyQuestions {
    const KINDS: &'static [&'static str] = &["questions"];
}

/// Their answers.
#[derive(Clone, Debug, Config)]
struct RepliesConfig {
    /// To what.
    to: Ref<AnyQuestions>,
    /// Of each.
    samples: u32,
}

struct Replies;

impl Kind for Replies {
    kind!("replies", RepliesConfig);

    fn as_stage(&self) -> Option<&dyn StageKind> {
        Some(self)
    }
}

impl StageKind for Replies {
    fn revision(&self) -> u32 {
        1
    }

    fn forecast(&self, ahead: &Ahead<'_>) -> Option<Forecast> {
        assert!(ahead.inputs.is_empty(), "nothing is made yet");
        let samples = u64::from(ahead.view.config_as::<RepliesConfig>()?.samples);
        Some(Forecast { requests: 10 * samples, tokens: Some(100), usd: None, ..Forecast::default() })
    }

    fn run(&self, _context: &Context) -> Result<Outcome, Failure> {
        Ok(Outcome::default())
    }
}

static KINDS: &[&dyn Kind] = &[&Questions, &Replies];

fn planned(text: &str) -> (Experiment, Plan, Store, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("experiment.toml");
    fs_err::write(&file, text).unwrap();
    let mut report = Diagnostics::default();
    let spec = Spec::read(&file, &[], &mut report);
    let experiment = resolve(&spec, KINDS, &mut report).unwrap();
    let store = Store::open(&folder.path().join("cache")).unwrap();
    let plan = plan(&experiment, &store, &mut report).unwrap();
    (experiment, plan, store, folder)
}

const TWO: &str = "
[questions.q]
count = 5
[replies.once]
to = \"q\"
samples = 1
[replies.twice]
to = \"q\"
samples = 2
";

#[test]
fn a_plan_sums_up_what_its_stages_would_ask() {
    let (experiment, plan, store, _folder) = planned(TWO);
    let asked: Vec<Option<u64>> =
        plan.stages.iter().map(|stage| stage.forecast.map(|forecast| forecast.requests)).collect();
    assert_eq!(asked, [None, Some(10), Some(20)]);
    assert_eq!(plan.forecast(), Some(Forecast { requests: 30, tokens: Some(200), ..Forecast::default() }));
    let json = plan.to_json(&experiment, &store).unwrap();
    assert_eq!(
        json["forecast"],
        serde_json::json!({ "requests": 30, "tokens": 200, "usd": null, "counted-by": "bytes", "images": 0 })
    );
    assert_eq!(json["stages"][1]["forecast"]["requests"], 10);
    assert!(json["stages"][0]["forecast"].is_null());
}

#[test]
fn a_plan_of_kinds_that_ask_nobody_has_no_forecast() {
    let (_, plan, _store, _folder) = planned("[questions.q]\ncount = 5\n");
    assert_eq!(plan.forecast(), None);
}

#[test]
fn stages_come_in_the_order_of_the_file_as_far_as_they_can() {
    let (experiment, ..) = planned(
        "[replies.zebra]\nto = \"late\"\nsamples = 1\n[questions.second]\ncount = 1\n[replies.ape]\nto = \"second\"\nsamples = 1\n[questions.late]\ncount = 2\n",
    );
    let names = |ids: &[stillhouse_engine::StageId]| {
        ids.iter().map(|id| experiment.graph[*id].name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&experiment.order), ["questions.second", "replies.ape", "questions.late", "replies.zebra"]);
    let file = experiment.as_in_the_file(experiment.order.clone());
    assert_eq!(names(&file), ["replies.zebra", "questions.second", "replies.ape", "questions.late"]);
}
