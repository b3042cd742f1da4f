//! Warm-up, stable, decay.

use stillhouse_spec::Config;

use super::{Schedule, flat_after, warm_up};

/// Warm-up, then constant, then a linear decay over the last steps (Hu et al., 2024). Trainings of different lengths
/// share everything before the shorter one's decay.
#[derive(Clone, Debug, Config)]
pub struct Wsd {
    /// Steps over which the rate rises linearly.
    #[config(default = 0)]
    pub warmup: u64,
    /// Steps over which it falls at the end.
    pub decay: u64,
    /// Factor that the rate falls to.
    #[config(default = 0.0, min = 0, max = 1)]
    pub floor: f64,
}

impl Schedule for Wsd {
    fn factor(&self, step: u64, steps: u64) -> f64 {
        let left = steps.saturating_sub(step);
        if left > self.decay {
            return warm_up(step, self.warmup);
        }
        // 1 at the first step of the decay, 1/decay at the last: a rate of zero would train nothing.
        self.floor + (1.0 - self.floor) * left as f64 / self.decay as f64
    }

    fn shared_steps(&self, steps: u64) -> u64 {
        // The first step of the decay still has the factor 1.
        (steps.saturating_sub(self.decay) + 1).min(steps)
    }

    fn beginning(&self) -> Option<String> {
        flat_after(self.warmup)
    }

    fn why_not_shared(&self) -> Option<&'static str> {
        Some("the decay begins where the steps end; everything before it is shared")
    }

    fn complaint(&self, steps: u64) -> Option<String> {
        let fits = self.warmup + self.decay <= steps;
        (!fits).then(|| {
            format!("a warm-up of {} and a decay of {} steps do not fit into {steps} steps", self.warmup, self.decay)
        })
    }
}
