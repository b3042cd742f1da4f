//! What a stage has paid for so far, told while it works: a stage that fails has no record that could tell.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use stillhouse_stage::{Context, Spent, StageEvent};

use super::Server;
use crate::asking::{Asking, Paid};
use crate::provider::Asker;
use crate::transport::Prices;

/// How often it is told: what a run that is killed leaves untold.
const EVERY: Duration = Duration::from_secs(5);

/// Tells what is paid for.
pub(super) struct Spending {
    teacher: String,
    prices: Option<Prices>,
    /// Whether texts are asked about, several in a request.
    texts: bool,
    /// What was told last, and when.
    told: Mutex<(Spent, Instant)>,
}

impl Spending {
    pub(super) fn of(server: &Server, asker: &Asker<'_>) -> Arc<Self> {
        let (teacher, prices) = (asker.teacher.to_owned(), server.limits.prices);
        let nothing = Spent {
            teacher: format!("teacher.{teacher}"),
            usd: prices.map(|prices| prices.of(0, 0)),
            ..Spent::default()
        };
        let told = Mutex::new((nothing, Instant::now()));
        Arc::new(Self { teacher, prices, texts: server.api.makes_vectors(), told })
    }

    /// Tells it where something new was paid for and it was not told for a while.
    pub(super) fn tell_now_and_then(&self, context: &Context, asking: &Asking) {
        let due = self.told.lock().unwrap_or_else(PoisonError::into_inner).1.elapsed() >= EVERY;
        if due {
            self.tell_new(context, self.of_now(asking));
        }
    }

    /// Tells it for good; of a stage that goes wrong in words too, for its log.
    pub(super) fn tell(&self, context: &Context, asking: &Asking, well: bool) {
        let spent = self.of_now(asking);
        let Spent { requests, texts, prompt_tokens, completion_tokens, usd, .. } = spent;
        let new = if self.texts { texts } else { requests };
        self.tell_new(context, spent);
        if !well && new > 0 {
            let what = if self.texts {
                format!("the vectors of {new} new texts are kept ({requests} requests, ")
            } else {
                format!("{new} new replies are kept (")
            };
            let usd = usd.map(|usd| format!(", ${usd:.4}")).unwrap_or_default();
            context.note(format!("teacher {}: {what}{prompt_tokens} + {completion_tokens} tokens{usd})", self.teacher));
        }
    }

    fn tell_new(&self, context: &Context, spent: Spent) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.0 == spent {
            return;
        }
        *told = (spent.clone(), Instant::now());
        context.say(StageEvent::Spent(spent));
    }

    fn of_now(&self, asking: &Asking) -> Spent {
        let Paid { requests: replies, prompt, completion, not_reported } = asking.paid();
        let (requests, texts) = if self.texts { (asking.spent().billed, replies) } else { (replies, 0) };
        Spent {
            teacher: format!("teacher.{}", self.teacher),
            requests,
            texts,
            prompt_tokens: prompt,
            completion_tokens: completion,
            usd: self.prices.map(|prices| prices.of(prompt, completion)),
            not_reported,
        }
    }
}
