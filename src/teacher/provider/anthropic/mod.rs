//! `provider = "anthropic"`: Anthropic's messages API.

pub mod messages;
mod turn;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use stillhouse_spec::{Config, Diagnostic, Diagnostics, Execution, Node, Origin};
use stillhouse_stage::{Ahead, Failure, Forecast, Needs, Outcome};

use self::messages::MessagesApi;
use super::api::Auth;
use super::capability::{self, Capabilities};
use super::server::{self, Server, UsageConfig};
use super::{Job, Known, Provider};
use crate::answers::{AnswersConfig, OnFailed, SamplingConfig};
use crate::session::{Asks, Session};

/// The version of the API that is spoken.
const VERSION: &str = "2023-06-01";

/// Anthropic's messages API. It gives no log-probabilities and takes no seed.
#[derive(Clone, Debug, Config)]
#[config(check = sound)]
pub struct Anthropic {
    /// Where it is, up to `/v1`.
    #[config(default = Execution("https://api.anthropic.com/v1".to_owned()))]
    pub base_url: Execution<String>,
    /// The model, by the name that Anthropic gives it, with its date.
    pub model: String,
    /// What the model's name does not say: another revision is another teacher.
    pub revision: Option<String>,
    /// The name of the environment variable that holds the key.
    pub api_key_env: Execution<Option<String>>,
    /// What it may be used for, how much, and at what price.
    #[config(inline)]
    pub usage: UsageConfig,
}

impl Anthropic {
    fn server(&self) -> Server {
        Server {
            provider: "anthropic",
            family: "anthropic-messages",
            base_url: self.base_url.0.clone(),
            model: self.model.clone(),
            revision: self.revision.clone(),
            key_variable: self.api_key_env.0.clone(),
            auth: Auth::Header { key: "x-api-key", also: &[("anthropic-version", VERSION)] },
            api: Arc::new(MessagesApi { model: self.model.clone() }),
            limits: self.usage.limits(),
            terms: self.usage.terms.0.clone(),
            batch: None,
            thinking_tokens: self.usage.limits.thinking_tokens,
        }
    }
}

impl Provider for Anthropic {
    fn capabilities(&self) -> Capabilities {
        capability::ANTHROPIC
    }

    fn check_sampling(&self, sampling: &SamplingConfig, place: &dyn Fn(&str) -> Origin, report: &mut Diagnostics) {
        self.capabilities().check_sampling(sampling, place, report);
        if sampling.temperature > 1.0 {
            report.push(
                Diagnostic::error(place("sampling.temperature"), "anthropic takes temperatures from 0 to 1")
                    .hint("`temperature = 1.0` draws from the model's own distribution"),
            );
        }
        if sampling.drawing.stop.iter().any(|text| text.trim().is_empty()) {
            report.push(
                Diagnostic::error(place("sampling.stop"), "anthropic takes no stop text of white space alone")
                    .hint("remove it, or let the answers end by themselves"),
            );
        }
    }

    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn forecast(&self, answers: &AnswersConfig, ahead: &Ahead<'_>) -> Option<Forecast> {
        server::forecast(&self.server(), answers, ahead)
    }

    fn forecast_requests(
        &self,
        known: Known<'_>,
        like_them: u64,
        on_failed: OnFailed,
        ahead: &Ahead<'_>,
    ) -> Option<Forecast> {
        server::forecast_requests(&self.server(), known, like_them, on_failed, ahead)
    }

    fn open<'a>(&self, asks: Asks<'a>) -> Result<Box<dyn Session + 'a>, Failure> {
        server::open(self.server(), asks)
    }

    fn answer(&self, job: &Job<'_>) -> Result<Outcome, Failure> {
        server::run(&self.server(), job)
    }
}

fn sound(config: &Anthropic, node: &Node, report: &mut Diagnostics) {
    server::check(&config.base_url, &config.model, &config.usage, node, report);
}
