//! What each provider can give, in one table: `check` holds requests against it, `stillhouse kinds teacher` and
//! `docs/teachers.md` show it.

use stillhouse_spec::{Diagnostic, Diagnostics, Origin};

use crate::answers::{AnswersConfig, Policy, SamplingConfig};

/// As many as the server or the vocabulary has.
pub const ANY: u32 = u32::MAX;

/// One row: what a provider gives, with its settings as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The provider's name in the file.
    pub provider: &'static str,
    /// With which settings, empty where they do not matter.
    pub when: &'static str,
    /// The most log-probabilities a token; 0 is none, [`ANY`] no limit of its own.
    pub top_k: u32,
    /// Whether the whole vocabulary's distribution can be had.
    pub full: bool,
    /// Whether tokens come with their ids in the teacher's vocabulary.
    pub token_ids: Tells,
    /// Whether a given text can be scored.
    pub prompt_scoring: bool,
    /// Whether requests can be handed in as a batch.
    pub batch: bool,
    /// Whether prompts may hold images.
    pub images: bool,
    /// Whether a seed is sent, so that the same is drawn again.
    pub seed: bool,
    /// Whether drawing can be limited to the k most likely tokens.
    pub sampling_top_k: bool,
    /// Whether texts can end an answer.
    pub stop: bool,
    /// How many of them at the most; none where nobody says.
    pub most_stops: Option<usize>,
    /// Whether vectors of texts can be had.
    pub embeddings: bool,
}

/// Whether something comes with a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tells {
    /// Always.
    Yes,
    /// Where the server, or the file, has it.
    Sometimes,
    /// Never.
    No,
}

const NOTHING: Capabilities = Capabilities {
    provider: "",
    when: "",
    top_k: 0,
    full: false,
    token_ids: Tells::No,
    prompt_scoring: false,
    batch: false,
    images: false,
    seed: false,
    sampling_top_k: false,
    stop: false,
    most_stops: None,
    embeddings: false,
};

/// `openai` and OpenAI's own API.
pub const OPENAI_STRICT: Capabilities = Capabilities {
    provider: "openai",
    when: "strict (OpenAI, Azure)",
    top_k: 20,
    batch: true,
    images: true,
    seed: true,
    stop: true,
    embeddings: true,
    most_stops: Some(4),
    ..NOTHING
};
/// The same, completions.
pub const OPENAI_STRICT_COMPLETIONS: Capabilities =
    Capabilities { when: "strict, `api = \"completions\"`", top_k: 5, batch: false, images: false, ..OPENAI_STRICT };
/// `openai` and any other server.
pub const OPENAI: Capabilities = Capabilities {
    when: "any other server",
    top_k: ANY,
    full: true,
    token_ids: Tells::Sometimes,
    batch: false,
    sampling_top_k: true,
    most_stops: None,
    ..OPENAI_STRICT
};
/// `anthropic`.
pub const ANTHROPIC: Capabilities =
    Capabilities { provider: "anthropic", images: true, sampling_top_k: true, stop: true, ..NOTHING };
/// `vllm`.
pub const VLLM: Capabilities =
    Capabilities { provider: "vllm", when: "", token_ids: Tells::Yes, prompt_scoring: true, ..OPENAI };
/// `local`.
pub const LOCAL: Capabilities = Capabilities {
    provider: "local",
    top_k: ANY,
    full: true,
    token_ids: Tells::Yes,
    prompt_scoring: true,
    seed: true,
    sampling_top_k: true,
    ..NOTHING
};
/// `replies`.
pub const REPLIES: Capabilities =
    Capabilities { provider: "replies", top_k: ANY, token_ids: Tells::Sometimes, ..NOTHING };

/// Every row, in the order of the providers.
pub static TABLE: &[Capabilities] =
    &[OPENAI_STRICT, OPENAI_STRICT_COMPLETIONS, OPENAI, ANTHROPIC, VLLM, LOCAL, REPLIES];

impl Capabilities {
    /// `openai, strict (OpenAI, Azure)`
    #[must_use]
    pub fn label(&self) -> String {
        if self.when.is_empty() { self.provider.to_owned() } else { format!("{}, {}", self.provider, self.when) }
    }

    /// Reports what a table asks for and cannot be had. `place` finds the key at a path.
    pub fn check(&self, answers: &AnswersConfig, place: &dyn Fn(&str) -> Origin, report: &mut Diagnostics) {
        self.check_capture(answers, place, report);
        self.check_scoring(answers, place, report);
        if self.provider == "replies" && Policy::of(answers).is_ok_and(|policy| policy.asks_again()) {
            report.push(
                Diagnostic::error(place("outcomes"), "replies that are given cannot be asked for again")
                    .hint("`drop` leaves them out, `keep` keeps them with their outcome"),
            );
        }
        if self.provider == "replies" && answers.sampling != SamplingConfig::default() {
            report.push(
                Diagnostic::warning(place("sampling"), "given replies are what they are: `sampling` changes nothing")
                    .hint("remove it"),
            );
        }
    }

