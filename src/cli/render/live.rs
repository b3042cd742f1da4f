//! A run as it happens: bars on a terminal, plain lines elsewhere. Words, so on standard error.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use stillhouse_engine::Subscriber;
use stillhouse_report::format;
use stillhouse_stage::{Event, How, StageEvent};

use super::words;
use crate::args::Global;

/// Plain lines say at most this often how far a stage is.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// The display that fits where standard error goes.
pub fn display(_global: &Global) -> Box<dyn Subscriber> {
    if std::io::stderr().is_terminal() { Box::new(Bars::new()) } else { Box::new(Plain::default()) }
}

/// The line that begins a run.
fn opening(event: &Event) -> String {
    let Event::RunStarted { run, experiment, stages, .. } = event else { return String::new() };
    let stages = if *stages == 1 { "1 stage".to_owned() } else { format!("{stages} stages") };
    // A run that could not be recorded has no name.
    if run.is_empty() { format!("{experiment}: {stages}") } else { format!("run {run} of {experiment}: {stages}") }
}

/// The line that ends a stage, if it deserves one.
fn ending(event: &Event) -> Option<String> {
    match event {
        Event::StageFinished { stage, how, seconds, .. } => {
            let word = match how {
                How::Reused => return None,
                How::Built => "built",
                How::Fetched => "fetched",
                How::Resumed => "resumed",
            };
            Some(format!("{word:<8} {stage}  {}", format::duration(*seconds)))
        }
        // Why is said once, at the end, where it cannot be missed; so is what was skipped.
        Event::StageFailed { stage, seconds, .. } => Some(format!("failed   {stage}  {}", format::duration(*seconds))),
        Event::StageWaiting { stage, holder } => Some(format!("waiting  {stage}  {holder} is making the same")),
        Event::StageHeldBack { stage, behind } => Some(format!("waiting  {stage}  goes on from what {behind} leaves")),
        Event::RunStopping { running: 0 } => None,
        Event::RunStopping { running } => {
            let stages = if *running == 1 { "1 stage goes".to_owned() } else { format!("{running} stages go") };
            Some(format!("stopping {stages} to a good point first; ctrl-c again gives up at once"))
        }
        Event::Stage { stage, said } => match said {
            StageEvent::Warning { message } => Some(format!("warning: {stage}: {message}")),
            StageEvent::Note { message } => Some(format!("note: {stage}: {message}")),
            StageEvent::Resumed { from } => Some(format!("resuming {stage}  from {from}")),
            _ => None,
        },
        _ => None,
    }
}

/// `step 120 of 400  loss 2.31`
fn progress(said: &StageEvent) -> Option<String> {
    match said {
        StageEvent::Progress { done, total: Some(total), unit } => {
            Some(format!("{} of {} {unit}", format::count(*done), format::count(*total)))
        }
        StageEvent::Progress { done, total: None, unit } => Some(format!("{} {unit}", format::count(*done))),
        _ => None,
    }
}

/// The figures worth a glance.
fn figures(values: &serde_json::Map<String, serde_json::Value>) -> String {
    const SHOWN: &[&str] = &["loss", "tokens-per-second"];
    let shown = SHOWN.iter().filter_map(|name| {
        let value = values.get(*name)?.as_f64()?;
        Some(if *name == "tokens-per-second" { format!("{value:.0} tokens/s") } else { format!("{name} {value:.4}") })
    });
    shown.collect::<Vec<_>>().join("  ")
}

/// Lines for logs and pipes.
#[derive(Default)]
struct Plain {
    last: BTreeMap<String, Instant>,
    figures: BTreeMap<String, String>,
}

impl Subscriber for Plain {
    fn on(&mut self, event: &Event) {
        match event {
            Event::RunStarted { .. } => words(&opening(event)),
            Event::StageStarted { stage, why, .. } => {
                self.last.insert(stage.clone(), Instant::now());
                words(&format!("running  {stage}  {}", why.first().map_or("", String::as_str)));
            }
            Event::Stage { stage, said: StageEvent::Metrics { values, .. } } => {
                self.figures.insert(stage.clone(), figures(values));
            }
            Event::Stage { stage, said } => {
                let due = self.last.get(stage).is_none_or(|last| last.elapsed() > PLAIN_EVERY);
                if let Some(line) = ending(event) {
                    words(&line);
                } else if let (true, Some(line)) = (due, progress(said)) {
                    self.last.insert(stage.clone(), Instant::now());
                    let figures = self.figures.get(stage).map_or("", String::as_str);
                    words(format!("         {stage}  {line}  {figures}").trim_end());
                }
            }
            _ => {
                if let Some(line) = ending(event) {
                    words(&line);
                }
            }
        }
    }
}

/// Bars for a terminal.
struct Bars {
    all: MultiProgress,
    bars: BTreeMap<String, ProgressBar>,
}

impl Bars {
    fn new() -> Self {
        Self { all: MultiProgress::new(), bars: BTreeMap::new() }
    }

    fn line(&self, text: &str) {
        if self.bars.is_empty() {
            words(text);
        } else {
            // The line goes above the bars; a terminal that is gone shows nothing.
            _ = self.all.println(text);
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // A template that does not parse would be a fault of ours; the default bar is still a bar.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─")
}

impl Subscriber for Bars {
    fn on(&mut self, event: &Event) {
        match event {
            Event::RunStarted { .. } => words(&opening(event)),
            Event::StageStarted { stage, .. } => {
                let bar = self.all.add(ProgressBar::new_spinner());
                bar.set_style(style("{spinner} {prefix}  {elapsed}  {msg}"));
                bar.set_prefix(stage.clone());
                bar.enable_steady_tick(Duration::from_millis(120));
                self.bars.insert(stage.clone(), bar);
            }
            Event::Stage { stage, said: StageEvent::Progress { done, total, .. } } => {
                if let (Some(bar), Some(total)) = (self.bars.get(stage), total) {
                    if bar.length() != Some(*total) {
                        bar.set_length(*total);
                        bar.set_style(style(
                            "{spinner} {prefix}  {bar:24} {human_pos}/{human_len}  {elapsed} (left {eta})  {msg}",
                        ));
                    }
                    bar.set_position(*done);
                }
            }
            Event::Stage { stage, said: StageEvent::Metrics { values, .. } } => {
                if let Some(bar) = self.bars.get(stage) {
                    bar.set_message(figures(values));
                }
            }
            _ => {
                if let Event::StageFinished { stage, .. }
                | Event::StageFailed { stage, .. }
                | Event::StageSkipped { stage, .. } = event
                    && let Some(bar) = self.bars.remove(stage)
                {
                    bar.finish_and_clear();
                }
                if let Some(line) = ending(event) {
                    self.line(&line);
                }
            }
        }
    }
}
