//! Arguments.

mod cache;

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::cache::{Cache, CacheAction, ExportReplies, Gc, RepliesAction};
use crate::error::{CliError, WRONG_ARGUMENTS};

/// A declarative experiment orchestrator for distilling language models: one TOML file becomes distilled, evaluated
/// students, and only what changed is run again.
#[derive(Debug, Parser)]
#[command(name = "stillhouse", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Arguments {
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
Exit codes: 0 done (plan --exit-code: nothing to do), 1 the experiment file is wrong, 2 plan --exit-code: there is work,
3 a stage failed (data, settings, training, command), 4 the machine (disk, permissions, memory), 5 a teacher,
6 a budget, 64 wrong arguments, 70 a fault of stillhouse, 130 stopped.";

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// The store of everything that was made.
    #[arg(long, global = true, env = "STILLHOUSE_CACHE", default_value = "cache", value_name = "DIR")]
    pub cache: PathBuf,
    /// How data is printed.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Whether to use colour.
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto)]
    pub color: Color,
}

/// How data is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Whether to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Yes.
    Always,
    /// No.
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say everything that is wrong with experiment files, at once.
    Check(Check),
    /// Say what would run, and why.
    Plan(Plan),
    /// Run an experiment.
    Run(Run),
    /// Say field by field why a stage runs, or why it is reused.
    Why(Why),
    /// List past runs.
    Runs(Runs),
    /// Show a run or the result of a stage.
    Show(Show),
    /// Show the log of a stage.
    Log(Log),
    /// Look after the store.
    Cache(Cache),
    /// Print the JSON Schema of experiment files.
    Schema,
    /// List the kinds of tables and their keys.
    Kinds(Kinds),
    /// Say what this machine offers: devices, store, threads.
    Doctor,
    /// Talk to a student.
    Generate(Generate),
    /// Write an example experiment to start from.
    Init(Init),
    /// Do one work order (started by `run`).
    #[command(hide = true)]
    Worker(Worker),
}

/// An experiment file and changes to it.
#[derive(Clone, Debug, Args)]
pub struct Experiment {
    /// The experiment file.
    pub file: PathBuf,
    /// Set a value as if it stood in the file, e.g. `student.small.steps=200`.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub set: Vec<String>,
}

/// `check`
#[derive(Debug, Args)]
pub struct Check {
    /// Experiment files.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Set a value as if it stood in the files.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub set: Vec<String>,
}

/// `plan`
#[derive(Debug, Args)]
pub struct Plan {
    /// Which experiment.
    #[command(flatten)]
    pub experiment: Experiment,
    /// Exit with 0 if nothing is to do, with 2 if there is work.
    #[arg(long)]
    pub exit_code: bool,
    /// Show reused stages too.
    #[arg(long, short)]
    pub all: bool,
}

/// `run`
#[derive(Debug, Args)]
pub struct Run {
    /// Which experiment.
    #[command(flatten)]
    pub experiment: Experiment,
    /// Run only this stage and what it needs; may be given several times.
    #[arg(long, value_name = "STAGE")]
    pub only: Vec<String>,
    /// Go on with what does not depend on a failed stage.
    #[arg(long)]
    pub keep_going: bool,
    /// How many stages compute at the same time [default: as many as there are processors].
    #[arg(long, short, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
    /// `auto`, `cpu` or `cuda:N`.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Never use the network: what is not in the store fails.
    #[arg(long)]
    pub offline: bool,
}

/// `why`
#[derive(Debug, Args)]
pub struct Why {
    /// Which experiment.
    #[command(flatten)]
    pub experiment: Experiment,
    /// The stage, e.g. `student.small`.
    pub stage: String,
}

/// `runs`
#[derive(Debug, Args)]
pub struct Runs {
    /// At most so many, newest first.
    #[arg(long, short = 'n', default_value_t = 20)]
    pub limit: usize,
}

/// `show`
#[derive(Debug, Args)]
pub struct Show {
    /// A run (`last`, an id), a stage (`student.small`: its newest result) or a key.
    pub what: String,
    /// How a dataset's rows are looked at.
    #[command(flatten)]
    pub rows: Rows,
}

/// A look at the rows of a dataset.
#[derive(Debug, Args)]
pub struct Rows {
    /// So many rows of a dataset, in order.
    #[arg(long, value_name = "N", conflicts_with_all = ["sample", "why"], value_parser = at_least_one)]
    pub rows: Option<usize>,
    /// So many rows of a dataset, by chance, the same each time.
    #[arg(long, value_name = "N", conflicts_with_all = ["dropped", "why", "skip"], value_parser = at_least_one)]
    pub sample: Option<usize>,
    /// The rows that a dataset left out, with the reason.
    #[arg(long, conflicts_with = "why")]
    pub dropped: bool,
    /// What became of a row: source and line (`0:17`), or the first digits of its prompt's id.
    #[arg(long, value_name = "ROW")]
    pub why: Option<String>,
    /// Begin behind so many.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub skip: usize,
    /// Held-out rows in place of those that are trained on.
    #[arg(long)]
    pub holdout: bool,
}

