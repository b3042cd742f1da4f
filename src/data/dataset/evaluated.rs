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

/// The texts of a row, each of which may hold a leak.
pub(super) fn texts(members: &[(String, Json)]) -> Vec<String> {
    let mut whole = Vec::new();
    members.iter().for_each(|(_, value)| strings(value, &mut whole));
    let mut texts = vec![whole.join("\n")];
    let mut asked: Vec<(usize, &Json)> =
        members.iter().filter_map(|(name, value)| Some((rank(name)?, value))).collect();
    asked.sort_by_key(|(rank, _)| *rank);
    let mut question = Vec::new();
    asked.into_iter().for_each(|(_, value)| strings(value, &mut question));
    if question.is_empty() {
        return texts;
    }
    let question = question.join("\n");
    let mut answers = Vec::new();
    members.iter().filter(|(name, _)| is(name, ANSWERED)).for_each(|(_, value)| strings(value, &mut answers));
    texts.extend(answers.into_iter().map(|answer| format!("{question}\n{answer}")));
    texts
}

fn rank(name: &str) -> Option<usize> {
    ASKED.iter().position(|known| known.eq_ignore_ascii_case(name))
}

fn is(name: &str, names: &[&str]) -> bool {
    names.iter().any(|known| known.eq_ignore_ascii_case(name))
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
