//! Stages that share work run one after another, and nobody else waits for them.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::json;
use stillhouse_engine::run::WorkerProgram;
use stillhouse_engine::{RunOptions, RunSummary, Subscriber, plan, resolve, run};
use stillhouse_spec::{Config, Diagnostics, Execution, Ref, Spec, Target};
use stillhouse_stage::{Context, Event, Failure, Family, Kind, Needs, Outcome, StageKind, View, kind};
use stillhouse_store::Store;

/// A line of some length.
#[derive(Clone, Debug, Config)]
struct LinesConfig {
    /// How long.
    length: u64,
    /// In which colour.
    colour: Option<String>,
    /// On what.
    on: Option<Ref<AnyLines>>,
    /// Where it waits until somebody else is there, too.
    #[config(default = Execution(String::new()))]
    meets: Execution<String>,
    /// Whether it breaks.
    #[config(default = Execution(false))]
    breaks: Execution<bool>,
}

#[derive(Clone, Debug)]
struct AnyLines;

impl Target for AnyLines {
    const KINDS: &'static [&'static str] = &["lines"];
}

/// How many have come, by place.
static MET: Mutex<BTreeMap<String, usize>> = Mutex::new(BTreeMap::new());
static COMING: Condvar = Condvar::new();

fn meet(place: &str) -> Result<(), Failure> {
    let mut met = MET.lock().unwrap();
    *met.entry(place.to_owned()).or_default() += 1;
    COMING.notify_all();
    let (_met, waited) = COMING.wait_timeout_while(met, Duration::from_secs(20), |met| met[place] < 2).unwrap();
    if waited.timed_out() { Err(Failure::input(format!("nobody came to {place}"))) } else { Ok(()) }
}

struct Lines;

impl Kind for Lines {
    kind!("lines", LinesConfig);

    fn as_stage(&self) -> Option<&dyn StageKind> {
        Some(self)
    }
}

impl StageKind for Lines {
    fn revision(&self) -> u32 {
        1
    }

    fn needs(&self, view: &View<'_>) -> Needs {
        let order = view.config_as::<LinesConfig>().unwrap().length;
        let family = Some(Family { apart_from: &["length"], name: "lines".into(), order });
        Needs { compute: true, family, ..Needs::default() }
    }

    fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        let config: LinesConfig = context.config()?;
        if !config.meets.is_empty() {
            meet(&config.meets)?;
        }
        if *config.breaks {
            return Err(Failure::input("it broke"));
        }
        Failure::io(fs_err::write(context.out().join("line"), "-".repeat(config.length as usize)), "cannot write")?;
        Ok(Outcome::with_metrics(json!({ "threads": context.order().threads })))
    }
}

static KINDS: &[&dyn Kind] = &[&Lines];

struct Heard(Arc<Mutex<Vec<Event>>>);

impl Subscriber for Heard {
    fn on(&mut self, event: &Event) {
        self.0.lock().unwrap().push(event.clone());
    }
}

/// Runs an experiment with room for four stages and answers what was heard.
fn ran(text: &str) -> (RunSummary, Vec<Event>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("experiment.toml");
    fs_err::write(&file, text).unwrap();
    let mut report = Diagnostics::default();
    let spec = Spec::read(&file, &[], &mut report);
    let experiment = resolve(&spec, KINDS, &mut report).unwrap();
    let store = Store::open(&folder.path().join("cache")).unwrap();
    let plan = plan(&experiment, &store, &mut report).unwrap();
    let options = RunOptions {
        kinds: KINDS,
        jobs: 4,
        processors: 4,
        keep_going: true,
        only: Vec::new(),
        device: "cpu".into(),
        gpus: Vec::new(),
        offline: true,
        worker: WorkerProgram { program: PathBuf::new(), arguments: Vec::new() },
        host: "here".into(),
        version: "test".into(),
    };
    let heard = Arc::new(Mutex::new(Vec::new()));
    let mut subscribers: Vec<Box<dyn Subscriber>> = vec![Box::new(Heard(Arc::clone(&heard)))];
    let summary = run(experiment, plan, &store, "test", options, &mut subscribers).unwrap();
    drop(subscribers);
    (summary, Arc::into_inner(heard).unwrap().into_inner().unwrap())
}

/// `+` where a stage begins, `-` where it ends, of these stages.
fn course(events: &[Event], stages: &[&str]) -> Vec<String> {
    let of = |sign: &str, stage: &String| stages.contains(&stage.as_str()).then(|| format!("{sign}{stage}"));
    let turn = |event: &Event| match event {
        Event::StageStarted { stage, .. } => of("+", stage),
        Event::StageFinished { stage, .. } | Event::StageFailed { stage, .. } => of("-", stage),
        _ => None,
    };
    events.iter().filter_map(turn).collect()
}

fn held_back(events: &[Event]) -> Vec<(&str, &str)> {
    let held = events.iter().filter_map(|event| match event {
        Event::StageHeldBack { stage, behind } => Some((stage.as_str(), behind.as_str())),
        _ => None,
    });
    held.collect()
}

#[test]
fn the_shortest_goes_first_and_who_is_of_no_family_of_theirs_runs_beside_them() {
    let (summary, events) = ran("
[lines.long]
length = 3
[lines.short]
length = 1
meets = \"here\"
[lines.middle]
length = 2
[lines.other]
length = 9
colour = \"red\"
meets = \"here\"
");
    assert_eq!((summary.built, summary.failed), (4, 0), "{events:#?}");
    let expected = ["+lines.short", "-lines.short", "+lines.middle", "-lines.middle", "+lines.long", "-lines.long"];
    assert_eq!(course(&events, &["lines.short", "lines.middle", "lines.long"]), expected);
    assert_eq!(held_back(&events), [("lines.long", "lines.short"), ("lines.middle", "lines.short")]);
    let threads = |name: &str| {
        events.iter().find_map(|event| match event {
            Event::StageFinished { stage, metrics, .. } if stage == name => metrics["threads"].as_u64(),
            _ => None,
        })
    };
    // Two compute at once, though four are ready: each has half of the processors.
    assert_eq!((threads("lines.short"), threads("lines.other")), (Some(2), Some(2)));
}

#[test]
fn stages_that_read_others_are_no_family() {
    let (summary, events) = ran("
[lines.a]
length = 1
[lines.b]
length = 1
colour = \"blue\"
[lines.x]
length = 2
on = \"a\"
meets = \"there\"
[lines.y]
length = 3
on = \"b\"
meets = \"there\"
");
    assert_eq!((summary.built, summary.failed), (4, 0), "{events:#?}");
    assert_eq!(held_back(&events), []);
}

#[test]
fn the_next_one_runs_though_the_first_fails() {
    let (summary, events) = ran("
[lines.long]
length = 2
[lines.short]
length = 1
breaks = true
");
    assert_eq!((summary.built, summary.failed), (1, 1), "{events:#?}");
    let expected = ["+lines.short", "-lines.short", "+lines.long", "-lines.long"];
    assert_eq!(course(&events, &["lines.short", "lines.long"]), expected);
}
