//! Hidden states of student and teacher side by side, and the learned maps between them.
//!
//! The maps are trained with the student and lie in every checkpoint, but they are no part of it: neither its moving average
//! nor the finished model holds them.

use std::ops::Range;

use burn::tensor::{FloatDType, Tensor, TensorData};
use indexmap::IndexMap;

use super::compared_layers::ComparedLayers;
use super::parameters::{FlatWeights, Shapes};
use crate::backend::{Device, Inner, TrainBackend};
use crate::init::normal;
use crate::kernels::Kernels;
use crate::loss::HiddenPair;
use crate::weights::{NamedGradients, NamedValues, Values};

/// What losses compare, with the learned maps as they are now.
#[derive(Debug, Clone)]
pub struct HiddenComparison<B: Kernels> {
    layers: ComparedLayers,
    /// `[the teacher's hidden, the student's hidden]` each, by name.
    maps: IndexMap<String, Tensor<B, 2>>,
}

impl<B: Kernels> HiddenComparison<B> {
    /// Nothing is compared.
    pub(super) fn none() -> Self {
        Self { layers: ComparedLayers::default(), maps: IndexMap::new() }
    }

    /// Fresh maps: normal numbers of the deviation `1/√(the student's hidden)`, which keep the size of what they map.
    /// They depend on seed and name only.
    pub(super) fn new(layers: ComparedLayers, seed: u64, device: &Device<B>) -> Self {
        let shape @ [_, width] = [layers.teacher_width, layers.student_width];
        let fresh = |name: &String| {
            let numbers = normal(seed, name, shape[0] * shape[1], 1.0 / libm::sqrt(width as f64));
            (name.clone(), Tensor::from_data(TensorData::new(numbers, shape), device))
        };
        let maps = layers.pairs.iter().filter_map(|pair| pair.map.as_ref()).map(fresh).collect();
        Self { layers, maps }
    }

    /// After how many layers the student's stream is read.
    pub(super) fn of_student(&self) -> &[usize] {
        &self.layers.of_student
    }

    /// After how many layers the teacher's stream is read.
    pub(super) fn of_teacher(&self) -> &[usize] {
        &self.layers.of_teacher
    }

    /// Shapes of the maps.
    pub(super) fn shapes(&self) -> Shapes {
        self.maps.iter().map(|(name, map)| (name.clone(), map.dims().to_vec())).collect()
    }

    /// The maps on the host.
    pub(super) fn values(&self) -> NamedValues {
        let take = |(name, map): (&String, &Tensor<B, 2>)| {
            // f32 by the conversion, so the fallback is never taken.
            let numbers = map.to_data().convert::<f32>().into_vec().unwrap_or_default();
            (name.clone(), Values::new(map.dims().to_vec(), numbers))
        };
        self.maps.iter().map(take).collect()
    }

    /// Takes up maps of the same shapes.
    pub(super) fn set(&mut self, mut flat: FlatWeights<B>) {
        self.change(|name, _, old| flat.swap_remove(name).unwrap_or(old));
    }

    /// Gives every map new values; see [`replace`](super::parameters::replace).
    pub(super) fn change(&mut self, mut change: impl FnMut(&str, &[usize], Tensor<B, 1>) -> Tensor<B, 1>) {
        for (name, map) in &mut self.maps {
            let shape = map.dims();
            // Taken out, so that whoever changes it may work in place.
            let old = std::mem::replace(map, Tensor::empty([0, 0], &map.device()));
            *map = change(name, &shape, old.reshape([shape[0] * shape[1]])).reshape(shape);
        }
    }
}

/// Hidden states at counted positions, beside the maps that lead from the ones to the others.
pub struct CountedStreams<'a, B: TrainBackend> {
    comparison: &'a HiddenComparison<Inner<B>>,
    /// `[positions, the student's hidden]` each.
    student: Vec<Tensor<Inner<B>, 2>>,
    /// `[positions, the teacher's hidden]` each.
    teacher: &'a [Tensor<Inner<B>, 2>],
}

impl<'a, B: TrainBackend> CountedStreams<'a, B> {
    /// The streams that a comparison reads, in its order; none where it reads none, or there is no teacher.
    pub(super) fn new(
        comparison: &'a HiddenComparison<Inner<B>>,
        student: Vec<Tensor<Inner<B>, 2>>,
        teacher: Option<&'a [Tensor<Inner<B>, 2>]>,
    ) -> Option<Self> {
        let teacher = teacher.filter(|streams| !streams.is_empty())?;
        Some(Self { comparison, student, teacher })
    }

