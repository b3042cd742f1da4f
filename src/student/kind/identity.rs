//! What a trajectory begins with: everything that the weights depend on and no step names.

use std::collections::BTreeMap;

use stillhouse_spec::{Canonical, Config, Described};

use super::config::StudentConfig;
use crate::error::{Result, StudentError};
use crate::model::DecoderConfig;

/// Bumped when equal settings give other weights: 1, the first.
const REVISION: u32 = 1;

/// Canonical JSON of a training's beginning.
///
/// The data is not in it: every step names its batch by content. The teacher's signals are, where a loss reads them.
pub(super) fn description(
    config: &StudentConfig,
    shape: &DecoderConfig,
    begins: &str,
    signals: Option<&str>,
) -> Result<String> {
    let internal = |what: &str| StudentError::training(format!("{what} can't be written into a key"), "please report it");
    let shape = serde_json::to_value(shape).map_err(|_| internal("the model's shape"))?;
    let shape = Canonical::from_json(&shape).map_err(|_| internal("the model's shape"))?;
    let mut members = BTreeMap::from([
        ("revision", Canonical::from(REVISION)),
        ("model", shape),
        ("begins", Canonical::from(begins)),
        ("precision", Canonical::from("f32")),
        ("optimizer", canonical(config.optimizer.describe())),
        ("losses", canonical(config.loss.describe())),
        ("clip", Canonical::Float(config.clip)),
    ]);
    if let Some(signals) = signals {
        members.insert("signals", Canonical::from(signals));
    }
    Ok(Canonical::object(members).text())
}

/// Settings as canonical JSON. Neither losses nor optimizers name files or other tables.
fn canonical(described: Described) -> Canonical {
    match described {
        Described::Value(value) => value,
        Described::Table(members) => {
            Canonical::object(members.into_iter().map(|(name, value)| (name, canonical(value))))
        }
        Described::List(items) => Canonical::from(items.into_iter().map(canonical).collect::<Vec<_>>()),
        Described::Reference(_) | Described::File(_) | Described::Nothing => Canonical::object::<String>([]),
    }
}
