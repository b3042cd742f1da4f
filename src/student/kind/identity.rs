//! What a trajectory begins with: everything that the weights depend on and no step names.

use std::collections::BTreeMap;

use stillhouse_spec::{Canonical, Config, Described};

use super::config::StudentConfig;
use crate::error::{Result, StudentError};
use crate::loss::{Loss, Projection, Weight};
use crate::model::DecoderConfig;

/// Bumped when equal settings give other weights: 1, the first.
const REVISION: u32 = 1;

/// Canonical JSON of a training's beginning.
///
/// The data is not in it: every step names its batch by content. The teacher is, where a loss reads it: as its stored
/// signals or as its own weights. Weights of losses that move are not, since every step names its own. The held-out part
/// is where it is measured (`measured` is its digest): a checkpoint then holds the best weights so far. What a table leaves
/// out is left out here too, so that new settings move no old key. What only decides when a training ends or stops is not
/// here.
pub(super) fn description(
    config: &StudentConfig,
    shape: &DecoderConfig,
    begins: &str,
    seed: u64,
    teacher: Option<&TeacherIdentity>,
    measured: Option<&str>,
    generation: &Generation<'_>,
) -> Result<String> {
    let internal =
        |what: &str| StudentError::training(format!("{what} can't be written into a key"), "please report it");
    let padded = (generation.vocabulary < shape.vocabulary).then_some(generation.vocabulary);
    let shape = serde_json::to_value(shape).map_err(|_| internal("the model's shape"))?;
    let shape = Canonical::from_json(&shape).map_err(|_| internal("the model's shape"))?;
    let mut members = BTreeMap::from([
        ("revision", Canonical::from(REVISION)),
        ("model", shape),
        ("begins", Canonical::from(begins)),
        ("precision", Canonical::from(config.precision.name())),
        ("optimizer", canonical(config.optimizer.describe())),
        ("losses", losses(config)),
        ("clip", Canonical::Float(config.clip)),
    ]);
    match teacher {
        Some(TeacherIdentity::Signals(digest)) => members.insert("signals", Canonical::from(digest.as_str())),
        Some(TeacherIdentity::Weights(digest)) => members.insert("teacher", Canonical::from(digest.as_str())),
        Some(TeacherIdentity::OtherTokens { weights, tokens }) => {
            members.insert("teacher-tokens", Canonical::from(tokens.as_str()));
            // Where the student has rows that are no tokens, their probability counts no longer.
            if let Some(tokens) = padded {
                members.insert("compared-tokens", Canonical::from(tokens.to_string()));
            }
            members.insert("teacher", Canonical::from(weights.as_str()))
        }
        None => None,
    };
    if !config.freeze.is_empty() {
        members.insert("freeze", canonical(config.freeze.describe()));
    }
    if let Some(lora) = &config.lora {
        members.insert("lora", canonical(lora.describe()));
        members.insert("lora-seed", Canonical::from(seed.to_string()));
    }
    let learns_maps = |loss: &dyn Loss| {
        loss.reads().hidden_states().is_some_and(|hidden| hidden.projection == Projection::Learned)
            && !loss.weight().is_zero()
    };
    if config.loss.values.values().any(|loss| learns_maps(loss.as_ref())) {
        members.insert("projection-seed", Canonical::from(seed.to_string()));
    }
    if let Some(decay) = config.ema {
        members.insert("ema", Canonical::Float(decay));
    }
    if let Some(rule) = &config.on_policy {
        members.insert("on-policy", canonical(rule.describe()));
        let stops = generation.stop_ids.iter().map(|id| Canonical::from(*id)).collect::<Vec<_>>();
        members.insert("on-policy-stops", Canonical::from(stops));
        // It writes none of the rows that are no tokens.
        if let Some(tokens) = padded {
            members.insert("on-policy-tokens", Canonical::from(tokens.to_string()));
        }
    }
    if let (Some(rule), Some(measured)) = (&config.early_stop, measured) {
        members.insert("measured", Canonical::from(measured));
        members.insert("measured-every", Canonical::from(rule.every.to_string()));
        members.insert("metric", Canonical::from(rule.metric.as_str()));
    }
    Ok(Canonical::object(members).text())
}

/// What the student reads and writes its text with.
pub(super) struct Generation<'a> {
    /// Tokens of its tokenizer.
    pub vocabulary: usize,
    /// Those that end a text which it writes itself.
    pub stop_ids: &'a [u32],
}

/// What a teacher that losses read is known by.
pub(super) enum TeacherIdentity {
    /// Digest of stored signals.
    Signals(String),
    /// Digest of a live teacher's configuration and weights.
    Weights(String),
    /// Those of one with a tokenizer of its own, and the digest of how it reads the student's text.
    OtherTokens { weights: String, tokens: String },
}

/// The losses without the weights that move.
fn losses(config: &StudentConfig) -> Canonical {
    let each = config.loss.values.iter().map(|(name, loss)| {
        let mut described = loss.described();
        if let (Described::Table(members), Weight::Line(_)) = (&mut described, loss.weight()) {
            members.remove("weight");
        }
        ((*name).to_owned(), canonical(described))
    });
    Canonical::object(each)
}

