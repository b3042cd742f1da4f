//! Which checkpoints stay.

use stillhouse_spec::Config;

use super::checkpoint::{Checkpoint, CheckpointStore};
use super::memory;
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
    /// One every so many steps, for ever, whatever `max-bytes` says; 0 none.
    #[config(default = 0)]
    pub every: u64,
    /// Where trainings of other lengths or other decays can branch off: so many of the steps that they share, at a half, three
    /// quarters, seven eighths … of these (the checkpoint before each).
    #[config(default = 3, max = 16)]
    pub branches: u32,
    /// At most so many bytes of one training's checkpoints: the oldest go first, never the latest and never those that always
    /// stay. Those of `every` are not counted. 0 sets no limit.
    #[config(default = 0)]
    pub max_bytes: u64,
}

/// As little as a training needs that nobody branches off.
impl Default for Keep {
    fn default() -> Self {
        Self { last: 1, best: 0, every: 0, branches: 0, max_bytes: 0 }
    }
}

impl Keep {
    /// What stays where a file says nothing.
    pub fn usual() -> Self {
        Self { branches: 3, ..Self::default() }
    }

    /// The largest step at or before each point where others can branch off, of the steps that they share.
    fn branches_of(&self, steps: &[u64], shared: u64) -> Vec<u64> {
        let points = (1..=self.branches).map(|number| shared - (shared >> number));
        points.filter_map(|point| steps.iter().copied().filter(|step| *step <= point).max()).collect()
    }
}

/// A checkpoint that is there.
#[derive(Debug, Clone, PartialEq)]
struct Kept {
    step: u64,
    bytes: u64,
    /// The measurement at its step, if there was one.
    value: Option<f64>,
    /// It may go when this training no longer needs it.
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
    /// The state with which the training ended.
    last: Option<Checkpoint>,
}

impl<'a> Keeper<'a> {
    pub(super) fn new(
        keep: &'a Keep,
        trajectory: &'a Trajectory,
        checkpoints: &'a dyn CheckpointStore,
        every: u64,
        always: [u64; 2],
    ) -> Self {
        Self { keep, trajectory, checkpoints, every, always, kept: Vec::new(), last: None }
    }

    /// Takes charge of what an interrupted run of the same training left behind, up to the step that this one goes on from.
    /// What other trainings left, or are about to go on from, is theirs.
    pub(super) fn take_over(&mut self, resumed_from: u64, measured: &[(u64, f64)]) -> Result<()> {
        for step in 1..=resumed_from {
            let Some(key) = self.trajectory.key(step) else { break };
            let Some(bytes) = self.checkpoints.passing(key, &self.trajectory.last())? else { continue };
            let value = measured.iter().find(|(at, _)| *at == step).map(|(_, value)| *value);
            self.kept.push(Kept { step, bytes, value, passing: !self.stays(step) });
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
        let always = ends || self.stays(step);
        let among_best = value.is_some_and(|value| {
            self.keep.best > 0
                && !value.is_nan()
                && self.kept.iter().filter(|kept| kept.value.is_some_and(|kept| kept <= value)).count() < self.keep.best
        });
        if always || due(step, self.every) || among_best {
            let checkpoint = self.save(state, value, !always)?;
            self.last = checkpoint.filter(|_| ends || step == self.always[0]);
            // Only now that a later one is safe may earlier ones go.
            self.forget()?;
        }
        Ok(())
    }

    /// Whether the checkpoint of a step stays whatever comes.
    fn stays(&self, step: u64) -> bool {
        self.always.contains(&step) || due(step, self.keep.every)
    }

    /// Saves the state as it is, whatever the policy, and gives what was saved; none before the first step.
    ///
    /// # Errors
    /// Weights that are not numbers: such a checkpoint would be of no use to anybody.
    pub(super) fn save<B: TrainBackend>(
        &mut self,
        state: &State<B>,
        value: Option<f64>,
        passing: bool,
    ) -> Result<Option<Checkpoint>> {
        let (step, owner) = (state.steps(), self.trajectory.last());
        let Some(key) = self.trajectory.key(step).filter(|_| step > 0) else { return Ok(None) };
        let mut checkpoint = state.checkpoint();
        checkpoint.passing_for = passing.then_some(owner).into_iter().collect();
        if let Some(name) = checkpoint.not_finite() {
            return Err(StudentError::training(
                format!("after step {step} `{name}` holds values that are no numbers, so no checkpoint is made of it"),
                "a lower learning rate usually helps",
            ));
        }
        self.checkpoints.save(key, &checkpoint)?;
        // It may have to stay for another training though it is passing for this one.
        let passing = passing && self.checkpoints.passing(key, &owner)?.is_some();
        self.kept.retain(|kept| kept.step != step);
        self.kept.push(Kept { step, bytes: checkpoint.bytes(), value, passing });
        Ok(Some(checkpoint))
    }

    /// Saves the state that a failing step leaves whole, so that none of the steps before it is lost; where the training
    /// diverged, says in the error where it is.
    pub(super) fn save_whole<B: TrainBackend>(
        &mut self,
        mut error: StudentError,
        state: &State<B>,
        resumed_from: u64,
    ) -> StudentError {
        // A training of fewer steps may go on from where this one diverged.
        let passing = !matches!(error, StudentError::Diverged { .. });
        // Should that fail (a full disk, weights that are no numbers, too little memory for a copy), an earlier checkpoint is
        // the last good one.
        let saved = memory::caught(|| self.save(state, None, passing));
        let saved = matches!(saved, Ok(Ok(Some(_)))).then_some(state.steps());
        if let StudentError::Diverged { kept, .. } = &mut error {
            let latest = self.kept.iter().map(|kept| kept.step).max();
            *kept = saved.or(latest).or((resumed_from > 0).then_some(resumed_from));
        }
        error
    }

    /// The state with which the training ended, if it was saved here.
    pub(super) fn into_last(self) -> Option<Checkpoint> {
        self.last
    }

    fn forget(&mut self) -> Result<()> {
        let steps = surplus(&self.kept, self.keep, self.always[1]);
        let keys: Vec<_> = steps.iter().filter_map(|step| self.trajectory.key(*step).copied()).collect();
        if !keys.is_empty() {
            self.checkpoints.discard(&keys, &self.trajectory.last())?;
            self.kept.retain(|kept| !steps.contains(&kept.step));
        }
        Ok(())
    }
}

/// Whether one of every so many steps is this one.
fn due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

/// The steps whose checkpoints may go; other trainings can share the first `shared`.
fn surplus(kept: &[Kept], keep: &Keep, shared: u64) -> Vec<u64> {
    let mut steps: Vec<u64> = kept.iter().map(|kept| kept.step).collect();
    steps.sort_unstable_by(|a, b| b.cmp(a));
    let latest = &steps[..keep.last.min(steps.len())];
    let measured = kept.iter().filter_map(|kept| Some((kept.value?, kept.step)));
    // A NaN with a sign would sort before every number.
    let mut measured: Vec<(f64, u64)> = measured.filter(|(value, _)| !value.is_nan()).collect();
    measured.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let best: Vec<u64> = measured.iter().take(keep.best).map(|(_, step)| *step).collect();
    let branches = keep.branches_of(&steps, shared);
    let stays = |kept: &Kept| {
        let step = kept.step;
        !kept.passing || latest.contains(&step) || best.contains(&step) || branches.contains(&step)
    };
    let (mut stay, go): (Vec<&Kept>, Vec<&Kept>) = kept.iter().partition(|kept| stays(kept));
    let mut surplus: Vec<u64> = go.iter().map(|kept| kept.step).collect();
    stay.sort_by_key(|kept| kept.step);
    let counted = stay.iter().filter(|kept| !due(kept.step, keep.every));
    let mut bytes: u64 = counted.map(|kept| kept.bytes).sum();
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
        let surplus_of = |keep: Keep| surplus(&there, &keep, 0);
        assert_eq!(surplus_of(Keep::default()), [10, 20, 30, 40, 50]);
        assert_eq!(surplus_of(Keep { last: 3, ..Keep::default() }), [10, 20, 30]);
        assert_eq!(surplus_of(Keep { best: 2, ..Keep::default() }), [10, 40, 50]);
        assert_eq!(surplus_of(Keep { last: 9, ..Keep::default() }), [0; 0]);
    }

