//! Lets a program of the user's judge rows: unit tests, a solver, a reward model.
//!
//! The program gets a batch of rows on standard input, a JSON object a line, until the input ends:
//!
//! ```text
//! {"source":0,"line":1,"prompt":"5abf…","sample":0,"messages":[{"role":"user","content":"…"}],"completion":"…","reference":"…"}
//! ```
//!
//! and answers on standard output with one line for each, in their order: `{"keep":true}`, `{"keep":false,"reason":"…"}`,
//! `{"keep":true,"score":0.5}`. It is started anew for every batch of some thousand rows (all samples of a prompt are in
//! one), so it must judge a row, or a prompt's samples, by what it is given. What it writes to standard error is in the
//! stage's log.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use stillhouse_stage::spec::{Config, Diagnostic, Diagnostics, Execution, FilePath, Node};
use stillhouse_stage::{Cancel, Failure, process};

use super::{Filter, Judged, Pass, Place, Verdict};
use crate::error::{DataError, DataResult};
use crate::prompt::Message;

/// Lets a program judge rows: it gets them as JSON lines on standard input and answers a line each on standard output,
/// `{"keep": false, "reason": "…"}` or `{"keep": true, "score": 0.5}`. `docs/data.md` says what a line has.
#[derive(Clone, Debug, Config)]
#[config(check = sound)]
pub struct Verifier {
    /// The program and its arguments; `{files.NAME}` stands for the path of a file.
    pub run: Vec<String>,
    /// Name → file that is read: its content is part of the key. Name the script here.
    #[config(default)]
    pub files: BTreeMap<String, FilePath>,
    /// Variables that change the result.
    #[config(default)]
    pub env: BTreeMap<String, String>,
    /// Counts as a part of the key and does nothing else: change it to run the program again.
    #[config(default)]
    pub version: String,
    /// Seconds for a batch of some thousand rows, after which the program is stopped and the stage fails.
    #[config(default = Execution(600.0), above = 0.0)]
    pub timeout: Execution<f64>,
}

/// Variables that every program gets: without them hardly any works, and none of them is a setting.
const PASSED_ALWAYS: &[&str] = &["PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH"];

fn sound(config: &Verifier, node: &Node, report: &mut Diagnostics) {
    let at = node.as_table().and_then(|table| table.get("run")).map_or(node.at, |run| run.at);
    if config.run.first().is_none_or(|program| program.trim().is_empty()) {
        report.push(Diagnostic::error(at, "the command is empty").hint("run = [\"python3\", \"{files.script}\"]"));
    }
    let places = config.run.iter().flat_map(|argument| argument.split("{files.").skip(1));
    for name in places.filter_map(|rest| rest.split_once('}')).map(|(name, _)| name) {
        if !config.files.contains_key(name) {
            let error = Diagnostic::error(at, format!("`{{files.{name}}}` is not declared in `files`"));
            report.push(error.suggest(name, config.files.keys().map(String::as_str)));
        }
    }
}

impl Filter for Verifier {
    fn start(&self, place: &Place<'_>) -> Result<Box<dyn Pass>, Failure> {
        let mut arguments = self.run.clone();
        for name in self.files.keys() {
            let path = place.file(&format!("files.{name}"))?.display().to_string();
            arguments.iter_mut().for_each(|argument| *argument = argument.replace(&format!("{{files.{name}}}"), &path));
        }
        let context = place.context()?;
        let folder = context.scratch().join("verifier");
        Failure::io(fs_err::create_dir_all(&folder), "cannot make the program's folder")?;
        Ok(Box::new(Program {
            arguments,
            env: self.env.clone(),
            // More seconds than can be counted are for ever.
            timeout: Duration::try_from_secs_f64(self.timeout.0).unwrap_or(Duration::MAX),
            folder,
            log: context.attempt().join("log"),
            cancel: context.cancel().clone(),
        }))
    }

    fn runs_a_program(&self) -> bool {
        true
    }
}

struct Program {
    arguments: Vec<String>,
    env: BTreeMap<String, String>,
    timeout: Duration,
    folder: PathBuf,
    log: PathBuf,
    cancel: Cancel,
}

/// A line of the program's input.
#[derive(Serialize)]
struct Question<'a> {
    source: u32,
    line: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<&'a str>,
    sample: u32,
    messages: &'a [Message],
    completion: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<&'a str>,
}

/// A line of the program's output. It may have more than is asked for.
#[derive(Deserialize)]
struct Answer {
    keep: bool,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    score: Option<f64>,
}

