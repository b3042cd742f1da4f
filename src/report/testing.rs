//! Literal events for this crate's tests.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use stillhouse_stage::{Event, Failure, How};

pub fn run_started(stages: usize) -> Event {
    Event::RunStarted {
        run: "261122-152330".into(),
        experiment: "quickstart".into(),
        file: "experiments/quickstart.toml".into(),
        stages,
        time: "2026-11-22T15:23:30Z".into(),
        version: "0.1.0".into(),
        order: Vec::new(),
    }
}

pub fn finished(stage: &str, how: How, seconds: f64, metrics: Value) -> Event {
    Event::StageFinished {
        stage: stage.into(),
        key: "ab".repeat(32),
        output: "cd".repeat(32),
        how,
        seconds,
        metrics,
        names: BTreeMap::new(),
    }
}

/// A finished stage whose fields name these tables.
pub fn with_names(mut event: Event, told: &[(&str, &str)]) -> Event {
    if let Event::StageFinished { names, .. } = &mut event {
        *names = told.iter().map(|(path, label)| ((*path).to_owned(), (*label).to_owned())).collect();
    }
    event
}

pub fn run_finished(built: usize, reused: usize, failed: usize, skipped: usize, seconds: f64) -> Event {
    Event::RunFinished {
        built,
        reused,
        resumed: 0,
        failed,
        skipped,
        seconds,
        run: "261122-152330".into(),
        interrupted: false,
    }
}

/// A figure: name, value, interval, unit, direction.
pub type FigureRow<'a> = (&'a str, f64, Option<(f64, f64)>, &'a str, &'a str);

pub fn figure(value: f64, interval: Option<(f64, f64)>, unit: &str, better: &str) -> Value {
    let (low, high) = interval.unzip();
    json!({ "value": value, "low": low, "high": high, "n": 120, "unit": unit, "better": better })
}

/// An evaluation of `model` on the suite `held-out`.
pub fn eval_finished(stage: &str, model: &str, figures: &[FigureRow<'_>]) -> Event {
    let scores: serde_json::Map<String, Value> = figures
        .iter()
        .map(|(name, value, interval, unit, better)| ((*name).to_owned(), figure(*value, *interval, unit, better)))
        .collect();
    let metrics = json!({
        "scores": { "suites.0": scores },
        "intervals": { "method": "percentile bootstrap over examples", "resamples": 1000, "confidence": 0.95, "seed": 17 },
    });
    with_names(finished(stage, How::Built, 3.1, metrics), &[("model", model), ("suites.0", "suite.held-out")])
}

/// Two students and their teacher, all measured.
pub fn quickstart() -> Vec<Event> {
    let student = |stage: &str, how| {
        let metrics = json!({ "parameters": 312_448, "bytes": 1_251_904, "tokens": 2_457_600, "seconds": 31.4 });
        finished(stage, how, 31.6, metrics)
    };
    vec![
        run_started(9),
        student("student.hard", How::Built),
        student("student.soft", How::Reused),
        eval_finished(
            "eval.teacher",
            "model.teacher",
            &[
                ("nll", 1.4231, Some((1.37, 1.47)), "nats/token", "lower"),
                ("perplexity", 4.1499, Some((3.98, 4.33)), "", "lower"),
                ("bits-per-byte", 0.98713, Some((0.9611, 1.0144)), "bits/byte", "lower"),
            ],
        ),
        eval_finished(
            "eval.hard",
            "student.hard",
            &[
                ("perplexity", 5.7132, Some((5.43, 6.01)), "", "lower"),
                ("bits-per-byte", 1.21713, Some((1.1811, 1.2544)), "bits/byte", "lower"),
                ("kl", 0.40113, Some((0.3787, 0.4241)), "nats/token", "lower"),
                ("top-1", 0.61234, Some((0.5981, 0.6261)), "fraction", "higher"),
            ],
        ),
        eval_finished(
            "eval.soft",
            "student.soft",
            &[
                ("perplexity", 5.3132, Some((5.08, 5.56)), "", "lower"),
                ("bits-per-byte", 1.16713, Some((1.1311, 1.2044)), "bits/byte", "lower"),
                ("kl", 0.27813, Some((0.2607, 0.2961)), "nats/token", "lower"),
                ("top-1", 0.68034, Some((0.6661, 0.6941)), "fraction", "higher"),
            ],
        ),
        run_finished(8, 1, 0, 0, 84.2),
    ]
}

/// A teacher that refused, and what followed from it.
pub fn failed_run() -> Vec<Event> {
    let failure = Failure::new(stillhouse_stage::Class::Teacher, "http://127.0.0.1:8080/v1 answered 401 Unauthorized")
        .hint("set the variable that `api-key-env` names");
    let skipped = |stage: &str, because: &str| Event::StageSkipped { stage: stage.into(), because: because.into() };
    let warning = stillhouse_stage::StageEvent::Warning { message: "2 of 252 rows are empty".into() };
    vec![
        run_started(4),
        Event::Stage { stage: "prompts.dolly".into(), said: warning },
        finished("prompts.dolly", How::Built, 0.02, json!({ "prompts": 250 })),
        Event::StageFailed { stage: "answers.dolly".into(), failure, seconds: 0.3 },
        skipped("dataset.train", "answers.dolly"),
        skipped("student.small", "answers.dolly"),
        run_finished(1, 0, 1, 2, 0.41),
    ]
}
