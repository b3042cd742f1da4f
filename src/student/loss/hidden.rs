//! Losses on hidden states: which layers they compare, and through which map.
//!
//! A layer's number counts the residual stream after so many layers: 0 is the embedding, and a model's number of layers
//! is its last stream, before the final norm. (In transformers' `hidden_states` the last one has been normed.)

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use serde_json::Value as Json;
use stillhouse_spec::{Config, Described, Diagnostics, Node, Origin};

use super::{LossSum, Positions};
use crate::kernels::Kernels;

/// A layer of the student with the layer of the teacher that it is compared with.
#[derive(Clone, Copy, Debug)]
pub struct LayerPair {
    /// Layers below the student's stream.
    pub student: usize,
    /// Layers below the teacher's stream.
    pub teacher: usize,
    /// Where the pair is written.
    pub at: Origin,
}

/// Two layers that are compared, each counted as the residual stream after so many layers: 0 is the embedding.
#[derive(Clone, Debug, Config)]
struct WrittenPair {
    /// Layers below the student's stream.
    student: usize,
    /// Layers below the teacher's stream.
    teacher: usize,
}

impl LayerPair {
    /// A pair that stands in no file.
    pub fn new(student: usize, teacher: usize) -> Self {
        Self { student, teacher, at: Origin::new(0, 0..0) }
    }
}

/// Written by hand to keep the place: only when both models are known can a pair be wrong.
impl Config for LayerPair {
    fn decode(node: &Node, report: &mut Diagnostics) -> Option<Self> {
        let WrittenPair { student, teacher } = WrittenPair::decode(node, report)?;
        Some(Self { student, teacher, at: node.at })
    }

    fn schema() -> Json {
        WrittenPair::schema()
    }

    fn describe(&self) -> Described {
        WrittenPair { student: self.student, teacher: self.teacher }.describe()
    }
}

/// How the student's hidden states come to the teacher's width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
pub enum Projection {
    /// By a matrix a pair, without a bias, which is trained with the student and is no part of it.
    Learned,
    /// As they are: both models must have one width.
    None,
}

/// What a loss on hidden states compares.
#[derive(Clone, Debug, Config)]
pub struct HiddenLayers {
    /// The layers that are compared, counted as the residual stream after so many layers (0 is the embedding); left
    /// out, the last of the student with the last of the teacher.
    #[config(name = "layers", default = Vec::new())]
    pub pairs: Vec<LayerPair>,
    /// What brings the student's hidden states to the teacher's width.
    #[config(default = Projection::Learned)]
    pub projection: Projection,
}

/// The hidden states of one pair of layers at some positions.
#[derive(Debug, Clone)]
pub struct HiddenPair<B: Backend> {
    /// The student's, brought to the teacher's width: `[positions, the teacher's hidden]`.
    pub student: Tensor<B, 2>,
    /// The teacher's: `[positions, the teacher's hidden]`.
    pub teacher: Tensor<B, 2>,
}

/// The sum over positions of a distance, as its mean over the pairs of layers.
///
/// `distance` gives the sum over the rows of one pair, `[1]`.
pub(super) fn mean_over_pairs<B: Kernels>(
    positions: &Positions<'_, B>,
    distance: impl Fn(&HiddenPair<B>) -> Tensor<B, 1>,
) -> LossSum<B> {
    let pairs = positions.hidden.len();
    match positions.hidden.iter().map(distance).reduce(|sum, next| sum + next) {
        Some(sum) if !positions.labels.is_empty() => {
            LossSum { sum: Some(sum / pairs as f64), positions: positions.labels.len() }
        }
        _ => LossSum { sum: None, positions: 0 },
    }
}
