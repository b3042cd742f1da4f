//! Which checkpoints stay.

use stillhouse_spec::Config;

use super::checkpoint::CheckpointStore;
use super::state::State;
use super::trajectory::Trajectory;
use crate::backend::TrainBackend;
use crate::error::{Result, StudentError};

/// Which checkpoints of a training stay. The final one, and the one that longer trainings share, always do.
#[derive(Clone, Debug, PartialEq, Config)]
pub struct Keep {
    /// The latest so many.
    #[config(default = 1, min = 1)]
    pub last: usize,
    /// The best so many by `early-stop`'s measurements.
    #[config(default = 0)]
    pub best: usize,
    /// One every so many steps, for ever; 0 none.
    #[config(default = 0)]
    pub every: u64,
    /// At most so many bytes of one training's checkpoints: the oldest go first, never the latest and never those that
    /// always stay. 0 sets no limit.
    #[config(default = 0)]
    pub max_bytes: u64,
}

impl Default for Keep {
    fn default() -> Self {
        Self { last: 1, best: 0, every: 0, max_bytes: 0 }
    }
}

/// A checkpoint that is there.
#[derive(Debug, Clone, PartialEq)]
struct Kept {
    step: u64,
    bytes: u64,
    /// The measurement at its step, if there was one.
    value: Option<f64>,
    /// Only this training needs it.
    passing: bool,
}

/// Saves and forgets the checkpoints of one training.
pub(super) struct Keeper<'a> {
    pub(super) keep: &'a Keep,
    pub(super) trajectory: &'a Trajectory,
    pub(super) checkpoints: &'a dyn CheckpointStore,
    /// Steps between checkpoints for a crash.
    pub(super) every: u64,
    /// The last step, and the last that longer trainings share.
    pub(super) always: [u64; 2],
    kept: Vec<Kept>,
}

impl<'a> Keeper<'a> {
    pub(super) fn new(
        keep: &'a Keep,
        trajectory: &'a Trajectory,
        checkpoints: &'a dyn CheckpointStore,
        every: u64,
        always: [u64; 2],
    ) -> Self {
        Self { keep, trajectory, checkpoints, every, always, kept: Vec::new() }
    }

    /// Takes charge of what an interrupted run left behind, up to the step that this one goes on from.
    pub(super) fn take_over(&mut self, resumed_from: u64, measured: &[(u64, f64)]) -> Result<()> {
        for step in 1..=resumed_from {
            let Some(key) = self.trajectory.key(step) else { break };
            let Some(bytes) = self.checkpoints.passing(key)? else { continue };
            let value = measured.iter().find(|(at, _)| *at == step).map(|(_, value)| *value);
            self.kept.push(Kept { step, bytes, value, passing: true });
        }
        Ok(())
    }

    /// Saves where a checkpoint is due, then forgets what need not stay.
    pub(super) fn after_step<B: TrainBackend>(
        &mut self,
        state: &State<B>,
        value: Option<f64>,
        ends: bool,
    ) -> Result<()> {
        let step = state.steps();
        let always = ends || self.always.contains(&step);
        let due = |every: u64| every > 0 && step.is_multiple_of(every);
        let among_best = value.is_some_and(|value| {
            self.keep.best > 0
                && !value.is_nan()
                && self.kept.iter().filter(|kept| kept.value.is_some_and(|kept| kept <= value)).count() < self.keep.best
        });
        if always || due(self.every) || due(self.keep.every) || among_best {
            self.save(state, value, !always)?;
            // Only now that a later one is safe may earlier ones go.
            self.forget()?;
        }
        Ok(())
    }

    /// Saves the state as it is, whatever the policy.
    ///
    /// # Errors
    /// Weights that are not numbers: such a checkpoint would be of no use to anybody.
    pub(super) fn save<B: TrainBackend>(&mut self, state: &State<B>, value: Option<f64>, passing: bool) -> Result<()> {
        let step = state.steps();
        let Some(key) = self.trajectory.key(step).filter(|_| step > 0) else { return Ok(()) };
        let mut checkpoint = state.checkpoint();
        checkpoint.passing = passing;
        if let Some(name) = checkpoint.not_finite() {
            return Err(StudentError::training(
                format!("after step {step} `{name}` holds values that are no numbers, so no checkpoint is made of it"),
                "a lower learning rate usually helps",
            ));
        }
        // Another training may have to keep this state though it is passing for this one.
        let needed_elsewhere = passing && self.checkpoints.has(key)? && self.checkpoints.passing(key)?.is_none();
        if !needed_elsewhere {
            self.checkpoints.save(key, &checkpoint)?;
        }
        self.kept.retain(|kept| kept.step != step);
        self.kept.push(Kept { step, bytes: checkpoint.bytes(), value, passing: passing && !needed_elsewhere });
        Ok(())
    }

