//! The recipe of a stage: the canonical description that is hashed into its key, and nothing else is.
//!
//! `key = blake3("stillhouse/stage/1\0" ‖ canonical JSON { kind, revision, identity, inputs, files, seed })`. The members
//! are described in DESIGN order at [`Recipe`]; the bytes of canonical JSON in [`stillhouse_spec::canonical`].

use std::collections::BTreeMap;

use stillhouse_spec::Canonical;
use stillhouse_store::{Digest, Key};

/// The domain that separates stage keys from all other hashes.
pub const DOMAIN: &str = "stillhouse/stage/1";

/// Everything that determines a stage's output.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// The kind of stage.
    pub kind: String,
    /// The kind's revision: bumped by hand when the meaning of its settings changes.
    pub revision: u32,
    /// The settings that change the result, definitions in their place; those equal to their default left out.
    pub identity: Canonical,
    /// Path of the config field → digest of the upstream output (or of the parts of it that are read).
    pub inputs: BTreeMap<String, Digest>,
    /// Path of the config field → digest of the file or folder it names.
    pub files: BTreeMap<String, Digest>,
    /// The seed of everything random in the stage.
    pub seed: u64,
}

impl Recipe {
    /// The recipe as canonical JSON.
    #[must_use]
    pub fn canonical(&self) -> Canonical {
        let digests = |map: &BTreeMap<String, Digest>| {
            Canonical::object(map.iter().map(|(name, digest)| (name.clone(), Canonical::from(digest.to_string()))))
        };
        Canonical::object([
            ("kind", Canonical::from(self.kind.as_str())),
            ("revision", Canonical::from(self.revision)),
            ("identity", self.identity.clone()),
            ("inputs", digests(&self.inputs)),
            ("files", digests(&self.files)),
            ("seed", Canonical::from(self.seed)),
        ])
    }

    /// The text that is hashed.
    #[must_use]
    pub fn text(&self) -> String {
        self.canonical().text()
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> Key {
        key_of(&self.text())
    }
}

/// The key of a recipe's text.
#[must_use]
pub fn key_of(text: &str) -> Key {
    Key::of(DOMAIN, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Recipe {
        Recipe {
            kind: "student".into(),
            revision: 3,
            identity: Canonical::object([
                ("optimizer", Canonical::object([("adamw", Canonical::object([("lr", Canonical::Float(5e-4))]))])),
                ("steps", Canonical::Int(1000)),
            ]),
            inputs: BTreeMap::from([("data".to_owned(), Digest::of(b"train"))]),
            files: BTreeMap::from([("init.pretrained.path".to_owned(), Digest::of(b"weights"))]),
            seed: 17,
        }
    }

    /// If this fails, every store in the world has to be made again: do not touch the value, mend the change.
    #[test]
    fn the_key_of_a_recipe_is_pinned() {
        assert_eq!(
            recipe().text(),
            concat!(
                r#"{"files":{"init.pretrained.path":"FILE"},"identity":{"optimizer":{"adamw":{"lr":0.0005}},"steps":1000},"#,
                r#""inputs":{"data":"DATA"},"kind":"student","revision":3,"seed":17}"#
            )
            .replace("FILE", &Digest::of(b"weights").to_string())
            .replace("DATA", &Digest::of(b"train").to_string())
        );
        assert_eq!(recipe().key().to_string(), "0d11db9d971e26c101776b4e2af2acb831cf24502d2ee94ba45586deaf35b494");
    }

    #[test]
    fn every_part_of_a_recipe_moves_its_key_and_nothing_else_does() {
        let key = recipe().key();
        assert_eq!(recipe().key(), key);
        let changes: [fn(&mut Recipe); 6] = [
            |recipe| recipe.kind = "eval".into(),
            |recipe| recipe.revision = 4,
            |recipe| recipe.identity = Canonical::object([("steps", Canonical::Float(1000.0))]),
            |recipe| _ = recipe.inputs.insert("data".into(), Digest::of(b"other")),
            |recipe| _ = recipe.files.remove("init.pretrained.path"),
            |recipe| recipe.seed = 18,
        ];
        let mut keys = vec![key];
        for change in changes {
            let mut changed = recipe();
            change(&mut changed);
            keys.push(changed.key());
        }
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }
}
