//! Who answers: one folder or file a provider, one line in [`PROVIDERS`].

pub mod anthropic;
pub mod api;
pub mod capability;
pub mod local;
pub mod openai;
pub mod replies;
pub mod server;
pub mod terms;
pub mod vllm;

use stillhouse_data::lm::ModelLoader;
use stillhouse_spec::registry::{Component, Registry};
use stillhouse_spec::{Diagnostics, Entry, Origin, entry};
use stillhouse_stage::{Ahead, Context, Failure, Forecast, Needs, Outcome};

use self::capability::Capabilities;
use crate::answers::AnswersConfig;

/// Every provider.
pub static PROVIDERS: &[Entry<dyn Provider>] = &[
    entry!("openai", openai::OpenAi as dyn Provider),
    entry!("anthropic", anthropic::Anthropic as dyn Provider),
    entry!("vllm", vllm::Vllm as dyn Provider),
    entry!("local", local::Local as dyn Provider),
    entry!("replies", replies::Replies as dyn Provider),
];

/// Someone who answers prompts.
pub trait Provider: Component + Send + Sync {
    /// What it can give, with its settings as they are.
    fn capabilities(&self) -> Capabilities;

    /// Reports what is asked for and cannot be had, before anything is spent. `place` finds where a key of the `answers`
    /// table stands.
    fn check(&self, answers: &AnswersConfig, place: &dyn Fn(&str) -> Origin, report: &mut Diagnostics) {
        self.capabilities().check(answers, place, report);
    }

    /// What a stage that asks it needs.
    fn needs(&self) -> Needs;

    /// What answering would take of others, as far as that can be told; see [`stillhouse_stage::StageKind::forecast`].
    fn forecast(&self, answers: &AnswersConfig, ahead: &Ahead<'_>) -> Option<Forecast> {
        let _ = (answers, ahead);
        None
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
