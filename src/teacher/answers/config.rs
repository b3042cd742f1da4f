//! What a user writes in `[answers.X]`.

use stillhouse_data::signals::{Encoding, Form, HiddenPrecision, Precision, Selection};
use stillhouse_data::tokenizer_kind::Answers;
use stillhouse_spec::{Config, Diagnostic, Diagnostics, Node, OneOf, Ref, Target};

use super::policy::{self, AtLast, FormatConfig, OutcomesConfig};
use crate::definition::Teachers;
use crate::request::{Capture, Sampling};

/// Prompts answered by a teacher.
#[derive(Clone, Debug, Config)]
#[config(check = sound)]
pub struct AnswersConfig {
    /// The prompts.
    pub prompts: Option<Ref<Prompts>>,
    /// In place of prompts: answers that somebody gave already. They stay as they are, and the teacher says how likely each
    /// of their tokens is (`capture`).
    #[config(parts = "answers.jsonl")]
    pub score: Option<Ref<Answers>>,
    /// Who answers.
    pub teacher: Ref<Teachers>,
    /// How tokens are drawn.
    #[config(default)]
    pub sampling: SamplingConfig,
    /// Answers a prompt.
    #[config(default = 1, min = 1)]
    pub samples: u32,
    /// What is kept of the teacher's distributions; nothing if left out.
    pub capture: Option<CaptureConfig>,
    /// What a whole answer has to look like; one that does not is `unparseable`. The teacher is not told.
    pub format: Option<FormatConfig>,
    /// What becomes of each kind of reply: `keep`, `drop` or `ask-again`.
    #[config(default)]
    pub outcomes: OutcomesConfig,
    /// How often a prompt is asked again at most, where its replies' `outcomes` say `ask-again`.
    #[config(default = 2, min = 1, max = 100)]
    pub ask_again_times: u32,
    /// What becomes of the last reply, where even that would have to be asked again.
    #[config(default = AtLast::Keep)]
    pub ask_again_then: AtLast,
    /// What becomes of a prompt that the server refuses, since it is longer than its context, say.
    #[config(default = OnRejected::Keep)]
    pub on_rejected: OnRejected,
}

/// What becomes of a prompt that the server refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
pub enum OnRejected {
    /// It stays among the answers as one without words, with the server's reason. If the first 20, or all, are refused,
    /// the stage fails all the same.
    Keep,
    /// The stage fails.
    Fail,
}

/// The stages that hold prompts.
#[derive(Clone, Copy, Debug)]
pub struct Prompts;

impl Target for Prompts {
    const KINDS: &'static [&'static str] = &["prompts", "expand"];
}

/// How tokens are drawn.
#[derive(Clone, Debug, PartialEq, Config)]
pub struct SamplingConfig {
    /// 0 takes the most likely token.
    #[config(default = 1.0, min = 0)]
    pub temperature: f64,
    /// Beside the temperature.
    #[config(inline)]
    pub drawing: DrawingConfig,
}

/// How tokens are drawn, but for the temperature: who answers and who judges begin with different ones.
#[derive(Clone, Debug, PartialEq, Config)]
pub struct DrawingConfig {
    /// Keep the smallest set of most likely tokens whose probabilities sum to this; 1 keeps all.
    #[config(default = 1.0, above = 0, max = 1)]
    pub top_p: f64,
    /// Keep the k most likely tokens.
    #[config(min = 1)]
    pub top_k: Option<u32>,
    /// Longest reply, in tokens. Raising it asks again only where one was cut.
    #[config(default = 512, min = 1)]
    pub max_tokens: u32,
    /// Texts that end the reply and are no part of it.
    #[config(default)]
    pub stop: Vec<String>,
    /// Seed of the drawing; the experiment's if left out.
    pub seed: Option<u64>,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self { temperature: 1.0, drawing: DrawingConfig::default() }
    }
}

impl Default for DrawingConfig {
    fn default() -> Self {
        Self { top_p: 1.0, top_k: None, max_tokens: 512, stop: Vec::new(), seed: None }
    }
}

impl SamplingConfig {
    /// As a request carries it.
    #[must_use]
    pub fn request(&self) -> Sampling {
        let Self { temperature, drawing: DrawingConfig { top_p, top_k, max_tokens, stop, seed: _ } } = self.clone();
        Sampling { temperature, top_p, top_k, max_tokens, stop }
    }
}

/// What is kept of the teacher's distributions: one of `top-k`, `full`, `top-p`, `samples` and `hidden`.
#[derive(Clone, Debug, Config)]
#[config(check = sound_capture)]
pub struct CaptureConfig {
    /// The k most likely tokens at each position.
    #[config(min = 1)]
    pub top_k: Option<u32>,
    /// The whole vocabulary at each position.
    #[config(default = false)]
    pub full: bool,
    /// As many of the most likely tokens at each position as hold this much probability, between `min-k` and `max-k`.
    #[config(above = 0, max = 1)]
    pub top_p: Option<f64>,
    /// With `top-p`: at least so many tokens.
    #[config(default = 1, min = 1)]
    pub min_k: u32,
    /// With `top-p`: at most so many tokens.
    #[config(default = 128, min = 1)]
    pub max_k: u32,
    /// So many draws from the distribution at each position: targets whose mean is the distribution itself.
    #[config(min = 1, max = 65_536)]
    pub samples: Option<u32>,
    /// The last hidden state at each position, from which the teacher's head makes the whole distribution: `bf16`, `f16`
    /// or `f32`.
    pub hidden: Option<HiddenPrecision>,
    /// How exactly a local teacher's are kept: two bytes each (`f16`) or four (`f32`).
    #[config(default = Precision::F16)]
    pub precision: Precision,
    /// How a local teacher's are kept: `plain` if left out.
    pub encoding: Option<OneOf<dyn Encoding>>,
}

