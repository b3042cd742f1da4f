//! Who answers: one folder or file a provider, one line in [`PROVIDERS`].

pub mod local;
pub mod openai;
pub mod terms;

use stillhouse_data::lm::ModelLoader;
use stillhouse_spec::registry::{Component, Registry};
use stillhouse_spec::{Diagnostics, Entry, Origin, entry};
use stillhouse_stage::{Context, Failure, Needs, Outcome};

use crate::answers::AnswersConfig;

/// Every provider.
pub static PROVIDERS: &[Entry<dyn Provider>] =
    &[entry!("openai", openai::OpenAi as dyn Provider), entry!("local", local::Local as dyn Provider)];

/// Someone who answers prompts.
pub trait Provider: Component + Send + Sync {
    /// Reports what is asked for and cannot be had, before anything is spent. `at` is the place of the `answers` table.
    fn check(&self, answers: &AnswersConfig, at: Origin, report: &mut Diagnostics);

    /// What a stage that asks it needs.
    fn needs(&self) -> Needs;

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
