//! A student cut from a larger model: some of its layers, and of their widths what weighs most.
//!
//! As in Minitron (Muralidharan et al., 2024, arXiv 2407.14679) whole layers, residual channels, feed-forward neurons
//! and attention heads are left out and training mends the rest. Minitron ranks them by activations over calibration
//! data; here they are ranked by the weights alone (the formulas stand in `importance`), so a cut needs no data and
//! equal weights give equal cuts.

mod importance;

use std::collections::BTreeMap;

use burn::tensor::backend::Backend;
use stillhouse_spec::{Config, Diagnostic, Diagnostics, Node, Ref};

use crate::error::{Result, StudentError};
use crate::kind::PretrainedModels;
use crate::model::{Decoder, DecoderConfig, SlidingWindow};
use crate::weights::{LoadedModel, NamedValues, Values, load_into, take_values};
use importance::Importance;

/// Bumped when equal settings keep other weights: 1, the first.
const REVISION: u32 = 1;

/// Part of a model or of another student: chosen layers, and of their widths what weighs most. Vocabulary, head width
/// and everything else stay as they are.
#[derive(Clone, Debug, Config)]
#[config(check = sound)]
pub struct Cut {
    /// What it is cut from.
    pub from: Ref<PretrainedModels>,
    /// The layers that stay, counted from 0, in ascending order; left out, all.
    pub layers: Option<Vec<usize>>,
    /// Instead of `layers`: every n-th layer stays, from layer 0 on.
    #[config(min = 2)]
    pub every: Option<usize>,
    /// Width of the residual stream; left out, all of it.
    #[config(min = 1)]
    pub hidden: Option<usize>,
    /// Width inside the feed-forward block; left out, all of it.
    #[config(min = 1)]
    pub intermediate: Option<usize>,
    /// Query heads, which stay or go with the key-value head that they share; left out, all.
    #[config(min = 1)]
    pub heads: Option<usize>,
}

/// Why a model can't be cut so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// The field at fault.
    pub field: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
}

fn sound(cut: &Cut, node: &Node, report: &mut Diagnostics) {
    let at = |key: &str| node.as_table().and_then(|table| table.get(key)).map_or(node.at, |value| value.at);
    let Cut { from: _, layers, every, hidden, intermediate, heads } = cut;
    if layers.is_some() && every.is_some() {
        report.push(Diagnostic::error(at("every"), "both `layers` and `every` say which layers stay").hint("keep one"));
    }
    if let Some(layers) = layers {
        if layers.is_empty() {
            report.push(
                Diagnostic::error(at("layers"), "no layer stays").hint("name at least one, or leave `layers` out"),
            );
        }
        if let Some(pair) = layers.windows(2).find(|pair| pair[0] >= pair[1]) {
            let message = format!("layer {} stands before layer {}", pair[0], pair[1]);
            report.push(Diagnostic::error(at("layers"), message).hint("in ascending order, each once"));
        }
    }
    if layers.is_none() && [every, hidden, intermediate, heads].iter().all(|size| size.is_none()) {
        report.push(Diagnostic::error(node.at, "nothing is cut away").hint(
            "say what stays (`layers`, `every`, `hidden`, `intermediate`, `heads`), or use `init = { pretrained = … }`",
        ));
    }
}

impl Cut {
    /// The layers of a model that stay.
    fn kept_layers(&self, source: &DecoderConfig) -> Vec<usize> {
        match (&self.layers, self.every) {
            (Some(layers), _) => layers.clone(),
            (None, Some(step)) => (0..source.layers).step_by(step).collect(),
            (None, None) => (0..source.layers).collect(),
        }
    }

    /// What a trajectory says of weights cut from others: together with the shape that is left, all that they depend on.
    pub(crate) fn identity(&self, source: &DecoderConfig, weights: &str) -> String {
        format!("cut {REVISION} layers {:?} of {weights}", self.kept_layers(source))
    }