impl CaptureConfig {
    /// As a request to a server carries it.
    #[must_use]
    pub fn request(&self) -> Capture {
        self.top_k.map_or(Capture::Full, Capture::TopK)
    }

    /// What a local teacher keeps of a distribution; none where it keeps hidden states.
    #[must_use]
    pub fn selection(&self, seed: u64) -> Option<Selection> {
        if self.hidden.is_some() {
            return None;
        }
        Some(match (self.top_k, self.top_p, self.samples) {
            (Some(k), ..) => Selection::MostLikely(k as usize),
            (_, Some(mass), _) => Selection::TopP { mass, bounds: [self.min_k as usize, self.max_k as usize] },
            (.., Some(samples)) => Selection::Drawn { samples, seed },
            _ => Selection::Whole,
        })
    }

    /// How a local teacher keeps it.
    #[must_use]
    pub fn form(&self) -> Form {
        self.encoding.as_ref().map_or(Form::Plain(self.precision), |encoding| encoding.value.form(self.precision))
    }

    /// The first setting that only a local teacher has.
    #[must_use]
    pub fn local_only(&self) -> Option<&'static str> {
        let settings = [
            ("top-p", self.top_p.is_some()),
            ("samples", self.samples.is_some()),
            ("hidden", self.hidden.is_some()),
            ("encoding", self.encoding.is_some()),
        ];
        settings.into_iter().find(|(_, set)| *set).map(|(name, _)| name)
    }
}

fn sound(config: &AnswersConfig, node: &Node, report: &mut Diagnostics) {
    policy::sound(config, node, report);
    match (&config.prompts, &config.score) {
        (Some(_), None) => {}
        (None, None) => report.push(
            Diagnostic::error(node.at, "missing `prompts`")
                .hint("add `prompts = \"…\"`; or `score = \"…\"`, answers whose log-probabilities are wanted"),
        ),
        (prompts, Some(_)) => scores(config, prompts.is_some(), node, report),
    }
    if config.samples > 1 && config.sampling.temperature == 0.0 {
        report.push(
            Diagnostic::warning(node.at, format!("{} samples at temperature 0 are all the same", config.samples))
                .hint("set `sampling = { temperature = 0.7 }`, or `samples = 1`"),
        );
    }
}

/// Given answers are scored, and nothing else is asked.
fn scores(config: &AnswersConfig, has_prompts: bool, node: &Node, report: &mut Diagnostics) {
    let place = |key: &str| node.as_table().and_then(|table| table.get(key)).map_or(node.at, |node| node.at);
    if has_prompts {
        report.push(
            Diagnostic::error(place("prompts"), "the answers that `score` names have their prompts already")
                .hint("leave `prompts` out, or `score`"),
        );
    }
    if config.capture.is_none() {
        report.push(
            Diagnostic::error(place("score"), "`score` asks for log-probabilities, and none are captured")
                .hint("add `capture = { top-k = 20 }`"),
        );
    }
    if config.samples > 1 || policy::asks_again(config) {
        let key = if config.samples > 1 { "samples" } else { "outcomes" };
        report.push(
            Diagnostic::error(place(key), "given answers are what they are: none is asked for")
                .hint(format!("leave `{key}` out")),
        );
    }
    if config.sampling != SamplingConfig::default() {
        report.push(
            Diagnostic::warning(place("sampling"), "given answers are what they are: `sampling` changes nothing")
                .hint("remove it"),
        );
    }
}

fn sound_capture(config: &CaptureConfig, node: &Node, report: &mut Diagnostics) {
    let selections = [
        config.top_k.is_some(),
        config.full,
        config.top_p.is_some(),
        config.samples.is_some(),
        config.hidden.is_some(),
    ];
    if selections.iter().filter(|given| **given).count() != 1 {
        report.push(
            Diagnostic::error(node.at, "`capture` is either `top-k` or `full`, `top-p`, `samples` or `hidden`")
                .hint("`capture = { top-k = 64 }` or `capture = { full = true }`"),
        );
        return;
    }
    if config.min_k > config.max_k {
        report.push(Diagnostic::error(node.at, "`min-k` is more than `max-k`").hint("`max-k` is 128 if left out"));
    }
    let form = config.form();
    if matches!(form, Form::Compact { .. }) {
        if config.full || config.hidden.is_some() {
            report.push(
                Diagnostic::error(node.at, "`compact` keeps some tokens, not whole distributions or hidden states")
                    .hint("`capture = { top-k = 128, encoding = \"compact\" }`, or leave `encoding` out"),
            );
        }
        if config.precision != Precision::F16 {
            report.push(
                Diagnostic::error(node.at, "`precision` is for the plain encoding")
                    .hint("say how exact `compact` is by its `kl`: `encoding = { compact = { kl = 0.0001 } }`"),
            );
        }
    }
}
