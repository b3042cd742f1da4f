//! `[command.X]`: any program as a stage, with declared inputs, files, environment and outputs.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use stillhouse_spec::config::expected;
use stillhouse_spec::types::{DirectoryPath, Selection};
use stillhouse_spec::{
    Canonical, Config, Described, Diagnostic, Diagnostics, Execution, Node, Ref, Select, Target, Value,
};
use stillhouse_stage::{Class, Context, Failure, Kind, Needs, Outcome, Placement, StageKind, View, kind};

use crate::run::process;

/// Variables that every program gets: without them hardly any works, and none of them is a setting.
const PASSED_ALWAYS: &[&str] = &["PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH"];

/// A program that reads inputs and files and writes its output below `{out}`. Cached like every other stage.
///
/// It starts in an empty folder, so that a file it reads without declaring it is missed at once. Places in its arguments:
/// `{out}`, `{inputs.NAME}` (a folder), `{files.NAME}`, `{seed}`; the same as variables: `STILLHOUSE_OUT`,
/// `STILLHOUSE_INPUT_NAME`, `STILLHOUSE_FILE_NAME`, `STILLHOUSE_SEED`.
#[derive(Clone, Debug, Config)]
pub struct CommandConfig {
    /// The program and its arguments, or one line for `sh -c`.
    pub run: CommandLine,
    /// Name → stage whose output is read, as a folder.
    #[config(default)]
    pub inputs: BTreeMap<String, Ref<AnyStage>>,
    /// Name → file or folder that is read: its content is part of the key. Name the scripts here.
    #[config(default)]
    pub files: BTreeMap<String, DirectoryPath<Whole>>,
    /// Variables that change the result.
    #[config(default)]
    pub env: BTreeMap<String, String>,
    /// Names of variables that are passed on from outside and change nothing of the result (credentials, cache folders).
    #[config(default)]
    pub pass_env: Execution<Vec<String>>,
    /// Files or folders below `{out}` that must be there at the end; all of `{out}` is kept in any case.
    #[config(default)]
    pub outputs: Vec<String>,
    /// Counts as a part of the key and does nothing else: change it to run the program again.
    #[config(default)]
    pub version: String,
    /// Seconds after which the program is stopped and the stage fails.
    #[config(above = 0)]
    pub timeout: Execution<Option<f64>>,
    /// Whether it needs the GPU, so that no two such stages share one.
    #[config(default)]
    pub gpu: Execution<bool>,
}

/// The output of any stage.
#[derive(Clone, Debug)]
pub struct AnyStage;

impl Target for AnyStage {
    const KINDS: &'static [&'static str] = &[];
}

/// A file, or all of a folder.
#[derive(Clone, Debug)]
pub struct Whole;

impl Selection for Whole {
    const SELECT: Select = Select::Everything;
}

/// A list of arguments, or one line for the shell.
#[derive(Clone, Debug, PartialEq)]
pub enum CommandLine {
    /// Program and arguments.
    Arguments(Vec<String>),
    /// For `sh -c`.
    Shell(String),
}

impl Config for CommandLine {
    fn decode(node: &Node, report: &mut Diagnostics) -> Option<Self> {
        match &node.value {
            Value::String(line) if !line.trim().is_empty() => Some(Self::Shell(line.clone())),
            Value::Array(items) if !items.is_empty() => {
                let arguments: Vec<_> = items.iter().map(|item| String::decode(item, report)).collect();
                arguments.into_iter().collect::<Option<_>>().map(Self::Arguments)
            }
            Value::String(_) | Value::Array(_) => {
                report.push(Diagnostic::error(node.at, "the command is empty").hint("run = [\"python3\", \"{files.script}\"]"));
                None
            }
            _ => {
                report.push(expected("a list of arguments or one line", node));
                None
            }
        }
    }

    fn schema() -> serde_json::Value {
        json!({ "anyOf": [
            { "type": "array", "items": { "type": "string" }, "minItems": 1 },
            { "type": "string", "minLength": 1 },
        ] })
    }

