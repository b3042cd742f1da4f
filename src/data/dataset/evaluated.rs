//! The texts of a row of an evaluation's file, put together as a training row would hold them.
//!
//! A run of words may begin in a question and end in its answer, and short questions have no long run otherwise. So a row is
//! read as its file has it, and, where its fields have the usual names, each answer directly behind what is asked.

use serde_json::Value;

use crate::source::Json;

/// Names of what is asked, in reading order: what a question is about stands before it.
const ASKED: &[&str] = &[
    "context",
    "passage",
    "article",
    "premise",
    "document",
    "background",
    "instruction",
    "prompt",
    "query",
    "question",
    "question_stem",
    "problem",
    "ctx",
    "goal",
    "sentence",
    "stem",
    "input",
    "inputs",
];

/// Names of answers, given or to choose from.
const ANSWERED: &[&str] = &[
    "answer",
    "answers",
    "completion",
    "output",
    "outputs",
    "response",
    "solution",
    "target",
    "targets",
    "reference",
    "label",
    "explanation",
    "rationale",
    "hypothesis",
    "chosen",
    "choice",
    "choices",
    "options",
    "option",
    "endings",
    "correct_answer",
    "best_answer",
    "correct_answers",
    "generation",
    "canonical_solution",
    "code",
];

/// Names of answers that are counted, such as `sol1`, `option2` and `ending3`; one of a letter is an answer, too.
const COUNTED: &[&str] = &["sol", "solution", "option", "ending", "choice", "answer", "mc_answer", "distractor", "op"];

/// The texts of a row, each of which may hold a leak.
pub(super) fn texts(members: &[(String, Json)]) -> Vec<String> {
    let mut whole = Vec::new();
    members.iter().for_each(|(_, value)| strings(value, &mut whole));
    let mut texts = vec![whole.join("\n")];
    let mut named = Vec::new();
    fields(members, &mut named);
    let mut asked: Vec<(usize, &Json)> = named.iter().filter_map(|(name, value)| Some((rank(name)?, *value))).collect();
    asked.sort_by_key(|(rank, _)| *rank);
    let mut question = Vec::new();
    asked.into_iter().for_each(|(_, value)| strings(value, &mut question));
    if question.is_empty() {
        return texts;
    }
    let question = question.join("\n");
    let mut answers = Vec::new();
    named.iter().filter(|(name, _)| is_answer(name)).for_each(|(_, value)| strings(value, &mut answers));
    texts.extend(answers.into_iter().map(|answer| format!("{question}\n{answer}")));
    texts
}

fn rank(name: &str) -> Option<usize> {
    ASKED.iter().position(|known| known.eq_ignore_ascii_case(name))
}

fn is_answer(name: &str) -> bool {
    let is = |name: &str, names: &[&str]| names.iter().any(|known| known.eq_ignore_ascii_case(name));
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('_');
    let letter = matches!(name.as_bytes(), [b'A'..=b'E']) || matches!(name, "opa" | "opb" | "opc" | "opd" | "ope");
    is(name, ANSWERED) || letter || (stem.len() < name.len() && is(stem, COUNTED))
}

/// The members of a row, those of a question that has its own (`{"question": {"stem": …, "choices": …}}`) in its place.
fn fields<'v>(members: &'v [(String, Json)], out: &mut Vec<(&'v str, &'v Json)>) {
    for (name, value) in members {
        match value {
            Json::Object(inner) if inner.iter().any(|(name, _)| rank(name).is_some()) => fields(inner, out),
            _ => out.push((name, value)),
        }
    }
}

/// All texts in a value, in order; of a turn of a conversation, what is said and not who says it.
fn strings<'v>(value: &'v Json, out: &mut Vec<&'v str>) {
    match value {
        Json::Plain(Value::String(text)) => out.push(text),
        Json::Plain(_) => {}
        Json::Array(items) => items.iter().for_each(|item| strings(item, out)),
        Json::Object(members) => {
            let has = |names: [&str; 2]| members.iter().any(|(name, _)| names.contains(&name.as_str()));
            let turn = has(["role", "from"]) && has(["content", "value"]);
            let said = members.iter().filter(|(name, _)| !turn || !matches!(name.as_str(), "role" | "from"));
            said.for_each(|(_, member)| strings(member, out));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> Vec<String> {
        let Json::Object(members) = serde_json::from_str(json).unwrap() else { panic!("no object") };
        texts(&members)
    }

    #[test]
    fn a_row_is_read_in_the_order_of_its_file_and_every_answer_behind_the_question() {
        assert_eq!(of(r#"{"question": "q", "answer": "a"}"#), ["q\na", "q\na"]);
        assert_eq!(of(r#"{"answer": "a", "question": "q"}"#), ["a\nq", "q\na"]);
        assert_eq!(of(r#"{"z": "z", "b": ["x", {"t": "y"}]}"#), ["z\nx\ny"]);
        assert_eq!(
            of(
                r#"{"id": "7", "question": "q", "choices": {"text": ["one", "two"], "label": ["A", "B"]}, "answerKey": "A"}"#
            ),
            ["7\nq\none\ntwo\nA\nB\nA", "q\none", "q\ntwo", "q\nA", "q\nB"]
        );
        assert_eq!(of(r#"{"input": "i", "instruction": "do", "output": "o"}"#), ["i\ndo\no", "do\ni\no"]);
    }

    #[test]
    fn choices_are_found_under_the_names_that_suites_give_them() {
        let mut seen = of(
            r#"{"question": {"stem": "s", "choices": [{"text": "one", "label": "A"}, {"text": "two", "label": "B"}]}}"#,
        );
        assert_eq!(seen.split_off(1), ["s\none", "s\nA", "s\ntwo", "s\nB"]);
        for row in [
            r#"{"goal": "s", "sol1": "one", "sol2": "two", "label": 1}"#,
            r#"{"sentence": "s", "option1": "one", "option2": "two", "answer": 2}"#,
            r#"{"question": "s", "A": "one", "B": "two"}"#,
            r#"{"ctx": "s", "ending_0": "one", "ending_1": "two"}"#,
        ] {
            assert_eq!(of(row)[1..], ["s\none", "s\ntwo"], "{row}");
        }
    }

    #[test]
    fn of_a_conversation_the_turns_follow_each_other() {
        assert_eq!(
            of(r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}"#),
            ["q\na"]
        );
        assert_eq!(
            of(r#"{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}"#),
            ["q\na"]
        );
    }
}
