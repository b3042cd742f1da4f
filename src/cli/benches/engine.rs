//! What the engine itself costs: start, plans of many stages, small commands. `cargo bench -p stillhouse --bench engine`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and stops at the first fault")]

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const REPEATS: usize = 5;

fn stillhouse(folder: &Path, arguments: &[&str]) -> Duration {
    let started = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_stillhouse"));
    let status = command.args(arguments).current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(status.unwrap().success(), "{arguments:?}");
    started.elapsed()
}

fn median(mut run: impl FnMut() -> Duration) -> Duration {
    let mut times: Vec<Duration> = (0..REPEATS).map(|_| run()).collect();
    times.sort();
    times[REPEATS / 2]
}

fn report(what: &str, time: Duration, bar: &str) {
    println!("{what:<58} {:>9.1} ms   bar {bar}", time.as_secs_f64() * 1e3);
}

/// Stages that copy one file each, `width` beside each other.
fn copies(width: usize) -> String {
    let mut text = String::from("[experiment]\nname = \"copies\"\n");
    for index in 0..width {
        writeln!(text, "[command.s{index}]\nrun = [\"cp\", \"{{files.f}}\", \"{{out}}/x\"]\nfiles = {{ f = \"f\" }}\nversion = \"{index}\"").unwrap();
    }
    text
}

/// `count` stages that take no time to make: a prompt list each, since those run
/// inside the engine.
fn prompts(count: usize) -> String {
    let mut text = String::from("[experiment]\nname = \"many\"\n");
    for index in 0..count {
        writeln!(text, "[prompts.p{index}]\nlist = [\"prompt {index}\"]").unwrap();
    }
    text
}

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    report("process start (--version)", median(|| stillhouse(folder, &["--version"])), "15 ms");

    std::fs::write(folder.join("f"), "content\n").unwrap();
    std::fs::write(folder.join("copies.toml"), copies(100)).unwrap();
    let mut store = 0;
    let fresh = median(|| {
        store += 1;
        stillhouse(folder, &["--cache", &format!("copies-{store}"), "run", "copies.toml"])
    });
    report("run: 100 command stages that copy a file", fresh, "1500 ms");
    let again = median(|| stillhouse(folder, &["--cache", "copies-1", "run", "copies.toml"]));
    report("run: the same again, nothing to do", again, "50 ms");

    for (count, bar) in [(1_000, "150 ms"), (10_000, "1500 ms")] {
        let file = format!("many-{count}.toml");
        std::fs::write(folder.join(&file), prompts(count)).unwrap();
        let store = format!("many-{count}");
        let made = stillhouse(folder, &["--cache", &store, "run", &file]);
        println!("{:<58} {:>9.1} ms", format!("(making {count} stages once)"), made.as_secs_f64() * 1e3);
        let time = median(|| stillhouse(folder, &["--cache", &store, "plan", &file]));
        report(&format!("plan: {count} stages, all up to date"), time, bar);
    }
}
