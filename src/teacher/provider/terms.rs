//! What a teacher's answers may be used for: recorded with every result, in no key.

use serde_json::{Value, json};
use stillhouse_spec::Config;

/// What a teacher's answers may be used for, in its owner's words.
#[derive(Clone, Debug, Config)]
pub struct TermsConfig {
    /// Whether models may be trained on its answers: `allowed`, `forbidden`, `unclear`.
    pub training: Training,
    /// Where that is said: a licence, a page.
    pub source: Option<String>,
}

/// Whether models may be trained on a teacher's answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
pub enum Training {
    /// They may.
    Allowed,
    /// They may not.
    Forbidden,
    /// Nobody says.
    Unclear,
}

impl Training {
    fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Forbidden => "forbidden",
            Self::Unclear => "unclear",
        }
    }
}

/// The terms for a record; `null` where the definition has none.
pub fn for_record(terms: Option<&TermsConfig>) -> Value {
    terms.map_or(
        Value::Null,
        |TermsConfig { training, source }| json!({ "training": training.name(), "source": source }),
    )
}
