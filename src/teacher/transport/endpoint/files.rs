//! Files that go to a server and come from it, and what is only looked at.

use std::path::Path;
use std::time::Duration;

use reqwest::multipart::{Form, Part};
use reqwest::{RequestBuilder, Response, StatusCode};
use stillhouse_stage::Failure;

use super::{Endpoint, REFUSAL_BYTES, reason, receive};
use crate::transport::Fault;
use crate::transport::retry::retry_after;

/// What is read of an answer that is a few lines of JSON; a list of batches has some hundred of them.
const ANSWER_BYTES: usize = 64 << 20;
/// The longest line of a file: a reply with the log-probabilities of many tokens.
const LINE_BYTES: usize = 1 << 30;
/// The slowest connection that a file is sent over, in bytes a second.
const SLOWEST: u64 = 64 << 10;
/// No download takes longer; it is the time between two pieces that is watched.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

impl Endpoint {
    /// Looks at what is at a path below the base URL; nothing if nothing is there.
    ///
    /// # Errors
    /// A [`Fault`] by class.
    pub async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Option<Vec<u8>>, Fault> {
        let request = self.client.get(self.url(path)).query(query);
        let Some(mut response) = self.sent(request).await? else { return Ok(None) };
        let (body, end) = receive(&mut response, ANSWER_BYTES).await;
        self.whole(body, end).map(Some)
    }

    /// Sends a small body, of which it does not matter what it may have cost.
    ///
    /// # Errors
    /// A [`Fault`] by class.
    pub async fn tell(&self, path: &str, body: Vec<u8>) -> Result<Vec<u8>, Fault> {
        self.post(path, body, ANSWER_BYTES).await.map(|answer| answer.body).map_err(|(fault, _)| fault)
    }

    /// Sends a file with a purpose, as a form; it is read while it is sent. `patience` is how long the server may take beside the
    /// time that the sending takes.
    ///
    /// # Errors
    /// A [`Fault`] by class; one of the file itself is permanent.
    pub async fn upload(&self, path: &str, purpose: &str, file: &Path, patience: Duration) -> Result<Vec<u8>, Fault> {
        let unreadable = |error: std::io::Error| {
            Fault::Permanent(Failure::environment(format!("cannot read {}: {error}", file.display())))
        };
        let open = tokio::fs::File::open(file).await.map_err(unreadable)?;
        let length = open.metadata().await.map_err(unreadable)?.len();
        let name = file.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let part = Part::stream_with_length(open, length).file_name(name).mime_str("application/jsonl");
        let part = part.map_err(|error| Fault::Permanent(Failure::internal(format!("no part of a form: {error}"))))?;
        let form = Form::new().text("purpose", purpose.to_owned()).part("file", part);
        let patience = patience.saturating_add(Duration::from_secs(length / SLOWEST));
        let request = self.client.post(self.url(path)).multipart(form).timeout(patience);
        let mut response = self.sent(request).await?.ok_or_else(|| self.no_such_path())?;
        let (body, end) = receive(&mut response, ANSWER_BYTES).await;
        self.whole(body, end)
    }

    /// Begins to bring a file; nothing if it is not there. `patience` is how long the server may be silent.
    ///
    /// # Errors
    /// A [`Fault`] by class.
    pub async fn download(&self, path: &str, patience: Duration) -> Result<Option<Download<'_>>, Fault> {
        let request = self.client.get(self.url(path)).timeout(LONGEST);
        let response = tokio::time::timeout(patience, self.sent(request)).await;
        let response = response.unwrap_or_else(|_| Err(Fault::transient("no answer within the timeout")))?;
        Ok(response.map(|response| Download { endpoint: self, response, patience, buffer: Vec::new(), searched: 0 }))
    }

    fn url(&self, path: &str) -> reqwest::Url {
        let mut url = self.address.base_url.clone();
        url.set_path(&format!("{}/{path}", url.path().trim_end_matches('/')));
        url
    }

    async fn sent(&self, request: RequestBuilder) -> Result<Option<Response>, Fault> {
        let mut response = request.send().await.map_err(|error| self.unanswered(error).0)?;
        self.reached.store(true, std::sync::atomic::Ordering::Relaxed);
        match response.status() {
            status if status.is_success() => Ok(Some(response)),
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Ok(None),
            status => {
                let asked = response.headers().get(reqwest::header::RETRY_AFTER).and_then(|value| value.to_str().ok());
                let asked = asked.and_then(|value| retry_after(value, jiff::Timestamp::now()));
                let (body, _) = receive(&mut response, REFUSAL_BYTES).await;
                Err(self.refused(status, asked, &body))
            }
        }
    }

    fn no_such_path(&self) -> Fault {
        self.refused(StatusCode::NOT_FOUND, None, b"")
    }

    fn whole(&self, body: Vec<u8>, end: super::End) -> Result<Vec<u8>, Fault> {
        match end {
            super::End::Whole => Ok(body),
            super::End::Broken(error) => Err(self.broke_off(error)),
            super::End::TooLong => Err(Fault::Garbled { what: "the answer has no end".to_owned() }),
        }
    }

    fn broke_off(&self, error: reqwest::Error) -> Fault {
        Fault::transient(format!("the answer broke off ({})", self.quote(&reason(error))))
    }
}

/// A file on its way here, line by line.
pub struct Download<'e> {
    endpoint: &'e Endpoint,
    response: Response,
    patience: Duration,
    buffer: Vec<u8>,
    /// How far the buffer was searched for the end of a line.
    searched: usize,
}

impl Download<'_> {
    /// The next line, without its end; nothing after the last one.
    ///
    /// # Errors
    /// A [`Fault`] by class; the file is then to be brought from its beginning.
    pub async fn line(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(self.searched + end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > LINE_BYTES {
                return Err(Fault::Garbled { what: "a line of the file has no end".to_owned() });
            }
            match tokio::time::timeout(self.patience, self.response.chunk()).await {
                Err(_) => return Err(Fault::transient("the server fell silent in the middle of a file")),
                Ok(Err(error)) => return Err(self.endpoint.broke_off(error)),
                Ok(Ok(Some(piece))) => self.buffer.extend_from_slice(&piece),
                Ok(Ok(None)) if self.buffer.is_empty() => return Ok(None),
                Ok(Ok(None)) => {
                    self.searched = 0;
                    return Ok(Some(std::mem::take(&mut self.buffer)));
                }
            }
        }
    }
}