    /// The shape that is left of a model.
    ///
    /// # Errors
    /// A layer that the model does not have, a width beyond its own, heads that split a group, a shape that the family does
    /// not allow.
    pub fn shape(&self, source: &DecoderConfig) -> Result<DecoderConfig, Unfit> {
        let unfit = |field, message: String, hint: String| Err(Unfit { field, message, hint });
        let layers = self.kept_layers(source);
        if let Some(missing) = layers.iter().find(|layer| **layer >= source.layers) {
            let last = source.layers - 1;
            return unfit("layers", format!("there is no layer {missing}"), format!("its layers are 0 to {last}"));
        }
        for (field, wanted, there) in [
            ("hidden", self.hidden, source.hidden),
            ("intermediate", self.intermediate, source.intermediate),
            ("heads", self.heads, source.heads),
        ] {
            if let Some(wanted) = wanted.filter(|wanted| *wanted > there) {
                let message = format!("`{field}` = {wanted} is more than the {there} it is cut from");
                return unfit(field, message, "a cut makes a model narrower, never wider".into());
            }
        }
        let heads = self.heads.unwrap_or(source.heads);
        let shared = source.heads / source.kv_heads;
        if !heads.is_multiple_of(shared) {
            let message = format!("`heads` = {heads} would split a group of {shared} heads that share keys and values");
            return unfit("heads", message, format!("a multiple of {shared}"));
        }
        let sliding_window = source.sliding_window.as_ref().and_then(|window| {
            let slides = |layer: &usize| window.layers.contains(layer);
            let kept: Vec<usize> = (0..layers.len()).filter(|place| slides(&layers[*place])).collect();
            (!kept.is_empty()).then_some(SlidingWindow { width: window.width, layers: kept })
        });
        let left = DecoderConfig {
            layers: layers.len(),
            hidden: self.hidden.unwrap_or(source.hidden),
            intermediate: self.intermediate.unwrap_or(source.intermediate),
            heads,
            kv_heads: heads / shared,
            sliding_window,
            ..source.clone()
        };
        match left.check() {
            Ok(()) => Ok(left),
            Err(why) => unfit("hidden", format!("what is left {why}"), "another `hidden` or `heads`".into()),
        }
    }

    /// The decoder that is left of a model. The same on every platform and device: all is counted on the host.
    ///
    /// # Errors
    /// What [`Cut::shape`] says.
    pub fn apply<B: Backend>(&self, source: &LoadedModel<B>, device: &B::Device) -> Result<Decoder<B>> {
        let target = self.shape(&source.config)?;
        let layers = self.kept_layers(&source.config);
        let values = take_values(&source.decoder);
        let kept = Kept::choose(&values, &source.config, &target, layers);
        load_into(Decoder::empty(&target, device), device, |name, _| kept.part_of(&values, name))
    }
}

impl From<Unfit> for StudentError {
    fn from(unfit: Unfit) -> Self {
        Self::training(unfit.message, unfit.hint)
    }
}

/// What runs along a dimension of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Axis {
    Vocabulary,
    /// Of the residual stream.
    Channels,
    /// Of the feed-forward block.
    Neurons,
    /// Query heads times their width.
    Queries,
    /// Key-value heads times their width.
    Keys,
    HeadWidth,
}

/// The dimensions of a tensor, by its name below the layer.
fn axes(name: &str) -> Option<&'static [Axis]> {
    use Axis::{Channels, HeadWidth, Keys, Neurons, Queries, Vocabulary};
    Some(match name {
        "model.embed_tokens.weight" | "lm_head.weight" => &[Vocabulary, Channels],
        "self_attn.q_proj.weight" => &[Queries, Channels],
        "self_attn.k_proj.weight" | "self_attn.v_proj.weight" => &[Keys, Channels],
        "self_attn.o_proj.weight" => &[Channels, Queries],
        "mlp.gate_proj.weight" | "mlp.up_proj.weight" => &[Neurons, Channels],
        "mlp.down_proj.weight" => &[Channels, Neurons],
        "self_attn.q_proj.bias" => &[Queries],
        "self_attn.k_proj.bias" | "self_attn.v_proj.bias" => &[Keys],
        "mlp.gate_proj.bias" | "mlp.up_proj.bias" => &[Neurons],
        "self_attn.q_norm.weight" | "self_attn.k_norm.weight" => &[HeadWidth],
        "self_attn.o_proj.bias"
        | "mlp.down_proj.bias"
        | "input_layernorm.weight"
        | "post_attention_layernorm.weight"
        | "model.norm.weight" => &[Channels],
        _ => return None,
    })
}

