//! What all teachers behind a server have in common, in a file and at work.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use stillhouse_spec::{Config, Diagnostic, Diagnostics, Execution, Node};

use crate::batch::BatchOptions;
use crate::provider::api::{Api, Auth};
use crate::provider::terms::TermsConfig;
use crate::request::Identity;
use crate::transport::{Limits, Prices};

/// A teacher behind a server, whichever API it speaks.
#[derive(Clone, Debug)]
pub struct Server {
    /// The provider's name in the file.
    pub provider: &'static str,
    /// What the API makes of a request: in every request's key.
    pub family: &'static str,
    /// Where it is.
    pub base_url: String,
    /// The model, as the server names it.
    pub model: String,
    /// What the model's name does not say.
    pub revision: Option<String>,
    /// The environment variable that holds the key.
    pub key_variable: Option<String>,
    /// How the key is sent.
    pub auth: Auth,
    /// How it is talked to.
    pub api: Arc<dyn Api>,
    /// How much at once, a minute, and in all.
    pub limits: Limits,
    /// What its answers may be used for.
    pub terms: Option<TermsConfig>,
    /// How requests are handed in together; nothing where they are sent one by one.
    pub batch: Option<BatchOptions>,
    /// Tokens that a reply may take beyond its limit.
    pub thinking_tokens: u64,
}

impl Server {
    /// What the teacher is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity { family: self.family, model: self.model.clone(), revision: self.revision.clone() }
    }
}

/// What the table of every teacher behind a server says of its use.
#[derive(Clone, Debug, Config)]
pub struct UsageConfig {
    /// What its answers may be used for.
    pub terms: Execution<Option<TermsConfig>>,
    /// How much at once, a minute, and in all.
    #[config(default)]
    pub limits: Execution<LimitsConfig>,
    /// What tokens cost.
    pub prices: Execution<Option<PricesConfig>>,
}

impl UsageConfig {
    /// The limits that the transport keeps.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits.limits(self.prices.as_ref())
    }
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
    /// Tokens of prompts a minute.
    #[config(min = 1)]
    pub input_tokens_per_minute: Option<u64>,
    /// Tokens of replies a minute.
    #[config(min = 1)]
    pub output_tokens_per_minute: Option<u64>,
    /// US dollars a run; needs `prices`. The run stops before it would spend more, and keeps what it paid for.
    /// All stages of the run spend of it, and so do other tables with the same `base-url` and `model`.
    #[config(above = 0)]
    pub budget_usd: Option<f64>,
    /// Tokens a run, prompts and replies together; stops and counts as `budget-usd` does.
    #[config(min = 1)]
    pub budget_tokens: Option<u64>,
    /// Requests a run, each time that one is tried again counted; stops and counts as `budget-usd` does.
    #[config(min = 1)]
    pub budget_requests: Option<u64>,
    /// Tokens that the model may think beyond `max-tokens`, where its server does not count those among them (OpenAI's and
    /// Anthropic's do): for every request so many more are set aside of budgets and of tokens a minute.
    #[config(default = 0)]
    pub thinking_tokens: u64,
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
    /// Failures in a row (no connection, no answer in time, a 5xx), of whichever requests, after which the teacher counts
    /// as down: then one request at a time tries whether it is back, `attempts` times, before the stage stops.
    #[config(default = 20, min = 1)]
    pub failures_in_a_row: u32,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            concurrency: 16,
            requests_per_minute: None,
            tokens_per_minute: None,
            input_tokens_per_minute: None,
            output_tokens_per_minute: None,
            budget_usd: None,
            budget_tokens: None,
            budget_requests: None,
            thinking_tokens: 0,
            timeout_seconds: 300.0,
            attempts: 8,
            max_wait_seconds: 600.0,
            failures_in_a_row: 20,
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
    /// What tokens cost in a batch, as a part of these prices.
    #[config(default = 0.5, min = 0)]
    pub batch_factor: f64,
}

impl PricesConfig {
    /// The prices in a batch.
    #[must_use]
    pub fn in_a_batch(&self) -> Self {
        let factor = self.batch_factor;
        Self { input: self.input * factor, output: self.output * factor, batch_factor: factor }
    }
}

impl LimitsConfig {
    /// The limits that the transport keeps.
    #[must_use]
    pub fn limits(&self, prices: Option<&PricesConfig>) -> Limits {
        let Self {
            concurrency,
            requests_per_minute,
            tokens_per_minute,
            input_tokens_per_minute,
            output_tokens_per_minute,
            budget_usd,
            budget_tokens,
            budget_requests,
            // The connection knows what a request can take.
            thinking_tokens: _,
            timeout_seconds,
            attempts,
            max_wait_seconds,
            failures_in_a_row,
        } = self;
        Limits {
            concurrency: *concurrency,
            requests_per_minute: *requests_per_minute,
            tokens_per_minute: *tokens_per_minute,
            input_tokens_per_minute: *input_tokens_per_minute,
            output_tokens_per_minute: *output_tokens_per_minute,
            budget_usd: *budget_usd,
            budget_tokens: *budget_tokens,
            budget_requests: *budget_requests,
            prices: prices
                .map(|PricesConfig { input, output, batch_factor: _ }| Prices { input: *input, output: *output }),
            timeout: Duration::try_from_secs_f64(*timeout_seconds).unwrap_or(Duration::MAX),
            attempts: *attempts,
            max_wait: Duration::try_from_secs_f64(*max_wait_seconds).unwrap_or(Duration::MAX),
            failures_in_a_row: *failures_in_a_row,
        }
    }
}

/// Reports what is wrong with a server's table. `node` is the table.
pub fn check(base_url: &str, model: &str, usage: &UsageConfig, node: &Node, report: &mut Diagnostics) {
    let at = |name: &str| node.as_table().and_then(|table| table.get(name)).map_or(node.at, |found| found.at);
    match Url::parse(base_url) {
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
    if usage.limits.budget_usd.is_some() && usage.prices.is_none() {
        report.push(
            Diagnostic::error(at("limits"), "`budget-usd` needs `prices`")
                .hint("in US dollars a million tokens: `prices = { input = 0.15, output = 0.60 }`"),
        );
    }
    if floats(model) {
        report.push(
            Diagnostic::warning(at("model"), format!("`{model}` is an alias: what it stands for may change any day"))
                .hint("name the version itself; replies of before and after would stand under one name"),
        );
    }
}

/// Whether a model's name says that it stands for another one.
fn floats(model: &str) -> bool {
    model.ends_with("-latest") || model.ends_with(":latest")
}
