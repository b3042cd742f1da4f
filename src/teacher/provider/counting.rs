//! How many tokens prompts take, before a teacher has read them: with its tokenizer where that is at hand, else by their bytes.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use stillhouse_data::model::ModelConfig;
use stillhouse_data::model_folder::ModelFolder;
use stillhouse_data::prompt::Message;
use stillhouse_data::tokenizer::{ChatFormat, Tokenizer};
use stillhouse_stage::{Ahead, CountedBy, View};

use super::image_tokens::Rule;

/// Bytes of text a token has on average, in English and with the tokenizers of today's large models.
const BYTES_A_TOKEN: u64 = 4;
/// Tokens that a chat template puts around a turn, where it is not known.
const TOKENS_A_TURN: u64 = 4;
/// So many prompts are tokenised at most at any time; of more, every second one is left out again.
const SAMPLE: usize = 2000;
/// And at most so many bytes, where they are long.
const SAMPLE_BYTES: u64 = 2 << 20;
/// Of one prompt, so many bytes: the rest counts like them.
const PROMPT_BYTES: usize = 64 << 10;

/// Adds up the tokens of prompts.
pub(super) struct Counter<'a> {
    open: &'a dyn Fn() -> Option<Reader>,
    /// Opened when the first prompt comes.
    reader: OnceCell<Option<Reader>>,
    rule: Rule,
    images: u64,
    image_tokens: u64,
    prompts: u64,
    /// What all prompts have, and of the sample what each has and takes.
    size: u64,
    sample: Vec<Sampled>,
    /// Every so many prompts one is in the sample.
    stride: u64,
}

/// A prompt that was tokenised.
#[derive(Clone, Copy)]
struct Sampled {
    size: u64,
    tokens: u64,
}

impl<'a> Counter<'a> {
    /// Counts with what `open` gives.
    pub(super) fn new(open: &'a dyn Fn() -> Option<Reader>, rule: Rule) -> Self {
        Self {
            open,
            reader: OnceCell::new(),
            rule,
            images: 0,
            image_tokens: 0,
            prompts: 0,
            size: 0,
            sample: Vec::new(),
            stride: 1,
        }
    }

    /// Takes a prompt.
    pub(super) fn add(&mut self, messages: &[Message]) {
        for image in messages.iter().flat_map(Message::images) {
            self.images += 1;
            self.image_tokens += self.rule.tokens(image);
        }
        let size = size_of(messages);
        self.size += size;
        let chosen = self.prompts.is_multiple_of(self.stride);
        self.prompts += 1;
        let reader = self.reader.get_or_init(self.open);
        let (true, Some(reader)) = (chosen, reader) else { return };
        let tokens = reader.tokens(messages).unwrap_or_else(|| by_bytes(messages));
        self.sample.push(Sampled { size, tokens });
        let bytes: u64 = self.sample.iter().map(|one| one.size.min(PROMPT_BYTES as u64)).sum();
        if self.sample.len() > 1 && (self.sample.len() >= SAMPLE || bytes >= SAMPLE_BYTES) {
            let mut place = 0_usize;
            self.sample.retain(|_| {
                place += 1;
                place % 2 == 1
            });
            self.stride *= 2;
        }
    }

    /// Tokens of all prompts, images included.
    pub(super) fn tokens(&self) -> u64 {
        let Sampled { size, tokens } = self.sample.iter().fold(Sampled { size: 0, tokens: 0 }, |sum, one| Sampled {
            size: sum.size + one.size,
            tokens: sum.tokens + one.tokens,
        });
        let text = match size {
            0 => self.size.div_ceil(BYTES_A_TOKEN),
            // The whole where all of them are in the sample.
            _ => (u128::from(tokens) * u128::from(self.size)).div_ceil(u128::from(size)) as u64,
        };
        text + self.image_tokens
    }

    /// How many images they show.
    pub(super) fn images(&self) -> u64 {
        self.images
    }

    /// How many prompts there were.
    pub(super) fn prompts(&self) -> u64 {
        self.prompts
    }

    /// How they were counted.
    pub(super) fn counted_by(&self) -> CountedBy {
        if self.sample.is_empty() { CountedBy::Bytes } else { CountedBy::Tokenizer }
    }
}

/// The bytes of a prompt with what goes around its turns, so that a part of all prompts stands for all: four bytes a token.
fn size_of(messages: &[Message]) -> u64 {
    BYTES_A_TOKEN * by_bytes(messages)
}

