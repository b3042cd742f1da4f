//! A model folder that runs here: it answers, and tells its whole distribution where that is wanted.

mod forecast;
mod run;
mod session;
mod signals;

use stillhouse_spec::{Config, Execution, Ref, Target};
use stillhouse_stage::{Ahead, Failure, Forecast, Needs, Outcome, Placement};

use super::capability::{self, Capabilities};
use super::terms::TermsConfig;
use super::{Job, Provider};
use crate::answers::{AnswersConfig, OnFailed};
use crate::request::Request;
use crate::session::{Asks, Session};

/// A model that runs on this machine.
#[derive(Clone, Debug, Config)]
pub struct Local {
    /// The model.
    pub model: Ref<Models>,
    /// Whether prompts go through the tokenizer's chat template, where it has one. Without it the model continues their
    /// text.
    #[config(default = true)]
    pub chat_template: bool,
    /// Answers that are made before the next ones are begun: what a kill loses at most.
    #[config(default = Execution(32), min = 1)]
    pub batch: Execution<usize>,
    /// What its answers may be used for.
    pub terms: Execution<Option<TermsConfig>>,
}

/// What may be a local teacher.
#[derive(Clone, Copy, Debug)]
pub struct Models;

impl Target for Models {
    const KINDS: &'static [&'static str] = &["model"];
}

impl Provider for Local {
    fn capabilities(&self) -> Capabilities {
        capability::LOCAL
    }

    fn sees_nothing(&self) -> Option<&'static str> {
        Some("a local teacher reads text only")
    }

    fn needs(&self) -> Needs {
        Needs { placement: Placement::Worker, compute: true, device: true, ..Needs::default() }
    }

    fn forecast(&self, answers: &AnswersConfig, ahead: &Ahead<'_>) -> Option<Forecast> {
        forecast::forecast(self, answers, ahead)
    }

    fn forecast_requests(
        &self,
        known: Vec<Request>,
        like_them: u64,
        on_failed: OnFailed,
        ahead: &Ahead<'_>,
    ) -> Option<Forecast> {
        forecast::forecast_requests(self, known, like_them, on_failed, ahead)
    }

    fn open<'a>(&self, asks: Asks<'a>) -> Result<Box<dyn Session + 'a>, Failure> {
        session::open(self, asks)
    }

    fn answer(&self, job: &Job<'_>) -> Result<Outcome, Failure> {
        run::run(self, job)
    }
}
