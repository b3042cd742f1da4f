//! An `answers` stage whose teacher is a server.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use serde_json::json;
use stillhouse_stage::{Failure, Outcome};

use super::{Chat, OpenAi};
use crate::answers::{Output, Policy, Questions};
use crate::asking::Asking;
use crate::provider::{Job, terms};
use crate::replies::ReplyStore;
use crate::request::Identity;
use crate::transport::endpoint::Address;
use crate::transport::{Endpoint, Governor};

/// What a server makes of a request: the same for all that speak this API.
const FAMILY: &str = "openai-chat";
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Answers the stage's prompts.
pub fn run(settings: &OpenAi, job: &Job<'_>) -> Result<Outcome, Failure> {
    let identity = Identity { family: FAMILY, model: settings.model.clone(), revision: settings.revision.clone() };
    let folder = job.context.store().replies_dir().join(identity.folder());
    let store = ReplyStore::shared(&folder)?;
    let policy = Policy::of(job.answers)?;
    let again = policy.asks_again().then(|| policy.clone().into_again());
    let asking = Asking::with_again(identity, store, again, connection(settings, job));
    let (questions, total) = Questions::of(job.context, job.answers)?;
    let mut output = Output::create(&job.context.out(), job.answers.capture.is_some(), policy)?;
    let runtime = Failure::io(
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("teacher").enable_all().build(),
        "cannot start the threads that ask",
    )?;
    let (context, counted, teacher) = (job.context.clone(), Arc::clone(&asking), job.teacher.to_owned());
    let telling = runtime.spawn(async move {
        loop {
            tokio::time::sleep(TELL_EVERY).await;
            context.progress(counted.answered().min(total), Some(total), "answers");
            if let Some(news) = counted.chat().and_then(Chat::news) {
                context.note(format!("teacher {teacher}: {news}"));
            }
        }
    });
    let asked =
        runtime.block_on(asking.all(questions, job.context.cancel(), |question, reply, origin| {
            output.write(question, reply, None, origin)
        }));
    telling.abort();
    warn_of_masked(job, asking.chat());
    asked?;
    job.context.progress(output.settled(), Some(total), "answers");
    let (metrics, models) = output.finish(job.teacher, settings.limits().prices)?;
    warn_of_another_model(settings, job, &models);
    let provenance = json!({
        "provider": "openai",
        "model": settings.model,
        "revision": settings.revision,
        "models-as-the-server-named-them": models,
        "terms": terms::for_record(settings.terms.as_ref()),
    });
    Ok(Outcome { metrics, provenance, resumed: false })
}

/// How to connect, once it is known that something has to be asked.
fn connection(settings: &OpenAi, job: &Job<'_>) -> impl Fn() -> Result<Chat, Failure> + Send + Sync + 'static {
    let (settings, teacher, offline) = (settings.clone(), job.teacher.to_owned(), job.context.order().offline);
    move || {
        if offline {
            return Err(Failure::environment(format!(
                "teacher {teacher} would have to be asked, but the run is offline"
            ))
            .hint("run without `--offline`: stored replies are used all the same"));
        }
        let base_url = Url::parse(&settings.base_url)
            .map_err(|error| Failure::input(format!("teacher {teacher}: `base-url` is no URL: {error}")))?;
        let place = format!("{} {}", base_url.as_str().trim_end_matches('/'), settings.model);
        let (limits, variable) = (settings.limits(), settings.api_key_env.0.clone());
        let key = variable.as_ref().and_then(|variable| std::env::var(variable).ok());
        let address = Address { teacher: teacher.clone(), base_url, key_variable: variable };
        let (endpoint, governor) = (Endpoint::new(address, key, &limits)?, Governor::shared(&place, &limits));
        Ok(Chat::new(endpoint, governor, settings.model.clone(), settings.is_strict(), &limits))
    }
}

/// Whoever finds stars in an answer shall know where they come from.
fn warn_of_masked(job: &Job<'_>, chat: Option<&Chat>) {
    if let Some(chat) = chat
        && let (1.., Some(variable)) = (chat.masked(), chat.endpoint.key_variable())
    {
        job.context.warn(format!(
            "teacher {} repeated the key in {variable} in {} of its replies: it is stored as *** (if the server wants no \
             key, remove `api-key-env`)",
            job.teacher,
            chat.masked()
        ));
    }
}

/// A server may answer with another model than was asked for, or an alias may have moved between two replies.
fn warn_of_another_model(settings: &OpenAi, job: &Job<'_>, models: &serde_json::Value) {
    let names: Vec<&String> = models.as_object().into_iter().flat_map(|models| models.keys()).collect();
    if names.len() > 1 {
        let list: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
        job.context.warn(format!(
            "teacher {} answered as {}: `model = \"{}\"` has moved between replies",
            job.teacher,
            list.join(" and "),
            settings.model
        ));
    }
}
