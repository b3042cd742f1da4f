//! Requests a second through the whole `openai` path, against a server in the same process that does not think: every reply
//! is stored durably before it counts. Then memory over 100,000 prompts, and what a stored reply costs.
//!
//! `cargo bench -p stillhouse-teacher --features testing --bench requests`
#![expect(clippy::print_stdout, clippy::expect_used, reason = "a bench prints, and stops at the first fault")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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

const PROMPTS: u64 = 100_000;
const BODY: &str = r#"{"choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"Rayleigh scattering favours short wavelengths, so the sky looks blue."}}],"model":"fake-1","usage":{"prompt_tokens":21,"completion_tokens":14,"total_tokens":35}}"#;

fn question(number: u64) -> Question {
    let text =
        format!("Question {number}: why is the sky blue, and not violet, though violet light is scattered more?");
    let messages = vec![Message::user(text)];
    let prompt = Arc::new(Prompt::new(messages.clone(), None));
    let sampling = Sampling { temperature: 0.7, top_p: 1.0, top_k: None, max_tokens: 256, stop: Vec::new() };
    Question {
        prompt,
        number,
        request: Request { messages, sampling, capture: None, sample: 0, attempt: 0, seed: Some(1), given: None },
    }
}

fn limits() -> Limits {
    Limits { concurrency: 128, timeout: Duration::from_secs(30), attempts: 3, ..Limits::default() }
}

fn asking(folder: &std::path::Path, base_url: &str) -> Arc<Asking> {
    let identity = Identity { family: "openai-chat", model: "fake-1".to_owned(), revision: None };
    let store = Arc::new(ReplyStore::open(folder).expect("the store opens"));
    let base_url: reqwest::Url = base_url.parse().expect("a URL");
    Asking::new(identity, store, OnRejected::Keep, move || {
        let (teacher, base_url) = ("fake".to_owned(), base_url.clone());
        let address = Address { teacher, base_url, key_variable: None, auth: Auth::Bearer };
        let (endpoint, governor) = (Endpoint::new(address, None, &limits())?, Arc::new(Governor::new(&limits())));
        let api = ChatApi { model: "fake-1".to_owned(), dialect: Dialect::Common };
        Ok(Client::new(endpoint, governor, Arc::new(api), &limits()))
    })
}

/// Resident memory in MiB, from the kernel.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0
}

async fn pass(name: &str, folder: &std::path::Path, base_url: &str) -> Result<(), Failure> {
    let start = Instant::now();
    let asking = asking(folder, base_url);
    println!("{name}: opened in {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    let done = AtomicU64::new(0);
    let start = Instant::now();
    let questions = (0..PROMPTS).map(|number| Ok(question(number)));
    asking
        .all(questions, &Cancel::default(), |_, reply, _| {
            assert!(reply.text.starts_with("Rayleigh"));
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if done == 10_000 || done.is_multiple_of(PROMPTS / 2) {
                let rate = done as f64 / start.elapsed().as_secs_f64();
                println!(
                    "{name}: {done} replies, {rate:.0}/s, {:.1} µs each, {:.1} MiB resident",
                    1e6 / rate,
                    resident()
                );
            }
            Ok(())
        })
        .await
}

fn main() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let teacher = FakeTeacher::start(|_| Act::ok(BODY)).await?;
        pass("asked", folder.path(), &teacher.base_url()).await?;
        pass("stored", folder.path(), &teacher.base_url()).await?;
        println!("the server was asked {} times", teacher.asked());
        Ok(())
    })
}
