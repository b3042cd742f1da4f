//! OpenAI's Batch API: files up, a batch of them, a look at how far it is, files down. Every call is tried again where that is worth it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use stillhouse_stage::{Cancel, Class, Failure};

use super::Entry;
use crate::provider::server::{Client, spread};
use crate::transport::endpoint::Download;
use crate::transport::{Fault, retry};

/// By this name a batch carries its name here.
const NAME: &str = "stillhouse-batch";
/// Batches a page of the list.
const PAGE: usize = 100;
/// Pages that are looked through for a batch whose id did not reach the disk.
const PAGES: usize = 50;
/// How far the server's clock may be behind, in seconds.
const SKEW: i64 = 24 * 3600;
/// How often the user's wish to stop is looked at while waiting.
const LOOK: Duration = Duration::from_millis(100);

/// A batch as the server has it.
#[derive(Clone, Debug, Deserialize)]
pub struct Batch {
    /// Its id.
    pub id: String,
    /// `validating`, `in_progress`, `finalizing`, `completed`, `expired`, `failed`, `cancelling`, `cancelled`.
    #[serde(default)]
    pub status: String,
    /// The file of replies.
    #[serde(default)]
    pub output_file_id: Option<String>,
    /// The file of requests that have none.
    #[serde(default)]
    pub error_file_id: Option<String>,
    /// Why nothing of it was begun.
    #[serde(default)]
    pub errors: Option<Errors>,
    /// How far it is.
    #[serde(default)]
    pub request_counts: Option<Counts>,
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
    #[serde(default)]
    created_at: Option<i64>,
}

/// Why a batch failed as a whole.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Errors {
    /// One by one.
    #[serde(default)]
    pub data: Vec<BatchError>,
}

/// One of these reasons.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct BatchError {
    /// In one word.
    #[serde(default)]
    pub code: Option<String>,
    /// In more of them.
    #[serde(default)]
    pub message: Option<String>,
    /// The line of the file.
    #[serde(default)]
    pub line: Option<u64>,
}

/// How far a batch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Counts {
    /// Requests.
    #[serde(default)]
    pub total: u64,
    /// Answered.
    #[serde(default)]
    pub completed: u64,
    /// Come to nothing.
    #[serde(default)]
    pub failed: u64,
}

/// The API of a teacher.
#[derive(Clone, Copy, Debug)]
pub struct Remote<'c> {
    /// Who is asked.
    pub client: &'c Client,
    /// The user's wish to stop.
    pub cancel: &'c Cancel,
}

impl<'c> Remote<'c> {
    /// Sends a batch's requests; gives the file's id there.
    ///
    /// # Errors
    /// A [`Failure`] as the user shall read it.
    pub async fn upload(&self, entry: &Entry) -> Result<String, Failure> {
        #[derive(Deserialize)]
        struct Made {
            id: String,
        }
        let (path, patience) = (entry.requests_path(), self.client.limits().timeout);
        let sending = self.insist(&entry.id, async |_| {
            let body = self.client.endpoint.upload("files", "batch", &path, patience).await?;
            Ok(self.understood::<Made>(&body)?.id)
        });
        // What was sent of a file costs nothing.
        tokio::select! { sent = sending => sent, () = self.cancelled() => Err(Failure::interrupted()) }
    }

    /// Makes a batch of an uploaded file, unless that was done before and only the answer got lost.
    ///
    /// # Errors
    /// A [`Failure`] as the user shall read it.
    pub async fn make(&self, entry: &Entry, file: &str, resumed: bool) -> Result<Batch, Failure> {
        let body = json!({
            "input_file_id": file,
            "endpoint": format!("/v1/{}", self.client.api().path()),
            "completion_window": "24h",
            "metadata": { NAME: entry.id },
        });
        self.insist(&entry.id, async |attempt| {
            if (attempt > 1 || resumed)
                && let Some(found) = self.find(entry).await?
            {
                return Ok(found);
            }
            let body = self.client.endpoint.tell("batches", body.to_string().into_bytes()).await?;
            self.understood(&body)
        })
        .await
    }

