//! An `answers` stage whose teacher is a server.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use serde_json::json;
use stillhouse_stage::{Failure, Outcome};

use super::spending::Spending;
use super::{Client, Server};
use crate::answers::{Output, Policy, Questions};
use crate::asking::{Asking, Batches, WithoutReply};
use crate::batch::BatchOptions;
use crate::provider::{Asker, Job, terms};
use crate::replies::ReplyStore;
use crate::transport::endpoint::Address;
use crate::transport::{Endpoint, Estimate, Governor, Spent};

pub(super) const TELL_EVERY: Duration = Duration::from_millis(200);

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
    let (context, counted, teacher) = (job.context.clone(), Arc::clone(&asking), job.teacher.to_owned());
    let spending = Spending::of(server, &job.asker());
    let spent = Arc::clone(&spending);
    let telling = runtime.spawn(async move {
        loop {
            tokio::time::sleep(TELL_EVERY).await;
            context.progress(counted.answered().min(total), Some(total), "answers");
            spent.tell_now_and_then(&context, &counted);
            if let Some(news) = counted.client().and_then(Client::news) {
                context.note(format!("teacher {teacher}: {news}"));
            }
        }
    });
    let asked = runtime.block_on(async {
        if let Some(options) = &server.batch {
            hand_in(server, job, options, &asking).await?;
        }
        let take = |question: &_, reply, origin| output.write(question, reply, None, origin);
        asking.all(questions, job.context.cancel(), take).await
    });
    telling.abort();
    warn_of_masked(&job.asker(), asking.client());
    spending.tell(job.context, &asking, asked.is_ok());
    asked?;
    warn_of_rejected(&job.asker(), &asking, total, ["requests", "answer"]);
    warn_of_failed(&job.asker(), &asking, total);
    job.context.progress(output.settled(), Some(total), "answers");
    let (mut metrics, models) = output.finish(job.teacher)?;
    let spent = asking.spent();
    warn_of_uncounted(&job.asker(), &spent);
    spent.add_to(&mut metrics, server.limits.prices);
    asking.add_failures_to(&mut metrics);
    warn_of_another_model(server, &job.asker(), &models);
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

/// A server that does not count its tokens cannot be held to a budget, and costs more than nothing.
pub(super) fn warn_of_uncounted(job: &Asker<'_>, spent: &Spent) {
    if spent.uncounted_replies > 0 {
        let Estimate { prompt, completion } = spent.assumed;
        job.context.warn(format!(
            "teacher {} did not say what {} of {} requests took (`usage` is missing): they are reckoned, in the budget and in \
             the record, at the most that they can have taken ({prompt} + {completion} tokens)",
            job.teacher, spent.not_reported, spent.requests
        ));
    }
}

/// A prompt that a server refuses loses nothing but itself, but is not lost in silence either.
pub(super) fn warn_of_rejected(job: &Asker<'_>, asking: &Asking, total: u64, [what, lacks]: [&str; 2]) {
    if let (count @ 1.., Some(first)) = (asking.rejected(), asking.first_rejection()) {
        job.context.warn(format!("{count} of {total} {what} were rejected and have no {lacks}; {first}"));
    }
}

/// Nor is one that got no usable reply.
pub(super) fn warn_of_failed(job: &Asker<'_>, asking: &Asking, total: u64) {
    if let Some(failures) = asking.failures_in_words() {
        job.context.warn(format!("teacher {}: of {total} requests {failures}", job.teacher));
    }
}

/// Whoever finds stars in an answer shall know where they come from.
pub(super) fn warn_of_masked(job: &Asker<'_>, client: Option<&Client>) {
    if let Some(client) = client
        && let (1.., Some(variable)) = (client.masked(), client.endpoint.key_variable())
    {
        job.context.warn(format!(
            "teacher {} repeated the key in {variable} in {} of its replies: it is stored as *** (if the server wants no \
             key, remove `api-key-env`)",
            job.teacher,
            client.masked()
        ));
    }
}

/// A server may answer with another model than was asked for, or an alias may have moved between two replies.
pub(super) fn warn_of_another_model(server: &Server, job: &Asker<'_>, models: &serde_json::Value) {
    let names: Vec<&String> = models.as_object().into_iter().flat_map(|models| models.keys()).collect();
    if names.len() > 1 {
        let list: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
        job.context.warn(format!(
            "teacher {} answered as {}: `model = \"{}\"` has moved between replies",
            job.teacher,
            list.join(" and "),
            server.model
        ));
    }
}
