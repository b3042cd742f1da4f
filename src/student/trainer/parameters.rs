//! A decoder's weights by name: which of them are trained, and how they are replaced.

use std::collections::BTreeSet;

use burn::module::Module;
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Tensor, TensorMetadata};
use indexmap::IndexMap;
use stillhouse_spec::suggest::did_you_mean;

use crate::error::{Result, StudentError};
use crate::weights::{each_parameter, flat, shaped, with_parameters};

/// Flat weights by name.
pub(super) type FlatWeights<B> = IndexMap<String, Tensor<B, 1>>;

/// Name and shape of every weight, in the order of the module's fields.
pub(crate) type Shapes = IndexMap<String, Vec<usize>>;

/// Names and shapes of a module's weights.
pub(super) fn shapes<B: Backend, M: Module<B>>(module: &M) -> Shapes {
    let mut shapes = Shapes::new();
    each_parameter::<B, _>(module, |name, weight| _ = shapes.insert(name.to_owned(), weight.shape().to_vec()));
    shapes
}

/// Handles of some weights, flattened.
pub(super) fn flat_weights<B: AutodiffBackend, M: Module<B>>(
    module: &M,
    wanted: &BTreeSet<String>,
) -> FlatWeights<B::InnerBackend> {
    let mut taken = FlatWeights::<B::InnerBackend>::new();
    each_parameter::<B, _>(module, |name, weight| {
        if wanted.contains(name) {
            taken.insert(name.to_owned(), flat::<B::InnerBackend>(B::inner(weight)));
        }
    });
    taken
}

/// Gives weights new values: `change` gets a weight's name, shape and flat values, and gives values to replace them with,
/// or the old ones back.
pub(super) fn replace<B: Backend, M: Module<B>>(
    module: M,
    mut change: impl FnMut(&str, &[usize], Tensor<B, 1>) -> Tensor<B, 1>,
) -> M {
    with_parameters::<B, _>(module, |name, weight| {
        let shape = weight.shape();
        shaped(change(name, &shape, flat::<B>(weight)), shape)
    })
}

/// The same module, in which exactly the weights in `trained` ask for their gradient; each of those gets new values from
/// `change` on the way.
pub(super) fn on_tape<B: AutodiffBackend, M: Module<B>>(
    module: M,
    trained: &BTreeSet<String>,
    mut change: impl FnMut(&str, &[usize], Tensor<B::InnerBackend, 1>) -> Tensor<B::InnerBackend, 1>,
) -> M {
    with_parameters::<B, _>(module, |name, weight| {
        let weight = B::inner(weight);
        if !trained.contains(name) {
            return B::from_inner(weight);
        }
        let shape = weight.shape();
        let changed = shaped(change(name, &shape, flat::<B::InnerBackend>(weight)), shape);
        B::float_set_require_grad(B::from_inner(changed), true)
    })
}

/// The weights that `freeze` leaves to be trained.
///
/// A pattern is one of
/// - `embed`, `head`, `norms`: the embedding, the output head, every norm;
/// - `attention`, `mlp`: those blocks of every layer;
/// - `layers.3`, `layers.0-3`: whole layers, counted from 0, both ends included;
/// - a weight's name as in its file, `*` standing for anything: `model.layers.*.mlp.down_proj.weight`.
///
/// # Errors
/// A pattern that fits no weight, or patterns that leave nothing to train.
pub(crate) fn trained(shapes: &Shapes, freeze: &[String]) -> Result<BTreeSet<String>> {
    let mut trained: BTreeSet<String> = shapes.keys().cloned().collect();
    for pattern in freeze {
        fits_some(shapes, pattern)?;
        trained.retain(|name| shapes.get(name).is_none_or(|shape| !fits(pattern, name, shape)));
    }
    if trained.is_empty() {
        return Err(StudentError::training("`freeze` leaves no weight to train", "name fewer of them"));
    }
    Ok(trained)
}

/// Whether a pattern of `freeze` fits a weight.
///
/// # Errors
/// It fits none.
pub(crate) fn fits_some(shapes: &Shapes, pattern: &str) -> Result<()> {
    let layers = shapes.keys().filter_map(|name| layer_of(name)).max();
    let last: Option<usize> = pattern.strip_prefix("layers.").and_then(|range| range.split_once('-')?.1.parse().ok());
    if let Some((last, there)) = last.zip(layers).filter(|(last, there)| last > there) {
        let message =
            format!("`freeze` names layers up to {last} with `{pattern}`, and the model's last one is {there}");
        return Err(StudentError::training(message, hint(pattern, shapes)));
    }
    if shapes.iter().any(|(name, shape)| fits(pattern, name, shape)) {
        return Ok(());
    }
    let message = format!("`freeze` names `{pattern}`, which no weight fits");
    Err(StudentError::training(message, hint(pattern, shapes)))
}

/// Patterns that stand for several weights.
const WORDS: &[&str] = &["embed", "head", "norms", "attention", "mlp"];

