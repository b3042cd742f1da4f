//! What a user writes in `[expand.X]`.

use stillhouse_data::source::RowTemplate;
use stillhouse_spec::{Config, Diagnostic, Diagnostics, Node, Ref};

use super::styles::NAMES;
use crate::answers::{FailedConfig, OnFailed, OnRejected, Prompts, SamplingConfig};
use crate::definition::Teachers;

/// New prompts that a teacher writes after the example of others. It holds prompts, as `prompts` does.
#[derive(Clone, Debug, Config)]
#[config(check = sound)]
pub struct ExpandConfig {
    /// The prompts to begin with.
    pub seeds: Ref<Prompts>,
    /// Who writes.
    pub teacher: Ref<Teachers>,
    /// How the teacher is asked.
    #[config(default = StyleConfig::SelfInstruct)]
    pub style: StyleConfig,
    /// Rounds; what one round brings are examples for the next.
    #[config(default = 1, min = 1, max = 1_000)]
    pub rounds: u32,
    /// Requests in a round.
    #[config(min = 1, max = 1_000_000)]
    pub per_round: u32,
    /// Prompts that a request shows, a quarter of them new ones where there are any. `evolve` shows one: that which it changes.
    #[config(default = 8, min = 1, max = 100)]
    pub examples: u32,
    /// Prompts that a request wants. `evolve` wants one.
    #[config(default = 8, min = 1, max = 100)]
    pub wanted: u32,
    /// The share of common word triples from which a new prompt is nearly one that is there (Jaccard similarity).
    #[config(default = 0.7, above = 0, max = 1)]
    pub near_duplicate: f64,
    /// Shorter prompts are left out.
    #[config(default = 4, min = 1)]
    pub min_words: usize,
    /// Longer prompts are left out.
    #[config(default = 150, min = 1)]
    pub max_words: usize,
    /// Use only so many new prompts; once they are there, no further round begins.
    #[config(min = 1)]
    pub limit: Option<usize>,
    /// Whether the seeds stand before the new prompts.
    #[config(default)]
    pub keep_seeds: bool,
    /// Instructions that stand before every new prompt.
    pub system: Option<String>,
    /// How tokens are drawn.
    #[config(default)]
    pub sampling: SamplingConfig,
    /// What becomes of a request to which no usable reply comes. It brings no prompt: `keep` and `drop` go on without and list
    /// it in `dropped.jsonl`.
    #[config(default)]
    pub outcomes: FailedConfig,
    /// How often such a request is asked again at most, where `outcomes` says `failed = "ask-again"`.
    #[config(default = 2, min = 1, max = 100)]
    pub ask_again_times: u32,
    /// What becomes of a request that the server refuses.
    #[config(default = OnRejected::Keep)]
    pub on_rejected: OnRejected,
}

/// How the teacher is asked for new prompts.
#[derive(Clone, Debug, Config)]
pub enum StyleConfig {
    /// For more of the kind that it is shown (Self-Instruct, Wang et al. 2022).
    SelfInstruct,
    /// To make one more demanding, in one of four ways, or to write another one in the same field (Evol-Instruct, Xu et
    /// al. 2023).
    Evolve,
    /// In words of your own.
    Template(TemplateConfig),
}

/// A request in words of your own.
#[derive(Clone, Debug, Config)]
pub struct TemplateConfig {
    /// The request, in minijinja, with `examples` (a list of texts) and `wanted` (a number).
    pub text: String,
    /// What a reply is.
    #[config(default = ReplyIs::List)]
    pub reply: ReplyIs,
}

/// What a reply is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
pub enum ReplyIs {
    /// A numbered list of prompts.
    List,
    /// One prompt.
    Prompt,
}

impl ExpandConfig {
    /// What a reply is.
    #[must_use]
    pub fn reply(&self) -> ReplyIs {
        match &self.style {
            StyleConfig::SelfInstruct => ReplyIs::List,
            StyleConfig::Evolve => ReplyIs::Prompt,
            StyleConfig::Template(template) => template.reply,
        }
    }

    /// Requests in all.
    #[must_use]
    pub fn requests(&self) -> u64 {
        u64::from(self.rounds) * u64::from(self.per_round)
    }
}

fn sound(config: &ExpandConfig, node: &Node, report: &mut Diagnostics) {
    let place = |key: &str| node.as_table().and_then(|table| table.get(key)).map_or(node.at, |node| node.at);
    if config.min_words > config.max_words {
        report.push(
            Diagnostic::error(place("min-words"), "`min-words` is more than `max-words`: no prompt would stay")
                .hint("`max-words` is 150 if left out"),
        );
    }
    if config.outcomes.failed == OnFailed::AskAgain && config.sampling.temperature == 0.0 {
        report.push(
            Diagnostic::warning(place("outcomes"), "`failed = \"ask-again\"` at temperature 0 brings the same")
                .hint("set `sampling = { temperature = 0.7 }`, or `\"drop\"`"),
        );
    }
    if config.sampling.temperature == 0.0 {
        report.push(
            Diagnostic::warning(place("sampling"), "at temperature 0 a request with the same examples brings the same")
                .hint("set `sampling = { temperature = 0.7 }` or more"),
        );
    }
    if let StyleConfig::Template(template) = &config.style {
        check_template(&template.text, "style.template.text", &NAMES, place("style"), report);
        if !template.text.contains("examples") {
            report.push(
                Diagnostic::error(place("style"), "the template shows no `examples`: every request would be the same")
                    .hint("{% for example in examples %}{{ example }}\n{% endfor %}"),
            );
        }
    }
}

/// Reports a template that does not compile, or uses names that it is not given.
pub(crate) fn check_template(
    text: &str,
    key: &'static str,
    names: &[&str],
    at: stillhouse_spec::Origin,
    report: &mut Diagnostics,
) {
    match RowTemplate::new(text, key) {
        Err(error) => {
            let diagnostic = Diagnostic::error(at, error.to_string());
            report.push(match error.hint() {
                Some(hint) => diagnostic.hint(hint),
                None => diagnostic,
            });
        }
        Ok(template) => {
            for name in template.names().iter().filter(|name| !names.contains(&name.as_str())) {
                let list = stillhouse_spec::suggest::list(names);
                let diagnostic =
                    Diagnostic::error(at, format!("`{key}` uses `{name}`, which there is not: it has {list}"));
                report.push(diagnostic.suggest(name, names.iter().copied()));
            }
        }
    }
}
