//! An `answers` stage whose teacher runs here: batch by batch, generated where no stored reply is there, scored where
//! signals are wanted.

use std::sync::Arc;

use serde_json::json;
use stillhouse_data::answer::{AnswerTokens, Outcome as Answered};
use stillhouse_data::lm::{Finish, GenerateRequest, LanguageModel, Sampling};
use stillhouse_data::model_folder::ModelFolder;
use stillhouse_data::prompt::Message;
use stillhouse_data::tokenizer::{ChatFormat, Tokenizer};
use stillhouse_stage::{Failure, Outcome};

use super::Local;
use super::signals::Signals;
use crate::answers::{Output, Policy, Questions, Verdict};
use crate::asking::{Origin, Question};
use crate::provider::{Asker, Job, terms};
use crate::replies::{ReplyStore, RequestKey};
use crate::reply::{Reply, Usage};
use crate::request::{Given, Identity};

/// Answers the stage's prompts.
pub fn run(settings: &Local, job: &Job<'_>) -> Result<Outcome, Failure> {
    let mut teacher = Teacher::open(settings, job.asker())?;
    let (mut questions, total) = Questions::of(job.context, job.answers)?;
    let policy = Policy::of(job.answers)?;
    let mut output = Output::create(&job.context.out(), false, policy.clone())?;
    let mut signals = None;
    loop {
        let batch = questions.by_ref().take(*settings.batch).collect::<Result<Vec<_>, _>>()?;
        if batch.is_empty() {
            break;
        }
        if job.context.is_cancelled() {
            return Err(Failure::interrupted());
        }
        let (batch, answered) = teacher.answer_by(&policy, batch, &mut output)?;
        if let (Some(capture), false) = (&job.answers.capture, answered.is_empty()) {
            let signals = match &mut signals {
                Some(signals) => signals,
                none => {
                    let vocabulary = teacher.model()?.vocabulary();
                    let (id, tokenizer) = (&teacher.id, &teacher.tokenizer);
                    let seed = job.answers.sampling.drawing.seed.unwrap_or_else(|| job.context.seed());
                    none.insert(Signals::create(&job.context.out(), capture, seed, id, tokenizer, vocabulary)?)
                }
            };
            signals.add(teacher.model()?, &answered)?;
        }
        for (question, Reached { reply, tokens, origin }) in batch.iter().zip(answered) {
            output.write(question, reply, Some(tokens), origin)?;
        }
        job.context.progress(output.settled(), Some(total), "answers");
    }
    let (mut metrics, _) = output.finish(job.teacher)?;
    if let Some(signals) = signals {
        metrics["signals"] = signals.finish()?;
    }
    let provenance = json!({ "provider": "local", "model": teacher.id, "device": teacher.device(),
        "terms": terms::for_record(settings.terms.as_ref()) });
    Ok(Outcome { metrics, provenance, resumed: false })
}

/// An answer with the ids that it is made of.
pub struct Reached {
    /// The reply.
    pub reply: Reply,
    /// Prompt and completion as the teacher saw them.
    pub tokens: AnswerTokens,
    /// Where it came from.
    pub origin: Origin,
}

/// Whose replies they are. The digest covers the template, so that which of the two is used is all that is left to say.
pub(super) fn identity(digest: &str, format: &ChatFormat) -> Identity {
    let family = if matches!(format, ChatFormat::Plain) { "local-plain" } else { "local-chat" };
    Identity { family, model: digest.to_owned(), revision: None }
}

/// A local teacher at work.
pub(super) struct Teacher<'a> {
    job: Asker<'a>,
    pub(super) id: String,
    identity: Identity,
    folder: ModelFolder,
    tokenizer: Tokenizer,
    format: ChatFormat,
    stop_ids: Vec<u32>,
    store: Arc<ReplyStore>,
    runtime: tokio::runtime::Runtime,
    // Loaded when the first answer is missing or a signal is wanted.
    loaded: Option<Box<dyn LanguageModel>>,
}

impl<'a> Teacher<'a> {
    pub(super) fn open(settings: &Local, job: Asker<'a>) -> Result<Self, Failure> {
        let folder = ModelFolder::open(&job.context.file("teacher.model.path")?)?;
        let digest = job.context.file_digest("teacher.model.path");
        let id = digest.ok_or_else(|| Failure::internal("the teacher's model has no digest"))?.to_string();
        let tokenizer = Tokenizer::load(&folder)?;
        let format = if settings.chat_template { tokenizer.chat_format()? } else { ChatFormat::Plain };
        let identity = identity(&id, &format);
        let store = ReplyStore::shared(&job.context.store().replies_dir().join(identity.folder()))?;
        let runtime = Failure::io(tokio::runtime::Builder::new_current_thread().build(), "cannot start a runtime")?;
        let stop_ids = tokenizer.stop_ids(&folder)?;
        Ok(Self { job, id, identity, folder, tokenizer, format, stop_ids, store, runtime, loaded: None })
    }

