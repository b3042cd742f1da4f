//! `provider = "openai"`: the settings of a teacher behind a server.

use std::time::Duration;

use reqwest::Url;
use stillhouse_spec::{Config, Diagnostic, Diagnostics, Execution, Node, Origin};
use stillhouse_stage::{Failure, Needs, Outcome};

use super::run;
use crate::answers::AnswersConfig;
use crate::provider::terms::TermsConfig;
use crate::provider::{Job, Provider};
use crate::transport::{Limits, Prices};

/// Any server with OpenAI's chat completions: OpenAI, vLLM, llama.cpp, Ollama and whoever speaks like them.
#[derive(Clone, Debug, Config)]
#[config(check = sound)]
pub struct OpenAi {
    /// Where it is, up to `/v1`: `http://127.0.0.1:8080/v1`.
    pub base_url: Execution<String>,
    /// The model, as the server names it.
    pub model: String,
    /// What the model's name does not say (a quantisation, a deployment): another revision is another teacher.
    pub revision: Option<String>,
    /// The name of the environment variable that holds the key; leave it out where the server wants none.
    pub api_key_env: Execution<Option<String>>,
    /// Send only what OpenAI's own API has. Left out, it is so for OpenAI's and Azure's hosts.
    pub strict: Execution<Option<bool>>,
    /// What its answers may be used for.
    pub terms: Execution<Option<TermsConfig>>,
    /// How much at once, a minute, and in all.
    #[config(default)]
    pub limits: Execution<LimitsConfig>,
    /// What tokens cost.
    pub prices: Execution<Option<PricesConfig>>,
}

/// How much at once, a minute, and in all.
#[derive(Clone, Debug, Config)]
pub struct LimitsConfig {
    /// Requests on their way at once.
    #[config(default = 16, min = 1)]
    pub concurrency: usize,
    /// Requests a minute.
    #[config(min = 1)]
    pub requests_per_minute: Option<u32>,
    /// Tokens a minute, prompts and replies together.
    #[config(min = 1)]
    pub tokens_per_minute: Option<u64>,
    /// US dollars a run; needs `prices`. The run stops before it would spend more, and keeps what it paid for.
    /// All stages of the run spend of it, and so do other tables with the same `base-url` and `model`.
    #[config(above = 0)]
    pub budget_usd: Option<f64>,
    /// The longest that one attempt may take, in seconds.
    #[config(default = 300.0, above = 0)]
    pub timeout_seconds: f64,
    /// Attempts at one request, when the server is busy, broken or silent.
    #[config(default = 8, min = 1)]
    pub attempts: u32,
    /// The longest that a server may ask to be left alone (`Retry-After`), in seconds. If it asks for more, the stage fails at
    /// once and keeps what it paid for.
    #[config(default = 600.0, min = 0, max = 604_800)]
    pub max_wait_seconds: f64,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            concurrency: 16,
            requests_per_minute: None,
            tokens_per_minute: None,
            budget_usd: None,
            timeout_seconds: 300.0,
            attempts: 8,
            max_wait_seconds: 600.0,
        }
    }
}

/// What tokens cost.
#[derive(Clone, Debug, Config)]
pub struct PricesConfig {
    /// US dollars for a million tokens of prompts.
    #[config(min = 0)]
    pub input: f64,
    /// US dollars for a million tokens of replies.
    #[config(min = 0)]
    pub output: f64,
}

impl OpenAi {
    /// The limits that the transport keeps.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let LimitsConfig {
            concurrency,
            requests_per_minute,
            tokens_per_minute,
            budget_usd,
            timeout_seconds,
            attempts,
            max_wait_seconds,
        } = &self.limits.0;
        Limits {
            concurrency: *concurrency,
            requests_per_minute: *requests_per_minute,
            tokens_per_minute: *tokens_per_minute,
            budget_usd: *budget_usd,
            prices: self
                .prices
                .as_ref()
                .map(|PricesConfig { input, output }| Prices { input: *input, output: *output }),
            timeout: Duration::try_from_secs_f64(*timeout_seconds).unwrap_or(Duration::MAX),
            attempts: *attempts,
            max_wait: Duration::try_from_secs_f64(*max_wait_seconds).unwrap_or_default(),
        }
    }

    /// Whether only OpenAI's own fields are sent.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        let host =
            Url::parse(&self.base_url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
        self.strict.unwrap_or_else(|| host.ends_with("openai.com") || host.ends_with("azure.com"))
    }
}

impl Provider for OpenAi {
    fn check(&self, answers: &AnswersConfig, at: Origin, report: &mut Diagnostics) {
        if let Some(setting) = answers.capture.as_ref().and_then(|capture| capture.local_only()) {
            report.push(
                Diagnostic::error(at, format!("`capture.{setting}` is for a local teacher; a server gives `top-k`"))
                    .hint("`capture = { top-k = 20 }`, or a teacher with `provider = \"local\"`"),
            );
        }
        if !self.is_strict() {
            return;
        }
        if answers.sampling.top_k.is_some() {
            report.push(
                Diagnostic::error(at, "`sampling.top-k` is not part of OpenAI's API")
                    .hint("remove it, or set `strict = false` in the teacher if its server has it"),
            );
        }
        if answers.capture.as_ref().is_some_and(|capture| capture.full || capture.top_k.is_some_and(|k| k > 20)) {
            report.push(
                Diagnostic::error(at, "OpenAI's API gives at most 20 log-probabilities a token").hint(
                    "`capture = { top-k = 20 }`, or set `strict = false` in the teacher if its server gives more",
                ),
            );
        }
    }

    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn answer(&self, job: &Job<'_>) -> Result<Outcome, Failure> {
        run::run(self, job)
    }
}

fn sound(config: &OpenAi, node: &Node, report: &mut Diagnostics) {
    let at = |name: &str| node.as_table().and_then(|table| table.get(name)).map_or(node.at, |found| found.at);
    match Url::parse(&config.base_url) {
        Ok(url) if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() => {
            report.push(Diagnostic::error(at("base-url"), "`base-url` must begin with http:// or https://"));
        }
        Ok(url) if url.password().is_some() || !url.username().is_empty() || url.query().is_some() => {
            report.push(
                Diagnostic::error(at("base-url"), "`base-url` must not carry a user, a password or a query")
                    .hint("put the key into an environment variable and name it: `api-key-env = \"TEACHER_API_KEY\"`"),
            );
        }
        Ok(_) => {}
        Err(error) => report.push(
            Diagnostic::error(at("base-url"), format!("`base-url` is no URL: {error}"))
                .hint("it looks like `http://127.0.0.1:8080/v1`"),
        ),
    }
    if config.limits.budget_usd.is_some() && config.prices.is_none() {
        report.push(
            Diagnostic::error(at("limits"), "`budget-usd` needs `prices`")
                .hint("in US dollars a million tokens: `prices = { input = 0.15, output = 0.60 }`"),
        );
    }
}
