//! Who answers: one folder or file a provider, one line in [`PROVIDERS`].

pub mod anthropic;
pub mod api;
pub mod capability;
mod counting;
mod forecast;
mod image_tokens;
mod lenient;
pub mod local;
pub mod openai;
mod opened;
pub mod replies;
pub mod server;
pub mod terms;
pub mod vllm;

use stillhouse_data::lm::ModelLoader;
use stillhouse_spec::registry::{Component, Registry};
use stillhouse_spec::{Diagnostics, Entry, Origin, entry};
use stillhouse_stage::{Ahead, Context, Failure, Forecast, Needs, Outcome};

use self::capability::Capabilities;
use self::server::Server;
use crate::answers::{AnswersConfig, OnFailed, SamplingConfig};
use crate::request::Request;
use crate::session::{Asks, Session};

/// Every provider.
pub static PROVIDERS: &[Entry<dyn Provider>] = &[
    entry!("openai", openai::OpenAi as dyn Provider),
    entry!("anthropic", anthropic::Anthropic as dyn Provider),
    entry!("vllm", vllm::Vllm as dyn Provider),
    entry!("local", local::Local as dyn Provider),
    entry!("replies", replies::Replies as dyn Provider),
];

/// Requests, one after the other: those of a file of answers need not fit in memory. None for one that cannot be read.
pub type Known<'a> = &'a mut dyn Iterator<Item = Option<Request>>;

/// Someone who answers prompts.
pub trait Provider: Component + Send + Sync {
    /// What it can give, with its settings as they are.
    fn capabilities(&self) -> Capabilities;

    /// Reports what is asked for and cannot be had, before anything is spent. `place` finds where a key of the `answers`
    /// table stands.
    fn check(&self, answers: &AnswersConfig, place: &dyn Fn(&str) -> Origin, report: &mut Diagnostics) {
        self.capabilities().check(answers, place, report);
        self.check_sampling(&answers.sampling, place, report);
    }

    /// Reports what a way of drawing asks for and cannot be had. `place` finds where a key of the stage's table stands.
    fn check_sampling(&self, sampling: &SamplingConfig, place: &dyn Fn(&str) -> Origin, report: &mut Diagnostics) {
        self.capabilities().check_sampling(sampling, place, report);
    }

    /// Why it cannot be shown images, where it cannot.
    fn sees_nothing(&self) -> Option<&'static str> {
        (!self.capabilities().images).then_some("its teacher reads text only")
    }

    /// What a stage that asks it needs.
    fn needs(&self) -> Needs;

    /// What answering would take of others, as far as that can be told; see [`stillhouse_stage::StageKind::forecast`].
    fn forecast(&self, answers: &AnswersConfig, ahead: &Ahead<'_>) -> Option<Forecast> {
        let _ = (answers, ahead);
        None
    }

    /// What questions of a stage's own would take: those of `known` that are in no store yet, and `like_them` more that are as long as those
    /// are on average. `on_failed`: what becomes of those that were given up. Nothing where there is none, or one cannot be read.
    fn forecast_requests(
        &self,
        known: Known<'_>,
        like_them: u64,
        on_failed: OnFailed,
        ahead: &Ahead<'_>,
    ) -> Option<Forecast> {
        let _ = (known, like_them, on_failed, ahead);
        None
    }

    /// The server that makes vectors of texts, so many of them together; nothing where there is none.
    fn embeddings(&self, together: usize) -> Option<Server> {
        let _ = together;
        None
    }

    /// Opens the teacher for a stage that asks questions of its own.
    ///
    /// # Errors
    /// A [`Failure`] as the user shall read it; that it cannot be asked, where it only has answers that are given.
    fn open<'a>(&self, asks: Asks<'a>) -> Result<Box<dyn Session + 'a>, Failure> {
        Err(Failure::input(format!("teacher {} has given answers only: it can be asked nothing", asks.asker.teacher))
            .hint("name a teacher that is a server, or runs here"))
    }

    /// Answers the stage's prompts.
    ///
    /// # Errors
    /// A [`Failure`] as the user shall read it.
    fn answer(&self, job: &Job<'_>) -> Result<Outcome, Failure>;
}

impl Registry for dyn Provider {
    const WHAT: &'static str = "provider";

    fn entries() -> &'static [Entry<Self>] {
        PROVIDERS
    }
}

/// A running `answers` stage, as its provider sees it.
pub struct Job<'a> {
    /// The stage.
    pub context: &'a Context,
    /// Its table.
    pub answers: &'a AnswersConfig,
    /// The teacher's name in the file.
    pub teacher: &'a str,
    /// Opens models, for teachers that run here.
    pub loader: &'static dyn ModelLoader,
}

impl<'a> Job<'a> {
    /// Who asks.
    #[must_use]
    pub fn asker(&self) -> Asker<'a> {
        Asker { context: self.context, teacher: self.teacher, loader: self.loader }
    }
}

/// A running stage that asks a teacher, whatever it asks.
#[derive(Clone, Copy)]
pub struct Asker<'a> {
    /// The stage.
    pub context: &'a Context,
    /// The teacher's name in the file.
    pub teacher: &'a str,
    /// Opens models, for teachers that run here.
    pub loader: &'static dyn ModelLoader,
}
