//! Values of an axis as names of stages show them: `student.small[lr=0.0005]`.

use std::collections::BTreeSet;

use crate::node::{Node, Value};

/// Longest, in characters.
const LONGEST: usize = 24;

/// Each value under a name of its own: one line of at most [`LONGEST`] characters.
pub(super) fn name_each(values: Vec<&Node>) -> Vec<(String, Node)> {
    let mut taken = BTreeSet::new();
    let mut name = |value: &Node| {
        let whole = one_line(&text(value));
        // Cut texts may coincide, and so may `1` and `"1"`: a number tells them apart.
        let numbered = (2usize..).map(|number| with_ending(&whole, &format!("#{number}")));
        let name = std::iter::once(with_ending(&whole, "")).chain(numbered).find(|name| !taken.contains(name));
        let name = name.unwrap_or(whole);
        taken.insert(name.clone());
        name
    };
    values.into_iter().map(|value| (name(value), value.clone())).collect()
}

fn text(node: &Node) -> String {
    match &node.value {
        Value::String(text) => text.clone(),
        Value::Float(value) => format!("{value:?}"),
        _ => node.to_json().to_string(),
    }
}

/// A text with what a terminal or a line of a log would not show as one character written as an escape.
fn one_line(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        // `escape_debug` knows what is printable; quotes and backslashes are, and stay as they are.
        if matches!(character, '"' | '\'' | '\\') {
            out.push(character);
        } else {
            out.extend(character.escape_debug());
        }
    }
    out
}

/// A text and an ending, the text cut so that both have [`LONGEST`] characters at most.
fn with_ending(text: &str, ending: &str) -> String {
    let room = LONGEST.saturating_sub(ending.chars().count());
    if text.chars().count() <= room {
        return format!("{text}{ending}");
    }
    let cut: String = text.chars().take(room.saturating_sub(1)).collect();
    format!("{cut}…{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Origin;

    fn names(values: &[Value]) -> Vec<String> {
        let nodes: Vec<Node> = values.iter().map(|value| Node { value: value.clone(), at: Origin::NOWHERE }).collect();
        name_each(nodes.iter().collect()).into_iter().map(|(name, _)| name).collect()
    }

    fn string(text: &str) -> Value {
        Value::String(text.to_owned())
    }

    #[test]
    fn short_values_are_shown_as_they_are() {
        let values =
            [Value::Float(1e-4), Value::Float(2.0), Value::Integer(-3), Value::Boolean(true), string("C:\\a \"b\"")];
        assert_eq!(names(&values), ["0.0001", "2.0", "-3", "true", "C:\\a \"b\""]);
    }

    #[test]
    fn a_name_is_one_line() {
        assert_eq!(
            names(&[string("a\nb\tc"), string("\u{1b}[31m"), string("\u{2028}")]),
            ["a\\nb\\tc", "\\u{1b}[31m", "\\u{2028}"]
        );
    }

    #[test]
    fn long_values_are_cut_and_stay_apart() {
        let long = "an instruction that goes on and on: ";
        let values = [string(&format!("{long}one")), string(&format!("{long}two")), string(&format!("{long}three"))];
        let names = names(&values);
        assert_eq!(names, ["an instruction that goe…", "an instruction that g…#2", "an instruction that g…#3"]);
        assert!(names.iter().all(|name| name.chars().count() <= LONGEST));
    }

    #[test]
    fn values_of_different_types_that_look_alike_stay_apart() {
        assert_eq!(names(&[Value::Integer(1), string("1"), string("1#2")]), ["1", "1#2", "1#2#2"]);
    }
}