    /// Reports given answers that it cannot score.
    fn check_scoring(&self, answers: &AnswersConfig, place: &dyn Fn(&str) -> Origin, report: &mut Diagnostics) {
        if answers.score.is_some() && !self.prompt_scoring {
            report.push(
                Diagnostic::error(place("score"), format!("{} can't score given answers", self.label()))
                    .hint(others(|row| row.prompt_scoring)),
            );
        }
    }

    /// Reports what a way of drawing asks for and cannot be had.
    pub fn check_sampling(&self, sampling: &SamplingConfig, place: &dyn Fn(&str) -> Origin, report: &mut Diagnostics) {
        let mut refuse = |key: &str, has: fn(&Self) -> bool, also: &str| {
            let others = others(has);
            report.push(
                Diagnostic::error(place(key), format!("{} has no `{key}`", self.label()))
                    .hint(format!("remove it{also}; {others}")),
            );
        };
        if sampling.drawing.top_k.is_some() && !self.sampling_top_k {
            refuse("sampling.top-k", |row| row.sampling_top_k, self.unless_strict());
        }
        if !sampling.drawing.stop.is_empty() && !self.stop {
            refuse("sampling.stop", |row| row.stop, "");
        }
        if let Some(most) = self.most_stops.filter(|most| sampling.drawing.stop.len() > *most) {
            report.push(
                Diagnostic::error(
                    place("sampling.stop"),
                    format!("{} takes {most} stop texts at the most", self.label()),
                )
                .hint(format!("remove some{}", self.unless_strict())),
            );
        }
        if sampling.drawing.seed.is_some() && !self.seed && self.provider != "replies" {
            report.push(Diagnostic::warning(place("sampling.seed"), format!("{} takes no seed", self.label())).hint(
                "another seed asks anew, but the same seed does not draw the same again where the replies are gone",
            ));
        }
    }

    /// Reports a teacher that can only be asked what it has answered already.
    pub fn check_questions(&self, place: &dyn Fn(&str) -> Origin, report: &mut Diagnostics) {
        if self.provider == REPLIES.provider {
            report.push(
                Diagnostic::error(
                    place("teacher"),
                    "a teacher of given replies cannot be asked questions of a stage's own",
                )
                .hint("name a teacher that is a server (`openai`, `anthropic`, `vllm`) or runs here (`local`)"),
            );
        }
    }

    /// Reports a teacher that makes no vectors of texts.
    pub fn check_embeddings(&self, place: &dyn Fn(&str) -> Origin, report: &mut Diagnostics) {
        if !self.embeddings {
            let others = others(|row| row.embeddings);
            report.push(
                Diagnostic::error(place("teacher"), format!("{} makes no embeddings", self.label()))
                    .hint(format!("name a teacher whose server has `/v1/embeddings`; {others}")),
            );
        }
    }

    /// Reports a batch that cannot be had.
    pub fn check_batch(&self, at: Origin, report: &mut Diagnostics) {
        if !self.batch {
            let hint = match self.when.starts_with("strict") {
                true => "remove `batch`",
                false => "remove `batch`, or set `strict = true` if its server has OpenAI's Batch API",
            };
            report.push(
                Diagnostic::error(at, format!("{} takes no batches", self.label()))
                    .hint(format!("{hint}; {}", others(|row| row.batch))),
            );
        }
    }

    fn check_capture(&self, answers: &AnswersConfig, place: &dyn Fn(&str) -> Origin, report: &mut Diagnostics) {
        let Some(capture) = &answers.capture else { return };
        if self.top_k == 0 {
            report.push(
                Diagnostic::error(place("capture"), format!("{} gives no log-probabilities", self.label()))
                    .hint(format!("remove `capture`; {}", others(|row| row.top_k > 0))),
            );
            return;
        }
        if let Some(setting) = capture.local_only().filter(|_| self.provider != LOCAL.provider) {
            let message = format!("`capture.{setting}` is for a local teacher; a server gives `top-k`");
            report.push(
                Diagnostic::error(place(&format!("capture.{setting}")), message)
                    .hint("`capture = { top-k = 20 }`, or a teacher with `provider = \"local\"`"),
            );
            return;
        }
        let most = match self.top_k {
            ANY => "what was asked of it".to_owned(),
            most => format!("at most {most} log-probabilities a token"),
        };
        let instead = match self.top_k {
            ANY => "`capture = { top-k = 64 }`".to_owned(),
            most => format!("`capture = {{ top-k = {most} }}`"),
        };
        if capture.full && !self.full {
            report.push(
                Diagnostic::error(
                    place("capture.full"),
                    format!("{} gives {most}, not the whole vocabulary", self.label()),
                )
                .hint(format!("{instead}{}; {}", self.unless_strict(), others(|row| row.full))),
            );
        }
        if capture.top_k.is_some_and(|k| k > self.top_k) {
            report.push(
                Diagnostic::error(place("capture.top-k"), format!("{} gives {most}", self.label())).hint(format!(
                    "{instead}{}; {}",
                    self.unless_strict(),
                    others(|row| row.top_k == ANY)
                )),
            );
        }
    }

