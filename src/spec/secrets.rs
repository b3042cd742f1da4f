//! Keys never stand in a file: found ones are errors, and masked before any message can repeat them.
//!
//! Two ways of finding them: by the name they stand under (`OPENAI_API_KEY = "…"`), and by what a text looks like
//! (see [`shapes`]), wherever it stands.

mod shapes;

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::node::{Node, Origin, Value, cover};

const HINT: &str =
    "put it into an environment variable and give the variable's name: `api-key-env = \"TEACHER_API_KEY\"`";

/// Endings of names under which only a secret stands.
const CERTAIN_ENDINGS: &[&str] = &[
    "api-key",
    "apikey",
    "password",
    "passwd",
    "passphrase",
    "secret",
    "secret-key",
    "access-token",
    "auth-token",
    "authorization",
];

/// Endings of names under which a secret usually stands.
const LIKELY_ENDINGS: &[&str] = &["-key", "-token", "-credential", "-credentials", "-bearer"];

/// Names with such an ending that are no secret: words of tokenizers, columns and rows. `-env` gives a variable's name.
const HARMLESS_ENDINGS: &[&str] = &[
    "-env",
    "bos-token",
    "cls-token",
    "end-token",
    "eos-token",
    "image-token",
    "mask-token",
    "max-token",
    "pad-token",
    "sep-token",
    "special-token",
    "start-token",
    "stop-token",
    "unk-token",
    "field-key",
    "foreign-key",
    "group-key",
    "id-key",
    "join-key",
    "primary-key",
    "public-key",
    "sort-key",
];

/// Shorter values are taken for placeholders, unless the name leaves no doubt.
const SHORTEST: usize = 8;

/// A name as the lists above are written.
fn folded(name: &str) -> String {
    name.to_lowercase().replace('_', "-")
}

