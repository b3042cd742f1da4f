//! In what form a user wants signals kept: one file an encoding, one line in [`ENCODINGS`].

use stillhouse_stage::spec::registry::{Component, Entry, Registry};
use stillhouse_stage::spec::{Config, entry};

use super::Precision;
use super::compact::Compact;

/// Every encoding.
pub static ENCODINGS: &[Entry<dyn Encoding>] =
    &[entry!("plain", Plain as dyn Encoding), entry!("compact", Compact as dyn Encoding)];

/// An encoding as it is written in a file: settings only.
pub trait Encoding: Component + Send + Sync {
    /// What it asks of a writer; `precision` is for log-probabilities that are kept as they are.
    fn form(&self, precision: Precision) -> Form;
}

impl Registry for dyn Encoding {
    const WHAT: &'static str = "encoding";

    fn entries() -> &'static [Entry<Self>] {
        ENCODINGS
    }
}

/// How a writer keeps distributions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Form {
    /// Ids and log-probabilities as they are.
    Plain(Precision),
    /// In an arithmetic code, see [`Compact`].
    Compact {
        /// What rounding may cost a position, in nats.
        kl: f64,
    },
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Plain(Precision::F16) => f.write_str("plain f16"),
            Self::Plain(Precision::F32) => f.write_str("plain f32"),
            Self::Compact { kl } => write!(f, "compact kl {kl:?}"),
        }
    }
}

impl Form {
    /// A distribution over `vocabulary` tokens as it is read back. Whole ones (without ids) are always plain.
    pub fn reconstructed(self, exact: &super::TopK, vocabulary: u32) -> super::TopK {
        match self {
            Self::Compact { kl } if !exact.ids.is_empty() => super::compact::reconstructed(exact, vocabulary, kl),
            Self::Plain(Precision::F32) => exact.clone(),
            Self::Plain(Precision::F16) | Self::Compact { .. } => super::TopK {
                ids: exact.ids.clone(),
                log_probs: exact.log_probs.iter().map(|x| half::f16::from_f32(*x).to_f32()).collect(),
            },
        }
    }
}

/// Token ids as they are (2 bytes each where the vocabulary allows it, else 4), log-probabilities in `precision`.
#[derive(Clone, Copy, Debug, Config)]
pub struct Plain {}

impl Encoding for Plain {
    fn form(&self, precision: Precision) -> Form {
        Form::Plain(precision)
    }
}
