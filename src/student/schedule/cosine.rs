//! Warm-up, then half a cosine down.

use stillhouse_spec::Config;

use super::{Schedule, warm_up, warmup_complaint};

/// Warm-up, then half a cosine down to `floor` (Loshchilov and Hutter, 2017, without restarts). Depends on the number of
/// steps from the first step after the warm-up, so a longer training shares only the warm-up.
#[derive(Clone, Debug, Config)]
pub struct Cosine {
    /// Steps over which the rate rises linearly.
    #[config(default = 0)]
    pub warmup: u64,
    /// Factor that the rate falls to.
    #[config(default = 0.1, min = 0, max = 1)]
    pub floor: f64,
}

impl Schedule for Cosine {
    fn factor(&self, step: u64, steps: u64) -> f64 {
        if step < self.warmup {
            return warm_up(step, self.warmup);
        }
        let share = (step - self.warmup) as f64 / steps.saturating_sub(self.warmup).max(1) as f64;
        // libm's cosine: learning rates are part of a trajectory's key, which is the same on every platform.
        self.floor + (1.0 - self.floor) * 0.5 * (1.0 + libm::cos(std::f64::consts::PI * share))
    }

    fn shared_steps(&self, steps: u64) -> u64 {
        // The first step of the cosine has the factor 1 whatever the length.
        (self.warmup + 1).min(steps)
    }

    fn beginning(&self) -> Option<String> {
        None
    }

    fn why_not_shared(&self) -> Option<&'static str> {
        Some("a cosine depends on the number of steps; `wsd` and `constant` share what lies before")
    }

    fn complaint(&self, steps: u64) -> Option<String> {
        warmup_complaint(self.warmup, steps)
    }
}