fn is_certain(name: &str) -> bool {
    CERTAIN_ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// Whether a secret is to be expected under a (folded) name.
fn names_a_secret(name: &str) -> bool {
    if HARMLESS_ENDINGS.iter().any(|ending| name.ends_with(ending)) {
        return false;
    }
    is_certain(name) || matches!(name, "token" | "bearer") || LIKELY_ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// Whether a value under a name of a secret can be one: not a placeholder, a token of a tokenizer, or the shell's `$NAME`.
fn could_be_a_secret(text: &str) -> bool {
    text.chars().count() >= SHORTEST && !is_placeholder(text)
}

fn is_placeholder(text: &str) -> bool {
    let between = |open, close| text.starts_with(open) && text.ends_with(close);
    text.is_empty() || between('<', '>') || between('[', ']') || text.starts_with('$')
}

/// Whether a text is the name of an environment variable, and not a key made of the same characters.
fn is_variable_name(text: &str) -> bool {
    let named =
        !text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(|c| c == '_' || c.is_ascii_alphanumeric());
    let random = text.len() >= 16
        && text.contains(|c: char| c.is_ascii_lowercase())
        && text.contains(|c: char| c.is_ascii_digit());
    named && !random && !text.is_empty()
}

/// Whether a string under a name is a secret because of the name.
fn is_secret_by_name(name: &str, text: &str) -> bool {
    let name = folded(name);
    match name.strip_suffix("-env") {
        Some(secret) => names_a_secret(secret) && !is_variable_name(text),
        None if is_certain(&name) => !is_placeholder(text),
        None => names_a_secret(&name) && could_be_a_secret(text),
    }
}

/// The hint for an unknown key that names a secret.
pub(crate) fn hint_for_key(name: &str) -> Option<&'static str> {
    is_certain(&folded(name)).then_some(HINT)
}

/// The parts of a text that look like secrets: keys of well-known services, `Bearer …`, `api_key=…`, the password of an
/// address. In order, and apart from each other.
#[must_use]
pub fn find(text: &str) -> Vec<std::ops::Range<usize>> {
    shapes::find(text)
}

/// A text as messages may show it: what looks like a secret is covered, every byte keeps its place. This also reaches
/// comments and lines that are not TOML.
pub(crate) fn covered(text: &str) -> String {
    let mut out = text.to_owned();
    for range in shapes::find(text) {
        cover(&mut out, range);
    }
    out
}

/// The same for `path=value`, whose value is covered too if the path ends in the name of a secret.
pub(crate) fn covered_argument(text: &str) -> String {
    let mut out = covered(text);
    if let Some((path, value)) = text.split_once('=') {
        let name = path.rsplit('.').next().unwrap_or_default();
        let bare = |text: &str| text.trim().trim_matches(['"', '\'']).to_owned();
        if is_secret_by_name(&bare(name), &bare(value)) {
            cover(&mut out, path.len() + 1..text.len());
        }
    }
    out
}

/// Reports every string that is or should be a secret, and takes it out of the tree and out of its source: the words
/// of a later message may repeat what the tree holds.
pub(crate) fn report(tree: &mut Node, diagnostics: &mut Diagnostics) {
    report_under(None, tree, diagnostics);
}

/// The same for a value that stands under a name.
pub(crate) fn report_under(name: Option<&str>, node: &mut Node, diagnostics: &mut Diagnostics) {
    match &mut node.value {
        Value::String(text) => {
            let found = shapes::find(text);
            if is_secret_by_name(name.unwrap_or_default(), text) {
                "***".clone_into(text);
            } else if !found.is_empty() {
                found.into_iter().rev().for_each(|range| text.replace_range(range, "***"));
            } else {
                return;
            }
            tell(node.at, diagnostics);
        }
        Value::Array(items) => items.iter_mut().for_each(|item| report_under(name, item, diagnostics)),
        Value::Table(table) => {
            table.entries.iter_mut().for_each(|(name, (_, child))| report_under(Some(name), child, diagnostics));
        }
        _ => {}
    }
}

fn tell(at: Origin, diagnostics: &mut Diagnostics) {
    diagnostics.sources.mask(at);
    diagnostics.push(Diagnostic::error(at, "a secret must not stand in an experiment file").hint(HINT));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets_are_known_by_their_ends() {
        for name in
            ["OPENAI_API_KEY", "x-api-key", "hf-token", "HF_TOKEN", "db_password", "openaiApiKey", "client_secret"]
        {
            assert!(is_secret_by_name(name, "abcdefgh"), "{name}");
            // A short value is a placeholder, unless the name leaves no doubt.
            assert_eq!(is_secret_by_name(name, "abcdefg"), is_certain(&folded(name)), "{name} with a short value");
            assert!(!is_secret_by_name(name, ""), "{name} without a value");
            assert!(!is_secret_by_name(name, "$VARIABLE_OF_THE_SHELL"), "{name} with a variable");
        }
    }

    #[test]
    fn harmless_names_are_left_alone() {
        for name in
            ["max-tokens", "special-tokens", "eos-token", "pad_token", "bos-token", "tokenizer", "group-key", "monkey"]
        {
            assert!(!is_secret_by_name(name, "abcdefghij"), "{name}");
        }
        assert!(!is_secret_by_name("prefix-token", "<|im_start|>"));
    }

    #[test]
    fn a_name_of_a_variable_stands_under_env_and_a_key_does_not() {
        for variable in ["TEACHER_API_KEY", "OPENAI_KEY_2", "openai_api_key", "K"] {
            assert!(!is_secret_by_name("api-key-env", variable), "{variable}");
        }
        for key in ["abcdef0123456789abcdef", "sk-abc", "a key", ""] {
            assert!(is_secret_by_name("api-key-env", key), "{key}");
        }
        assert!(!is_secret_by_name("pass-env", "not a variable"));
    }

    #[test]
    fn an_argument_is_covered_whether_or_not_its_path_can_be_read() {
        for argument in ["teacher.typo.api-key=abcdefgh", "a b.\"db_password\" = 'abcdefgh'", "sk-abcdefghij0123456789"]
        {
            let covered = covered_argument(argument);
            assert!(!covered.contains("abcdefgh"), "{covered}");
            assert_eq!(covered.len(), argument.len());
        }
        assert_eq!(covered_argument("student.small.steps=20000000"), "student.small.steps=20000000");
    }
}
