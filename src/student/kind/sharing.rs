//! What `why` says of a training's steps: how many are stored, and what keeps the others from being shared.

use serde_json::Value;
use stillhouse_spec::registry::OneOf;
use stillhouse_spec::{Config, Diagnostics, Each, Node};
use stillhouse_stage::{Against, Context, Explained, Failure};

use super::config::StudentConfig;
use super::job::{Job, losses};
use crate::loss::Loss;
use crate::schedule::Schedule;
use crate::trainer::{CheckpointStore, Losses, StoredCheckpoints};

pub(super) fn remarks(explained: &Explained<'_>) -> Vec<String> {
    let Some(config) = explained.view.config_as::<StudentConfig>() else { return Vec::new() };
    let stored = explained.context.as_ref().map(|context| match stored(context) {
        Ok(stored) => in_words(&stored, config, explained.against.as_ref()),
        Err(failure) => format!("how many of its {} steps are stored can't be told: {}", config.steps, failure.message),
    });
    stored.into_iter().chain([format!("with more steps it would share {}", config.shared())]).collect()
}

/// Steps that a training would not train.
#[derive(Debug, PartialEq, Eq)]
struct Stored {
    /// How many.
    steps: u64,
    /// Whether `early-stop` ends the training there.
    is_end: bool,
}

/// As the training finds out itself what it goes on from.
fn stored(context: &Context) -> Result<Stored, Failure> {
    let job = Job::open(context)?;
    let trajectory = job.trajectory()?;
    let checkpoints = StoredCheckpoints::new(context.store());
    let mut limit = job.config.steps;
    loop {
        let steps = trajectory.longest_prefix_up_to(limit, |key| checkpoints.has(key))?;
        let (Some(key), Some(rule)) = (trajectory.key(steps), &job.config.early_stop) else {
            return Ok(Stored { steps, is_end: false });
        };
        match checkpoints.measured(key)?.stops_at(rule.patience) {
            // A more patient training went on from where this one ends.
            Some(end) if end < steps => limit = end,
            end => return Ok(Stored { steps, is_end: end.is_some() }),
        }
    }
}

fn in_words(stored: &Stored, config: &StudentConfig, against: Option<&Against>) -> String {
    let (steps, all) = (stored.steps, config.steps);
    let there = match steps {
        _ if stored.is_end => return format!("the training ends early at step {steps}, which is stored"),
        0 => format!("none of its {all} steps is stored"),
        _ if steps == all => return format!("all of its {all} steps are stored: nothing is left to train"),
        _ => format!("goes on from step {steps} of {all}, which is stored"),
    };
    match against.and_then(|against| why_not_more(steps, config, against)) {
        Some(why) => format!("{there}: {why}"),
        None => there,
    }
}

/// What keeps a training from sharing more than its first `stored` steps with an earlier result; none where that result is
/// not what it goes on from, or where it can't be told.
fn why_not_more(stored: u64, config: &StudentConfig, against: &Against) -> Option<String> {
    let mut in_every = Vec::new();
    let mut from_a_step = Vec::new();
    for field in &against.fields {
        match reach(field)? {
            Reach::EveryState => in_every.push(field.as_str()),
            Reach::FromAStep => from_a_step.push(field.as_str()),
            Reach::Length | Reach::NoState => {}
        }
    }
    let in_every_one = |fields: &[&str]| {
        let are = if fields.len() == 1 { "is" } else { "are" };
        (stored == 0).then(|| format!("{} {are} in every one of them", in_a_row(fields)))
    };
    if !in_every.is_empty() {
        return in_every_one(&in_every);
    }
    let then = Then::read(&against.identity)?;
    if against.fields.iter().any(|field| field == "steps") && then.depends_on_length(config) {
        from_a_step.push("steps");
    }
    let common = then.common_steps(config);
    if common == 0 && !from_a_step.is_empty() {
        return in_every_one(&from_a_step);
    }
    let parted = (common < config.steps && !from_a_step.is_empty()).then(|| {
        let make = if from_a_step.len() == 1 { "makes" } else { "make" };
        format!("{} {make} a difference from step {} on", in_a_row(&from_a_step), common + 1)
    });
    let lost = (stored < common).then(|| {
        let which = match (stored, &parted) {
            (0, None) => "of them".to_owned(),
            (0, Some(_)) => "before".to_owned(),
            (_, None) => format!("between there and step {common}"),
            (_, Some(_)) => "between".to_owned(),
        };
        format!("no checkpoint {which} was kept (see `checkpoint-every`, `keep.branches`)")
    });
    // With more steps stored than both have in common, it goes on from another training.
    let reasons: Vec<String> = parted.into_iter().chain(lost).collect();
    (stored <= common && !reasons.is_empty()).then(|| reasons.join(", and "))
}