    fn describe(&self) -> Described {
        Described::Value(match self {
            Self::Shell(line) => Canonical::from(line.as_str()),
            Self::Arguments(items) => Canonical::Array(items.iter().map(|item| item.as_str().into()).collect()),
        })
    }
}

/// The kind.
pub struct Command;

impl Kind for Command {
    kind!("command", CommandConfig);

    fn as_stage(&self) -> Option<&dyn StageKind> {
        Some(self)
    }

    fn check(&self, view: &View<'_>, report: &mut Diagnostics) {
        let Some(config) = view.config_as::<CommandConfig>() else { return };
        let line = match &config.run {
            CommandLine::Shell(line) => line.clone(),
            CommandLine::Arguments(items) => items.join("\n"),
        };
        for place in places(&line) {
            let known = match place.split_once('.') {
                Some(("inputs", name)) => config.inputs.contains_key(name),
                Some(("files", name)) => config.files.contains_key(name),
                _ => continue,
            };
            if !known {
                let names = config.inputs.keys().map(|name| format!("inputs.{name}"));
                let names: Vec<String> = names.chain(config.files.keys().map(|name| format!("files.{name}"))).collect();
                let error = Diagnostic::error(view.at, format!("`{{{place}}}` in {}'s `run` is not declared", view.label));
                report.push(error.suggest(place, names.iter().map(String::as_str)));
            }
        }
        for name in config.inputs.keys().chain(config.files.keys()) {
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
                let error = Diagnostic::error(view.at, format!("`{name}` is no good name for an input or file of {}", view.label));
                report.push(error.hint("names are letters, digits, `-` and `_`: they become variables and folders"));
            }
        }
        for output in &config.outputs {
            if Path::new(output).components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
                let error = Diagnostic::error(view.at, format!("output `{output}` of {} leads out of `{{out}}`", view.label));
                report.push(error.hint("outputs are relative paths below `{out}`"));
            }
        }
    }
}

impl StageKind for Command {
    // 1: the first meaning.
    fn revision(&self) -> u32 {
        1
    }

    fn needs(&self, view: &View<'_>) -> Needs {
        let gpu = view.config_as::<CommandConfig>().is_some_and(|config| *config.gpu);
        // The worker stands guard: when the engine dies, it kills all of the program's processes.
        Needs { placement: Placement::Worker, compute: true, device: gpu, ..Needs::default() }
    }

    fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        let config: CommandConfig = context.config()?;
        let places = Places::prepare(&config, context)?;
        let mut process = places.process(&config);
        places.environment(&config, &mut process)?;
        device(context, &mut process);
        let log = context.attempt().join("log");
        let (reader, writer) = Failure::io(std::io::pipe(), "cannot read the program's output")?;
        let again = Failure::io(writer.try_clone(), "cannot read the program's output")?;
        process.current_dir(&places.folder).stdin(Stdio::null()).stdout(writer).stderr(again);
        let logging = Logging::start(reader, &log, &config)?;
        let status = wait(process, &config, context);
        logging.finish();
        let status = status?;
        if !status.success() {
            return Err(failed(&config, status, &log));
        }
        for wanted in &config.outputs {
            if !places.out.join(wanted).exists() {
                return Err(Failure::new(Class::Command, format!("the program ended well but left no `{wanted}` in its output"))
                    .hint("write it below `{out}` (or $STILLHOUSE_OUT), or take it out of `outputs`"));
            }
        }
        Ok(Outcome::with_metrics(read_metrics(&places.out)?))
    }
}

/// Where everything is that a program may name.
struct Places {
    out: PathBuf,
    folder: PathBuf,
    values: BTreeMap<String, String>,
}

