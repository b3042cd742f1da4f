//! The shape of a fresh model as an experiment file gives it: what all families share.

use stillhouse_spec::{Diagnostic, Diagnostics, Node};

use super::Family;
use super::config::{Biases, DecoderConfig};

/// Declares a family's table in `init`: the fields that all share, with defaults of its own.
///
/// The fields stand here and not in a struct inside each family's, because a table in a file is flat.
macro_rules! fresh_shape {
    ($(#[$about:meta])* $name:ident { rope_theta: $theta:literal, norm_epsilon: $epsilon:literal }) => {
        $(#[$about])*
        #[derive(Clone, Debug, stillhouse_spec::Config)]
        #[config(check = super::shape::sound)]
        pub struct $name {
            /// Decoder layers.
            #[config(min = 1)]
            pub layers: usize,
            /// Width of the residual stream.
            #[config(min = 1)]
            pub hidden: usize,
            /// Query heads.
            #[config(min = 1)]
            pub heads: usize,
            /// Key and value heads; left out, as many as query heads.
            #[config(min = 1)]
            pub kv_heads: Option<usize>,
            /// Width of a head, an even number; left out, `hidden / heads`.
            #[config(min = 2)]
            pub head_width: Option<usize>,
            /// Width inside the feed-forward block; left out, 8/3 of `hidden`, rounded up to a multiple of 16.
            #[config(min = 1)]
            pub intermediate: Option<usize>,
            /// Longest sequence; left out, 512 or what a row takes, whichever is more.
            #[config(min = 2)]
            pub context: Option<usize>,
            /// Whether the output head is the embedding.
            #[config(default = true)]
            pub tied: bool,
            /// Base of the rotary frequencies.
            #[config(default = $theta, above = 0)]
            pub rope_theta: f64,
            /// Added to the mean square in the norms.
            #[config(default = $epsilon, above = 0)]
            pub norm_epsilon: f64,
        }

        impl $name {
            fn sizes(&self) -> super::shape::Sizes {
                super::shape::Sizes {
                    layers: self.layers,
                    hidden: self.hidden,
                    heads: self.heads,
                    kv_heads: self.kv_heads,
                    head_width: self.head_width,
                    intermediate: self.intermediate,
                    context: self.context,
                    tied: self.tied,
                    rope_theta: self.rope_theta,
                    norm_epsilon: self.norm_epsilon,
                }
            }
        }
    };
}
pub(super) use fresh_shape;

/// A model made from scratch.
pub trait FreshShape {
    /// The whole shape, for a vocabulary and rows of so many tokens.
    fn config(&self, vocabulary: usize, length: usize) -> DecoderConfig;
}

/// The shared fields of a family's table.
pub(super) struct Sizes {
    pub layers: usize,
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: Option<usize>,
    pub head_width: Option<usize>,
    pub intermediate: Option<usize>,
    pub context: Option<usize>,
    pub tied: bool,
    pub rope_theta: f64,
    pub norm_epsilon: f64,
}

impl Sizes {
    /// A decoder of these sizes without anything that only some families have.
    pub(super) fn decoder(&self, family: &Family, vocabulary: usize, length: usize) -> DecoderConfig {
        let intermediate = self.hidden.saturating_mul(8).div_ceil(3).checked_next_multiple_of(16);
        DecoderConfig {
            family: family.name.into(),
            vocabulary,
            layers: self.layers,
            hidden: self.hidden,
            intermediate: self.intermediate.or(intermediate).unwrap_or(usize::MAX),
            heads: self.heads,
            kv_heads: self.kv_heads.unwrap_or(self.heads),
            head_width: self.head_width.unwrap_or(self.hidden / self.heads),
            context: self.context.unwrap_or(length.max(512)),
            rope_theta: self.rope_theta,
            rope_scaling: None,
            norm_epsilon: self.norm_epsilon,
            tied: self.tied,
            biases: Biases::default(),
            head_norms: false,
            sliding_window: None,
            initializer_range: 0.02,
            bos: None,
            eos: Vec::new(),
            pad: None,
        }
    }
}

/// Whether the sizes fit each other, whatever the vocabulary is.
pub(super) fn sound(shape: &impl FreshShape, node: &Node, report: &mut Diagnostics) {
    let config = shape.config(1, 1);
    let written = |key: &str| node.as_table().and_then(|table| table.get(key)).map(|value| value.at);
    let head_width = written("head-width");
    let DecoderConfig { hidden, heads, kv_heads, .. } = config;
    let (place, message, hint) = if head_width.is_none() && !hidden.is_multiple_of(heads) {
        let message = format!("`heads` = {heads} does not divide `hidden` = {hidden}");
        (written("heads"), message, "give another number, or a `head-width`")
    } else if !config.head_width.is_multiple_of(2) {
        let message = format!("heads of width {} can't be rotated", config.head_width);
        (
            head_width.or(written("heads")),
            message,
            "rotary positions need an even width: `head-width`, or else `hidden / heads`",
        )
    } else if !heads.is_multiple_of(kv_heads) {
        let message = format!("`kv-heads` = {kv_heads} does not divide `heads` = {heads}");
        (written("kv-heads"), message, "each key-value head serves the same number of query heads")
    } else if let Err(why) = config.check() {
        (None, format!("this table {why}"), "fewer layers, or a smaller width")
    } else {
        return;
    };
    report.push(Diagnostic::error(place.unwrap_or(node.at), message).hint(hint));
}
