//! What is told of a stage that asks a server: how far it is meanwhile, and at its end what the user would not see otherwise.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::spending::Spending;
use super::{Client, Server};
use crate::asking::Asking;
use crate::provider::Asker;
use crate::transport::{Estimate, Spent};

const EVERY: Duration = Duration::from_millis(200);

/// Who tells, and in which words.
pub(super) struct Telling<'a> {
    pub(super) asker: Asker<'a>,
    pub(super) asking: Arc<Asking>,
    pub(super) spending: Arc<Spending>,
    /// Replies that are expected.
    pub(super) total: u64,
    /// What they are called.
    pub(super) unit: &'static str,
}

impl Telling<'_> {
    /// Tells how far it is and what the server makes it wait for, until it is stopped.
    pub(super) fn start(&self, runtime: &tokio::runtime::Runtime) -> JoinHandle<()> {
        let (context, teacher) = (self.asker.context.clone(), self.asker.teacher.to_owned());
        let (asking, spending) = (Arc::clone(&self.asking), Arc::clone(&self.spending));
        let (total, unit) = (self.total, self.unit);
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(EVERY).await;
                context.progress(asking.answered().min(total), Some(total), unit);
                spending.tell_now_and_then(&context, &asking);
                if let Some(news) = asking.client().and_then(Client::news) {
                    context.note(format!("teacher {teacher}: {news}"));
                }
            }
        })
    }

    /// Whoever finds stars in an answer shall know where they come from.
    pub(super) fn warn_of_masked(&self) {
        if let Some(client) = self.asking.client()
            && let (1.., Some(variable)) = (client.masked(), client.endpoint.key_variable())
        {
            self.asker.context.warn(format!(
                "teacher {} repeated the key in {variable} in {} of its replies: it is stored as *** (if the server wants no \
                 key, remove `api-key-env`)",
                self.asker.teacher,
                client.masked()
            ));
        }
    }

    /// A prompt that a server refuses, or that gets no usable reply, loses nothing but itself, but is not lost in silence either.
    /// `what` it is, and what it `lacks` then.
    pub(super) fn warn_of_unanswered(&self, [what, lacks]: [&str; 2]) {
        let Self { asker: Asker { context, teacher, .. }, asking, total, .. } = self;
        if let (count @ 1.., Some(first)) = (asking.rejected(), asking.first_rejection()) {
            context.warn(format!("{count} of {total} {what} were rejected and have no {lacks}; {first}"));
        }
        if let Some(failures) = asking.failures_in_words() {
            context.warn(format!("teacher {teacher}: of {total} requests {failures}"));
        }
    }

    /// A server that does not count its tokens cannot be held to a budget, and costs more than nothing. It may answer with another model than was
    /// asked for, or an alias may have moved between two replies.
    pub(super) fn warn_of_the_server(&self, server: &Server, models: &serde_json::Value) {
        let Asker { context, teacher, .. } = self.asker;
        let Spent { uncounted_replies, not_reported, requests, assumed, .. } = self.asking.spent();
        if uncounted_replies > 0 {
            let Estimate { prompt, completion } = assumed;
            context.warn(format!(
                "teacher {teacher} did not say what {not_reported} of {requests} requests took (`usage` is missing): they are \
                 reckoned, in the budget and in the record, at the most that they can have taken ({prompt} + {completion} tokens)"
            ));
        }
        let names: Vec<&str> =
            models.as_object().into_iter().flat_map(|models| models.keys()).map(String::as_str).collect();
        if names.len() > 1 {
            context.warn(format!(
                "teacher {teacher} answered as {}: `model = \"{}\"` has moved between replies",
                names.join(" and "),
                server.model
            ));
        }
    }
}