/// `log`
#[derive(Debug, Args)]
pub struct Log {
    /// The stage, e.g. `command.train`; without one, the log of the whole run.
    pub stage: Option<String>,
    /// The run [default: the newest that has the log].
    #[arg(long)]
    pub run: Option<String>,
}

/// `kinds`
#[derive(Debug, Args)]
pub struct Kinds {
    /// Only this kind, with all its keys.
    pub kind: Option<String>,
}

/// `generate`
#[derive(Debug, Args)]
pub struct Generate {
    /// The model: a student (its newest result), the key of a result, or a model folder.
    pub model: String,
    /// What to go on from; `-` reads standard input. Without one, a conversation on the terminal.
    pub prompt: Option<String>,
    /// A system message, for models with a chat template.
    #[arg(long)]
    pub system: Option<String>,
    /// Continue the bare text, without the model's chat template.
    #[arg(long)]
    pub raw: bool,
    /// Divides the logits; 0 takes the most likely token.
    #[arg(long, default_value_t = 0.7, value_parser = at_least_zero, allow_negative_numbers = true)]
    pub temperature: f32,
    /// Choose among the K most likely tokens only.
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Choose among the most likely tokens that have this much probability together.
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = share, allow_negative_numbers = true)]
    pub top_p: f32,
    /// Leave out tokens less than this part as likely as the most likely one.
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = share, allow_negative_numbers = true)]
    pub min_p: f32,
    /// At most so many new tokens.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_tokens: usize,
    /// Seed of the random choices: the same seed gives the same text.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// End the text before this string; may be given several times.
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// `auto`, `cpu` or `cuda:N`.
    #[arg(long, default_value = "auto")]
    pub device: String,
}

fn at_least_zero(text: &str) -> Result<f32, String> {
    number_to(text, f32::INFINITY).ok_or_else(|| "must be a number from 0".to_owned())
}

fn share(text: &str) -> Result<f32, String> {
    number_to(text, 1.0).ok_or_else(|| "must be a number from 0 to 1".to_owned())
}

/// A number from 0 to `most`, if that is what a text says.
fn number_to(text: &str, most: f32) -> Option<f32> {
    text.parse().ok().filter(|number: &f32| number.is_finite() && (0.0..=most).contains(number))
}

/// `init`
#[derive(Debug, Args)]
pub struct Init {
    /// Where to write it.
    #[arg(default_value = "experiment.toml")]
    pub file: PathBuf,
}

/// `worker`
#[derive(Debug, Args)]
pub struct Worker {
    /// The attempt's folder.
    pub attempt: PathBuf,
    /// End when standard input does.
    #[arg(long)]
    pub tied: bool,
}

/// Parses the arguments of this process; help and mistakes are printed here.
pub fn parse() -> Result<Arguments, ExitCode> {
    Arguments::try_parse().map_err(|error| {
        if !error.use_stderr() {
            // A closed pipe is no reason to fail.
            _ = error.print();
            return ExitCode::SUCCESS;
        }
        if wants_json(std::env::args_os()) {
            let (message, hint) = in_words(&error.render().to_string());
            return CliError::arguments(message, hint).print_json();
        }
        _ = error.print();
        ExitCode::from(WRONG_ARGUMENTS)
    })
}

/// Whether arguments that could not be understood ask for JSON.
fn wants_json(arguments: impl Iterator<Item = OsString>) -> bool {
    let arguments: Vec<OsString> = arguments.collect();
    let pair = |pair: &[OsString]| pair[0] == "--format" && pair[1] == "json";
    arguments.iter().any(|argument| argument == "--format=json") || arguments.windows(2).any(pair)
}

/// What is wrong with arguments, and what to do about it, from the text that a terminal gets.
fn in_words(text: &str) -> (String, String) {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let message = lines.next().unwrap_or_default();
    let message = message.strip_prefix("error: ").unwrap_or(message).to_owned();
    let rest: Vec<&str> = lines.filter(|line| !line.starts_with("For more information")).collect();
    (message, rest.join("; "))
}

/// A number of rows to look at: of none there is nothing to see.
fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_at_no_rows_is_refused() {
        let parsed = |line: &str| Arguments::try_parse_from(line.split(' '));
        assert!(parsed("stillhouse show dataset.d --rows 1").is_ok());
        for option in ["--rows", "--sample"] {
            let error = parsed(&format!("stillhouse show dataset.d {option} 0")).unwrap_err().to_string();
            assert!(error.contains("must be at least 1"), "{error}");
        }
    }

    #[test]
    fn json_is_known_to_be_wanted_where_nothing_else_is_understood() {
        let wants = |line: &str| wants_json(line.split(' ').map(OsString::from));
        assert!(wants("stillhouse plna --format json") && wants("stillhouse --format=json plan"));
        assert!(!wants("stillhouse plan --format text json") && !wants("stillhouse"));
    }
}
