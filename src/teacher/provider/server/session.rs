//! A server that a stage asks questions of its own.

use serde_json::{Value, json};
use stillhouse_stage::Failure;

use super::Server;
use super::run::{connection, provenance, threads};
use super::spending::Spending;
use super::telling::Telling;
use crate::asking::{Asking, Question, WithoutReply};
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
    let told = Telling { asker, asking, spending, total, unit };
    Ok(Box::new(Open { told, runtime: threads()?, server }))
}

struct Open<'a> {
    told: Telling<'a>,
    runtime: tokio::runtime::Runtime,
    server: Server,
}

impl Session for Open<'_> {
    fn ask(
        &mut self,
        questions: &mut dyn Iterator<Item = Result<Question, Failure>>,
        take: &mut Take<'_>,
    ) -> Result<(), Failure> {
        let Self { told, runtime, .. } = self;
        let telling = told.start(runtime);
        let asked = runtime.block_on(told.asking.all(questions, told.asker.context.cancel(), take));
        telling.abort();
        if asked.is_err() {
            told.warn_of_masked();
        }
        told.spending.tell(told.asker.context, &told.asking, asked.is_ok());
        asked
    }

    fn finish(&mut self, tally: &Tally) -> Value {
        let (models, told) = (tally.models(), &self.told);
        told.warn_of_masked();
        told.warn_of_unanswered(if self.server.api.makes_vectors() {
            ["texts", "vector"]
        } else {
            ["requests", "answer"]
        });
        told.warn_of_the_server(&self.server, &models);
        told.asker.context.progress(told.asking.answered().min(told.total), Some(told.total), told.unit);
        provenance(&self.server, &models)
    }

    fn add_spent_to(&self, metrics: &mut Value) {
        let spent = self.told.asking.spent();
        if self.server.api.makes_vectors() {
            metrics["requests"] = json!(spent.billed);
        }
        spent.add_to(metrics, self.server.limits.prices);
        self.told.asking.add_failures_to(metrics);
    }
}