    #[test]
    fn what_is_no_number_is_never_among_the_best() {
        for no_number in [f64::NAN, -f64::NAN] {
            let mut there = kept(&[10, 20, 30, 40]);
            there[0].value = Some(no_number);
            assert_eq!(surplus(&there, &Keep { best: 1, ..Keep::default() }, 0), [10, 20], "{no_number}");
        }
    }

    #[test]
    fn a_limit_drops_the_oldest_but_never_the_latest_and_never_what_others_share() {
        let mut there = kept(&[10, 20, 30, 40]);
        there[0].passing = false;
        let surplus_of = |max_bytes| surplus(&there, &Keep { last: 4, max_bytes, ..Keep::default() }, 0);
        assert_eq!(surplus_of(400), [0; 0]);
        assert_eq!(surplus_of(399), [20]);
        assert_eq!(surplus_of(200), [20, 30]);
        assert_eq!(surplus_of(1), [20, 30]);
        assert_eq!(surplus(&[], &Keep::default(), 0), [0; 0]);
        let keep = Keep { last: 4, max_bytes: 300, every: 10, ..Keep::default() };
        there.iter_mut().for_each(|kept| kept.passing = false);
        assert_eq!(surplus(&there, &keep, 0), [0; 0]);
        // One every ten steps is outside the limit.
        let mut there = kept(&[10, 11, 12, 13]);
        there[0].passing = false;
        assert_eq!(surplus(&there, &keep, 0), [0; 0]);
        assert_eq!(surplus(&there, &Keep { max_bytes: 299, ..keep }, 0), [11]);
    }

    #[test]
    fn others_can_branch_off_along_all_that_they_share() {
        let keep = Keep { branches: 3, ..Keep::default() };
        let mut there = Vec::new();
        // A decay of 40 steps at the end of 400, a checkpoint every 50.
        for step in (50..=400).step_by(50) {
            there.extend(kept(&[step]));
            let surplus = surplus(&there, &keep, 361);
            there.retain(|kept| !surplus.contains(&kept.step));
        }
        let steps: Vec<u64> = there.iter().map(|kept| kept.step).collect();
        assert_eq!(steps, [150, 250, 300, 400], "before 181, 271 and 316 of the 361, and the last");
        assert_eq!(surplus(&there, &Keep { max_bytes: 200, ..keep }, 361), [150, 250]);
    }
}