impl Pass for Program {
    fn judge(&mut self, rows: &[Judged<'_>]) -> DataResult<Vec<Verdict>> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let output = self.ask(&lines(rows)?)?;
        let answers: Vec<&str> = output.lines().filter(|line| !line.trim().is_empty()).collect();
        let verdicts: Vec<Verdict> =
            answers.iter().zip(1..).map(|(line, number)| self.read(line, number)).collect::<Result<_, _>>()?;
        if verdicts.len() != rows.len() {
            return Err(self.fault(
                format!("answered {} of {} rows", verdicts.len(), rows.len()),
                "it must write one line for each line it reads, and nothing else, to standard output",
            ));
        }
        Ok(verdicts)
    }
}

fn lines(rows: &[Judged<'_>]) -> DataResult<Vec<u8>> {
    let mut input = Vec::new();
    for row in rows {
        let Judged { source, line, prompt, sample, messages, completion, reference, .. } = *row;
        let question = Question { source, line, prompt, sample, messages, completion, reference };
        serde_json::to_writer(&mut input, &question)
            .map_err(|error| DataError::io("the program's input")(error.into()))?;
        input.push(b'\n');
    }
    Ok(input)
}

impl Program {
    fn read(&self, line: &str, number: usize) -> DataResult<Verdict> {
        let Answer { keep, reason, score } = serde_json::from_str(line).map_err(|error| {
            let shown: String = line.chars().take(120).collect();
            self.fault(
                format!("wrote what is no answer in line {number}: {error}"),
                format!(
                    "the line is `{shown}`; wanted is `{{\"keep\": true}}` or `{{\"keep\": false, \"reason\": \"…\"}}`"
                ),
            )
        })?;
        Ok(match (keep, score) {
            (false, _) => Verdict::Drop(reason.unwrap_or_else(|| "the program gave no reason".into())),
            (true, Some(score)) => Verdict::Score(score),
            (true, None) => Verdict::Keep,
        })
    }

    fn fault(&self, what: impl std::fmt::Display, hint: impl Into<String>) -> DataError {
        let program = self.arguments.join(" ");
        DataError::Program { message: format!("the verifier `{program}` {what}"), hint: Some(hint.into()) }
    }

    /// Runs the program on some input; gives what it wrote.
    fn ask(&self, input: &[u8]) -> DataResult<String> {
        let broken = |error: std::io::Error| DataError::io("a pipe to the verifier")(error);
        let (their_input, mut our_input) = std::io::pipe().map_err(broken)?;
        let (mut our_output, their_output) = std::io::pipe().map_err(broken)?;
        let log = fs_err::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(DataError::own_io(&self.log))?;
        let mut command = self.command();
        command.stdin(their_input).stdout(their_output).stderr(log.into_file());
        let mut group = process::Group::start(&mut command).map_err(|error| {
            self.fault(
                format!("cannot be started: {error}"),
                "is it installed, and in PATH? A script goes into `files`",
            )
        })?;
        // Its ends of the pipes go with it: its output ends when the program does.
        drop(command);
        let (status, output) = std::thread::scope(|scope| {
            // A program that does not read all of its input answers too little, and that is found below.
            scope.spawn(move || _ = our_input.write_all(input));
            let reading = scope.spawn(move || {
                let mut output = Vec::new();
                our_output.read_to_end(&mut output).map(|_| output)
            });
            let status = self.wait(&mut group);
            let output = reading.join().unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into()));
            (status, output)
        });
        let status = status?;
        if !status.success() {
            let hint = match process::last_line(&self.log) {
                Some(line) => format!("its last line was: {line}"),
                None => "it wrote nothing to standard error".to_owned(),
            };
            return Err(self.fault(format!("failed: {}", process::describe(status)), hint));
        }
        String::from_utf8(output.map_err(broken)?)
            .map_err(|_| self.fault("wrote what is not UTF-8", "its output is lines of JSON"))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.arguments.first().map_or("", String::as_str));
        command.args(self.arguments.iter().skip(1)).current_dir(&self.folder).env_clear();
        for name in PASSED_ALWAYS {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs(&self.env);
        command
    }

    fn wait(&self, group: &mut process::Group) -> DataResult<ExitStatus> {
        let started = Instant::now();
        let mut nap = Duration::from_micros(200);
        loop {
            if let Some(status) = group.ended().map_err(DataError::io(Path::new("the verifier")))? {
                return Ok(status);
            }
            if self.cancel.is_cancelled() {
                group.stop();
                return Err(DataError::Cancelled);
            }
            if started.elapsed() > self.timeout {
                group.stop();
                return Err(self.fault(
                    format!("ran longer than its timeout of {} s", self.timeout.as_secs_f64()),
                    "raise `timeout`: it is in no key",
                ));
            }
            std::thread::sleep(nap);
            nap = (nap * 2).min(Duration::from_millis(20));
        }
    }
}
