//! The file of given answers: read once to know what is in it, and a line at a time afterwards.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use fs_err::File;
use serde::Deserialize;
use stillhouse_data::answer::Outcome;
use stillhouse_data::prompt::{Message, Prompt};
use stillhouse_stage::Failure;

use crate::reply::{Reply, TokenLogProbs, Usage};

/// One line.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    messages: Option<Vec<Message>>,
    #[serde(default)]
    prompt: Option<String>,
    text: String,
    #[serde(default)]
    finish: Option<String>,
    #[serde(default)]
    outcome: Option<Outcome>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    source: Option<String>,
    #[serde(default)]
    terms: Option<String>,
    #[serde(default)]
    tokens: Option<Vec<TokenLogProbs>>,
}

/// Where the answers of a line come from, in the words of whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The line's number, from 1.
    pub line: u64,
    /// Where it was found.
    pub source: Option<String>,
    /// What it may be used for.
    pub terms: Option<String>,
}

/// A file that was looked through.
#[derive(Debug)]
pub struct Given {
    path: PathBuf,
    file: File,
    /// Prompt → its lines: number, first byte, length.
    lines: BTreeMap<String, Vec<(u64, u64, usize)>>,
}

impl Given {
    /// Looks through a file.
    ///
    /// # Errors
    /// If it cannot be read, or the line that is no answer.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let mut input = BufReader::with_capacity(1 << 16, File::open(path)?);
        let mut lines: BTreeMap<String, Vec<(u64, u64, usize)>> = BTreeMap::new();
        let (mut buffer, mut number, mut start) = (Vec::new(), 0, 0);
        loop {
            buffer.clear();
            let read = input.read_until(b'\n', &mut buffer)?;
            if read == 0 {
                break;
            }
            number += 1;
            if !buffer.iter().all(u8::is_ascii_whitespace) {
                let line = decode(path, number, &buffer)?;
                lines.entry(prompt_of(path, number, &line)?).or_default().push((number, start, read));
            }
            start += read as u64;
        }
        Ok(Self { path: path.to_owned(), file: File::open(path)?, lines })
    }

    /// Whether there is an answer.
    #[must_use]
    pub fn has(&self, prompt: &str, sample: u32) -> bool {
        self.lines.get(prompt).is_some_and(|lines| lines.len() > sample as usize)
    }

    /// Answers in the file, whether they are wanted or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.values().map(Vec::len).sum()
    }

    /// An answer; nothing where the file has none.
    ///
    /// # Errors
    /// If the file cannot be read any more.
    pub fn get(&mut self, prompt: &str, sample: u32) -> Result<Option<(Reply, Origin)>, Failure> {
        let Some((number, start, length)) = self.lines.get(prompt).and_then(|lines| lines.get(sample as usize)) else {
            return Ok(None);
        };
        let mut bytes = vec![0; *length];
        self.file.seek(SeekFrom::Start(*start))?;
        self.file.read_exact(&mut bytes)?;
        let Line { text, finish, outcome, model, source, terms, tokens, .. } = decode(&self.path, *number, &bytes)?;
        let outcome = outcome.unwrap_or(match finish.as_deref() {
            Some("length") => Outcome::Cut,
            _ if text.is_empty() => Outcome::Empty,
            _ => Outcome::Ok,
        });
        let reply = Reply {
            outcome,
            text,
            finish: finish.unwrap_or_else(|| "given".to_owned()),
            model: model.unwrap_or_default(),
            usage: Usage::default(),
            token_ids: None,
            vector: None,
            tokens,
        };
        Ok(Some((reply, Origin { line: *number, source, terms })))
    }
}

fn decode(path: &Path, number: u64, bytes: &[u8]) -> Result<Line, Failure> {
    serde_json::from_slice(bytes).map_err(|error| {
        // The reader counts lines of its own piece, which is one.
        let column = error.column();
        let words = error.to_string();
        let words = words.rsplit_once(" at line ").map_or(words.as_str(), |(words, _)| words);
        Failure::input(format!("{}:{number}:{column}: this is no reply: {words}", path.display()))
            .hint("a line is `{\"prompt\": \"…\", \"text\": \"…\"}`; see docs/teachers.md for what else it may hold")
    })
}

fn prompt_of(path: &Path, number: u64, line: &Line) -> Result<String, Failure> {
    match (&line.id, &line.messages, &line.prompt) {
        (Some(id), None, None) => Ok(id.clone()),
        (None, Some(messages), None) => Ok(Prompt::id_of(messages)),
        (None, None, Some(text)) => Ok(Prompt::id_of(&[Message::user(text.as_str())])),
        _ => Err(Failure::input(format!(
            "{}:{number}: a reply names its prompt by one of `prompt`, `messages` and `id`",
            path.display()
        ))
        .hint("remove the others, or add one")),
    }
}