/// Settings as canonical JSON. Neither losses nor optimizers name files or other tables.
pub(super) fn canonical(described: Described) -> Canonical {
    match described {
        Described::Value(value) => value,
        Described::Table(members) => {
            Canonical::object(members.into_iter().map(|(name, value)| (name, canonical(value))))
        }
        Described::List(items) => Canonical::from(items.into_iter().map(canonical).collect::<Vec<_>>()),
        Described::Reference(_) | Described::Mention(_) | Described::File(_) | Described::Nothing => {
            Canonical::object::<String>([])
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use stillhouse_spec::{Diagnostics, Node};

    use super::super::tests::table;
    use super::*;

    fn described(loss: Value) -> String {
        let mut report = Diagnostics::default();
        let config = StudentConfig::decode(&Node::from_json(&table(2, loss)), &mut report);
        losses(&config.unwrap_or_else(|| panic!("{:?}", report.sorted()))).text()
    }

    #[test]
    fn weights_that_stay_are_described_as_they_always_were() {
        let text =
            described(json!({ "cross-entropy": { "weight": 0.2 }, "forward-kl": { "weight": 0.8, "tail": "bucket" } }));
        let weight = |weight: f64| Canonical::Float(weight).text();
        let expected = format!(
            r#"{{"cross-entropy":{{"weight":{}}},"forward-kl":{{"tail":"bucket","weight":{}}}}}"#,
            weight(0.2),
            weight(0.8)
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn maps_between_hidden_states_name_their_seed() {
        let described = |loss: Value, seed: u64| {
            let mut table = table(2, loss);
            table["teacher"] = json!("bard");
            let mut report = Diagnostics::default();
            let config = StudentConfig::decode(&Node::from_json(&table), &mut report);
            let config = config.unwrap_or_else(|| panic!("{:?}", report.sorted()));
            let text = include_str!("../tests/golden/llama-gqa-tied/config.json");
            let shape = crate::model::read_config("m", text).unwrap().1;
            let teacher = TeacherIdentity::Weights("t".into());
            let generation = Generation { vocabulary: shape.vocabulary, stop_ids: &[] };
            description(&config, &shape, "weights w", seed, Some(&teacher), None, &generation).unwrap()
        };
        let both = |loss: Value| [described(loss.clone(), 1), described(loss, 2)];
        let [one, other] = both(json!({ "hidden-mse": {} }));
        assert!(one != other && one.contains("projection-seed"), "{one}");
        for without in [json!({ "hidden-mse": { "projection": "none" } }), json!({ "forward-kl": {} })] {
            let [one, other] = both(without);
            assert!(one == other && !one.contains("projection-seed"), "{one}");
        }
    }

    #[test]
    fn rows_that_are_no_tokens_are_named_where_they_are_left_out_and_nowhere_else() {
        let text = include_str!("../tests/golden/llama-gqa-tied/config.json");
        let shape = crate::model::read_config("m", text).unwrap().1;
        let described = |loss: &str, on_policy: bool, teacher: TeacherIdentity, vocabulary: usize| {
            let mut table = table(2, json!(loss));
            table["teacher"] = json!("bard");
            if on_policy {
                table["on-policy"] = json!({});
            }
            let mut report = Diagnostics::default();
            let config = StudentConfig::decode(&Node::from_json(&table), &mut report);
            let config = config.unwrap_or_else(|| panic!("{:?}", report.sorted()));
            let generation = Generation { vocabulary, stop_ids: &[1] };
            description(&config, &shape, "weights w", 1, Some(&teacher), None, &generation).unwrap()
        };
        let same = || TeacherIdentity::Weights("t".into());
        let other = || TeacherIdentity::OtherTokens { weights: "t".into(), tokens: "u".into() };
        let (all, fewer) = (shape.vocabulary, shape.vocabulary - 1);
        assert_eq!(described("uld", false, same(), all), described("uld", false, same(), fewer));
        for (named, on_policy, teacher) in
            [("on-policy-tokens", true, same as fn() -> _), ("compared-tokens", false, other as fn() -> _)]
        {
            let padded = described("uld", on_policy, teacher(), fewer);
            assert!(padded.contains(&format!(r#""{named}":"{fewer}""#)), "{padded}");
            assert!(!described("uld", on_policy, teacher(), all).contains(named));
        }
    }

    #[test]
    fn weights_that_move_are_left_to_the_steps() {
        let moving = json!({ "from": 1.0, "to": 0.0, "over": 10 });
        let text = described(json!({ "jsd": { "beta": 0.3, "weight": moving }, "cross-entropy": {} }));
        assert_eq!(text, described(json!({ "jsd": { "beta": 0.3 }, "cross-entropy": {} })));
        assert_ne!(text, described(json!({ "jsd": { "beta": 0.4, "weight": moving }, "cross-entropy": {} })));
    }
}
