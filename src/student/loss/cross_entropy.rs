//! Cross-entropy with the next token.

use stillhouse_spec::Config;

use super::{Formula, LossSum, Positions, Reads, Weight};
use crate::kernels::Kernels;

/// Cross-entropy with the next token: `−log q(label)`, natural logarithm.
#[derive(Clone, Debug, Config)]
pub struct CrossEntropy {
    /// Factor in the sum of losses.
    #[config(default = Weight::Constant(1.0), min = 0)]
    pub weight: Weight,
}

impl Formula for CrossEntropy {
    fn weight(&self) -> Weight {
        self.weight
    }

    fn reads(&self) -> Reads<'_> {
        Reads::Labels
    }

    fn sum<B: Kernels>(&self, positions: &Positions<'_, B>) -> LossSum<B> {
        if positions.labels.is_empty() {
            return LossSum { sum: None, positions: 0 };
        }
        let labels = positions.ids(positions.labels.iter().map(|label| *label as i32).collect(), 1);
        let sum = positions.log_probs().gather(1, labels).sum().neg();
        LossSum { sum: Some(sum), positions: positions.labels.len() }
    }
}
