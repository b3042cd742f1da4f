//! What a stage has paid for so far, told while it works: a stage that fails has no record that could tell.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use stillhouse_stage::{Context, Spent, StageEvent};

use super::Server;
use crate::asking::Paid;
use crate::provider::Asker;
use crate::transport::Prices;

/// How often it is told: what a run that is killed leaves untold.
const EVERY: Duration = Duration::from_secs(5);

/// Tells what is paid for.
pub(super) struct Spending {
    teacher: String,
    prices: Option<Prices>,
    /// What was told last, and when.
    told: Mutex<(Paid, Instant)>,
}

impl Spending {
    pub(super) fn of(server: &Server, asker: &Asker<'_>) -> Arc<Self> {
        let told = Mutex::new((Paid::default(), Instant::now()));
        Arc::new(Self { teacher: asker.teacher.to_owned(), prices: server.limits.prices, told })
    }

    /// Tells it where something new was paid for and it was not told for a while.
    pub(super) fn tell_now_and_then(&self, context: &Context, paid: Paid) {
        let due = self.told.lock().unwrap_or_else(PoisonError::into_inner).1.elapsed() >= EVERY;
        if due {
            self.tell_new(context, paid);
        }
    }

    /// Tells it for good; of a stage that goes wrong in words too, for its log.
    pub(super) fn tell(&self, context: &Context, paid: Paid, well: bool) {
        self.tell_new(context, paid);
        let Paid { requests, prompt, completion, .. } = paid;
        if !well && requests > 0 {
            let usd = self.usd(paid).map(|usd| format!(", ${usd:.4}")).unwrap_or_default();
            context.note(format!(
                "teacher {}: {requests} new replies are kept ({prompt} + {completion} tokens{usd})",
                self.teacher
            ));
        }
    }

    fn tell_new(&self, context: &Context, paid: Paid) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.0 == paid {
            return;
        }
        *told = (paid, Instant::now());
        context.say(StageEvent::Spent(Spent {
            teacher: format!("teacher.{}", self.teacher),
            requests: paid.requests,
            prompt_tokens: paid.prompt,
            completion_tokens: paid.completion,
            usd: self.usd(paid),
            not_reported: paid.not_reported,
        }));
    }

    fn usd(&self, paid: Paid) -> Option<f64> {
        self.prices.map(|prices| prices.of(paid.prompt, paid.completion))
    }
}