    /// The largest width of what is compared.
    pub(super) fn width(&self) -> usize {
        self.comparison.layers.teacher_width.max(self.comparison.layers.student_width)
    }

    /// Some of the positions, on the tape where gradients are asked for.
    pub(super) fn part(&self, places: Range<usize>, with_gradients: bool) -> StreamsPart<B> {
        let lifted = |tensor: &Tensor<Inner<B>, 2>| {
            let tensor = Tensor::<B, 2>::from_inner(tensor.clone());
            if with_gradients { tensor.require_grad() } else { tensor }
        };
        let cut = |tensor: &Tensor<Inner<B>, 2>| tensor.clone().narrow(0, places.start, places.len());
        let streams: Vec<_> = self.student.iter().map(|stream| lifted(&cut(stream))).collect();
        let maps: IndexMap<_, _> = self.comparison.maps.iter().map(|(name, map)| (name.clone(), lifted(map))).collect();
        let pairs = self.comparison.layers.pairs.iter().map(|pair| {
            let stream = streams[pair.student].clone();
            let student = match &pair.map {
                Some(name) => B::projection(stream, maps[name].clone()),
                None => stream,
            };
            let teacher = Tensor::from_inner(cut(&self.teacher[pair.teacher]));
            // Whatever the precision, losses read f32.
            let [student, teacher] = [student, teacher].map(|states| states.cast(FloatDType::F32));
            (pair.loss.clone(), HiddenPair { student, teacher })
        });
        StreamsPart { pairs: pairs.collect(), streams, maps }
    }
}

/// Streams and maps at the positions of a chunk.
pub(super) struct StreamsPart<B: TrainBackend> {
    streams: Vec<Tensor<B, 2>>,
    maps: IndexMap<String, Tensor<B, 2>>,
    pairs: Vec<(String, HiddenPair<B>)>,
}

impl<B: TrainBackend> StreamsPart<B> {
    /// What a loss compares.
    pub(super) fn pairs_of(&self, loss: &str) -> Vec<HiddenPair<B>> {
        self.pairs.iter().filter(|(name, _)| name == loss).map(|(_, pair)| pair.clone()).collect()
    }
}

/// Gradients of streams and maps, chunk after chunk.
pub(super) struct StreamGradients<B: TrainBackend> {
    /// By stream, a chunk each.
    streams: Vec<Vec<Tensor<Inner<B>, 2>>>,
    maps: NamedGradients<Inner<B>>,
}

impl<B: TrainBackend> StreamGradients<B> {
    /// Before the first chunk.
    pub(super) fn new(streams: Option<&CountedStreams<'_, B>>) -> Self {
        let Some(CountedStreams { comparison, .. }) = streams else {
            return Self { streams: Vec::new(), maps: NamedGradients::new() };
        };
        let flat = |(name, map): (&String, &Tensor<Inner<B>, 2>)| {
            (name.clone(), Tensor::zeros([map.shape().num_elements()], &map.device()))
        };
        Self {
            streams: vec![Vec::new(); comparison.of_student().len()],
            maps: comparison.maps.iter().map(flat).collect(),
        }
    }

    /// Takes those of a chunk.
    pub(super) fn add(&mut self, part: &StreamsPart<B>, gradients: &mut B::Gradients) {
        for (stream, parts) in part.streams.iter().zip(&mut self.streams) {
            parts.push(stream.grad_remove(gradients).unwrap_or_else(|| stream.clone().inner().zeros_like()));
        }
        for (name, sum) in &mut self.maps {
            if let Some(gradient) = part.maps[name].grad_remove(gradients) {
                let elements = gradient.shape().num_elements();
                *sum = sum.clone() + gradient.reshape([elements]);
            }
        }
    }

    /// A chunk that no loss says anything of.
    pub(super) fn skip(&mut self, part: &StreamsPart<B>) {
        for (stream, parts) in part.streams.iter().zip(&mut self.streams) {
            parts.push(stream.clone().inner().zeros_like());
        }
    }

    /// Gradients of all positions of every stream, and of the maps.
    pub(super) fn finish(self) -> (Vec<Tensor<Inner<B>, 2>>, NamedGradients<Inner<B>>) {
        (self.streams.into_iter().map(|parts| Tensor::cat(parts, 0)).collect(), self.maps)
    }
}
