//! The moving average of what is trained (Polyak and Juditsky, 1992, with exponential weights).

use burn::tensor::Tensor;

use super::parameters::FlatWeights;
use super::state::State;
use crate::backend::TrainBackend;

/// Moving average of what is trained: a₀ = w₀, aₙ = d·aₙ₋₁ + (1 − d)·wₙ.
pub(super) struct Average<B: burn::tensor::backend::Backend> {
    pub(super) decay: f64,
    pub(super) weights: FlatWeights<B>,
}

impl<B: TrainBackend> State<B> {
    /// Moves the average after a step.
    pub(super) fn follow_average(&mut self) {
        let Some(mut average) = self.average.take() else { return };
        let decay = average.decay;
        for (name, weight) in self.flat_trained() {
            if let Some(mean) = average.weights.get_mut(&name) {
                // Taken out, so that it may be changed in place.
                let old = std::mem::replace(mean, Tensor::empty([0], &mean.device()));
                *mean = old * decay + weight * (1.0 - decay);
            }
        }
        self.average = Some(average);
    }
}
