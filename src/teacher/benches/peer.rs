//! Requests a second to one server that thinks for 0, 20 or 200 ms, with 64 and 500 requests at once: through the whole
//! `openai` path, every reply stored durably before it counts, and beside it the `openai` Python client with asyncio, which
//! stores nothing. Server, this program's client and the Python client are processes of their own.
//!
//! `cargo bench -p stillhouse-teacher --features testing --bench peer -- [PYTHON]`: the Python that has `openai`, `python3` if
//! left out; without one, only this program is measured.
#![expect(clippy::print_stdout, clippy::expect_used, reason = "a bench prints, and stops at the first fault")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
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
use stillhouse_teacher::request::{Identity, Request, Sampling};
use stillhouse_teacher::testing::{Act, FakeTeacher};
use stillhouse_teacher::transport::endpoint::Address;
use stillhouse_teacher::transport::{Endpoint, Governor, Limits};

/// Set in the server's process: milliseconds to think.
const THINK: &str = "STILLHOUSE_BENCH_THINK";
/// Set in the process that is measured: the server's URL.
const URL: &str = "STILLHOUSE_BENCH_URL";
/// And how much it asks: requests at once, requests.
const ASK: &str = "STILLHOUSE_BENCH_ASK";
const BODY: &str = r#"{"id":"chatcmpl-0","object":"chat.completion","created":0,"choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"Rayleigh scattering favours short wavelengths, so the sky looks blue."}}],"model":"fake-1","usage":{"prompt_tokens":21,"completion_tokens":14,"total_tokens":35}}"#;

/// Thinking time in ms, requests at once, and how many requests we and the other client send: some ten seconds each.
const CASES: &[(u64, usize, u64, u64)] = &[
    (0, 64, 100_000, 4_000),
    (0, 500, 100_000, 4_000),
    (20, 64, 25_000, 4_000),
    (20, 500, 100_000, 4_000),
    (200, 64, 3_200, 3_200),
    (200, 500, 25_000, 6_000),
];

fn question(number: u64) -> Question {
    let text =
        format!("Question {number}: why is the sky blue, and not violet, though violet light is scattered more?");
    let messages = vec![Message::user(text)];
    let prompt = Arc::new(Prompt::new(messages.clone(), None));
    let sampling = Sampling { temperature: 0.7, top_p: 1.0, top_k: None, max_tokens: 256, stop: Vec::new() };
    let request = Request { messages, sampling, capture: None, sample: 0, attempt: 0, seed: Some(1), given: None };
    Question { prompt, number, request }
}

/// Processor seconds of this process so far, from the kernel, which counts in hundredths.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = |field: usize| after_name.split_whitespace().nth(field).and_then(|ticks| ticks.parse::<f64>().ok());
    (ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / 100.0
}

async fn serve(think: u64) -> Result<(), Failure> {
    let think = Duration::from_millis(think);
    let server =
        FakeTeacher::start(move |_| if think.is_zero() { Act::ok(BODY) } else { Act::ok(BODY).after(think) }).await?;
    println!("{}", server.base_url());
    std::future::pending::<()>().await;
    Ok(())
}

/// Asks as a stage does, and prints what the Python program prints.
async fn ask(url: &str, concurrency: usize, requests: u64) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let limits = Limits { concurrency, attempts: 3, ..Limits::default() };
    let identity = Identity { family: "openai-chat", model: "fake-1".to_owned(), revision: None };
    let store = Arc::new(ReplyStore::open(folder.path())?);
    let base_url: reqwest::Url = url.parse().expect("a URL");
    let asking = Asking::new(identity, store, OnRejected::Keep, move || {
        let (teacher, base_url) = ("fake".to_owned(), base_url.clone());
        let address = Address { teacher, base_url, key_variable: None, auth: Auth::Bearer };
        let (endpoint, governor) = (Endpoint::new(address, None, &limits)?, Arc::new(Governor::new(&limits)));
        let api = ChatApi { model: "fake-1".to_owned(), dialect: Dialect::Common };
        Ok(Client::new(endpoint, governor, Arc::new(api), &limits))
    });
    let (began, before) = (Instant::now(), processor());
    let questions = (0..requests).map(|number| Ok(question(number)));
    let mut answers = 0;
    let take = |_: &Question, reply: stillhouse_teacher::reply::Reply, _| {
        assert!(reply.text.starts_with("Rayleigh"));
        answers += 1;
        Ok(())
    };
    asking.all(questions, &Cancel::default(), take).await?;
    let seconds = began.elapsed().as_secs_f64();
    assert_eq!((answers, asking.paid().requests), (requests, requests), "every one was asked, and stored");
    println!("{:.1} {:.3} {seconds:.3} stillhouse", requests as f64 / seconds, processor() - before);
    Ok(())
}

/// What a client's process printed.
struct Measured {
    each_second: f64,
    processor: f64,
    seconds: f64,
    name: String,
}

fn measured(command: &mut Command) -> Option<Measured> {
    let output = command.stderr(Stdio::inherit()).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    let fields: Vec<&str> = text.split_whitespace().collect();
    let [each_second, processor, seconds, name] = fields[..] else { return None };
    let number = |text: &str| text.parse().ok();
    Some(Measured {
        each_second: number(each_second)?,
        processor: number(processor)?,
        seconds: number(seconds)?,
        name: name.to_owned(),
    })
}

/// The server's process and its URL.
fn start_server(think: u64) -> (Child, String) {
    let this = std::env::current_exe().expect("a path");
    let mut server =
        Command::new(this).env(THINK, think.to_string()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut line = String::new();
    let out = server.stdout.take().expect("it is piped");
    BufReader::new(out).read_line(&mut line).expect("it says its URL");
    (server, line.trim().to_owned())
}

fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_whitespace().next().unwrap_or("unknown").to_owned()
}

fn compare() {
    let python = std::env::args().skip(1).find(|argument| !argument.starts_with("--")).unwrap_or("python3".to_owned());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peer.py");
    println!("| think time | at once | | requests/s | processor time of a second | beside | load of the machine |");
    println!("|---|---|---|---|---|---|---|");
    for &(think, concurrency, ours, theirs) in CASES {
        let (mut server, url) = start_server(think);
        let this = std::env::current_exe().expect("a path");
        let before = load();
        let we = measured(Command::new(this).env(URL, &url).env(ASK, format!("{concurrency} {ours}")))
            .expect("our client measures itself");
        let peer = measured(Command::new(&python).args([script, &url, &concurrency.to_string(), &theirs.to_string()]));
        let row = |measured: &Measured, beside: &str| {
            println!(
                "| {think} ms | {concurrency} | {} | {:.0} | {:.2} s | {beside} | {before} |",
                measured.name,
                measured.each_second,
                measured.processor / measured.seconds
            );
        };
        let beside = peer.as_ref().map(|peer| format!("{:.1} ×", we.each_second / peer.each_second));
        row(&we, &beside.unwrap_or_default());
        if let Some(peer) = &peer {
            row(peer, "");
        }
        server.kill().expect("it can be ended");
        server.wait().expect("it ends");
    }
}

fn main() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if let Ok(think) = std::env::var(THINK) {
        return runtime.block_on(serve(think.parse().expect("a number")));
    }
    if let (Ok(url), Ok(asked)) = (std::env::var(URL), std::env::var(ASK)) {
        let (concurrency, requests) = asked.split_once(' ').expect("two numbers");
        let (concurrency, requests) = (concurrency.parse().expect("a number"), requests.parse().expect("a number"));
        return runtime.block_on(ask(&url, concurrency, requests));
    }
    compare();
    Ok(())
}
