//! What a stage has paid for so far, told while it works: a stage that fails has no record that could tell.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use stillhouse_stage::{Context, InVain, Spent, StageEvent};

use super::Server;
use crate::asking::{Asking, Paid};
use crate::provider::Asker;
use crate::transport::{Estimate, Prices};

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
        let (new, lost) = (if self.texts { texts } else { requests }, spent.in_vain.unwrap_or_default());
        let in_vain = spent.in_vain;
        self.tell_new(context, spent);
        if !well && new > 0 {
            let what = if self.texts {
                let requests = requests.saturating_sub(lost.not_reported);
                format!("the vectors of {new} new texts are kept ({requests} requests, ")
            } else {
                format!("{new} new replies are kept (")
            };
            let dollars = |usd: Option<f64>| usd.map(|usd| format!(", ${usd:.4}")).unwrap_or_default();
            let kept = dollars(usd.map(|usd| (usd - lost.usd.unwrap_or_default()).max(0.0)));
            let (prompt, completion) = (prompt_tokens - lost.prompt_tokens, completion_tokens - lost.completion_tokens);
            let lost = in_vain.map(|InVain { prompt_tokens, completion_tokens, usd, not_reported }| {
                let assumed = match not_reported {
                    0 => String::new(),
                    some => format!(", at most: {some} not reported"),
                };
                let usd = dollars(usd);
                format!("; requests that brought none took {prompt_tokens} + {completion_tokens} tokens{usd}{assumed}")
            });
            let lost = lost.unwrap_or_default();
            context.note(format!("teacher {}: {what}{prompt} + {completion} tokens{kept}){lost}", self.teacher));
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
        let Paid { requests: replies, prompt, completion, not_reported, in_vain, unanswered } = asking.paid();
        let usd = |of: Estimate| self.prices.map(|prices| prices.of(of.prompt, of.completion));
        let (requests, texts) = if self.texts { (asking.spent().billed, replies) } else { (replies, 0) };
        Spent {
            teacher: format!("teacher.{}", self.teacher),
            requests,
            texts,
            prompt_tokens: prompt,
            completion_tokens: completion,
            usd: usd(Estimate { prompt, completion }),
            not_reported,
            in_vain: (in_vain != Estimate::default()).then(|| InVain {
                prompt_tokens: in_vain.prompt,
                completion_tokens: in_vain.completion,
                usd: usd(in_vain),
                not_reported: unanswered,
            }),
        }
    }
}
