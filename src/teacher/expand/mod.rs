//! The stage `[expand.X]`: a teacher writes new prompts after the example of others, round by round.
//!
//! The requests of a round depend on the seeds, the experiment's seed and what earlier rounds brought, and replies are
//! taken in the order of their requests: a run that was killed and goes on asks what an undisturbed one asks.

mod config;
mod output;
mod parse;
mod pool;
mod styles;
#[cfg(test)]
mod tests;

use stillhouse_data::lm::ModelLoader;
use stillhouse_data::prompt::{Message, PROMPTS_FILE, Prompt, read_prompts};
use stillhouse_spec::Diagnostics;
use stillhouse_stage::{Ahead, Context, Failure, Forecast, Kind, Needs, Outcome, StageKind, View, kind};

pub(crate) use config::check_template;
pub use config::{ExpandConfig, ReplyIs, StyleConfig, TemplateConfig};
pub use output::{LEFT_OUT_FILE, LeftOut, ORIGINS_FILE, Written};
pub use parse::Reject;

use self::output::Output;
use self::pool::{Planned, Pool};
use self::styles::Style;
use crate::answers::OnFailed;
use crate::asking::Again;
use crate::definition::{TeacherConfig, needs_of};
use crate::provider::{Asker, local};
use crate::reply::Reply;
use crate::request::Request;
use crate::session::{Asks, Tally};

/// The kind. The command line gives it the means to open models, for teachers that run here.
pub struct Expand {
    /// Opens models.
    pub loader: &'static dyn ModelLoader,
}

impl Kind for Expand {
    kind!("expand", ExpandConfig);

    fn as_stage(&self) -> Option<&dyn StageKind> {
        Some(self)
    }

    fn check(&self, view: &View<'_>, report: &mut Diagnostics) {
        let Some(config) = view.config_as::<ExpandConfig>() else { return };
        if let Some(teacher) = view.follow("teacher").and_then(|teacher| teacher.config_as::<TeacherConfig>()) {
            teacher.settings.capabilities().check_questions(&|path| view.place(path), report);
            teacher.settings.check_sampling(&config.sampling, &|path| view.place(path), report);
            local::check(view, report);
        }
    }
}

impl StageKind for Expand {
    /// 1: the first.
    fn revision(&self) -> u32 {
        1
    }

    fn needs(&self, view: &View<'_>) -> Needs {
        needs_of(view)
    }

    /// Of the first round it is known what will be asked, of later ones how much.
    fn forecast(&self, ahead: &Ahead<'_>) -> Option<Forecast> {
        let config = ahead.view.config_as::<ExpandConfig>()?;
        let teacher = ahead.view.follow("teacher")?;
        let path = ahead.input_file("seeds", PROMPTS_FILE)?;
        let mut seeds: Vec<Prompt> = read_prompts(&path).ok()?.collect::<Result<_, _>>().ok()?;
        seeds.retain(is_shown);
        let mut pool = Pool::new(&seeds, config.near_duplicate).ok().filter(|_| !seeds.is_empty())?;
        let first = pool.plan(config, &Style::of(config).ok()?, 1, ahead.seed).ok()?;
        let mut known = first.into_iter().map(|planned| Some(planned.question.request));
        let later = config.requests() - u64::from(config.per_round);
        teacher.config_as::<TeacherConfig>()?.settings.forecast_requests(
            &mut known,
            later,
            config.outcomes.failed,
            ahead,
        )
    }

    fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        let config: ExpandConfig = context.config()?;
        let teacher: TeacherConfig = context.definition("teacher")?;
        let asker = Asker { context, teacher: &context.definition_order("teacher")?.name, loader: self.loader };
        let seeds = seeds(context)?;
        let (style, mut pool) = (Style::of(&config)?, Pool::new(&seeds, config.near_duplicate)?);
        let mut output = Output::create(&context.out(), &config, &seeds)?;
        let mut tally = Tally::default();
        let (on_failed, times) = (config.outcomes.failed, config.ask_again_times);
        let asks_again =
            move |request: &Request, reply: &Reply| on_failed.asks_again(request.attempt, reply.outcome, times);
        let mut session = teacher.settings.open(Asks {
            asker,
            on_rejected: config.on_rejected,
            on_failed: Some(on_failed),
            again: (on_failed == OnFailed::AskAgain).then(|| -> Again {
                Box::new(move |request, reply| asks_again(request, reply).then(|| request.again()))
            }),
            total: config.requests(),
            unit: "requests",
        })?;
        for round in 1..=config.rounds {
            if output.is_full() {
                break;
            }
            output.begin_round();
            let planned = pool.plan(&config, &style, round, context.seed())?;
            let mut replied = planned.iter();
            let mut questions = planned.iter().map(|Planned { question, .. }| Ok(question.clone()));
            session.ask(&mut questions, &mut |question, reply, origin| {
                tally.count(question, &reply, origin);
                if asks_again(&question.request, &reply) {
                    return Ok(());
                }
                // Replies come in the order of the questions, one each that stays.
                replied.next().map_or(Ok(()), |planned| output.take(planned, &reply, &mut pool))
            })?;
        }
        let provenance = session.finish(&tally);
        let mut metrics = output.finish(asker.teacher)?;
        tally.add_to(&mut metrics, session.as_ref());
        Ok(Outcome { metrics, provenance, resumed: false })
    }
}

/// Whether a prompt can be an example: what is asked of an image is nothing without it.
fn is_shown(prompt: &Prompt) -> bool {
    !prompt.messages.iter().any(Message::has_images)
}

fn seeds(context: &Context) -> Result<Vec<Prompt>, Failure> {
    let input = context.input("seeds")?;
    let mut seeds: Vec<Prompt> = read_prompts(&input.path(PROMPTS_FILE)?)?.collect::<Result<_, _>>()?;
    let all = seeds.len();
    seeds.retain(is_shown);
    if seeds.is_empty() && all > 0 {
        return Err(Failure::input(format!(
            "all {all} prompts of {} show images: none can be an example",
            input.stage
        ))
        .hint("name prompts of text as `seeds`"));
    }
    if seeds.is_empty() {
        return Err(Failure::input(format!("{} has no prompts: there is no example to show", input.stage))
            .hint("look at its source: a file of blank lines has none"));
    }
    Ok(seeds)
}
