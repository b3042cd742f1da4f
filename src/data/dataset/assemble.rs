//! A row of a source becomes an example: ids, marks, counts.

use stillhouse_stage::{Context, Failure};

use super::captured::Found;
use super::config::{ChatTemplateChoice, DatasetConfig, LongRows, LossOn};
use super::source::OpenSource;
use crate::answer::{AnswerTokens, Outcome};
use crate::captured::TokenLogProbs;
use crate::error::{DataError, DataResult};
use crate::example::{Example, Row};
use crate::prompt::Message;
use crate::server_tokens::ServerTokens;
use crate::signals::SequenceKey;
use crate::tokenizer::{ChatFormat, Tokenizer};

/// A row as its source gives it.
#[derive(Debug, Clone)]
pub(super) struct RawRow {
    pub(super) source: u32,
    pub(super) line: u64,
    pub(super) prompt: String,
    pub(super) sample: u32,
    pub(super) messages: Vec<Message>,
    pub(super) completion: String,
    pub(super) reference: Option<String>,
    pub(super) outcome: Option<Outcome>,
    /// Whether the completion is whole, so that its end is to be learned.
    pub(super) finished: bool,
    pub(super) tokens: Option<AnswerTokens>,
    /// What a server said of the completion; none where there is nothing to look for.
    pub(super) said: Option<Vec<TokenLogProbs>>,
}

/// An example with its row, or why there is none.
pub(super) struct Draft {
    pub(super) row: Row,
    pub(super) outcome: Option<Outcome>,
    /// As in [`RawRow`].
    pub(super) finished: bool,
    pub(super) made: Result<Made, &'static str>,
}

pub(super) struct Made {
    pub(super) example: Example,
    /// What each teacher's signal is known under, in the order of the source's teachers; none where the teacher's own
    /// ids were not taken, and a server said nothing.
    pub(super) signal_keys: Vec<SequenceKey>,
    /// What a server said.
    pub(super) found: Option<Found>,
}

/// The reason of rows longer than they may be.
pub(super) const TOO_LONG: &str = "too-long";
/// The reason of answers without text.
pub(super) const EMPTY: &str = "empty";
/// The reason of answers that a provider held back.
pub(super) const CONTENT_FILTER: &str = "content-filter";
/// The reason of prompts that the teacher's server refused.
pub(super) const REJECTED: &str = "rejected";
/// The reason of prompts that nobody answered.
pub(super) const FAILED: &str = "failed";

pub(super) struct Assembler<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) max_length: usize,
    format: ChatFormat,
    /// Whether conversations are rendered as a teacher of the same tokenizer renders them.
    own_format: bool,
    loss_on: LossOn,
    long_rows: LongRows,
    /// By source: the teachers whose signals it has.
    teachers: Vec<Vec<String>>,
    /// Where a source has a server's log-probabilities.
    server_tokens: Option<ServerTokens>,
}

impl<'a> Assembler<'a> {
    pub(super) fn new(
        config: &DatasetConfig,
        tokenizer: &'a Tokenizer,
        sources: &[OpenSource],
        context: &Context,
    ) -> Result<Self, Failure> {
        let format = match &config.chat_template {
            ChatTemplateChoice::Auto => tokenizer.chat_format()?,
            ChatTemplateChoice::None => ChatFormat::Plain,
            ChatTemplateChoice::File(_) => {
                let path = context.file("chat-template.file.path")?;
                tokenizer.chat_format_from(&fs_err::read_to_string(&path).map_err(DataError::io(&path))?)?
            }
        };
        Ok(Self {
            tokenizer,
            max_length: config.max_length,
            format,
            own_format: matches!(config.chat_template, ChatTemplateChoice::Auto),
            loss_on: config.loss_on,
            long_rows: config.long_rows,
            teachers: sources.iter().map(OpenSource::teachers).collect(),
            server_tokens: match sources.iter().any(|source| source.captured.is_some()) {
                true => Some(ServerTokens::new(tokenizer)?),
                false => None,
            },
        })
    }

    /// Whether a teacher's ids of this tokenizer are taken as they are: its signals then fit exactly.
    pub(super) fn takes_ids_of(&self, tokenizer: &str) -> bool {
        self.own_format && tokenizer == self.tokenizer.digest()
    }

    pub(super) fn assemble(&self, raw: RawRow) -> DataResult<Draft> {
        let (outcome, finished) = (raw.outcome, raw.finished);
        let (prompt_tokens, made) = self.make(&raw)?;
        let RawRow { source, line, prompt, sample, messages, completion, reference, .. } = raw;
        let prompt = Some(prompt);
        let row = Row { source, line, prompt, sample, messages, completion, reference, prompt_tokens };
        Ok(Draft { row, outcome, finished, made })
    }