/// `a`, `b` and `c`; of many, some.
fn in_a_row(fields: &[&str]) -> String {
    const NAMED: usize = 4;
    let mut quoted: Vec<String> = fields.iter().map(|field| format!("`{field}`")).collect();
    if quoted.len() > NAMED {
        quoted.truncate(NAMED - 1);
        quoted.push(format!("{} more", fields.len() - quoted.len()));
    }
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// Which states of a training a field of its recipe is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    EveryState,
    /// It moves the rate or a loss's weight.
    FromAStep,
    /// It says where the training ends; the rest is the schedule's to say.
    Length,
    NoState,
}

/// See `identity.rs` for what is in every state. None for a field that is not known here.
fn reach(field: &str) -> Option<Reach> {
    let mut names = field.split('.');
    let names = [names.next(), names.next(), names.next(), names.next()];
    Some(match names {
        [Some("schedule"), ..] => Reach::FromAStep,
        // A weight that is a number is in every state, one that is a line only as far as it moves.
        [Some("loss"), Some(_), Some("weight"), Some(_)] => Reach::FromAStep,
        [Some("steps"), ..] => Reach::Length,
        [Some("early-stop"), Some("patience"), ..] => Reach::NoState,
        [
            Some(
                "revision" | "seed" | "inputs" | "files" | "init" | "tokenizer" | "data" | "teacher" | "on-policy"
                | "loss" | "optimizer" | "batch" | "clip" | "precision" | "freeze" | "lora" | "ema" | "early-stop",
            ),
            ..,
        ] => Reach::EveryState,
        _ => return None,
    })
}

/// What moved in an earlier training.
struct Then {
    schedule: OneOf<dyn Schedule>,
    loss: Each<dyn Loss>,
    steps: u64,
}

impl Then {
    /// From the settings of a recipe; none if they are of a form that is read no longer.
    fn read(identity: &Value) -> Option<Self> {
        Some(Self {
            schedule: decoded(identity, "schedule")?,
            loss: decoded(identity, "loss")?,
            steps: decoded(identity, "steps")?,
        })
    }

    /// Whether the number of steps moves the rate, then or now.
    fn depends_on_length(&self, now: &StudentConfig) -> bool {
        [&self.schedule, &now.schedule].iter().any(|schedule| schedule.value.why_not_shared().is_some())
    }

    /// So many first steps have equal rates and weights of losses.
    fn common_steps(&self, now: &StudentConfig) -> u64 {
        let then = Losses::new(self.loss.values.iter().map(|(name, loss)| (*name, loss.as_ref() as &dyn Loss)));
        let weights = |losses: &Losses<'_>, step| -> Vec<u64> {
            losses.at(step).iter().map(|loss| loss.weight.to_bits()).collect()
        };
        let now_losses = losses(now);
        let same = |step: &u64| {
            let factor = |schedule: &OneOf<dyn Schedule>, steps| schedule.value.factor(*step, steps).to_bits();
            factor(&self.schedule, self.steps) == factor(&now.schedule, now.steps)
                && weights(&then, *step) == weights(&now_losses, *step)
        };
        let both = self.steps.min(now.steps);
        (0..both).find(|step| !same(step)).unwrap_or(both)
    }
}

fn decoded<C: Config>(identity: &Value, name: &str) -> Option<C> {
    C::decode(&Node::from_json(identity.get(name)?), &mut Diagnostics::default())
}

#[cfg(test)]
mod tests;
