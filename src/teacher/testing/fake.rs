//! The server itself: listens on a free port of this machine, asks its script, counts.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::http::{Act, Connection};

/// A request as a script sees it.
#[derive(Debug)]
pub struct Asked {
    /// How many came before it.
    pub number: u64,
    /// `GET`, `POST`
    pub method: String,
    /// `/v1/chat/completions`
    pub path: String,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// Every header, names in small letters.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Asked {
    /// The body as JSON, `null` if it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The content of the last message.
    #[must_use]
    pub fn last_message(&self) -> String {
        let body = self.json();
        let last = body["messages"].as_array().and_then(|messages| messages.last());
        last.and_then(|message| message["content"].as_str()).unwrap_or_default().to_owned()
    }
}

/// A chat completion with this text, finished by itself, that counts words as tokens.
#[must_use]
pub fn answer_with(text: &str) -> Act {
    let words = text.split_whitespace().count();
    let body = json!({
        "id": "chatcmpl-0", "object": "chat.completion", "created": 0, "model": "fake-1",
        "choices": [{ "index": 0, "finish_reason": "stop", "message": { "role": "assistant", "content": text } }],
        "usage": { "prompt_tokens": 7, "completion_tokens": words, "total_tokens": words + 7 },
    });
    Act::ok(body.to_string())
}

#[derive(Debug, Default)]
struct Counts {
    asked: AtomicU64,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

/// A running fake; stops when dropped.
#[derive(Debug)]
pub struct FakeTeacher {
    address: SocketAddr,
    counts: Arc<Counts>,
    listening: JoinHandle<()>,
}

impl FakeTeacher {
    /// Starts a server that does with each request what the script says. Needs a tokio runtime.
    ///
    /// # Errors
    /// The system's, if no port is free.
    pub async fn start(script: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let counts = Arc::new(Counts::default());
        let listening = tokio::spawn(listen(listener, Arc::new(script), Arc::clone(&counts)));
        Ok(Self { address, counts, listening })
    }

    /// A server that answers every prompt with `answer to: ` and the prompt.
    ///
    /// # Errors
    /// As [`FakeTeacher::start`].
    pub async fn echo() -> io::Result<Self> {
        Self::start(|asked| answer_with(&format!("answer to: {}", asked.last_message()))).await
    }

    /// `http://127.0.0.1:…/v1`
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Requests received so far.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.counts.asked.load(Ordering::Relaxed)
    }

    /// The most requests that were being answered at the same time.
    #[must_use]
    pub fn most_at_once(&self) -> usize {
        self.counts.most_at_once.load(Ordering::Relaxed)
    }
}

impl Drop for FakeTeacher {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

type Script = dyn Fn(&Asked) -> Act + Send + Sync;

async fn listen(listener: TcpListener, script: Arc<Script>, counts: Arc<Counts>) {
    // Dropping the set with this task ends all connections.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(Connection::new(stream), Arc::clone(&script), Arc::clone(&counts)));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut connection: Connection, script: Arc<Script>, counts: Arc<Counts>) {
    while let Ok(Some(received)) = connection.receive().await {
        let asked = Asked {
            number: counts.asked.fetch_add(1, Ordering::Relaxed),
            method: received.method,
            path: received.path,
            authorization: received.authorization,
            headers: received.headers,
            body: received.body,
        };
        let at_once = counts.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        counts.most_at_once.fetch_max(at_once, Ordering::Relaxed);
        let act = script(&asked);
        let goes_on = connection.act(act).await;
        counts.at_once.fetch_sub(1, Ordering::Relaxed);
        if !matches!(goes_on, Ok(true)) {
            return;
        }
    }
}
