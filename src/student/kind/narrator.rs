//! Tells the stage's listeners about a training.

use std::time::Instant;

use serde_json::{Map, json};
use stillhouse_stage::{AtRisk, Context, StageEvent};

use crate::backend::DeviceMemory;
use crate::trainer::{Measured, Observer, StepReport, memory};

/// Says progress, figures and warnings.
pub(super) struct Narrator<'a> {
    context: &'a Context,
    every: u64,
    /// What a token costs and what the device can do, both in operations; none where either is not known.
    operations: Option<(f64, f64)>,
    /// What the training takes of a device with memory of its own.
    device_memory: &'a dyn Fn() -> Option<DeviceMemory>,
    /// When the first step of this run ended, and which it was.
    first: Option<(Instant, u64)>,
    /// What was noted last: most steps are like the one before.
    noted: Option<AtRisk>,
}

impl<'a> Narrator<'a> {
    pub(super) fn new(
        context: &'a Context,
        every: u64,
        operations: Option<(f64, f64)>,
        device_memory: &'a dyn Fn() -> Option<DeviceMemory>,
    ) -> Self {
        Self { context, every: every.max(1), operations, device_memory, first: None, noted: None }
    }

    /// Seconds to the last step, at the pace of this run so far.
    fn seconds_left(&self, step: u64, steps: u64) -> Option<f64> {
        let (since, first) = self.first.filter(|(_, first)| step > *first)?;
        let pace = since.elapsed().as_secs_f64() / (step - first) as f64;
        Some(pace * steps.saturating_sub(step) as f64)
    }
}

impl Observer for Narrator<'_> {
    fn resumed(&mut self, step: u64, steps: u64) {
        self.context.say(StageEvent::Resumed { from: format!("step {step} of {steps}") });
    }

    fn stepped(&mut self, report: &StepReport, steps: u64, tokens_per_second: f64) {
        self.context.progress(report.step, Some(steps), "steps");
        let left = self.seconds_left(report.step, steps);
        self.first.get_or_insert_with(|| (Instant::now(), report.step));
        if !report.step.is_multiple_of(self.every) && report.step != steps && report.step != 1 {
            return;
        }
        let mut values = Map::new();
        values.insert("loss".into(), json!(report.loss));
        values.extend(report.parts.iter().filter_map(|part| Some((part.name.clone(), json!(part.mean?)))));
        values.insert("lr".into(), json!(report.lr));
        values.insert("gradient-norm".into(), json!(report.gradient_norm));
        values.insert("tokens-per-second".into(), json!(tokens_per_second.round()));
        if let Some((per_token, peak)) = self.operations {
            values.insert("mfu".into(), json!(round(tokens_per_second * per_token / peak)));
        }
        if let Some(bytes) = memory::resident() {
            values.insert("memory-bytes".into(), json!(bytes));
        }
        if let Some(memory) = (self.device_memory)() {
            values.insert("device-memory-bytes".into(), json!(memory.in_use));
            values.insert("device-memory-reserved-bytes".into(), json!(memory.reserved));
        }
        if let Some(seconds) = left {
            values.insert("seconds-left".into(), json!(seconds.round()));
        }
        self.context.say(StageEvent::Metrics { step: report.step, values });
    }

    fn measured(&mut self, step: u64, measured: &Measured) {
        let mut values = Map::new();
        values.extend(measured.loss.map(|loss| ("validation-loss".into(), json!(loss))));
        let parts = measured.parts.iter();
        let parts = parts.filter_map(|part| Some((format!("validation-{}", part.name), json!(part.mean?))));
        values.extend(parts);
        values.insert("best-so-far".into(), json!(measured.is_best));
        self.context.say(StageEvent::Metrics { step, values });
    }

    fn warn(&mut self, message: String) {
        self.context.warn(message);
    }

    fn at_risk(&mut self, doing: String, hint: &str, less_is_possible: bool) {
        let risk = AtRisk { doing, hint: hint.to_owned(), less_is_possible };
        if self.noted.as_ref() != Some(&risk) {
            self.context.at_risk(&risk);
            self.noted = Some(risk);
        }
    }

    fn is_cancelled(&self) -> bool {
        self.context.is_cancelled()
    }
}

/// To four digits after the point: a share is no more precise than that.
fn round(share: f64) -> f64 {
    (share * 1e4).round() / 1e4
}
