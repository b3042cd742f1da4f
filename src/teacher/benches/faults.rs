//! 100,000 prompts to a server of which a fifth of the answers is broken, by a process that is killed twenty times on the
//! way: nothing may be lost, nothing stored twice, nothing out of place.
//!
//! `cargo bench -p stillhouse-teacher --features testing --bench faults`
#![expect(clippy::print_stdout, clippy::expect_used, reason = "a bench prints, and stops at the first fault")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use stillhouse_data::prompt::{Message, Prompt};
use stillhouse_stage::{Cancel, Failure};
use stillhouse_teacher::answers::OnRejected;
use stillhouse_teacher::asking::{Asking, Question};
use stillhouse_teacher::provider::api::Auth;
use stillhouse_teacher::provider::openai::{ChatApi, Dialect};
use stillhouse_teacher::provider::server::Client;
use stillhouse_teacher::replies::ReplyStore;
use stillhouse_teacher::request::{Capture, Identity, Request, Sampling};
use stillhouse_teacher::testing::{FakeTeacher, Faults};
use stillhouse_teacher::transport::endpoint::Address;
use stillhouse_teacher::transport::{Endpoint, Governor, Limits};

const PROMPTS: u64 = 100_000;
const KILLS: u64 = 20;
const SHARE: f64 = 0.2;
const CONCURRENCY: usize = 128;
/// Set in the process that is killed: the server, and the folder of replies and answers.
const URL: &str = "STILLHOUSE_BENCH_URL";
const FOLDER: &str = "STILLHOUSE_BENCH_FOLDER";

fn text(number: u64) -> String {
    format!("question {number}")
}

fn question(number: u64) -> Question {
    let messages = vec![Message::user(text(number))];
    let prompt = Arc::new(Prompt::new(messages.clone(), None));
    let sampling = Sampling { temperature: 0.7, top_p: 1.0, top_k: None, max_tokens: 256, stop: Vec::new() };
    let request = Request {
        messages,
        sampling,
        capture: Some(Capture::TopK(1)),
        sample: 0,
        attempt: 0,
        seed: Some(1),
        given: None,
    };
    Question { prompt, number, request }
}

/// One life of the process that asks.
async fn ask(url: &str, folder: &Path) -> Result<(), Failure> {
    let identity = Identity { family: "openai-chat", model: "fake-1".to_owned(), revision: None };
    let store = Arc::new(ReplyStore::open(&folder.join("replies"))?);
    let base_url: reqwest::Url = url.parse().expect("a URL");
    let asking = Asking::new(identity, store, OnRejected::Keep, move || {
        // A prompt whose first eight answers are all broken comes up once in 400,000.
        let limits = Limits { concurrency: CONCURRENCY, attempts: 16, ..Limits::default() };
        let (teacher, base_url) = ("faulty".to_owned(), base_url.clone());
        let address = Address { teacher, base_url, key_variable: None, auth: Auth::Bearer };
        let api = ChatApi { model: "fake-1".to_owned(), dialect: Dialect::Common };
        let endpoint = Endpoint::new(address, None, &limits)?;
        Ok(Client::new(endpoint, Arc::new(Governor::new(&limits)), Arc::new(api), &limits))
    });
    let mut out = std::io::BufWriter::new(fs_err::File::create(folder.join("answers.tmp"))?);
    let questions = (0..PROMPTS).map(|number| Ok(question(number)));
    asking.all(questions, &Cancel::default(), |_, reply, _| Ok(writeln!(out, "{}", reply.text)?)).await?;
    out.flush()?;
    Ok(fs_err::rename(folder.join("answers.tmp"), folder.join("answers"))?)
}

fn start(url: &str, folder: &Path) -> std::io::Result<Child> {
    Command::new(std::env::current_exe()?).env(URL, url).env(FOLDER, folder).spawn()
}

async fn measure() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let faults = Arc::new(Faults::new(SHARE));
    let script = Arc::clone(&faults);
    let server = FakeTeacher::start(move |asked| script.act(asked)).await?;
    let began = Instant::now();
    let mut child = start(&server.base_url(), folder.path())?;
    let mut kills = 0;
    let status = loop {
        tokio::time::sleep(Duration::from_millis(5)).await;
        if let Some(status) = child.try_wait()? {
            break status;
        }
        // Spread over the whole way, at no round numbers.
        if kills < KILLS && faults.good() > (kills + 1) * PROMPTS / (KILLS + 1) + kills * 37 {
            child.kill()?;
            child.wait()?;
            kills += 1;
            child = start(&server.base_url(), folder.path())?;
        }
    };
    assert!(status.success(), "the last life ends well");
    let answers = fs_err::read_to_string(folder.path().join("answers"))?;
    let right = answers.lines().zip(0..).filter(|(line, number)| *line == format!("answer to: {}", text(*number)));
    let (lines, right) = (answers.lines().count(), right.count());
    let stored = ReplyStore::open(&folder.path().join("replies"))?.len();
    println!("{PROMPTS} prompts, {kills} kills, {:.1} s", began.elapsed().as_secs_f64());
    println!("the server was asked {} times and answered well {} times", server.asked(), faults.good());
    for (name, count) in faults.broken() {
        println!("  {count:>6} {name}");
    }
    println!("answers: {lines}, in their place and right: {right}");
    println!("replies stored: {stored}");
    let paid_twice = faults.good() - PROMPTS;
    let on_their_way = kills * CONCURRENCY as u64;
    println!("sent, but not stored when the process died: {paid_twice} (at most {on_their_way} on their way)");
    assert_eq!((lines as u64, right as u64, stored as u64, kills), (PROMPTS, PROMPTS, PROMPTS, KILLS));
    // Others go while replies wait for the disk, so as many again may do that.
    assert!(paid_twice <= 2 * on_their_way, "only what was on its way, or waited for the disk, is paid again");
    Ok(())
}

fn main() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match (std::env::var(URL), std::env::var(FOLDER)) {
        (Ok(url), Ok(folder)) => runtime.block_on(ask(&url, Path::new(&folder))),
        _ => runtime.block_on(measure()),
    }
}
