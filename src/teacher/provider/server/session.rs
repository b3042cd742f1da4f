//! A server that a stage asks questions of its own.

use std::sync::Arc;

use serde_json::{Value, json};
use stillhouse_stage::Failure;

use super::run::{
    TELL_EVERY, connection, provenance, threads, warn_of_another_model, warn_of_failed, warn_of_masked,
    warn_of_rejected, warn_of_uncounted,
};
use super::spending::Spending;
use super::{Client, Server};
use crate::asking::{Asking, Question, WithoutReply};
use crate::provider::Asker;
use crate::replies::ReplyStore;
use crate::session::{Asks, Session, Take, Tally};

/// Opens a teacher; it is connected to when something has to be asked.
///
/// # Errors
/// If its replies cannot be read.
pub fn open<'a>(server: Server, asks: Asks<'a>) -> Result<Box<dyn Session + 'a>, Failure> {
    let Asks { asker, on_rejected, on_failed, again, total, unit } = asks;
    let identity = server.identity();
    let store = ReplyStore::shared(&asker.context.store().replies_dir().join(identity.folder()))?;
    let kind = on_failed.map(|_| asker.context.order().kind.clone());
    let without_reply = WithoutReply { on_rejected, on_failed: on_failed.unwrap_or_default(), kind };
    let asking = Asking::with_again(identity, store, without_reply, again, connection(&server, &asker));
    let spending = Spending::of(&server, &asker);
    Ok(Box::new(Open { asker, total, unit, asking, spending, runtime: threads()?, server }))
}

struct Open<'a> {
    asker: Asker<'a>,
    total: u64,
    unit: &'static str,
    asking: Arc<Asking>,
    spending: Arc<Spending>,
    runtime: tokio::runtime::Runtime,
    server: Server,
}

impl Open<'_> {
    /// Tells how far it is, until it is stopped.
    fn tell(&self) -> tokio::task::JoinHandle<()> {
        let (context, teacher) = (self.asker.context.clone(), self.asker.teacher.to_owned());
        let (counted, total, unit) = (Arc::clone(&self.asking), self.total, self.unit);
        let spending = Arc::clone(&self.spending);
        self.runtime.spawn(async move {
            loop {
                tokio::time::sleep(TELL_EVERY).await;
                context.progress(counted.answered().min(total), Some(total), unit);
                spending.tell_now_and_then(&context, &counted);
                if let Some(news) = counted.client().and_then(Client::news) {
                    context.note(format!("teacher {teacher}: {news}"));
                }
            }
        })
    }
}

impl Session for Open<'_> {
    fn ask(
        &mut self,
        questions: &mut dyn Iterator<Item = Result<Question, Failure>>,
        take: &mut Take<'_>,
    ) -> Result<(), Failure> {
        let telling = self.tell();
        let asked = self.runtime.block_on(self.asking.all(questions, self.asker.context.cancel(), take));
        telling.abort();
        if asked.is_err() {
            warn_of_masked(&self.asker, self.asking.client());
        }
        self.spending.tell(self.asker.context, &self.asking, asked.is_ok());
        asked
    }

    fn finish(&mut self, tally: &Tally) -> Value {
        let models = tally.models();
        warn_of_masked(&self.asker, self.asking.client());
        warn_of_uncounted(&self.asker, &self.asking.spent());
        let words = if self.server.api.makes_vectors() { ["texts", "vector"] } else { ["requests", "answer"] };
        warn_of_rejected(&self.asker, &self.asking, self.total, words);
        warn_of_failed(&self.asker, &self.asking, self.total);
        warn_of_another_model(&self.server, &self.asker, &models);
        self.asker.context.progress(self.asking.answered().min(self.total), Some(self.total), self.unit);
        provenance(&self.server, &models)
    }

    fn add_spent_to(&self, metrics: &mut Value) {
        let spent = self.asking.spent();
        if self.server.api.makes_vectors() {
            metrics["requests"] = json!(spent.billed);
        }
        spent.add_to(metrics, self.server.limits.prices);
        self.asking.add_failures_to(metrics);
    }
}