fn by_bytes(messages: &[Message]) -> u64 {
    messages.iter().map(|message| (message.content.len() as u64).div_ceil(BYTES_A_TOKEN) + TOKENS_A_TURN).sum()
}

/// A tokenizer that reads prompts as the teacher does, as far as that is known here.
#[derive(Clone)]
pub(super) struct Reader {
    tokenizer: Arc<Tokenizer>,
    format: ChatFormat,
    /// Whether the turns of a conversation stand in something that is not known here.
    bare: bool,
}

impl Reader {
    /// The tokenizer that a server's table names, where it names one and it is there; `chat`: conversations are sent, and not their
    /// text.
    pub(super) fn named(ahead: &Ahead<'_>, chat: bool) -> Option<Self> {
        let tokenizer = Found::of(ahead)?.load()?;
        let template = chat.then(|| tokenizer.chat_format().ok()).flatten();
        let format = template.unwrap_or(ChatFormat::Plain);
        let bare = chat && matches!(format, ChatFormat::Plain);
        Some(Self { tokenizer, format, bare })
    }

    /// The tokenizer of a model that runs here; `chat_template`: prompts go through its template, where it has one.
    pub(super) fn of_model(path: &Path, chat_template: bool) -> Option<Self> {
        let tokenizer = Found::in_model(path)?.load()?;
        let format = if chat_template { tokenizer.chat_format().ok()? } else { ChatFormat::Plain };
        Some(Self { tokenizer, format, bare: false })
    }

    /// How conversations become text.
    pub(super) fn format(&self) -> &ChatFormat {
        &self.format
    }

    fn tokens(&self, messages: &[Message]) -> Option<u64> {
        let around = if self.bare { TOKENS_A_TURN * messages.len() as u64 } else { 0 };
        let text = self.tokenizer.prompt_text(messages, &self.format).ok()?;
        let begin = text.floor_char_boundary(PROMPT_BYTES);
        let special = matches!(self.format, ChatFormat::Plain);
        let tokens = self.tokenizer.encode_start(&text[..begin], special).ok()?.len() as u64;
        let tokens = if begin == text.len() { tokens } else { tokens * text.len() as u64 / begin as u64 };
        Some(tokens + around)
    }
}

/// Where the files of a tokenizer are.
struct Found {
    folder: ModelFolder,
    /// Another where they are others.
    version: (PathBuf, Option<SystemTime>),
}

impl Found {
    fn of(ahead: &Ahead<'_>) -> Option<Self> {
        let named: View<'_> = ahead.view.follow("teacher")?.follow("tokenizer")?;
        if let Some(model) = named.config_as::<ModelConfig>() {
            return Self::in_model(&model.path.path);
        }
        // One that is trained in the graph, and was.
        let made = ahead.mentioned.get("teacher.tokenizer")?;
        let tree = ahead.store.tree(&made.output).ok()??;
        let files = tree.entries().iter().map(|entry| (entry.path.clone(), ahead.store.blob_path(&entry.digest)));
        let version = (PathBuf::from(made.output.to_string()), None);
        Some(Self { folder: ModelFolder::from_files(made.stage.clone(), files), version })
    }

    fn in_model(path: &Path) -> Option<Self> {
        let file = if path.is_file() { path.to_owned() } else { path.join("tokenizer.json") };
        let written = fs_err::metadata(&file).and_then(|meta| meta.modified()).ok();
        Some(Self { folder: ModelFolder::open(path).ok()?, version: (file, written) })
    }

    /// Opens it. A plan has thousands of stages with one teacher: the last one is kept.
    fn load(self) -> Option<Arc<Tokenizer>> {
        type Last = ((PathBuf, Option<SystemTime>), Arc<Tokenizer>);
        static LAST: Mutex<Option<Last>> = Mutex::new(None);
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((version, tokenizer)) = last.as_ref()
            && *version == self.version
        {
            return Some(Arc::clone(tokenizer));
        }
        let tokenizer = match Tokenizer::load(&self.folder) {
            Ok(tokenizer) => Arc::new(tokenizer),
            Err(error) => {
                tracing::debug!(%error, "prompts are counted by their bytes");
                return None;
            }
        };
        *last = Some((self.version, Arc::clone(&tokenizer)));
        Some(tokenizer)
    }
}