    /// The step of the latest checkpoint.
    pub(super) fn latest(&self) -> Option<u64> {
        self.kept.iter().map(|kept| kept.step).max()
    }

    fn forget(&mut self) -> Result<()> {
        for step in surplus(&self.kept, self.keep) {
            if let Some(key) = self.trajectory.key(step) {
                // Unless meanwhile another training made it one of those that always stay.
                self.checkpoints.discard(key)?;
            }
            self.kept.retain(|kept| kept.step != step);
        }
        Ok(())
    }
}

/// The steps whose checkpoints may go.
fn surplus(kept: &[Kept], keep: &Keep) -> Vec<u64> {
    let mut steps: Vec<u64> = kept.iter().map(|kept| kept.step).collect();
    steps.sort_unstable_by(|a, b| b.cmp(a));
    let latest = &steps[..keep.last.min(steps.len())];
    let measured = kept.iter().filter_map(|kept| Some((kept.value?, kept.step)));
    // A NaN with a sign would sort before every number.
    let mut measured: Vec<(f64, u64)> = measured.filter(|(value, _)| !value.is_nan()).collect();
    measured.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let best: Vec<u64> = measured.iter().take(keep.best).map(|(_, step)| *step).collect();
    let stays = |kept: &Kept| {
        let step = kept.step;
        !kept.passing
            || latest.contains(&step)
            || best.contains(&step)
            || (keep.every > 0 && step.is_multiple_of(keep.every))
    };
    let (mut stay, go): (Vec<&Kept>, Vec<&Kept>) = kept.iter().partition(|kept| stays(kept));
    let mut surplus: Vec<u64> = go.iter().map(|kept| kept.step).collect();
    stay.sort_by_key(|kept| kept.step);
    let mut bytes: u64 = stay.iter().map(|kept| kept.bytes).sum();
    for kept in stay.iter().filter(|kept| kept.passing && Some(&kept.step) != steps.first()) {
        if keep.max_bytes == 0 || bytes <= keep.max_bytes {
            break;
        }
        bytes -= kept.bytes;
        surplus.push(kept.step);
    }
    surplus.sort_unstable();
    surplus
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(steps: &[u64]) -> Vec<Kept> {
        // The value falls to step 30 and rises again.
        let one = |step: &u64| Kept { step: *step, bytes: 100, value: Some(step.abs_diff(30) as f64), passing: true };
        steps.iter().map(one).collect()
    }

    #[test]
    fn the_latest_the_best_and_every_nth_stay() {
        let there = kept(&[10, 20, 30, 40, 50, 60]);
        let surplus_of = |keep: Keep| surplus(&there, &keep);
        assert_eq!(surplus_of(Keep::default()), [10, 20, 30, 40, 50]);
        assert_eq!(surplus_of(Keep { last: 3, ..Keep::default() }), [10, 20, 30]);
        assert_eq!(surplus_of(Keep { best: 2, ..Keep::default() }), [10, 40, 50]);
        assert_eq!(surplus_of(Keep { every: 20, ..Keep::default() }), [10, 30, 50]);
        assert_eq!(surplus_of(Keep { last: 9, ..Keep::default() }), [0; 0]);
    }

    #[test]
    fn what_is_no_number_is_never_among_the_best() {
        for no_number in [f64::NAN, -f64::NAN] {
            let mut there = kept(&[10, 20, 30, 40]);
            there[0].value = Some(no_number);
            assert_eq!(surplus(&there, &Keep { best: 1, ..Keep::default() }), [10, 20], "{no_number}");
        }
    }

    #[test]
    fn a_limit_drops_the_oldest_but_never_the_latest_and_never_what_others_share() {
        let mut there = kept(&[10, 20, 30, 40]);
        there[0].passing = false;
        let surplus_of = |max_bytes| surplus(&there, &Keep { last: 4, max_bytes, ..Keep::default() });
        assert_eq!(surplus_of(400), [0; 0]);
        assert_eq!(surplus_of(399), [20]);
        assert_eq!(surplus_of(200), [20, 30]);
        assert_eq!(surplus_of(1), [20, 30]);
        assert_eq!(surplus(&[], &Keep::default()), [0; 0]);
    }
}