    /// How far a batch is.
    ///
    /// # Errors
    /// A [`Failure`] as the user shall read it.
    pub async fn look(&self, entry: &Entry, id: &str) -> Result<Batch, Failure> {
        let path = format!("batches/{id}");
        let found = self.insist(id, async |_| match self.client.endpoint.get(&path, &[]).await? {
            Some(body) => self.understood(&body).map(Some),
            None => Ok(None),
        });
        found.await?.ok_or_else(|| {
            let label = self.client.endpoint.label();
            Failure::new(Class::Teacher, format!("{label} does not know the batch {id}, which was handed in before"))
                .hint(format!(
                    "is the key one of the same project? to give the batch up and pay for its {} requests again, remove {}",
                    entry.stand.requests,
                    entry.requests_path().with_file_name(format!("{}.json", entry.id)).display()
                ))
        })
    }

    /// Begins to bring a file; nothing if it is gone.
    ///
    /// # Errors
    /// A [`Fault`], to be given to [`Remote::insist`].
    pub async fn download(&self, file: &str) -> Result<Option<Download<'c>>, Fault> {
        self.client.endpoint.download(&format!("files/{file}/content"), self.client.limits().timeout).await
    }

    /// Tries a call again and again, as single requests are. `call` is told which attempt it is, from 1.
    ///
    /// # Errors
    /// A [`Failure`] as the user shall read it; [`Failure::interrupted`] before another attempt.
    pub async fn insist<T>(
        &self,
        name: &str,
        mut call: impl AsyncFnMut(u32) -> Result<T, Fault>,
    ) -> Result<T, Failure> {
        let limits = self.client.limits();
        let mut attempt = 1;
        loop {
            let (what, asked, garbled) = match call(attempt).await {
                Ok(done) => return Ok(done),
                Err(Fault::Permanent(failure) | Fault::Rejected { failure, .. }) => return Err(failure),
                Err(Fault::Filtered { words }) => (words, None, false),
                Err(Fault::Transient { what, retry_after, .. }) => (what, retry_after, false),
                Err(Fault::Garbled { what }) => (what, None, true),
            };
            if let Some(asked) = asked.filter(|asked| *asked > limits.max_wait) {
                return Err(self.client.asked_too_much(&what, asked));
            }
            if attempt >= limits.attempts {
                return Err(self.client.give_up(attempt, &what, garbled));
            }
            tracing::debug!(batch = name, attempt, %what, "trying again");
            self.rest(retry::wait(attempt, asked, spread(name.as_bytes(), attempt))).await?;
            attempt += 1;
        }
    }

    /// Waits.
    ///
    /// # Errors
    /// [`Failure::interrupted`] as soon as the user wants to stop.
    pub async fn rest(&self, pause: Duration) -> Result<(), Failure> {
        tokio::select! {
            biased;
            () = self.cancelled() => Err(Failure::interrupted()),
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }

    /// Ends once the user wants to stop.
    pub async fn cancelled(&self) {
        while !self.cancel.is_cancelled() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The batch that carries an entry's name, if the server has one and lists what it has.
    async fn find(&self, entry: &Entry) -> Result<Option<Batch>, Fault> {
        #[derive(Deserialize)]
        struct List {
            #[serde(default)]
            data: Vec<Batch>,
            #[serde(default)]
            has_more: bool,
        }
        let (page, mut after) = (PAGE.to_string(), None::<String>);
        for _ in 0..PAGES {
            let mut query = vec![("limit", page.as_str())];
            query.extend(after.as_deref().map(|after| ("after", after)));
            let Some(body) = self.client.endpoint.get("batches", &query).await? else { return Ok(None) };
            let list: List = self.understood(&body)?;
            let ours = |batch: &&Batch| {
                batch.metadata.as_ref().and_then(|metadata| metadata.get(NAME)).is_some_and(|name| *name == entry.id)
            };
            if let Some(found) = list.data.iter().find(ours) {
                return Ok(Some(found.clone()));
            }
            // The newest come first.
            match list.data.last().filter(|_| list.has_more) {
                Some(last) if last.created_at.is_none_or(|made| made + SKEW >= entry.stand.began) => {
                    after = Some(last.id.clone());
                }
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    fn understood<T: serde::de::DeserializeOwned>(&self, body: &[u8]) -> Result<T, Fault> {
        serde_json::from_slice(body).map_err(|error| Fault::Garbled {
            what: self
                .client
                .endpoint
                .quote(&format!("the answer is not valid: {error}: {}", String::from_utf8_lossy(body))),
        })
    }
}