    /// Where the model runs, once it was needed.
    pub(super) fn device(&self) -> Option<String> {
        self.loaded.as_ref().map(|model| model.device())
    }

    fn model(&mut self) -> Result<&mut dyn LanguageModel, Failure> {
        let model = match self.loaded.take() {
            Some(model) => model,
            None => {
                let model = self.job.loader.load(&self.folder, &self.job.context.order().device)?;
                self.tokenizer.vocabulary_fits(&self.folder.label, model.vocabulary())?;
                model
            }
        };
        Ok(self.loaded.insert(model).as_mut())
    }

    /// Answers a batch and asks again where the policy wants it. Gives the answers that stay, in the order of their questions; the
    /// others are told to the output.
    fn answer_by(
        &mut self,
        policy: &Policy,
        batch: Vec<Question>,
        output: &mut Output,
    ) -> Result<(Vec<Question>, Vec<Reached>), Failure> {
        let mut settled: Vec<Option<(Question, Reached)>> = batch.iter().map(|_| None).collect();
        let mut places: Vec<usize> = (0..batch.len()).collect();
        let mut waiting = batch;
        while !waiting.is_empty() {
            let answered = self.answer(&waiting)?;
            let (mut next, mut next_places) = (Vec::new(), Vec::new());
            for ((question, reached), place) in waiting.into_iter().zip(answered).zip(places) {
                match policy.again(&question.request, &reached.reply) {
                    None => settled[place] = Some((question, reached)),
                    Some(request) => {
                        next.push(Question { request, ..question.clone() });
                        next_places.push(place);
                        output.write(&question, reached.reply, Some(reached.tokens), reached.origin)?;
                    }
                }
            }
            (waiting, places) = (next, next_places);
        }
        let mut kept = (Vec::new(), Vec::new());
        for (question, reached) in settled.into_iter().flatten() {
            let attempt = question.request.attempt;
            if policy.verdict(attempt, policy.outcome(&reached.reply)) == Verdict::Keep {
                kept.0.push(question);
                kept.1.push(reached);
            } else {
                output.write(&question, reached.reply, Some(reached.tokens), reached.origin)?;
            }
        }
        Ok(kept)
    }

    /// Answers a batch, in its order.
    pub(super) fn answer(&mut self, batch: &[Question]) -> Result<Vec<Reached>, Failure> {
        let mut reached: Vec<Option<Reached>> = Vec::with_capacity(batch.len());
        let mut missing = Vec::new();
        for question in batch {
            if question.prompt.messages.iter().any(Message::has_images) {
                let message =
                    format!("prompt {} shows an image, and a local teacher reads text only", question.prompt.id);
                return Err(Failure::input(message).hint("ask a server whose model takes images: provider `openai`"));
            }
            if let Some(given) = &question.request.given {
                reached.push(Some(self.given(question, given)?));
                continue;
            }
            let prompt = self.tokenizer.prompt_tokens(&question.prompt.messages, &self.format)?;
            let key = self.key(question);
            let stored = match self.store.find(&key, question.request.sampling.max_tokens)? {
                Some(location) => self.store.read(&key, location)?,
                None => None,
            };
            if stored.is_none() {
                missing.push((reached.len(), key, prompt.clone()));
            }
            reached.push(stored.map(|reply| self.reached(prompt, reply, Origin::Stored)));
        }
        self.generate(batch, missing, &mut reached)?;
        reached
            .into_iter()
            .collect::<Option<_>>()
            .ok_or_else(|| Failure::internal("a prompt was left without an answer"))
    }

    /// An answer that somebody gave, in this teacher's tokens; only signals are made of it.
    fn given(&mut self, question: &Question, given: &Given) -> Result<Reached, Failure> {
        let messages = &question.prompt.messages;
        let prompt = self.tokenizer.prompt_tokens(messages, &self.format)?;
        let text = self.tokenizer.prompt_text(messages, &self.format)?;
        let mut completion = self.tokenizer.completion_tokens(&text, &given.text)?;
        if given.is_whole() {
            completion.extend(self.tokenizer.eos());
        }
        let (longest, tokens) = (self.model()?.max_length(), prompt.len() + completion.len());
        if tokens > longest {
            let Question { number, prompt, .. } = question;
            let message = format!(
                "answer {number} (to prompt {}) has {tokens} tokens with its prompt; teacher {} reads {longest}",
                prompt.id, self.job.teacher
            );
            return Err(Failure::input(message).hint("leave it out, or take a teacher with a longer context"));
        }
        let count = |tokens: usize| u32::try_from(tokens).unwrap_or(u32::MAX);
        let reply = Reply {
            outcome: given.outcome,
            text: given.text.clone(),
            finish: given.finish.clone(),
            model: self.id.clone(),
            usage: Usage { prompt: count(prompt.len()), completion: count(completion.len()) },
            token_ids: Some(completion),
            vector: None,
            tokens: None,
        };
        Ok(self.reached(prompt, reply, Origin::Stored))
    }

