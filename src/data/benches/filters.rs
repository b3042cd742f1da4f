//! How long the filters that look for secrets and personal data, and `semantic-duplicate`, take: `cargo bench -p stillhouse-data --bench
//! filters [-- TEXTS ROWS WIDTH]`. The texts are made up: prose with a piece of a program or a log in every fourth, and something to
//! find in every fiftieth. Every tenth row has a vector next to an earlier one's.
#![expect(clippy::print_stdout, reason = "a bench prints")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use stillhouse_data::embeddings::{EMBEDDINGS_FILE, Embedded, EmbeddingWriter, TextDigest};
use stillhouse_data::filters::{FILTERS, Filter, Judged, Place, Verdict};
use stillhouse_stage::spec::{Diagnostics, Node};
use stillhouse_stage::store::{Key, Store};
use stillhouse_stage::{Cancel, Context, EventSink, Input, StageEvent, WorkOrder};

const TEXTS: usize = 100_000;
const ROWS: usize = 20_000;
const WIDTH: usize = 768;
const BATCH: usize = 4096;

/// Numbers that look random and are the same each time (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// From -1 to 1.
    fn number(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Pieces of programs and logs, in which most false alarms are.
const PIECES: &[&str] = &[
    "git clone git@github.com:owner/repo.git && npm i pkg@1.2.3-rc.next",
    "y = x@self.weight.t() + bias  # [256, 512, 1024]",
    "2024-10-05T12:30:00.123456789Z INFO request 1234567890123456 took 12.5 ms from 10.0.0.1:8080",
    "token = tokenizer.next(); api_key = os.environ[\"API_KEY\"]; assert len(token) == 16",
    "image: ghcr.io/owner/app@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
];
/// Things to find.
const FINDS: &[&str] = &[
    "write to ann.lee@firma.de",
    "call +49 30 1234 5678",
    "pay with 4111 1111 1111 1111",
    "\"password\": \"S3cretPassw0rd!\"",
];

fn texts(count: usize) -> Vec<String> {
    let mut numbers = Numbers(17);
    let mut text = |number: usize| {
        let mut text = String::new();
        for _ in 0..60 + numbers.below(120) {
            _ = write!(text, "{} ", WORDS[numbers.below(WORDS.len() as u64) as usize]);
        }
        if number.is_multiple_of(4) {
            text.push_str(PIECES[number / 4 % PIECES.len()]);
        }
        if number.is_multiple_of(50) {
            text.push_str(FINDS[number / 50 % FINDS.len()]);
        }
        text
    };
    (0..count).map(&mut text).collect()
}

const WORDS: &[&str] = &[
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "that",
    "a",
    "question",
    "answer",
    "model",
    "because",
    "therefore",
    "number",
    "which",
    "are",
    "with",
    "distribution",
    "student",
    "teacher.",
    "language,",
    "probability",
    "we",
    "you",
    "should",
    "not",
    "learn:",
    "from",
    "every",
    "example",
];

struct Silent;

impl EventSink for Silent {
    fn send(&self, _: StageEvent) {}
}

fn judge(filter: &dyn Filter, place: &Place<'_>, texts: &[String]) -> Result<(f64, usize), Box<dyn Error>> {
    let rows: Vec<Judged<'_>> =
        texts.iter().zip(1..).map(|(text, line)| Judged { line, ..Judged::of_text(text) }).collect();
    let mut pass = filter.start(place).map_err(|failure| failure.message)?;
    let started = Instant::now();
    let mut found = 0;
    for rows in rows.chunks(BATCH) {
        found += pass.judge(rows)?.iter().filter(|verdict| !matches!(verdict, Verdict::Keep)).count();
    }
    Ok((started.elapsed().as_secs_f64(), found))
}

/// A filter as a dataset's table writes it.
fn filter(name: &str, settings: &serde_json::Value) -> Result<Arc<dyn Filter>, Box<dyn Error>> {
    let entry = FILTERS.iter().find(|entry| entry.name == name).ok_or("no such filter")?;
    let decoded = (entry.decode)(&Node::from_json(settings), &mut Diagnostics::default());
    decoded.ok_or_else(|| "its settings are wrong".into())
}

/// The output of an `[embeddings.X]` with a vector a text, in a store, and a stage that reads it as `f.embeddings`.
fn context(folder: &std::path::Path, texts: &[String], width: usize) -> Result<Context, Box<dyn Error>> {
    let made = folder.join("made");
    fs_err::create_dir_all(&made)?;
    let mut writer = EmbeddingWriter::create(&made.join(EMBEDDINGS_FILE), Embedded::Answer)?;
    let mut numbers = Numbers(18);
    let mut earlier: Vec<Vec<f32>> = Vec::new();
    for (number, text) in texts.iter().enumerate() {
        let mut vector: Vec<f32> = (0..width).map(|_| numbers.number()).collect();
        if number % 10 == 9 {
            let near = &earlier[numbers.below(earlier.len() as u64) as usize];
            vector.iter_mut().zip(near).for_each(|(number, near)| *number = near + *number / 10.0);
        }
        writer.add(TextDigest::of(text), &vector)?;
        earlier.push(vector);
    }
    writer.finish()?;
    let store = Store::open(&folder.join("cache"))?;
    let (output, _) = store.put_tree(&made)?;
    let order = WorkOrder {
        stage: "dataset.bench".into(),
        kind: "dataset".into(),
        key: Key::of("bench", b""),
        recipe: String::new(),
        config: serde_json::Value::Null,
        definitions: BTreeMap::new(),
        inputs: BTreeMap::from([("f.embeddings".into(), Input { stage: "embeddings.bench".into(), output })]),
        files: BTreeMap::new(),
        seed: 17,
        device: "cpu".into(),
        threads: 0,
        offline: true,
        less_at_once: false,
        store: store.root().to_owned(),
        attempt: folder.to_owned(),
        run: "bench".into(),
    };
    Ok(Context::new(order, store, Arc::new(Silent), Cancel::default()))
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let given = |place: usize, otherwise: usize| arguments.get(place).copied().unwrap_or(otherwise);
    let (count, rows, width) = (given(0, TEXTS), given(1, ROWS), given(2, WIDTH));
    println!("{} threads", rayon::current_num_threads());
    let all = texts(count);
    let bytes: usize = all.iter().map(String::len).sum();
    for name in ["secrets", "personal-data"] {
        let (seconds, found) = judge(filter(name, &serde_json::json!({}))?.as_ref(), &Place::nowhere(), &all)?;
        println!(
            "{name}: {count} texts, {:.0} MB: {seconds:.2} s, {:.0} MB/s, {found} changed",
            bytes as f64 / 1e6,
            bytes as f64 / 1e6 / seconds
        );
    }
    let texts: Vec<String> = (0..rows).map(|row| format!("text {row}")).collect();
    let folder = tempfile::tempdir()?;
    let context = context(folder.path(), &texts, width)?;
    for exact_rows in [rows.max(1), 1] {
        let settings = serde_json::json!({ "embeddings": "e", "similarity": 0.95, "exact-rows": exact_rows });
        let place = Place::new(&context, "f".into());
        let (seconds, found) = judge(filter("semantic-duplicate", &settings)?.as_ref(), &place, &texts)?;
        let how = if exact_rows > 1 { "each with each" } else { "by hyperplanes" };
        println!("semantic-duplicate: {rows} rows of {width} numbers, {how}: {seconds:.2} s, {found} dropped");
    }
    Ok(())
}
