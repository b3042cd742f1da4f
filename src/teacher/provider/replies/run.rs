//! An `answers` stage whose answers are given.

use std::collections::BTreeMap;

use serde_json::json;
use stillhouse_stage::{Failure, Outcome};

use super::given::{self, Given};
use super::{Missing, Replies};
use crate::answers::{Output, Policy, Questions};
use crate::asking::{Origin, Question};
use crate::provider::{Job, terms};
use crate::reply::Reply;
use crate::request::Capture;

/// Prompts that a message names.
const NAMED: usize = 3;
/// Characters of a prompt that it shows.
const SHOWN: usize = 60;
/// Sources that are told apart in a record.
const SOURCES: usize = 16;
/// How often the user's wish to stop is looked at, and how far it came is told.
const TELL_EVERY: u64 = 1000;

/// Answers the stage's prompts.
pub fn run(settings: &Replies, job: &Job<'_>) -> Result<Outcome, Failure> {
    let path = job.context.file("teacher.path")?;
    let mut given = Given::open(&path)?;
    let (questions, total) = Questions::of(job.context, job.answers)?;
    let missing = look(&given, questions, total, settings, &path.display().to_string())?;
    let (questions, _) = Questions::of(job.context, job.answers)?;
    let mut output = Output::create(&job.context.out(), job.answers.capture.is_some(), Policy::of(job.answers)?)?;
    let mut origins: BTreeMap<(Option<String>, Option<String>), u64> = BTreeMap::new();
    for question in questions {
        let question = question?;
        if let Some((reply, from)) = given.get(&question.prompt.id, question.request.sample)? {
            let reply = captured(reply, &question, &from, &path.display().to_string())?;
            let given::Origin { source, terms, .. } = from;
            let origin = (source, terms);
            if origins.len() < SOURCES || origins.contains_key(&origin) {
                *origins.entry(origin).or_default() += 1;
            }
            output.write(&question, reply, None, Origin::Stored)?;
        }
        if output.settled() % TELL_EVERY == 0 {
            job.context.progress(output.settled(), Some(total), "answers");
            if job.context.is_cancelled() {
                return Err(Failure::interrupted());
            }
        }
    }
    job.context.progress(output.settled(), Some(total), "answers");
    if missing > 0 {
        job.context
            .warn(format!("teacher {} has no reply to {missing} of {total} prompts: they are left out", job.teacher));
    }
    let (mut metrics, models) = output.finish(job.teacher)?;
    metrics["missing"] = json!(missing);
    let sources: Vec<_> = origins
        .into_iter()
        .map(|((source, terms), replies)| json!({ "source": source, "terms": terms, "replies": replies }))
        .collect();
    let provenance = json!({
        "provider": "replies",
        "file": job.context.file_digest("teacher.path").map(|digest| digest.to_string()),
        "models-as-the-file-names-them": models,
        "sources": sources,
        "terms": terms::for_record(settings.terms.as_ref()),
    });
    Ok(Outcome { metrics, provenance, resumed: false })
}

/// Counts the questions that the file does not answer.
fn look(given: &Given, questions: Questions, total: u64, settings: &Replies, path: &str) -> Result<u64, Failure> {
    let (mut missing, mut named) = (0, Vec::new());
    for question in questions {
        let Question { prompt, number, request } = question?;
        if given.has(&prompt.id, request.sample) {
            continue;
        }
        missing += 1;
        if named.len() < NAMED {
            let text = prompt.messages.last().map_or("", |message| message.content.as_str());
            let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let shown: String = line.chars().take(SHOWN).collect();
            let more = if line.chars().count() > SHOWN { "…" } else { "" };
            let sample = if request.sample > 0 { format!(", sample {}", request.sample) } else { String::new() };
            named.push(format!("prompt {number} ({}{sample}) \"{shown}{more}\"", prompt.id));
        }
    }
    if missing == 0 || (settings.missing == Missing::Drop && missing < total) {
        return Ok(missing);
    }
    let others = if missing as usize > named.len() { ", …" } else { "" };
    let message = format!(
        "the {} replies in {path} leave {missing} of {total} prompts without one: {}{others}",
        given.len(),
        named.join(", ")
    );
    Err(Failure::input(message).hint(
        "a reply names its prompt's whole conversation, with system and template: add what is missing, or leave such \
         prompts out with `missing = \"drop\"` in the teacher",
    ))
}

/// The reply with as many alternatives as are wanted.
fn captured(mut reply: Reply, question: &Question, from: &given::Origin, path: &str) -> Result<Reply, Failure> {
    let wanted = match question.request.capture {
        None => return Ok(Reply { tokens: None, ..reply }),
        Some(Capture::TopK(k)) => k as usize,
        Some(Capture::Full) => usize::MAX,
    };
    let Some(tokens) = &mut reply.tokens else {
        return Err(Failure::input(format!("{path}:{}: the reply has no `tokens` with log-probabilities", from.line))
            .hint("remove `capture`, or add them to every line"));
    };
    tokens.iter_mut().for_each(|token| token.top.truncate(wanted));
    Ok(reply)
}
