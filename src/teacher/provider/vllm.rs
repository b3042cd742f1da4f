//! `provider = "vllm"`: OpenAI's API with what vLLM adds to it, above all the exact ids of tokens.

use std::sync::Arc;

use stillhouse_data::model::TokenizerSource;
use stillhouse_spec::{Config, Diagnostics, Execution, Node, Ref};
use stillhouse_stage::{Ahead, Failure, Forecast, Needs, Outcome};

use super::api::Auth;
use super::capability::{self, Capabilities};
use super::openai::{ApiConfig, ChatApi, CompletionsApi, Dialect, EmbeddingsApi};
use super::server::{self, LimitsConfig, PricesConfig, Server};
use super::terms::TermsConfig;
use super::{Job, Provider};
use crate::answers::AnswersConfig;
use crate::request::Request;
use crate::session::{Asks, Session};

/// A vLLM server. Tokens come with their ids, and the whole vocabulary where the server was started with
/// `--max-logprobs -1`.
#[derive(Clone, Debug, Config)]
#[config(check = sound)]
pub struct Vllm {
    /// Where it is, up to `/v1`: `http://127.0.0.1:8000/v1`.
    pub base_url: Execution<String>,
    /// The model, as the server names it.
    pub model: String,
    /// What the model's name does not say (a quantisation, a deployment): another revision is another teacher.
    pub revision: Option<String>,
    /// `chat` sends the conversation, `completions` its text, for a base model to continue.
    #[config(default = ApiConfig::Chat)]
    pub api: ApiConfig,
    /// Whether tokens are told by their ids. Without it they are told by their texts, and ids are not known.
    #[config(default = true)]
    pub token_ids: bool,
    /// The name of the environment variable that holds the key; leave it out where the server wants none.
    pub api_key_env: Execution<Option<String>>,
    /// The model folder, or trained tokenizer, whose tokens the server's model has. Named, `check` tells before anything is
    /// paid whether a student can learn from its log-probabilities; it changes no answer.
    pub tokenizer: Execution<Option<Ref<TokenizerSource>>>,
    /// What its answers may be used for.
    pub terms: Execution<Option<TermsConfig>>,
    /// How much at once, a minute, and in all.
    #[config(default)]
    pub limits: Execution<LimitsConfig>,
    /// What tokens cost.
    pub prices: Execution<Option<PricesConfig>>,
}

impl Vllm {
    fn server(&self) -> Server {
        let (model, dialect) = (self.model.clone(), Dialect::Vllm { ids: self.token_ids });
        let family = match (self.api, self.token_ids) {
            (ApiConfig::Chat, true) => "vllm-chat",
            (ApiConfig::Chat, false) => "vllm-chat-texts",
            (ApiConfig::Completions, true) => "vllm-completions",
            (ApiConfig::Completions, false) => "vllm-completions-texts",
        };
        Server {
            provider: "vllm",
            family,
            base_url: self.base_url.0.clone(),
            model: self.model.clone(),
            revision: self.revision.clone(),
            key_variable: self.api_key_env.0.clone(),
            auth: Auth::Bearer,
            api: match self.api {
                ApiConfig::Chat => Arc::new(ChatApi { model, dialect }),
                ApiConfig::Completions => Arc::new(CompletionsApi { model, dialect }),
            },
            limits: self.limits.limits(self.prices.as_ref()),
            terms: self.terms.0.clone(),
            batch: None,
        }
    }
}

impl Provider for Vllm {
    fn capabilities(&self) -> Capabilities {
        capability::VLLM
    }

    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn forecast(&self, answers: &AnswersConfig, ahead: &Ahead<'_>) -> Option<Forecast> {
        server::forecast(&self.server(), answers, ahead)
    }

    fn forecast_requests(&self, known: Vec<Request>, like_them: u64, ahead: &Ahead<'_>) -> Option<Forecast> {
        server::forecast_requests(&self.server(), known, like_them, ahead.store)
    }

    fn embeddings(&self, together: usize) -> Option<Server> {
        let api = Arc::new(EmbeddingsApi::new(self.model.clone(), together));
        Some(Server { family: "vllm-embeddings", api, ..self.server() })
    }

    fn open<'a>(&self, asks: Asks<'a>) -> Result<Box<dyn Session + 'a>, Failure> {
        server::open(self.server(), asks)
    }

    fn answer(&self, job: &Job<'_>) -> Result<Outcome, Failure> {
        server::run(&self.server(), job)
    }
}

fn sound(config: &Vllm, node: &Node, report: &mut Diagnostics) {
    server::check(&config.base_url, &config.model, &config.limits, config.prices.as_ref(), node, report);
}
