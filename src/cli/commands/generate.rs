//! `stillhouse generate STUDENT [PROMPT]`

use std::io::{IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;
use stillhouse_data::lm::{Finish, GenerateRequest, LanguageModel, ModelLoader, Sampling};
use stillhouse_data::model_folder::ModelFolder;
use stillhouse_data::prompt::Message;
use stillhouse_data::text_stream::TextStream;
use stillhouse_data::tokenizer::{ChatFormat, Tokenizer};
use stillhouse_stage::Failure;
use stillhouse_store::Store;
use stillhouse_student::language_model::BurnLoader;

use super::show::result_of;
use crate::args::{Format, Generate, Global};
use crate::error::CliError;
use crate::render;

/// Continues a prompt, or talks on a terminal.
pub fn run(command: &Generate, global: &Global) -> Result<ExitCode, CliError> {
    let mut talker = Talker::open(command, global)?;
    match prompt(command)? {
        Some(text) => {
            let messages = talker.conversation(&text);
            let answer = talker.answer(&messages)?;
            talker.report(&messages, &answer);
        }
        None => talk(&mut talker)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The prompt of the arguments, or of standard input where that is not a terminal.
fn prompt(command: &Generate) -> Result<Option<String>, CliError> {
    let standard_input = match command.prompt.as_deref() {
        Some("-") => true,
        Some(text) => return Ok(Some(text.to_owned())),
        None => !std::io::stdin().is_terminal(),
    };
    if !standard_input {
        return Ok(None);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|error| {
        CliError::arguments(format!("the prompt on standard input can't be read: {error}"), "it must be UTF-8 text")
    })?;
    Ok(Some(text))
}

/// Line after line, until the end of input. With a chat template earlier turns stay in the conversation.
fn talk(talker: &mut Talker<'_>) -> Result<(), CliError> {
    let chats = matches!(talker.format, ChatFormat::Template(_));
    render::words(if chats { "an empty line starts anew, ctrl-d ends" } else { "each line is continued, ctrl-d ends" });
    let mut messages = talker.conversation("");
    messages.pop();
    let beginning = messages.len();
    loop {
        render::ask("> ");
        let mut line = String::new();
        if std::io::stdin().read_line(&mut line)? == 0 {
            return Ok(());
        }
        let line = line.trim_end_matches(['\r', '\n']);
        if line.is_empty() || !chats {
            messages.truncate(beginning);
        }
        if line.is_empty() {
            continue;
        }
        messages.push(Message::user(line));
        let answer = talker.answer(&messages)?;
        talker.report(&messages, &answer);
        messages.push(Message::assistant(answer.text));
    }
}

/// A model ready to answer.
struct Talker<'a> {
    command: &'a Generate,
    global: &'a Global,
    label: String,
    tokenizer: Tokenizer,
    format: ChatFormat,
    stop_ids: Vec<u32>,
    model: Box<dyn LanguageModel>,
}

struct Answer {
    text: String,
    prompt_tokens: usize,
    tokens: usize,
    finish: Finish,
    seconds: f64,
}

impl<'a> Talker<'a> {
    fn open(command: &'a Generate, global: &'a Global) -> Result<Self, CliError> {
        let folder = model_folder(&command.model, global)?;
        let failure = |error: stillhouse_data::error::DataError| Failure::from(error);
        let tokenizer = Tokenizer::load(&folder).map_err(failure)?;
        let format = if command.raw { ChatFormat::Plain } else { tokenizer.chat_format().map_err(failure)? };
        if command.system.is_some() && matches!(format, ChatFormat::Plain) {
            let why =
                if command.raw { "`--raw` leaves the chat template out" } else { "the model has no chat template" };
            return Err(CliError::arguments(
                format!("there is no place for a system message: {why}"),
                "put it into the prompt",
            ));
        }
        let stop_ids = tokenizer.stop_ids(&folder).map_err(failure)?;
        let model = BurnLoader.load(&folder, &command.device).map_err(Failure::from)?;
        tokenizer.vocabulary_fits(&folder.label, model.vocabulary()).map_err(failure)?;
        Ok(Self { command, global, label: folder.label, tokenizer, format, stop_ids, model })
    }

    fn conversation(&self, text: &str) -> Vec<Message> {
        let system = self.command.system.as_ref().map(Message::system);
        system.into_iter().chain([Message::user(text)]).collect()
    }

    /// Prints the answer as it grows (with `--format json` it comes with the report).
    fn answer(&mut self, messages: &[Message]) -> Result<Answer, CliError> {
        let prompt = self.tokenizer.prompt_tokens(messages, &self.format).map_err(Failure::from)?;
        let room = self.model.max_length();
        if prompt.is_empty() || prompt.len() >= room {
            let message = match prompt.len() {
                0 => "the prompt has no tokens".to_owned(),
                length => format!("the prompt has {length} tokens, and {} reads at most {}", self.label, room - 1),
            };
            return Err(CliError::arguments(
                message,
                "a model goes on from at least one token, and needs room for one more",
            ));
        }
        let Generate { temperature, top_k, top_p, min_p, max_tokens, seed, stop, .. } = self.command;
        let sampling = Sampling {
            temperature: *temperature,
            top_k: *top_k,
            top_p: *top_p,
            min_p: *min_p,
            max_tokens: *max_tokens,
            stop_ids: self.stop_ids.clone(),
            allowed: None,
        };
        let prompt_tokens = prompt.len();
        let request = GenerateRequest { prompt, sampling, seed: *seed };
        let mut stream = TextStream::new(&self.tokenizer, stop);
        let shows = self.global.format == Format::Text;
        let mut out = std::io::stdout();
        let mut show = |piece: &str| {
            if shows && !piece.is_empty() {
                // A reader that went away is no fault of the command.
                _ = out.write_all(piece.as_bytes()).and_then(|()| out.flush());
            }
        };
        let mut fault = None;
        let started = Instant::now();
        let stop_ids = &self.stop_ids;
        let mut made = self.model.generate(&[request], &mut |_, tokens| {
            let Some(token) = tokens.last().filter(|token| !stop_ids.contains(token)) else { return true };
            match stream.push(*token) {
                Ok(piece) => show(&piece),
                Err(error) => fault = Some(error),
            }
            fault.is_none() && !stream.is_stopped()
        });
        let seconds = started.elapsed().as_secs_f64();
        if let Some(error) = fault {
            return Err(Failure::from(error).into());
        }
        let made = made.as_mut().map_err(|error| Failure::from(error.clone()))?.pop();
        let made = made.ok_or_else(|| Failure::internal("the model gave no answer"))?;
        show(&stream.finish().map_err(Failure::from)?);
        show("\n");
        let text = stream.text().to_owned();
        Ok(Answer { text, prompt_tokens, tokens: made.tokens.len(), finish: made.finish, seconds })
    }

    fn report(&self, messages: &[Message], answer: &Answer) {
        let Answer { text, prompt_tokens, tokens, finish, seconds } = answer;
        let speed = *tokens as f64 / seconds.max(1e-9);
        let (device, seed) = (self.model.device(), self.command.seed);
        if self.global.format == Format::Json {
            let value = json!({
                "model": self.label,
                "messages": messages,
                "text": text,
                "finish": finish.name(),
                "prompt-tokens": prompt_tokens,
                "tokens": tokens,
                "seconds": seconds,
                "tokens-per-second": speed,
                "seed": seed,
                "device": device,
            });
            render::data(&value.to_string());
        } else {
            let why = match finish {
                Finish::Stop => "ended by itself",
                Finish::Length => "cut by length",
            };
            render::words(&format!("({tokens} tokens, {speed:.1} tokens/s on {device}, seed {seed}, {why})"));
        }
    }
}

/// The model that the argument names: a result in the store, or a folder or file on disk.
fn model_folder(what: &str, global: &Global) -> Result<ModelFolder, CliError> {
    if Path::new(what).exists() {
        return Ok(ModelFolder::open(Path::new(what)).map_err(Failure::from)?);
    }
    let store = Store::open_existing(&global.cache)?;
    let record = result_of(&store, what)?.ok_or_else(|| {
        CliError::arguments(
            format!("there is no model `{what}`: no folder of that name, no result in {}", global.cache.display()),
            "name a trained student (`student.small`), the key of a result, or a model folder",
        )
    })?;
    let tree = store.tree(&record.output)?.unwrap_or_default();
    let files = tree.entries().iter().map(|entry| (entry.path.clone(), store.blob_path(&entry.digest)));
    let folder = ModelFolder::from_files(record.stage.clone(), files);
    if folder.get("config.json").is_none() || folder.get("tokenizer.json").is_none() {
        return Err(CliError::arguments(
            format!("{} is no language model: it holds no config.json and tokenizer.json", record.stage),
            "`generate` takes students and model folders",
        ));
    }
    Ok(folder)
}