    /// Signals are computed anew from the reply's tokens, so whether they are wanted does not matter to the reply.
    fn key(&self, question: &Question) -> RequestKey {
        let mut request = question.request.clone();
        request.capture = None;
        request.key(&self.identity)
    }

    fn generate(
        &mut self,
        batch: &[Question],
        missing: Vec<(usize, RequestKey, Vec<u32>)>,
        reached: &mut [Option<Reached>],
    ) -> Result<(), Failure> {
        if missing.is_empty() {
            return Ok(());
        }
        let longest = self.model()?.max_length();
        let mut requests = Vec::with_capacity(missing.len());
        for (place, _, prompt) in &missing {
            requests.push(self.request(&batch[*place], prompt, longest)?);
        }
        let made = self.model()?.generate(&requests, &mut |_, _| true)?;
        if made.len() != missing.len() {
            return Err(Failure::internal(format!("{} answers to {} prompts", made.len(), missing.len())));
        }
        let mut replies = Vec::with_capacity(made.len());
        for ((place, key, prompt), made) in missing.into_iter().zip(made) {
            replies.push((place, key, self.reply(&prompt, made.tokens, made.finish)?, prompt));
        }
        let puts = replies
            .iter()
            .map(|(place, key, reply, _)| self.store.put(*key, batch[*place].request.sampling.max_tokens, reply));
        self.runtime.block_on(futures_util::future::try_join_all(puts))?;
        for (place, _, reply, prompt) in replies {
            reached[place] = Some(self.reached(prompt, reply, Origin::Asked));
        }
        Ok(())
    }

    fn request(&self, question: &Question, prompt: &[u32], longest: usize) -> Result<GenerateRequest, Failure> {
        let sampling = &question.request.sampling;
        if prompt.is_empty() || prompt.len() >= longest {
            let why = if prompt.is_empty() { "is empty".to_owned() } else { format!("has {} tokens", prompt.len()) };
            return Err(Failure::input(format!(
                "prompt {} ({}) {why}; teacher {} reads 1 to {} and needs room for an answer",
                question.number,
                question.prompt.id,
                self.job.teacher,
                longest - 1
            ))
            .hint("leave it out, or shorten it"));
        }
        Ok(GenerateRequest {
            prompt: prompt.to_vec(),
            sampling: Sampling {
                temperature: sampling.temperature as f32,
                top_k: sampling.top_k.map(|k| k as usize),
                top_p: sampling.top_p as f32,
                min_p: 0.0,
                max_tokens: sampling.max_tokens as usize,
                stop_ids: self.stop_ids.clone(),
                allowed: None,
            },
            seed: question.request.seed.unwrap_or_default().into(),
        })
    }

    fn reply(&self, prompt: &[u32], tokens: Vec<u32>, finish: Finish) -> Result<Reply, Failure> {
        let said = match tokens.split_last() {
            Some((last, before)) if finish == Finish::Stop && self.stop_ids.contains(last) => before,
            _ => &tokens,
        };
        let text = self.tokenizer.decode(said, false)?;
        let outcome = match finish {
            Finish::Length => Answered::Cut,
            Finish::Stop if text.is_empty() => Answered::Empty,
            Finish::Stop => Answered::Ok,
        };
        let count = |tokens: usize| u32::try_from(tokens).unwrap_or(u32::MAX);
        let usage = Usage { prompt: count(prompt.len()), completion: count(tokens.len()) };
        let (finish, model) = (finish.name().to_owned(), self.id.clone());
        Ok(Reply { outcome, text, finish, model, usage, token_ids: Some(tokens), tokens: None, vector: None })
    }

    fn reached(&self, prompt: Vec<u32>, mut reply: Reply, origin: Origin) -> Reached {
        let completion = reply.token_ids.take().unwrap_or_default();
        let tokens = AnswerTokens { tokenizer: self.tokenizer.digest().to_owned(), prompt, completion };
        Reached { reply, tokens, origin }
    }
}
