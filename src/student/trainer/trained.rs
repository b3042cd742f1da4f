//! What of a state is trained: read, replaced, and put into the whole model.

use burn::module::AutodiffModule;

use super::adapters::to_device;
use super::checkpoint::Checkpoint;
use super::parameters::{FlatWeights, Shapes, flat_weights, on_tape, replace};
use super::state::State;
use crate::backend::{Inner, TrainBackend};
use crate::error::{Result, StudentError};
use crate::model::Decoder;
use crate::weights::{NamedValues, Values, take_values};

impl<B: TrainBackend> State<B> {
    /// The model to validate: with averaged weights where there is an average.
    pub(super) fn result(&self) -> Decoder<Inner<B>> {
        match &self.average {
            Some(average) => self.decoder_with(average.weights.clone()),
            None => self.decoder.valid(),
        }
    }

    /// The trained weights of [`State::result`] on the host.
    pub(super) fn result_values(&self) -> NamedValues {
        match &self.average {
            Some(average) => self.on_host(&average.weights),
            None => self.trained_values(),
        }
    }

    /// All weights of the model with `trained` in their places.
    pub(super) fn whole_model(&self, trained: NamedValues) -> NamedValues {
        if self.adapters.is_none() && trained.len() == self.shapes.len() {
            return trained;
        }
        take_values(&self.decoder_with(to_device(&trained, &self.decoder.device())))
    }

    fn decoder_with(&self, mut trained: FlatWeights<Inner<B>>) -> Decoder<Inner<B>> {
        let plain = self.decoder.valid();
        match &self.adapters {
            None => replace(plain, |name, _, old| trained.swap_remove(name).unwrap_or(old)),
            Some(adapters) => {
                let adapters = adapters.with(trained);
                replace(plain, |name, _, old| adapters.merged(name).unwrap_or(old))
            }
        }
    }

    pub(super) fn trained_shapes(&self) -> Shapes {
        match &self.adapters {
            Some(adapters) => adapters.shapes(),
            None => self.shapes.iter().filter(|(name, _)| self.trained.contains(*name)).map(owned).collect(),
        }
    }

    pub(super) fn flat_trained(&self) -> FlatWeights<Inner<B>> {
        match &self.adapters {
            Some(adapters) => adapters.flat(),
            None => flat_weights(&self.decoder, &self.trained),
        }
    }

    pub(super) fn trained_values(&self) -> NamedValues {
        self.on_host(&self.flat_trained())
    }

    pub(super) fn on_host(&self, flat: &FlatWeights<Inner<B>>) -> NamedValues {
        let take = |(name, shape): (String, Vec<usize>)| {
            let data = flat.get(&name)?.to_data().convert::<f32>();
            // f32 by the conversion, so the fallback is never taken.
            Some((name, Values::new(shape, data.into_vec().unwrap_or_default())))
        };
        self.trained_shapes().into_iter().filter_map(take).collect()
    }

    #[must_use]
    pub(super) fn set_trained(mut self, mut trained: FlatWeights<Inner<B>>) -> Self {
        let mut set = |name: &str, _: &[usize], old| trained.swap_remove(name).unwrap_or(old);
        let Some(adapters) = &mut self.adapters else {
            self.decoder = on_tape(self.decoder, &self.trained, set);
            return self;
        };
        adapters.change(&mut set);
        self.merged()
    }

    /// The same state with the adapted matrices written into the decoder. It takes the state, since Burn maps modules by
    /// value: a clone would hold every old matrix until all new ones are there.
    #[must_use]
    pub(super) fn merged(mut self) -> Self {
        if let Some(adapters) = &self.adapters {
            self.decoder = on_tape(self.decoder, &self.trained, |name, _, old| adapters.merged(name).unwrap_or(old));
        }
        self
    }
}

fn owned((name, shape): (&String, &Vec<usize>)) -> (String, Vec<usize>) {
    (name.clone(), shape.clone())
}

/// The error of a checkpoint that holds what this model and this way to train it have no place for.
fn foreign(checkpoint: &Checkpoint, what: &str, message: String) -> Result<()> {
    let hint = "it belongs to another model; `stillhouse cache verify` finds damaged entries";
    Err(StudentError::training(format!("the {what} of the checkpoint of step {} {message}", checkpoint.step), hint))
}

/// The optimizer's means of a checkpoint against what is trained. A rule may keep only one of a weight.
pub(super) fn check_moments(checkpoint: &Checkpoint, shapes: &Shapes) -> Result<()> {
    for (name, mean) in checkpoint.optimizer.first.iter().chain(&checkpoint.optimizer.second) {
        let foreign = |message| foreign(checkpoint, "optimizer's means", message);
        let there = mean.data.len();
        match shapes.get(name).map(|shape| shape.iter().product::<usize>()) {
            None => return foreign(format!("hold `{name}`, for which there is no place")),
            Some(size) if size != there => {
                return foreign(format!("hold {there} numbers for `{name}`, where {size} belong"));
            }
            Some(_) => {}
        }
    }
    // Before the first step there is none.
    match shapes.keys().find(|name| checkpoint.step > 0 && !checkpoint.optimizer.first.contains_key(*name)) {
        Some(name) => foreign(checkpoint, "optimizer's means", format!("lack `{name}`")),
        None => Ok(()),
    }
}

/// Values of a checkpoint against what the model has.
pub(super) fn check_shapes(checkpoint: &Checkpoint, what: &str, values: &NamedValues, shapes: &Shapes) -> Result<()> {
    let foreign = |message| foreign(checkpoint, what, message);
    for (name, shape) in shapes {
        match values.get(name) {
            None => return foreign(format!("lack `{name}`")),
            Some(values) if values.shape != *shape => {
                return foreign(format!("hold `{name}` of shape {:?}, where {shape:?} belongs", values.shape));
            }
            Some(_) => {}
        }
    }
    match values.keys().find(|name| !shapes.contains_key(*name)) {
        Some(name) => foreign(format!("hold `{name}`, for which there is no place")),
        None => Ok(()),
    }
}
