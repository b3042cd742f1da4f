//! Several processes write replies into one store at the same time and are killed at random moments; every reply that
//! one of them had acknowledged is there afterwards. Meanwhile another opens the store again and again. All of them write index files.
#![expect(clippy::unwrap_used, reason = "helpers of a test fail it")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use stillhouse_data::answer::Outcome;
use stillhouse_teacher::replies::{Every, ReplyStore, RequestKey};
use stillhouse_teacher::reply::{Reply, Usage};

/// Set in the processes that write: the store's folder.
const FOLDER: &str = "STILLHOUSE_TEST_REPLIES";
const WRITER: &str = "STILLHOUSE_TEST_WRITER";

fn key(writer: u32, number: u32) -> RequestKey {
    RequestKey(*blake3::hash(format!("{writer} {number}").as_bytes()).as_bytes())
}

fn reply(writer: u32, number: u32) -> Reply {
    Reply {
        outcome: Outcome::Ok,
        text: format!("reply {number} of {writer} ").repeat(1 + number as usize % 90),
        finish: "stop".to_owned(),
        model: "m".to_owned(),
        usage: Usage { prompt: 1, completion: 1 },
        token_ids: None,
        vector: None,
        tokens: None,
    }
}

fn open(folder: &Path) -> ReplyStore {
    ReplyStore::open_indexing(folder, Every::replies(64)).unwrap()
}

/// Not a test of its own: what the child processes do until they are killed.
#[test]
fn writes_until_it_is_killed() {
    let (Ok(folder), Ok(writer)) = (std::env::var(FOLDER), std::env::var(WRITER)) else { return };
    let writer: u32 = writer.parse().unwrap();
    let store = open(Path::new(&folder));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut out = std::io::stdout();
    for batch in 0.. {
        let numbers = batch * 8..batch * 8 + 8;
        let puts = numbers.clone().map(|number| {
            let store = &store;
            async move { store.put(key(writer, number), 8, &reply(writer, number)).await.unwrap() }
        });
        runtime.block_on(futures_util::future::join_all(puts));
        numbers.for_each(|number| writeln!(out, "stored {number}").unwrap());
        out.flush().unwrap();
    }
}

fn start(folder: &Path, writer: u32) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["writes_until_it_is_killed", "--exact", "--nocapture"])
        .env(FOLDER, folder)
        .env(WRITER, writer.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn acknowledged(mut child: Child) -> Vec<u32> {
    child.kill().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let stored = lines.filter_map(|line| line.rsplit_once("stored ")?.1.parse().ok()).collect();
    child.wait().unwrap();
    stored
}

#[test]
fn every_acknowledged_reply_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut stored: Vec<(u32, u32)> = Vec::new();
    for round in 0..6 {
        let writers: Vec<u32> = (round * 3..round * 3 + 3).collect();
        let children: Vec<Child> = writers.iter().map(|writer| start(folder.path(), *writer)).collect();
        let until = Instant::now() + Duration::from_millis(150 + u64::from(round) * 37);
        while Instant::now() < until {
            assert!(open(folder.path()).len() >= stored.len());
        }
        for (writer, child) in writers.into_iter().zip(children) {
            stored.extend(acknowledged(child).into_iter().map(|number| (writer, number)));
        }
    }
    assert!(stored.len() > 100, "{}", stored.len());
    let store = open(folder.path());
    for (writer, number) in stored {
        let location = store.find(&key(writer, number), 8).unwrap().expect("it was acknowledged");
        assert_eq!(store.read(&key(writer, number), location).unwrap(), Some(reply(writer, number)));
    }
    let names: Vec<_> = fs_err::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let count = |extension: &str| names.iter().filter(|path| path.extension().unwrap() == extension).count();
    assert!(count("index") > 0, "{names:?}");
    let segments = count("replies");
    assert!(segments <= 6, "killed writers' segments are written on: {segments}");
}