impl Places {
    fn prepare(config: &CommandConfig, context: &Context) -> Result<Self, Failure> {
        let (out, scratch) = (context.out(), context.scratch());
        let folder = scratch.join("work");
        Failure::io(fs_err::create_dir_all(&folder), "cannot make the program's folder")?;
        let mut values = BTreeMap::new();
        values.insert("out".to_owned(), out.display().to_string());
        values.insert("seed".to_owned(), context.seed().to_string());
        for name in config.inputs.keys() {
            let input = context.input(&format!("inputs.{name}"))?;
            let into = scratch.join("inputs").join(name);
            Failure::io(fs_err::create_dir_all(&into), "cannot lay out an input")?;
            // A copy: a program that writes to its input must not reach the store.
            context.store().export(&input.tree, &into)?;
            values.insert(format!("inputs.{name}"), into.display().to_string());
        }
        for name in config.files.keys() {
            let path = context.file(&format!("files.{name}"))?;
            values.insert(format!("files.{name}"), path.display().to_string());
        }
        Ok(Self { out, folder, values })
    }

    fn process(&self, config: &CommandConfig) -> Process {
        match &config.run {
            CommandLine::Shell(line) => {
                let mut process = Process::new("sh");
                process.arg("-c").arg(self.fill(line, quoted));
                process
            }
            CommandLine::Arguments(items) => {
                let mut items = items.iter().map(|item| self.fill(item, str::to_owned));
                let mut process = Process::new(items.next().unwrap_or_default());
                process.args(items);
                process
            }
        }
    }

    fn fill(&self, text: &str, write: fn(&str) -> String) -> String {
        // The shell's own `${out}` stays the shell's.
        let shielded = text.replace("${", "\u{0}");
        let filled = self
            .values
            .iter()
            .fold(shielded, |text, (place, value)| text.replace(&format!("{{{place}}}"), &write(value)));
        filled.replace('\u{0}', "${")
    }

    fn environment(&self, config: &CommandConfig, process: &mut Process) -> Result<(), Failure> {
        process.env_clear();
        for name in PASSED_ALWAYS {
            if let Some(value) = std::env::var_os(name) {
                process.env(name, value);
            }
        }
        for name in config.pass_env.iter() {
            match std::env::var_os(name) {
                Some(value) => _ = process.env(name, value),
                None => {
                    return Err(Failure::input(format!("the variable {name} in `pass-env` is not set"))
                        .hint(format!("set it, or take {name} out of `pass-env`")));
                }
            }
        }
        process.envs(&config.env);
        for (place, value) in &self.values {
            let name = match place.split_once('.') {
                Some(("inputs", name)) => format!("INPUT_{name}"),
                Some(("files", name)) => format!("FILE_{name}"),
                _ => place.clone(),
            };
            process.env(format!("STILLHOUSE_{}", name.to_uppercase().replace('-', "_")), value);
        }
        Ok(())
    }
}

/// The device and the threads that the program may use, in the variables that programs know.
fn device(context: &Context, process: &mut Process) {
    let order = context.order();
    process.env("STILLHOUSE_DEVICE", &order.device).env("OMP_NUM_THREADS", order.threads.to_string());
    match order.device.strip_prefix("cuda:") {
        Some(number) => _ = process.env("CUDA_VISIBLE_DEVICES", number),
        None if order.device == "cpu" => _ = process.env("CUDA_VISIBLE_DEVICES", ""),
        None => {}
    }
}

