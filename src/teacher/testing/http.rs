//! The least HTTP/1.1 that a client needs: requests with a length, kept-alive connections, and ways to misbehave.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What the server does with one request.
#[derive(Clone, Debug)]
pub enum Act {
    /// Answers with a status, further headers and a body.
    Answer {
        /// The status code.
        status: u16,
        /// Name and value of further headers.
        headers: Vec<(String, String)>,
        /// The body.
        body: Vec<u8>,
    },
    /// Announces the whole of a body, sends half of it, and closes.
    HalfBody(Vec<u8>),
    /// Closes without a word.
    Reset,
    /// Thinks for a while, then acts.
    After(Duration, Box<Act>),
}

impl Act {
    /// A status with a body and no further headers.
    pub fn status(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::Answer { status, headers: Vec::new(), body: body.into() }
    }

    /// Status 200 with a body.
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::status(200, body)
    }

    /// The same after a while.
    #[must_use]
    pub fn after(self, think: Duration) -> Self {
        Self::After(think, Box::new(self))
    }

    /// The same with a further header.
    #[must_use]
    pub fn with_header(self, name: &str, value: &str) -> Self {
        match self {
            Self::Answer { status, mut headers, body } => {
                headers.push((name.to_owned(), value.to_owned()));
                Self::Answer { status, headers, body }
            }
            other => other,
        }
    }
}

/// One request as it came.
pub struct Received {
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

/// One connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Takes a stream over.
    pub fn new(stream: TcpStream) -> Self {
        _ = stream.set_nodelay(true);
        Self { stream, buffer: Vec::with_capacity(4096) }
    }

    /// The next request; `None` when the client is done.
    pub async fn receive(&mut self) -> io::Result<Option<Received>> {
        let head_end = loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..head_end]).into_owned();
        let header = |wanted: &str| {
            head.lines().skip(1).find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case(wanted).then(|| value.trim().to_owned())
            })
        };
        let length: usize = header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
        while self.buffer.len() < head_end + length {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
        let body = self.buffer[head_end..head_end + length].to_vec();
        self.buffer.drain(..head_end + length);
        let method = head.split_whitespace().next().unwrap_or_default().to_owned();
        let path = head.split_whitespace().nth(1).unwrap_or_default().to_owned();
        let headers = head.lines().skip(1).filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        });
        Ok(Some(Received { method, path, authorization: header("authorization"), headers: headers.collect(), body }))
    }

    /// Acts; `false` when the connection is over.
    pub async fn act(&mut self, act: Act) -> io::Result<bool> {
        let mut act = act;
        while let Act::After(think, then) = act {
            tokio::time::sleep(think).await;
            act = *then;
        }
        match act {
            Act::Answer { status, headers, body } => {
                self.send(status, &headers, &body, body.len()).await?;
                Ok(true)
            }
            Act::HalfBody(body) => {
                self.send(200, &[], &body[..body.len() / 2], body.len()).await?;
                Ok(false)
            }
            Act::Reset | Act::After(..) => Ok(false),
        }
    }

    async fn send(&mut self, status: u16, headers: &[(String, String)], body: &[u8], length: usize) -> io::Result<()> {
        let mut bytes =
            format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n");
        headers.iter().for_each(|(name, value)| bytes.push_str(&format!("{name}: {value}\r\n")));
        bytes.push_str("\r\n");
        let mut bytes = bytes.into_bytes();
        bytes.extend_from_slice(body);
        self.stream.write_all(&bytes).await
    }
}
