//! Stops a training that leaves its course: a loss far above those before it.

use std::collections::VecDeque;

use stillhouse_spec::Config;

/// When a loss has jumped.
#[derive(Clone, Debug, PartialEq, Config)]
pub struct Spike {
    /// So many times the mean of the steps before.
    #[config(default = 3.0, above = 1)]
    pub factor: f64,
    /// How many steps the mean is over; until so many were seen nothing is said.
    #[config(default = 50, min = 1)]
    pub window: usize,
}

/// The losses of the last steps of this run. A resumed training fills it anew.
pub(super) struct SpikeGuard<'a> {
    rule: Option<&'a Spike>,
    losses: VecDeque<f64>,
}

impl<'a> SpikeGuard<'a> {
    pub(super) fn new(rule: Option<&'a Spike>) -> Self {
        Self { rule, losses: VecDeque::new() }
    }

    /// What is wrong with the next step's loss, in words; a loss that is right joins the window.
    pub(super) fn look(&mut self, loss: f64) -> Option<String> {
        let rule = self.rule?;
        if self.losses.len() == rule.window {
            let mean = self.losses.iter().sum::<f64>() / rule.window as f64;
            if loss > rule.factor * mean {
                let (factor, window) = (rule.factor, rule.window);
                return Some(format!(
                    "the loss is {loss:.4}, more than {factor} times the mean {mean:.4} of the {window} steps before"
                ));
            }
            self.losses.pop_front();
        }
        self.losses.push_back(loss);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_is_seen_once_the_window_is_full() {
        let rule = Spike { factor: 2.0, window: 3 };
        let mut guard = SpikeGuard::new(Some(&rule));
        for loss in [1.0, 90.0, 2.0] {
            assert_eq!(guard.look(loss), None, "the window is not full");
        }
        for loss in [3.0, 4.0, 5.9] {
            assert_eq!(guard.look(loss), None);
        }
        let said = guard.look(9.0).unwrap();
        assert_eq!(said, "the loss is 9.0000, more than 2 times the mean 4.3000 of the 3 steps before");
        assert_eq!(SpikeGuard::new(None).look(f64::MAX), None);
    }
}