/// The words in braces that could be places: `out`, `inputs.data`.
fn places(text: &str) -> Vec<&str> {
    // `${NAME}` is the shell's.
    let starts = text.match_indices('{').filter(|(at, _)| !text[..*at].ends_with('$'));
    let inner = starts.filter_map(|(at, _)| text[at + 1..].split_once('}').map(|(place, _)| place));
    inner.filter(|place| place.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'))).collect()
}

/// A word that the shell takes as it is.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn wait(mut command: Process, config: &CommandConfig, context: &Context) -> Result<std::process::ExitStatus, Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut group = process::Group::start(&mut command).map_err(|error| {
        let failure = Failure::new(Class::Command, format!("cannot start `{program}`: {error}"));
        match error.kind() {
            std::io::ErrorKind::NotFound => failure.hint("is it installed, and in PATH? A script goes into `files`"),
            _ => failure,
        }
    })?;
    // Its ends of the pipes go with it: the log ends when the program's do.
    drop(command);
    let started = Instant::now();
    let mut nap = Duration::from_micros(200);
    loop {
        if let Some(status) = Failure::io(group.ended(), "cannot wait for the program")? {
            return Ok(status);
        }
        if context.is_cancelled() {
            group.stop();
            return Err(Failure::interrupted());
        }
        if let Some(limit) = *config.timeout
            && started.elapsed().as_secs_f64() > limit
        {
            group.stop();
            return Err(Failure::new(Class::Command, format!("`{program}` ran longer than its timeout of {limit} s"))
                .hint("raise `timeout`: it is in no key"));
        }
        std::thread::sleep(nap);
        nap = (nap * 2).min(Duration::from_millis(20));
    }
}

fn failed(config: &CommandConfig, status: std::process::ExitStatus, log: &Path) -> Failure {
    let shown = match &config.run {
        CommandLine::Shell(line) => line.clone(),
        CommandLine::Arguments(items) => items.join(" "),
    };
    let failure = Failure::new(Class::Command, format!("`{shown}` failed: {}", process::describe(status)));
    match process::last_line(log) {
        Some(line) => failure.hint(format!("its last line was: {line}")),
        None => failure.hint("it wrote nothing to its output"),
    }
}

/// Copies a program's output into the log, line by line. Variables that were passed on may be credentials: their values
/// are left out before anything is written.
struct Logging {
    thread: std::thread::JoinHandle<()>,
}

impl Logging {
    fn start(output: std::io::PipeReader, log: &Path, config: &CommandConfig) -> Result<Self, Failure> {
        let file = fs_err::OpenOptions::new().create(true).append(true).open(log);
        let mut file = Failure::io(file, "cannot write the log")?;
        let passed = config.pass_env.iter().filter_map(|name| std::env::var(name).ok());
        let secrets: Vec<String> = passed.filter(|value| value.len() >= 6).collect();
        let thread = std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while matches!(output.read_until(b'\n', &mut line), Ok(count) if count > 0) {
                let written = if secrets.is_empty() {
                    file.write_all(&line)
                } else {
                    let text = String::from_utf8_lossy(&line).into_owned();
                    let text = secrets.iter().fold(text, |text, secret| text.replace(secret, "***"));
                    file.write_all(text.as_bytes())
                };
                // The pipe is read on even where the disk is full, or the program would hang.
                if let Err(error) = written {
                    tracing::warn!(%error, "a line of the program's output was lost");
                }
                line.clear();
            }
        });
        Ok(Self { thread })
    }

    /// Waits for the last line.
    fn finish(self) {
        _ = self.thread.join();
    }
}

/// `metrics.json`, if the program wrote one: an object of numbers that listings show.
fn read_metrics(out: &Path) -> Result<serde_json::Value, Failure> {
    let path = out.join("metrics.json");
    if !path.exists() {
        return Ok(json!({}));
    }
    let text = Failure::io(fs_err::read_to_string(&path), "cannot read metrics.json")?;
    match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(value) if value.is_object() => Ok(value),
        _ => Err(Failure::new(Class::Command, "the program's metrics.json is not a JSON object")
            .hint("write { \"name\": number, … }, or give the file another name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_the_words_in_braces() {
        assert_eq!(places("cp {inputs.data}/x {out} ${HOME} {not a place}"), ["inputs.data", "out"]);
    }

    #[test]
    fn a_quoted_word_survives_the_shell() {
        let word = "it's $HOME \"x\"";
        let output = Process::new("sh").arg("-c").arg(format!("printf %s {}", quoted(word))).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
    }
}
