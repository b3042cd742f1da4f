//! What a program is told: the places in its arguments and its environment.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command as Process;

use stillhouse_stage::{Context, Failure};

use super::{CommandConfig, CommandLine};

/// Variables that every program gets: without them hardly any works, and none of them is a setting.
const PASSED_ALWAYS: &[&str] = &["PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH"];

/// Where everything is that a program may name.
pub(super) struct Places {
    pub(super) out: PathBuf,
    pub(super) folder: PathBuf,
    values: BTreeMap<String, String>,
}

impl Places {
    pub(super) fn prepare(config: &CommandConfig, context: &Context) -> Result<Self, Failure> {
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

    pub(super) fn process(&self, config: &CommandConfig) -> Process {
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

    pub(super) fn environment(&self, config: &CommandConfig, process: &mut Process) -> Result<(), Failure> {
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
pub(super) fn device(context: &Context, process: &mut Process) {
    let order = context.order();
    process.env("STILLHOUSE_DEVICE", &order.device).env("OMP_NUM_THREADS", order.threads.to_string());
    match order.device.strip_prefix("cuda:") {
        Some(number) => _ = process.env("CUDA_VISIBLE_DEVICES", number),
        None if order.device == "cpu" => _ = process.env("CUDA_VISIBLE_DEVICES", ""),
        None => {}
    }
}

/// The words in braces that could be places: `out`, `inputs.data`.
pub(super) fn places(text: &str) -> Vec<&str> {
    // `${NAME}` is the shell's.
    let starts = text.match_indices('{').filter(|(at, _)| !text[..*at].ends_with('$'));
    let inner = starts.filter_map(|(at, _)| text[at + 1..].split_once('}').map(|(place, _)| place));
    inner.filter(|place| place.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'))).collect()
}

/// What words in braces are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Nearly {
    /// A place.
    Place,
    /// An input or a file that is not declared.
    Undeclared,
    /// Most likely this one, written in another way. Programs have braces of their own, so it may be right.
    Misspelt(String),
    /// Something of the program's.
    Nothing,
}

/// What the words in braces are; `known` are the declared places, `inputs.data`.
pub(super) fn nearly(place: &str, known: &[String]) -> Nearly {
    if matches!(place, "out" | "seed") || known.iter().any(|name| name == place) {
        return Nearly::Place;
    }
    if place.starts_with("inputs.") || place.starts_with("files.") {
        return Nearly::Undeclared;
    }
    let folded = place.to_lowercase();
    match folded.as_str() {
        "out" | "output" | "outputs" | "outdir" | "out-dir" | "out_dir" => return Nearly::Misspelt("out".to_owned()),
        "seed" | "seeds" => return Nearly::Misspelt("seed".to_owned()),
        _ => {}
    }
    // `{data}`, `{input.data}` and `{Inputs.data}` for `{inputs.data}`.
    let plain = match folded.split_once('.') {
        None => folded.as_str(),
        Some(("input" | "inputs" | "file" | "files" | "in", plain)) => plain,
        Some(_) => return Nearly::Nothing,
    };
    let meant = known.iter().find(|name| name.split_once('.').is_some_and(|(_, known)| known.to_lowercase() == plain));
    meant.map_or(Nearly::Nothing, |meant| Nearly::Misspelt(meant.clone()))
}

/// A word that the shell takes as it is.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_the_words_in_braces() {
        assert_eq!(places("cp {inputs.data}/x {out} ${HOME} {not a place}"), ["inputs.data", "out"]);
    }

    #[test]
    fn what_is_nearly_a_place_is_told_from_what_is_the_program_s() {
        let known = ["inputs.data".to_owned(), "files.script".to_owned()];
        let meant = |name: &str| Nearly::Misspelt(name.to_owned());
        for (place, expected) in [
            ("out", Nearly::Place),
            ("inputs.data", Nearly::Place),
            ("inputs.dat", Nearly::Undeclared),
            ("files.data", Nearly::Undeclared),
            ("input.data", meant("inputs.data")),
            ("Inputs.data", meant("inputs.data")),
            ("data", meant("inputs.data")),
            ("file.script", meant("files.script")),
            ("output", meant("out")),
            ("Seed", meant("seed")),
            ("file.name", Nearly::Nothing),
            ("print", Nearly::Nothing),
        ] {
            assert_eq!(nearly(place, &known), expected, "{place}");
        }
    }

    #[test]
    fn a_quoted_word_survives_the_shell() {
        let word = "it's $HOME \"x\"";
        let output = Process::new("sh").arg("-c").arg(format!("printf %s {}", quoted(word))).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
    }
}
