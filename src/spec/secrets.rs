//! Keys never stand in a file: found ones are errors, and masked before any message can repeat them.

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::node::{Node, Origin, Value};

const HINT: &str = "put it into an environment variable and give the variable's name: `api-key-env = \"TEACHER_API_KEY\"`";

/// Prefixes that the keys of well-known services carry.
const PREFIXES: &[&str] = &["sk-", "sk_", "hf_", "ghp_", "github_pat_", "xai-", "gsk_", "AIza", "AKIA", "glpat-", "Bearer "];

/// Names under which only a secret would stand.
const NAMES: &[&str] = &["api-key", "apikey", "secret", "password", "access-token", "auth-token", "authorization", "bearer"];

fn names_a_secret(name: &str) -> bool {
    NAMES.contains(&name.to_lowercase().replace('_', "-").as_str())
}

fn looks_like_a_secret(text: &str) -> bool {
    let bare = text.len() >= 16 && !text.contains(char::is_whitespace);
    PREFIXES.iter().any(|prefix| text.starts_with(prefix) && (bare || *prefix == "Bearer "))
}

fn is_variable_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c == '_' || c.is_ascii_alphanumeric())
}

/// The hint for an unknown key that names a secret.
pub(crate) fn hint_for_key(name: &str) -> Option<&'static str> {
    names_a_secret(name).then_some(HINT)
}

/// Reports every string that is or should be a secret, masking it in its source.
pub(crate) fn report(tree: &Node, diagnostics: &mut Diagnostics) {
    visit(tree, None, diagnostics);
}

fn visit(node: &Node, name: Option<&str>, diagnostics: &mut Diagnostics) {
    match &node.value {
        Value::String(text) => {
            let named = name.unwrap_or_default();
            if named.ends_with("api-key-env") && !is_variable_name(text) || names_a_secret(named) || looks_like_a_secret(text)
            {
                tell(node.at, diagnostics);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| visit(item, name, diagnostics)),
        Value::Table(table) => {
            table.entries.iter().for_each(|(name, (_, child))| visit(child, Some(name), diagnostics));
        }
        _ => {}
    }
}

fn tell(at: Origin, diagnostics: &mut Diagnostics) {
    diagnostics.sources.mask(at);
    diagnostics.push(Diagnostic::error(at, "a secret must not stand in an experiment file").hint(HINT));
}
