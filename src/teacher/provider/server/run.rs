//! An `answers` stage whose teacher is a server.

use std::sync::Arc;

use reqwest::Url;
use serde_json::json;
use stillhouse_stage::{Failure, Outcome};

use super::spending::Spending;
use super::telling::Telling;
use super::{Client, Server};
use crate::answers::{Output, Policy, Questions};
use crate::asking::{Asking, Batches, WithoutReply};
use crate::batch::BatchOptions;
use crate::provider::{Asker, Job, terms};
use crate::replies::ReplyStore;
use crate::transport::endpoint::Address;
use crate::transport::{Endpoint, Governor};

/// Answers the stage's prompts.
///
/// # Errors
/// A [`Failure`] as the user shall read it.
pub fn run(server: &Server, job: &Job<'_>) -> Result<Outcome, Failure> {
    let identity = server.identity();
    let folder = job.context.store().replies_dir().join(identity.folder());
    let store = ReplyStore::shared(&folder)?;
    let policy = Policy::of(job.answers)?;
    let again = policy.asks_again().then(|| policy.clone().into_again());
    let asking = Asking::with_again(
        identity,
        store,
        WithoutReply {
            on_rejected: job.answers.on_rejected,
            on_failed: job.answers.outcomes.failed,
            kind: Some(job.context.order().kind.clone()),
        },
        again,
        connection(server, &job.asker()),
    );
    let (questions, total) = Questions::of(job.context, job.answers)?;
    let mut output = Output::create(&job.context.out(), job.answers.capture.is_some(), policy)?;
    let runtime = threads()?;
    let spending = Spending::of(server, &job.asker());
    let told = Telling {
        asker: job.asker(),
        asking: Arc::clone(&asking),
        spending: Arc::clone(&spending),
        total,
        unit: "answers",
    };
    let telling = told.start(&runtime);
    let asked = runtime.block_on(async {
        if let Some(options) = &server.batch {
            hand_in(server, job, options, &asking).await?;
        }
        let take = |question: &_, reply, origin| output.write(question, reply, None, origin);
        asking.all(questions, job.context.cancel(), take).await
    });
    telling.abort();
    told.warn_of_masked();
    spending.tell(job.context, &asking, asked.is_ok());
    asked?;
    told.warn_of_unanswered(["requests", "answer"]);
    job.context.progress(output.settled(), Some(total), "answers");
    let (mut metrics, models) = output.finish(job.teacher)?;
    asking.spent().add_to(&mut metrics, server.limits.prices);
    asking.add_failures_to(&mut metrics);
    told.warn_of_the_server(server, &models);
    Ok(Outcome { metrics, provenance: provenance(server, &models), resumed: false })
}

/// Who answered, for the record.
pub(super) fn provenance(server: &Server, models: &serde_json::Value) -> serde_json::Value {
    json!({
        "provider": server.provider,
        "model": server.model,
        "revision": server.revision,
        "models-as-the-server-named-them": models,
        "terms": terms::for_record(server.terms.as_ref()),
    })
}

/// Threads that ask.
pub(super) fn threads() -> Result<tokio::runtime::Runtime, Failure> {
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    Failure::io(
        threads.worker_threads(2).thread_name("teacher").enable_all().build(),
        "cannot start the threads that ask",
    )
}

/// Answers in batches what is not answered yet.
async fn hand_in(server: &Server, job: &Job<'_>, options: &BatchOptions, asking: &Asking) -> Result<(), Failure> {
    let tell = |news: String| job.context.note(format!("teacher {}: {news}", job.teacher));
    let batches = Batches { options, place: &server.base_url, cancel: job.context.cancel(), tell: &tell };
    asking.in_batches(&batches, || Ok(Box::new(Questions::of(job.context, job.answers)?.0))).await
}

/// How to connect, once it is known that something has to be asked.
pub(super) fn connection(
    server: &Server,
    job: &Asker<'_>,
) -> impl Fn() -> Result<Client, Failure> + Send + Sync + use<> + 'static {
    let (server, teacher, offline) = (server.clone(), job.teacher.to_owned(), job.context.order().offline);
    move || {
        if offline {
            return Err(Failure::environment(format!(
                "teacher {teacher} would have to be asked, but the run is offline"
            ))
            .hint("run without `--offline`: stored replies are used all the same"));
        }
        let base_url = Url::parse(&server.base_url)
            .map_err(|error| Failure::input(format!("teacher {teacher}: `base-url` is no URL: {error}")))?;
        let place = format!("{} {}", base_url.as_str().trim_end_matches('/'), server.model);
        let (limits, key_variable) = (&server.limits, server.key_variable.clone());
        let key = key_variable.as_ref().and_then(|variable| std::env::var(variable).ok());
        let address = Address { teacher: teacher.clone(), base_url, key_variable, auth: server.auth };
        let (endpoint, governor) = (Endpoint::new(address, key, limits)?, Governor::shared(&place, limits));
        Ok(Client::new(endpoint, governor, Arc::clone(&server.api), limits).with_thinking(server.thinking_tokens))
    }
}
