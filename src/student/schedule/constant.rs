//! Warm-up, then constant.

use stillhouse_spec::Config;

use super::{Schedule, flat_after, warm_up, warmup_complaint};

/// Warm-up, then constant. A longer training goes on where a shorter one ended.
#[derive(Clone, Debug, Config)]
pub struct Constant {
    /// Steps over which the rate rises linearly.
    #[config(default = 0)]
    pub warmup: u64,
}

impl Schedule for Constant {
    fn factor(&self, step: u64, _steps: u64) -> f64 {
        warm_up(step, self.warmup)
    }

    fn shared_steps(&self, steps: u64) -> u64 {
        steps
    }

    fn beginning(&self) -> Option<String> {
        flat_after(self.warmup)
    }

    fn why_not_shared(&self) -> Option<&'static str> {
        None
    }

    fn complaint(&self, steps: u64) -> Option<String> {
        warmup_complaint(self.warmup, steps)
    }
}