    fn unless_strict(&self) -> &'static str {
        if self.when.starts_with("strict") {
            ", or set `strict = false` in the teacher if its server has it"
        } else {
            ""
        }
    }

    /// What a listing says of it: `text, up to 20 log-probabilities a token, images, seeds`
    #[must_use]
    pub fn line(&self) -> String {
        let mut parts = vec!["text".to_owned()];
        match self.top_k {
            0 => {}
            ANY => parts.push("log-probabilities".to_owned()),
            most => parts.push(format!("up to {most} log-probabilities a token")),
        }
        let more = [
            (self.full, "the whole vocabulary"),
            (self.token_ids != Tells::No, "token ids"),
            (self.prompt_scoring, "scores of given texts"),
            (self.batch, "batches"),
            (self.images, "images"),
            (self.seed, "seeds"),
            (self.embeddings, "embeddings"),
        ];
        parts.extend(more.iter().filter(|(has, _)| *has).map(|(_, what)| (*what).to_owned()));
        parts.join(", ")
    }
}

/// Who can: ``providers that have it: `openai` (any other server), `vllm`, `local` ``. A provider that has it whatever
/// its settings is named alone.
fn others(has: fn(&Capabilities) -> bool) -> String {
    let mut names: Vec<String> = Vec::new();
    for row in TABLE.iter().filter(|row| has(row)) {
        let always = TABLE.iter().filter(|other| other.provider == row.provider).all(has);
        let name = match always {
            true => format!("`{}`", row.provider),
            false => format!("`{}` ({})", row.provider, row.when),
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    format!("providers that have it: {}", names.join(", "))
}

/// Who can be shown images, for hints.
#[must_use]
pub fn that_see() -> String {
    others(|row| row.images)
}

/// What a provider gives, for listings: one part a row of the table.
#[must_use]
pub fn summary(provider: &str) -> String {
    let rows = TABLE.iter().filter(|row| row.provider == provider);
    let parts: Vec<String> = rows
        .map(|row| if row.when.is_empty() { row.line() } else { format!("{}: {}", row.when, row.line()) })
        .collect();
    parts.join("; ")
}

/// The table as Markdown, as `docs/teachers.md` has it.
#[must_use]
pub fn markdown() -> String {
    let yes = |has: bool| if has { "yes" } else { "–" };
    let mut lines = vec![
        "| provider | text | log-probs a token | whole vocabulary | token ids | scores given texts | batch | images | seed | top-k sampling | stop texts | embeddings |"
            .to_owned(),
        "|---|---|---|---|---|---|---|---|---|---|---|---|".to_owned(),
    ];
    for row in TABLE {
        let when = if row.when.is_empty() { String::new() } else { format!(", {}", row.when) };
        let top_k = match row.top_k {
            0 => "–".to_owned(),
            ANY => "any".to_owned(),
            most => format!("≤ {most}"),
        };
        let ids = match row.token_ids {
            Tells::Yes => "yes",
            Tells::Sometimes => "where told",
            Tells::No => "–",
        };
        let flags = [row.prompt_scoring, row.batch, row.images, row.seed, row.sampling_top_k, row.stop, row.embeddings];
        let flags: Vec<&str> = flags.into_iter().map(yes).collect();
        lines.push(format!(
            "| `{}`{when} | yes | {top_k} | {} | {ids} | {} |",
            row.provider,
            yes(row.full),
            flags.join(" | ")
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::PROVIDERS;

    #[test]
    fn every_provider_has_its_rows() {
        let mut names: Vec<&str> = TABLE.iter().map(|row| row.provider).collect();
        names.dedup();
        assert_eq!(names, PROVIDERS.iter().map(|entry| entry.name).collect::<Vec<_>>());
        assert_eq!(summary("anthropic"), "text, images", "{}", summary("openai"));
        assert!(summary("openai").starts_with(
            "strict (OpenAI, Azure): text, up to 20 log-probabilities a token, batches, images, seeds, embeddings; "
        ));
    }

    #[test]
    fn the_page_shows_the_table_as_it_is() {
        let page = include_str!("../../../docs/teachers.md");
        assert!(page.contains(&markdown()), "docs/teachers.md has another table than:\n{}", markdown());
    }
}