    /// The draft of a row whose texts have changed since `example` was made of it.
    pub(super) fn assemble_again(
        &self,
        row: Row,
        outcome: Option<Outcome>,
        finished: bool,
        example: &Example,
    ) -> DataResult<Draft> {
        let Row { source, line, prompt, sample, messages, completion, reference, prompt_tokens } = row;
        if let Some(prompt) = prompt {
            // The teacher's own ids spell the old text.
            return self.assemble(RawRow {
                source,
                line,
                prompt,
                sample,
                messages,
                completion,
                reference,
                outcome,
                finished,
                tokens: None,
                said: None,
            });
        }
        let row = Row { source, line, prompt, sample, messages, completion, reference, prompt_tokens };
        let made = self.window_again(&row.completion, example)?;
        Ok(Draft { row, outcome, finished, made })
    }

    /// A window of plain text with another text: it begins and ends as it did.
    fn window_again(&self, text: &str, example: &Example) -> DataResult<Result<Made, &'static str>> {
        if text.trim().is_empty() {
            return Ok(Err(EMPTY));
        }
        let mut tokens: Vec<u32> = example.tokens.first().copied().into_iter().collect();
        tokens.extend(self.tokenizer.encode(text, false)?);
        tokens.extend(example.tokens.last().filter(|last| Some(**last) == self.tokenizer.eos()));
        let cut = tokens.len() > self.max_length;
        tokens.truncate(self.max_length);
        let bytes = if cut { self.tokenizer.decode(&tokens[1..], false)?.len() } else { text.len() } as u64;
        let scored = (0..tokens.len()).map(|place| place > 0).collect();
        let example = Example { tokens, scored, bytes, source: example.source };
        Ok(Ok(Made { example, signal_keys: Vec::new(), found: None }))
    }

    fn make(&self, raw: &RawRow) -> DataResult<(u32, Result<Made, &'static str>)> {
        let nothing = match raw.outcome {
            Some(Outcome::ContentFilter) => Some(CONTENT_FILTER),
            Some(Outcome::Rejected) => Some(REJECTED),
            Some(Outcome::Failed) => Some(FAILED),
            None | Some(Outcome::Ok | Outcome::Refusal | Outcome::Cut | Outcome::Empty | Outcome::Unparseable) => {
                raw.completion.trim().is_empty().then_some(EMPTY)
            }
        };
        if let Some(why) = nothing {
            return Ok((0, Err(why)));
        }
        let own = raw.tokens.as_ref().filter(|tokens| self.takes_ids_of(&tokens.tokenizer));
        let (prompt, mut completion) = match own {
            Some(tokens) => (tokens.prompt.clone(), tokens.completion.clone()),
            None => self.tokenise(raw)?,
        };
        let mut signal_keys = own.map(|tokens| self.signal_keys(raw.source, &tokens.sequence())).unwrap_or_default();
        if let (true, Some(eos)) = (raw.finished, self.tokenizer.eos())
            && completion.last() != Some(&eos)
        {
            completion.push(eos);
        }
        let prompt_tokens = prompt.len() as u32;
        let found = match (&self.server_tokens, &raw.said) {
            (Some(server), Some(said)) => Some(Found {
                first: prompt_tokens,
                answered: server.distributions(&raw.completion, &completion, said)?,
            }),
            _ => None,
        };
        let mut tokens = prompt;
        tokens.extend(completion);
        if found.is_some() {
            signal_keys = self.signal_keys(raw.source, &tokens);
        }
        let cut = tokens.len() > self.max_length;
        if cut && (self.long_rows == LongRows::Drop || prompt_tokens as usize >= self.max_length) {
            return Ok((prompt_tokens, Err(TOO_LONG)));
        }
        tokens.truncate(self.max_length);
        let scored: Vec<bool> = (0..tokens.len())
            .map(|place| place > 0 && (self.loss_on == LossOn::All || place >= prompt_tokens as usize))
            .collect();
        let first_scored = scored.iter().position(|scored| *scored).unwrap_or(tokens.len());
        let bytes = if cut || self.loss_on == LossOn::All || prompt_tokens == 0 {
            self.tokenizer.decode(&tokens[first_scored..], false)?.len()
        } else {
            raw.completion.len()
        };
        let example = Example { tokens, scored, bytes: bytes as u64, source: raw.source };
        Ok((prompt_tokens, Ok(Made { example, signal_keys, found })))
    }

    fn signal_keys(&self, source: u32, sequence: &[u32]) -> Vec<SequenceKey> {
        self.teachers[source as usize].iter().map(|teacher| SequenceKey::of(teacher, sequence)).collect()
    }

    fn tokenise(&self, raw: &RawRow) -> DataResult<(Vec<u32>, Vec<u32>)> {
        let text = self.tokenizer.prompt_text(&raw.messages, &self.format)?;
        let prompt = self.tokenizer.encode_start(&text, matches!(self.format, ChatFormat::Plain))?;
        let completion = self.tokenizer.completion_tokens(&text, &raw.completion)?;
        Ok((prompt, completion))
    }
}
