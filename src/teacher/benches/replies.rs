//! The store of replies at scale: how long it takes to open, what it holds in memory, what a hit and a miss cost. Each figure is taken in
//! a process of its own that has done nothing else.
//!
//! `cargo bench -p stillhouse-teacher --bench replies -- [REPLIES] [FOLDER]`, a million if left out; a folder that is named is kept.
#![expect(clippy::print_stdout, clippy::expect_used, reason = "a bench prints, and stops at the first fault")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use stillhouse_data::answer::Outcome;
use stillhouse_teacher::replies::{ReplyStore, RequestKey};
use stillhouse_teacher::reply::{Reply, Usage};

const MEASURE: &str = "STILLHOUSE_BENCH_MEASURE";
const LIMIT: u32 = 256;
const AT_A_TIME: u64 = 32_768;
const LOOKED_UP: u64 = 300_000;

fn key(number: u64) -> RequestKey {
    RequestKey(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn reply(number: u64) -> Reply {
    Reply {
        outcome: Outcome::Ok,
        text: format!("Answer {number}: short wavelengths are scattered more, so the sky looks blue."),
        finish: "stop".to_owned(),
        model: "fake-1".to_owned(),
        usage: Usage { prompt: 21, completion: 14 },
        token_ids: None,
        vector: None,
        tokens: None,
    }
}

/// Resident memory in MiB, from the kernel.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0
}

fn fill(folder: &Path, from: u64, to: u64) {
    let start = Instant::now();
    let store = ReplyStore::open(folder).expect("the store opens");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for first in (from..to).step_by(AT_A_TIME as usize) {
        let puts = (first..(first + AT_A_TIME).min(to)).map(|number| {
            let store = &store;
            async move { store.put(key(number), LIMIT, &reply(number)).await.expect("it is stored") }
        });
        runtime.block_on(futures_util::future::join_all(puts));
    }
    drop(store);
    let seconds = start.elapsed().as_secs_f64();
    println!("wrote {} replies in {seconds:.1} s, {:.0}/s, durable", to - from, (to - from) as f64 / seconds);
}

/// What a fresh process finds.
fn measure(folder: &Path, replies: u64) {
    let before = resident();
    let start = Instant::now();
    let store = ReplyStore::open(folder).expect("the store opens");
    let opened = start.elapsed();
    assert_eq!(store.len() as u64, replies);
    println!(
        "opened {replies} replies in {:.1} ms, {:.1} MiB resident ({before:.1} before)",
        opened.as_secs_f64() * 1e3,
        resident()
    );
    let looked_up = LOOKED_UP.min(replies);
    let start = Instant::now();
    for number in 0..looked_up {
        // Far from each other: a large odd step walks through all of them in disorder.
        let number = number.wrapping_mul(7_919_393) % replies;
        let location = store.find(&key(number), LIMIT).expect("it can be read").expect("it is there");
        let reply = store.read(&key(number), location).expect("it can be read").expect("it is whole");
        assert!(reply.text.starts_with("Answer "));
    }
    each("hit (find, read, decode)", looked_up, start);
    let start = Instant::now();
    for number in 0..looked_up {
        assert!(store.find(&key(replies + number), LIMIT).expect("it can be read").is_none());
    }
    each("miss", looked_up, start);
    println!("{:.1} MiB resident afterwards", resident());
}

fn each(what: &str, count: u64, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    println!("{what}: {:.2} µs each, {:.0}/s", seconds / count as f64 * 1e6, count as f64 / seconds);
}

fn in_a_process(folder: &Path, replies: u64) {
    let this = std::env::current_exe().expect("a path");
    let status = std::process::Command::new(this).env(MEASURE, format!("{replies} {}", folder.display())).status();
    assert!(status.expect("it starts").success());
}

fn main() {
    if let Ok(order) = std::env::var(MEASURE) {
        let (replies, folder) = order.split_once(' ').expect("a number and a folder");
        return measure(Path::new(folder), replies.parse().expect("a number"));
    }
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let replies: u64 = arguments.first().map_or(1_000_000, |count| count.parse().expect("a number of replies"));
    let temporary = tempfile::tempdir().expect("a folder");
    let folder = arguments.get(1).map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    let there = ReplyStore::open(&folder).expect("the store opens").len() as u64;
    fill(&folder, there, replies.max(there));
    let files = fs_err::read_dir(&folder).expect("a folder").map(|entry| entry.expect("a file").path());
    let (mut segments, mut indexes) = ((0, 0), 0);
    for path in files {
        let bytes = fs_err::metadata(&path).expect("a file").len();
        match path.extension().is_some_and(|extension| extension == "replies") {
            true => segments = (segments.0 + 1, segments.1 + bytes),
            false => indexes += bytes,
        }
    }
    println!("{} segments, {} MB; indexes {} MB", segments.0, segments.1 / 1_000_000, indexes / 1_000_000);
    in_a_process(&folder, replies.max(there));
    println!("without index files:");
    for entry in fs_err::read_dir(&folder).expect("a folder") {
        let path = entry.expect("a file").path();
        if path.extension().is_some_and(|extension| extension == "index") {
            fs_err::remove_file(path).expect("it is removed");
        }
    }
    in_a_process(&folder, replies.max(there));
    println!("after they were made again:");
    in_a_process(&folder, replies.max(there));
}
