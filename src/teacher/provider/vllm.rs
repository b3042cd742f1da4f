//! `provider = "vllm"`: OpenAI's API with what vLLM adds to it, above all the exact ids of tokens.

use std::sync::Arc;

use stillhouse_spec::{Config, Diagnostics, Execution, Node};
use stillhouse_stage::{Ahead, Failure, Forecast, Needs, Outcome};

use super::api::Auth;
use super::capability::{self, Capabilities};
use super::openai::{ApiConfig, Dialect, EmbeddingsApi, ScoringApi, ServedModel};
use super::server::{self, Server, UsageConfig};
use super::{Job, Known, Provider};
use crate::answers::{AnswersConfig, OnFailed};
use crate::session::{Asks, Session};

/// A vLLM server. Tokens come with their ids, and the whole vocabulary where the server was started with
/// `--max-logprobs -1`. It scores answers that others gave, too.
#[derive(Clone, Debug, Config)]
#[config(check = sound)]
pub struct Vllm {
    /// Where it is, up to `/v1`: `http://127.0.0.1:8000/v1`.
    pub base_url: Execution<String>,
    /// Which model, and how it is asked.
    #[config(inline)]
    pub model: ServedModel,
    /// Whether tokens are told by their ids. Without it they are told by their texts, and ids are not known.
    #[config(default = true)]
    pub token_ids: bool,
    /// What it may be used for, how much, and at what price.
    #[config(inline)]
    pub usage: UsageConfig,
}

impl Vllm {
    fn server(&self) -> Server {
        let family = match (self.model.api, self.token_ids) {
            (ApiConfig::Chat, true) => "vllm-chat",
            (ApiConfig::Chat, false) => "vllm-chat-texts",
            (ApiConfig::Completions, true) => "vllm-completions",
            (ApiConfig::Completions, false) => "vllm-completions-texts",
        };
        let dialect = Dialect::Vllm { ids: self.token_ids };
        let answering = self.model.api(dialect);
        Server {
            provider: "vllm",
            family,
            base_url: self.base_url.0.clone(),
            model: self.model.name.clone(),
            revision: self.model.revision.clone(),
            key_variable: self.model.api_key_env.0.clone(),
            auth: Auth::Bearer,
            api: Arc::new(ScoringApi { answering, model: self.model.name.clone(), api: self.model.api, dialect }),
            limits: self.usage.limits(),
            terms: self.usage.terms.0.clone(),
            batch: None,
            thinking_tokens: self.usage.limits.thinking_tokens,
        }
    }
}

impl Provider for Vllm {
    fn capabilities(&self) -> Capabilities {
        capability::VLLM
    }

    fn sees_nothing(&self) -> Option<&'static str> {
        (self.model.api == ApiConfig::Completions).then_some("`api = \"completions\"` sends text only")
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

    fn embeddings(&self, together: usize) -> Option<Server> {
        let api = Arc::new(EmbeddingsApi::new(self.model.name.clone(), together));
        Some(Server { family: "vllm-embeddings", api, thinking_tokens: 0, ..self.server() })
    }

    fn open<'a>(&self, asks: Asks<'a>) -> Result<Box<dyn Session + 'a>, Failure> {
        server::open(self.server(), asks)
    }

    fn answer(&self, job: &Job<'_>) -> Result<Outcome, Failure> {
        server::run(&self.server(), job)
    }
}

fn sound(config: &Vllm, node: &Node, report: &mut Diagnostics) {
    server::check(&config.base_url, &config.model.name, &config.usage, node, report);
}
