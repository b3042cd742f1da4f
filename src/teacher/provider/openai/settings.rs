//! `provider = "openai"`: the settings of a teacher behind a server.

use std::sync::Arc;

use reqwest::Url;
use stillhouse_data::model::TokenizerSource;
use stillhouse_spec::{Config, Diagnostics, Execution, Node, Ref};
use stillhouse_stage::{Ahead, Failure, Forecast, Needs, Outcome};

use super::{ChatApi, CompletionsApi, Dialect, EmbeddingsApi};
use crate::answers::{AnswersConfig, OnFailed};
use crate::batch::{BatchConfig, BatchOptions};
use crate::provider::api::{Api, Auth};
use crate::provider::capability::{self, Capabilities};
use crate::provider::server::{self, Server, UsageConfig};
use crate::provider::{Job, Known, Provider};
use crate::session::{Asks, Session};

/// Any server with OpenAI's API: OpenAI, vLLM, llama.cpp, Ollama and whoever speaks like them.
#[derive(Clone, Debug, Config)]
#[config(check = sound)]
pub struct OpenAi {
    /// Where it is, up to `/v1`: `http://127.0.0.1:8080/v1`.
    pub base_url: Execution<String>,
    /// Which model, and how it is asked.
    #[config(inline)]
    pub model: ServedModel,
    /// Send only what OpenAI's own API has. Left out, it is so for OpenAI's and Azure's hosts.
    pub strict: Execution<Option<bool>>,
    /// Hand requests in with OpenAI's Batch API, at about half the price and within a day: `true`, or a table of how.
    pub batch: Execution<Option<BatchConfig>>,
    /// What it may be used for, how much, and at what price.
    #[config(inline)]
    pub usage: UsageConfig,
}

/// What the tables of all servers with OpenAI's API say of the model and of how it is asked.
#[derive(Clone, Debug, Config)]
pub struct ServedModel {
    /// The model, as the server names it.
    #[config(name = "model")]
    pub name: String,
    /// What the model's name does not say (a quantisation, a deployment): another revision is another teacher.
    pub revision: Option<String>,
    /// `chat` sends the conversation, `completions` its text, for a base model to continue.
    #[config(default = ApiConfig::Chat)]
    pub api: ApiConfig,
    /// The name of the environment variable that holds the key; leave it out where the server wants none.
    pub api_key_env: Execution<Option<String>>,
    /// The model folder, or trained tokenizer, whose tokens the server's model has. Named, `check` tells before anything is
    /// paid whether a student can learn from its log-probabilities, and `plan` counts prompts with it; it changes no answer.
    pub tokenizer: Execution<Option<Ref<TokenizerSource>>>,
}

impl ServedModel {
    /// How it is talked to.
    pub(in crate::provider) fn api(&self, dialect: Dialect) -> Arc<dyn Api> {
        let model = self.name.clone();
        match self.api {
            ApiConfig::Chat => Arc::new(ChatApi { model, dialect }),
            ApiConfig::Completions => Arc::new(CompletionsApi { model, dialect }),
        }
    }
}

/// Which of two APIs is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
pub enum ApiConfig {
    /// `/chat/completions`: a conversation goes on.
    Chat,
    /// `/completions`: a text goes on.
    Completions,
}

impl OpenAi {
    /// Whether only OpenAI's own fields are sent.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        let host =
            Url::parse(&self.base_url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
        self.strict.unwrap_or_else(|| host.ends_with("openai.com") || host.ends_with("azure.com"))
    }

    fn batch_options(&self) -> Option<&BatchOptions> {
        self.batch.as_ref().and_then(|batch| batch.0.as_ref())
    }

    fn server(&self) -> Server {
        let prices = self.usage.prices.as_ref().map(|prices| match self.batch_options() {
            Some(_) => prices.in_a_batch(),
            None => prices.clone(),
        });
        Server {
            provider: "openai",
            family: match self.model.api {
                ApiConfig::Chat => "openai-chat",
                ApiConfig::Completions => "openai-completions",
            },
            base_url: self.base_url.0.clone(),
            model: self.model.name.clone(),
            revision: self.model.revision.clone(),
            key_variable: self.model.api_key_env.0.clone(),
            auth: Auth::Bearer,
            api: self.model.api(if self.is_strict() { Dialect::Strict } else { Dialect::Common }),
            limits: self.usage.limits.limits(prices.as_ref()),
            terms: self.usage.terms.0.clone(),
            batch: self.batch_options().cloned(),
            thinking_tokens: self.usage.limits.thinking_tokens,
        }
    }
}

impl Provider for OpenAi {
    fn capabilities(&self) -> Capabilities {
        match (self.is_strict(), self.model.api) {
            (true, ApiConfig::Chat) => capability::OPENAI_STRICT,
            (true, ApiConfig::Completions) => capability::OPENAI_STRICT_COMPLETIONS,
            (false, _) => capability::OPENAI,
        }
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
        Some(Server {
            family: "openai-embeddings",
            api: Arc::new(EmbeddingsApi::new(self.model.name.clone(), together)),
            // Vectors are cheap and come at once: they are not handed in as a batch, nor at its price.
            limits: self.usage.limits(),
            batch: None,
            thinking_tokens: 0,
            ..self.server()
        })
    }

    fn open<'a>(&self, asks: Asks<'a>) -> Result<Box<dyn Session + 'a>, Failure> {
        server::open(self.server(), asks)
    }

    fn answer(&self, job: &Job<'_>) -> Result<Outcome, Failure> {
        server::run(&self.server(), job)
    }
}

fn sound(config: &OpenAi, node: &Node, report: &mut Diagnostics) {
    server::check(&config.base_url, &config.model.name, &config.usage, node, report);
    if config.batch_options().is_some() {
        let at = node.as_table().and_then(|table| table.get("batch")).map_or(node.at, |found| found.at);
        config.capabilities().check_batch(at, report);
    }
}