/// A tensor's layer and its name below it.
fn split(name: &str) -> (Option<usize>, &str) {
    let below = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
    match below.and_then(|(layer, rest)| Some((layer.parse().ok()?, rest))) {
        Some((layer, rest)) => (Some(layer), rest),
        None => (None, name),
    }
}

/// The places of a model that stay, each list in ascending order.
struct Kept {
    /// The source's layer of each of the student's.
    layers: Vec<usize>,
    channels: Vec<usize>,
    /// Of each kept layer of the source.
    neurons: BTreeMap<usize, Vec<usize>>,
    /// Places along the queries, of each kept layer of the source.
    queries: BTreeMap<usize, Vec<usize>>,
    keys: BTreeMap<usize, Vec<usize>>,
}

impl Kept {
    fn choose(values: &NamedValues, source: &DecoderConfig, target: &DecoderConfig, layers: Vec<usize>) -> Self {
        let importance = Importance::new(values, source);
        let channels = most_important(&importance.channels(&layers), target.hidden);
        let (mut neurons, mut queries, mut keys) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let width = source.head_width;
        let shared = source.heads / source.kv_heads;
        let spread = |groups: &[usize], length: usize| -> Vec<usize> {
            groups.iter().flat_map(|group| group * length..(group + 1) * length).collect()
        };
        for &layer in &layers {
            neurons.insert(layer, most_important(&importance.neurons(layer, &channels), target.intermediate));
            let groups = most_important(&importance.groups(layer, &channels), target.kv_heads);
            queries.insert(layer, spread(&groups, shared * width));
            keys.insert(layer, spread(&groups, width));
        }
        Self { layers, channels, neurons, queries, keys }
    }

    /// What stays of the tensor that becomes the student's tensor `name`.
    fn part_of(&self, values: &NamedValues, name: &str) -> Result<Vec<f32>> {
        let fault = || {
            let message = format!("`{name}` can't be cut from the model's weights");
            StudentError::training(message, "this is a fault of the model's code, please report it")
        };
        let (place, below) = split(name);
        let layer = place.and_then(|place| self.layers.get(place).copied());
        let tensor = match layer {
            None => values.get(name),
            Some(layer) => values.get(&format!("model.layers.{layer}.{below}")),
        };
        let (tensor, axes) = (tensor.ok_or_else(fault)?, axes(below).ok_or_else(fault)?);
        let of_layer =
            |kept: &BTreeMap<usize, Vec<usize>>| layer.and_then(|layer| kept.get(&layer).cloned()).ok_or_else(fault);
        let mut places = Vec::new();
        for (axis, length) in axes.iter().zip(&tensor.shape) {
            places.push(match axis {
                Axis::Vocabulary | Axis::HeadWidth => (0..*length).collect(),
                Axis::Channels => self.channels.clone(),
                Axis::Neurons => of_layer(&self.neurons)?,
                Axis::Queries => of_layer(&self.queries)?,
                Axis::Keys => of_layer(&self.keys)?,
            });
        }
        Ok(pick(tensor, &places))
    }
}

/// The elements at the given places of each of one or two dimensions.
fn pick(tensor: &Values, places: &[Vec<usize>]) -> Vec<f32> {
    match places {
        [rows, columns] => {
            let width = tensor.shape[1];
            let row = |row: &usize| &tensor.data[row * width..(row + 1) * width];
            rows.iter().map(row).flat_map(|row| columns.iter().map(|column| row[*column])).collect()
        }
        [only] => only.iter().map(|place| tensor.data[*place]).collect(),
        _ => Vec::new(),
    }
}

/// The places of the largest values, in ascending order; of equal ones the first.
fn most_important(importance: &[f64], count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..importance.len()).collect();
    // A stable sort: equal ones stay in their order.
    places.sort_by(|left, right| importance[*right].total_cmp(&importance[*left]));
    places.truncate(count);
    places.sort_unstable();
    places
}

#[cfg(test)]
mod tests;