fn hint(pattern: &str, shapes: &Shapes) -> String {
    if pattern == "head" {
        return "the head is the embedding (tied): freeze `embed`".into();
    }
    let layers = shapes.keys().filter_map(|name| layer_of(name)).max();
    if let (Some(_), Some(last)) = (pattern.strip_prefix("layers."), layers) {
        return format!("the layers are `layers.0` to `layers.{last}`, several are written `layers.0-{last}`");
    }
    match did_you_mean(pattern, WORDS.iter().copied().chain(shapes.keys().map(String::as_str))) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("{}, `layers.0-3`, or a weight's name with `*`", stillhouse_spec::suggest::list(WORDS)),
    }
}

fn fits(pattern: &str, name: &str, shape: &[usize]) -> bool {
    match pattern {
        "embed" => name.contains("embed_tokens."),
        "head" => name.starts_with("lm_head."),
        "norms" => shape.len() == 1 && name.contains("norm"),
        "attention" => name.contains(".self_attn."),
        "mlp" => name.contains(".mlp."),
        _ => match pattern.strip_prefix("layers.").and_then(layer_range) {
            Some(range) => layer_of(name).is_some_and(|layer| range.contains(&layer)),
            None => stands_for(pattern, name),
        },
    }
}

fn layer_range(text: &str) -> Option<std::ops::RangeInclusive<usize>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

/// The layer that a weight belongs to: `model.layers.3.mlp.up_proj.weight` → 3.
pub(super) fn layer_of(name: &str) -> Option<usize> {
    name.split_once("layers.")?.1.split('.').next()?.parse().ok()
}

/// Whether a pattern with any number of `*` stands for a name.
fn stands_for(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|name| {
            (0..=name.len()).filter(|at| name.is_char_boundary(*at)).any(|at| stands_for(rest, &name[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(tied: bool) -> Shapes {
        let mut shapes = Shapes::from([("model.embed_tokens.weight".to_owned(), vec![8, 4])]);
        for layer in 0..3 {
            shapes.insert(format!("model.layers.{layer}.self_attn.q_proj.weight"), vec![4, 4]);
            shapes.insert(format!("model.layers.{layer}.self_attn.q_proj.bias"), vec![4]);
            shapes.insert(format!("model.layers.{layer}.mlp.up_proj.weight"), vec![4, 4]);
            shapes.insert(format!("model.layers.{layer}.input_layernorm.weight"), vec![4]);
        }
        shapes.insert("model.norm.weight".into(), vec![4]);
        if !tied {
            shapes.insert("lm_head.weight".into(), vec![8, 4]);
        }
        shapes
    }

    fn frozen(pattern: &str) -> Vec<String> {
        let shapes = model(false);
        let trained = trained(&shapes, &[pattern.to_owned()]).unwrap();
        shapes.keys().filter(|name| !trained.contains(*name)).map(|name| name.replace("model.", "")).collect()
    }

    #[test]
    fn every_kind_of_pattern_freezes_what_it_says() {
        assert_eq!(frozen("embed"), ["embed_tokens.weight"]);
        assert_eq!(frozen("head"), ["lm_head.weight"]);
        assert_eq!(
            frozen("norms"),
            [
                "layers.0.input_layernorm.weight",
                "layers.1.input_layernorm.weight",
                "layers.2.input_layernorm.weight",
                "norm.weight"
            ]
        );
        assert_eq!(frozen("mlp").len(), 3);
        assert_eq!(frozen("attention").len(), 6);
        assert_eq!(frozen("layers.1").len(), 4);
        assert!(frozen("layers.0-1").iter().all(|name| name.starts_with("layers.0.") || name.starts_with("layers.1.")));
        assert_eq!(frozen("layers.0-1").len(), 8);
        assert_eq!(frozen("model.layers.*.q_proj.*").len(), 6);
        assert_eq!(frozen("model.norm.weight"), ["norm.weight"]);
    }

    #[test]
    fn a_pattern_that_fits_nothing_is_refused_with_the_nearest_name() {
        let refused = |pattern: &str, tied| {
            let error = trained(&model(tied), &[pattern.to_owned()]).unwrap_err();
            (error.to_string(), error.hint().unwrap())
        };
        let (message, hint) = refused("embd", false);
        assert_eq!(message, "`freeze` names `embd`, which no weight fits");
        assert_eq!(hint, "did you mean `embed`?");
        assert_eq!(refused("model.norm.wieght", false).1, "did you mean `model.norm.weight`?");
        assert_eq!(
            refused("layers.1-7", false).0,
            "`freeze` names layers up to 7 with `layers.1-7`, and the model's last one is 2"
        );
        assert_eq!(
            refused("layers.7", false).1,
            "the layers are `layers.0` to `layers.2`, several are written `layers.0-2`"
        );
        assert!(refused("head", true).1.contains("tied"));
        assert!(refused("q", false).1.contains("`attention`"));
    }

    #[test]
    fn something_must_be_left_to_train() {
        let error = trained(&model(false), &["*".into()]).unwrap_err();
        assert_eq!(error.to_string(), "`freeze` leaves no weight to train");
    }
}
