//! How the learning rate moves: one file a schedule, one line in [`SCHEDULES`].

pub mod constant;
pub mod cosine;
pub mod wsd;

use stillhouse_spec::entry;
use stillhouse_spec::registry::{Component, Entry, Registry};

/// Every schedule. A new one is a file of its own and a line here.
pub static SCHEDULES: &[Entry<dyn Schedule>] = &[
    entry!("constant", constant::Constant as dyn Schedule),
    entry!("cosine", cosine::Cosine as dyn Schedule),
    entry!("wsd", wsd::Wsd as dyn Schedule),
];

impl Registry for dyn Schedule {
    const WHAT: &'static str = "schedule";
    fn entries() -> &'static [Entry<Self>] {
        SCHEDULES
    }
}

/// A factor on the learning rate for every step.
pub trait Schedule: Component + Send + Sync {
    /// The factor at `step` (from 0) of `steps`.
    fn factor(&self, step: u64, steps: u64) -> f64;

    /// The number of first steps whose factors stay as they are when `steps` grows: as far as a longer training can
    /// share this one's checkpoints. With less than all of them, a checkpoint there is worth keeping.
    fn shared_steps(&self, steps: u64) -> u64;

    /// How all rates begin that a length or an end is then put to: trainings that are alike but for these, and give equal
    /// words, share the steps before the first of their ends. None where the length matters from the beginning.
    fn beginning(&self) -> Option<String>;

    /// Why a longer training can't share more, in words for `why`.
    fn why_not_shared(&self) -> Option<&'static str>;

    /// What does not fit a training of `steps` steps.
    fn complaint(&self, steps: u64) -> Option<String>;
}

/// See [`Schedule::beginning`].
fn flat_after(warmup: u64) -> Option<String> {
    Some(format!("flat after a warm-up of {warmup} steps"))
}

/// Linear warm-up: `(step + 1) / warmup`, then 1.
fn warm_up(step: u64, warmup: u64) -> f64 {
    if step < warmup { (step + 1) as f64 / warmup as f64 } else { 1.0 }
}

fn warmup_complaint(warmup: u64, steps: u64) -> Option<String> {
    (warmup > steps).then(|| format!("a warm-up of {warmup} steps does not fit into {steps} steps"))
}

#[cfg(test)]
mod tests {
    use super::constant::Constant;
    use super::cosine::Cosine;
    use super::wsd::Wsd;
    use super::*;

    fn factors(schedule: &dyn Schedule, steps: u64) -> Vec<f64> {
        (0..steps).map(|step| (schedule.factor(step, steps) * 1e3).round() / 1e3).collect()
    }

    #[test]
    fn constant_warms_up_and_stays() {
        assert_eq!(factors(&Constant { warmup: 4 }, 6), [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]);
        assert_eq!(factors(&Constant { warmup: 0 }, 2), [1.0, 1.0]);
    }

    #[test]
    fn cosine_falls_to_its_floor_and_never_below() {
        assert_eq!(factors(&Cosine { warmup: 2, floor: 0.0 }, 6), [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]);
        let floored = factors(&Cosine { warmup: 0, floor: 0.1 }, 100);
        assert!(floored[99] >= 0.1 && floored[99] < 0.11);
    }

    #[test]
    fn wsd_is_flat_then_falls_and_never_wastes_a_step_on_a_rate_of_zero() {
        let schedule = Wsd { warmup: 2, decay: 4, floor: 0.0 };
        assert_eq!(factors(&schedule, 8), [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]);
    }

    #[test]
    fn what_is_said_to_be_shared_is() {
        let schedules: [&dyn Schedule; 3] =
            [&Constant { warmup: 3 }, &Cosine { warmup: 3, floor: 0.1 }, &Wsd { warmup: 3, decay: 5, floor: 0.0 }];
        for schedule in schedules {
            let shared = schedule.shared_steps(20) as usize;
            let (short, long) = (factors(schedule, 20), factors(schedule, 40));
            assert_eq!(short[..shared], long[..shared], "{schedule:?}");
            assert!(shared == 20 || short[shared..] != long[shared..20], "{schedule:?}");
            assert_eq!(schedule.why_not_shared().is_none(), shared == 20);
        }
        let beginnings = schedules.map(|schedule| schedule.beginning());
        assert!(beginnings[0] == beginnings[2] && beginnings[0].is_some(), "{beginnings:?}");
        assert_eq!(beginnings[1], None);
        let flat = [schedules[0], schedules[2]].map(|schedule| factors(schedule, 20));
        assert_eq!(flat[0][..16], flat[1][..16]);
        for other in [Constant { warmup: 4 }.beginning(), Wsd { warmup: 0, decay: 5, floor: 0.0 }.beginning()] {
            assert!(other.is_some() && other != beginnings[0], "{other:?}");
        }
    }

    #[test]
    fn phases_that_do_not_fit_are_said() {
        let complaint = Wsd { warmup: 3, decay: 5, floor: 0.0 }.complaint(7).unwrap();
        assert_eq!(complaint, "a warm-up of 3 and a decay of 5 steps do not fit into 7 steps");
        assert!(Constant { warmup: 8 }.complaint(7).is_some());
        assert!(Cosine { warmup: 7, floor: 0.0 }.complaint(7).is_none());
    }
}
