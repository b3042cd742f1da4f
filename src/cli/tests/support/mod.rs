//! A scratch folder with an experiment in it, and the program to run there.
#![allow(dead_code, clippy::unwrap_used, reason = "shared by several test binaries; a failed helper is a failed test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A folder of its own for a test.
pub struct Place {
    folder: tempfile::TempDir,
}

/// What a finished command left.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Place {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// A place with one file called `experiment.toml`.
    pub fn with_experiment(text: &str) -> Self {
        let place = Self::new();
        place.write("experiment.toml", text);
        place
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.join(name)).unwrap()
    }

    /// The program, about to run here.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stillhouse"));
        command.args(arguments).current_dir(self.path()).stdin(Stdio::null());
        command.env_remove("STILLHOUSE_CACHE").env_remove("RUST_LOG").env("NO_COLOR", "1");
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }

    /// Runs `experiment.toml` and answers the events; the run must succeed.
    pub fn run_events(&self) -> Vec<Value> {
        let ran = self.run(&["run", "experiment.toml", "--format", "json"]);
        assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
        ran.json_lines()
    }

    /// Runs `experiment.toml` and answers the names of the stages that were built, in order of their names.
    pub fn built(&self) -> Vec<String> {
        finished(&self.run_events(), "built")
    }

    /// name → decision of a plan.
    pub fn decisions(&self) -> Vec<(String, String)> {
        let ran = self.run(&["plan", "experiment.toml", "--format", "json"]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let plan: Value = serde_json::from_str(&ran.stdout).unwrap();
        let stages = plan["stages"].as_array().unwrap().iter();
        stages.map(|stage| (text(&stage["name"]), text(&stage["decision"]))).collect()
    }
}

/// The names of the stages that finished in a way, sorted.
pub fn finished(events: &[Value], how: &str) -> Vec<String> {
    let mut names: Vec<String> = events
        .iter()
        .filter(|event| event["event"] == "stage-finished" && event["how"] == how)
        .map(|event| text(&event["stage"]))
        .collect();
    names.sort();
    names
}

/// stage → digest of its output.
pub fn outputs(events: &[Value]) -> std::collections::BTreeMap<String, String> {
    let finished = events.iter().filter(|event| event["event"] == "stage-finished");
    finished.map(|event| (text(&event["stage"]), text(&event["output"]))).collect()
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Ran {
    pub fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    pub fn json_lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}
