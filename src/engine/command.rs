//! `[command.X]`: any program as a stage, with declared inputs, files, environment and outputs.

mod places;
mod running;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use serde_json::json;
use stillhouse_spec::config::expected;
use stillhouse_spec::types::{DirectoryPath, Selection};
use stillhouse_spec::{
    Canonical, Config, Described, Diagnostic, Diagnostics, Execution, Node, Ref, Select, Target, Value,
};
use stillhouse_stage::{Class, Context, Failure, Kind, Needs, Outcome, Placement, StageKind, View, kind};

use places::{Nearly, Places, device, nearly, places};
use running::{Logging, failed, wait};

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
                report.push(
                    Diagnostic::error(node.at, "the command is empty").hint("run = [\"python3\", \"{files.script}\"]"),
                );
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
        check_places(config, view, report);
        for name in config.inputs.keys().chain(config.files.keys()) {
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
                let error = Diagnostic::error(
                    view.at,
                    format!("`{name}` is no good name for an input or file of {}", view.label),
                );
                report.push(error.hint("names are letters, digits, `-` and `_`: they become variables and folders"));
            }
        }
        for output in &config.outputs {
            if Path::new(output).components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
                let error =
                    Diagnostic::error(view.at, format!("output `{output}` of {} leads out of `{{out}}`", view.label));
                report.push(error.hint("outputs are relative paths below `{out}`"));
            }
        }
    }
}

/// Reports what stands in braces in `run` and is nearly a place: a program would find it as it was written.
fn check_places(config: &CommandConfig, view: &View<'_>, report: &mut Diagnostics) {
    let names = config.inputs.keys().map(|name| format!("inputs.{name}"));
    let known: Vec<String> = names.chain(config.files.keys().map(|name| format!("files.{name}"))).collect();
    let texts: Vec<(String, &str)> = match &config.run {
        CommandLine::Shell(line) => vec![("run".to_owned(), line)],
        CommandLine::Arguments(items) => {
            items.iter().enumerate().map(|(index, item)| (format!("run.{index}"), item.as_str())).collect()
        }
    };
    for (at, place) in texts.iter().flat_map(|(at, text)| places(text).into_iter().map(move |place| (at, place))) {
        match nearly(place, &known) {
            Nearly::Place | Nearly::Nothing => {}
            Nearly::Undeclared => {
                let message = format!("`{{{place}}}` in {}'s `run` is not declared", view.label);
                let error = Diagnostic::error(view.place(at), message);
                report.push(error.suggest(place, known.iter().map(String::as_str)));
            }
            Nearly::Misspelt(meant) => {
                let message =
                    format!("`{{{place}}}` in {}'s `run` is no place: the program gets it as it stands", view.label);
                report.push(Diagnostic::warning(view.place(at), message).hint(format!("did you mean `{{{meant}}}`?")));
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
                return Err(Failure::new(
                    Class::Command,
                    format!("the program ended well but left no `{wanted}` in its output"),
                )
                .hint("write it below `{out}` (or $STILLHOUSE_OUT), or take it out of `outputs`"));
            }
        }
        Ok(Outcome::with_metrics(read_metrics(&places.out)?))
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
