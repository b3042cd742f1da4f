//! In which numbers a student is computed while it trains.
//!
//! Mixed precision (Micikevicius et al., 2018) in the form that bf16 allows: forward and backward in numbers of eight
//! significant bits, everything that steps add up in f32. bf16 has the exponents of f32, so no loss is scaled.
//!
//! | in bf16 | in f32 |
//! |---|---|
//! | what layers hand to each other, and its gradients | weights, their gradients and their sums over micro-batches |
//! | factors of matrix products | the sums inside every product, norm, softmax and rotation |
//! | logits as the head makes them | every loss, the optimizer's state, averages, checkpoints |

use burn::tensor::{DType, FloatDType};
use stillhouse_spec::Config;

/// In which numbers forward and backward are computed. Weights and the optimizer's state are f32 in either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Config)]
pub enum Precision {
    /// Single precision throughout.
    #[default]
    F32,
    /// Layers and matrix products in bfloat16, sums and losses in f32.
    Bf16,
}

impl Precision {
    /// Its name in the file and in keys.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// The type of what layers hand to each other.
    pub fn stored(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::Bf16 => FloatDType::BF16,
        }
    }

    /// Bytes of a number that layers hand to each other.
    pub fn bytes(self) -> usize {
        DType::from(self.stored()).size()
    }
}
