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
