//! The stage `[judge.X]`: a teacher scores answers, which the filter `score` of a dataset then chooses by.

mod config;
mod output;
mod score;
mod template;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use stillhouse_data::answer::{ANSWERS_FILE, Answer, Outcome as Answered, read_answers};
use stillhouse_data::jsonl::JsonlReader;
use stillhouse_data::lm::ModelLoader;
use stillhouse_data::prompt::Prompt;
use stillhouse_spec::Diagnostics;
use stillhouse_stage::{Ahead, Context, Failure, Forecast, Kind, Needs, Outcome, StageKind, View, kind};

pub use config::{JudgeConfig, JudgeSamplingConfig, ScaleConfig, ScoreIs, Unscored};
pub use output::{JUDGEMENTS_FILE, Judgement, SCORES_FILE, Scored, UNSCORED_FILE, WithoutScore};
pub use score::NoScore;

use self::output::{Judged, Output};
use self::score::Reader;
use self::template::Template;
use crate::answers::OnFailed;
use crate::asking::{Again, Question};
use crate::definition::{TeacherConfig, needs_of};
use crate::provider::{Asker, local};
use crate::reply::Reply;
use crate::request::{Request, seed_of};
use crate::session::{Asks, Tally};

/// The kind. The command line gives it the means to open models, for teachers that run here.
pub struct Judge {
    /// Opens models.
    pub loader: &'static dyn ModelLoader,
}

impl Kind for Judge {
    kind!("judge", JudgeConfig);

    fn as_stage(&self) -> Option<&dyn StageKind> {
        Some(self)
    }

    fn check(&self, view: &View<'_>, report: &mut Diagnostics) {
        let Some(config) = view.config_as::<JudgeConfig>() else { return };
        if let Some(teacher) = view.follow("teacher").and_then(|teacher| teacher.config_as::<TeacherConfig>()) {
            let sampling = config.sampling.as_of_answers();
            teacher.settings.capabilities().check_questions(&|path| view.place(path), report);
            teacher.settings.check_sampling(&sampling, &|path| view.place(path), report);
            local::check(view, report);
        }
    }
}

impl StageKind for Judge {
    /// 1: the first.
    fn revision(&self) -> u32 {
        1
    }

    fn needs(&self, view: &View<'_>) -> Needs {
        needs_of(view)
    }

    fn forecast(&self, ahead: &Ahead<'_>) -> Option<Forecast> {
        let config = ahead.view.config_as::<JudgeConfig>()?;
        let teacher = ahead.view.follow("teacher")?;
        let waiting = RefCell::default();
        let answers = read_answers(&ahead.input_file("answers", ANSWERS_FILE)?).ok()?;
        let questions = Questions::of(config, answers, ahead.seed, &waiting).ok()?;
        let mut known = questions.map(|question| {
            waiting.borrow_mut().clear();
            Some(question.ok()?.request)
        });
        teacher.config_as::<TeacherConfig>()?.settings.forecast_requests(&mut known, 0, config.outcomes.failed, ahead)
    }

    fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        let config: JudgeConfig = context.config()?;
        let teacher: TeacherConfig = context.definition("teacher")?;
        let asker = Asker { context, teacher: &context.definition_order("teacher")?.name, loader: self.loader };
        let path = context.input("answers")?.path(ANSWERS_FILE)?;
        let total = judged(&path)? * u64::from(config.samples);
        let policy = Policy::of(&config);
        let again = (policy.times > 0).then(|| policy.clone().into_again());
        let (on_rejected, on_failed) = (config.on_rejected, Some(policy.on_failed));
        let asks = Asks { asker, on_rejected, on_failed, again, total, unit: "judgements" };
        let mut session = teacher.settings.open(asks)?;

        let mut output = Output::create(&context.out(), &config)?;
        // Answers of which not all judgements are there, and those between them that are not judged.
        let waiting: RefCell<VecDeque<Judged>> = RefCell::default();
        let mut tally = Tally::default();
        let mut questions = Questions::of(&config, read_answers(&path)?, context.seed(), &waiting)?;
        session.ask(&mut questions, &mut |question, reply, origin| {
            tally.count(question, &reply, origin);
            take(question, &reply, &policy, &config, &mut waiting.borrow_mut(), &mut output)
        })?;
        drop(questions);
        pass_over(&mut waiting.into_inner(), &mut output)?;
        let provenance = session.finish(&tally);
        let without = output.without_score();
        let mut metrics = output.finish(asker.teacher)?;
        if without > 0 {
            context.warn(format!(
                "teacher {} gives {without} answers no score (`judgements.jsonl` has its words)",
                asker.teacher
            ));
        }
        tally.add_to(&mut metrics, session.as_ref());
        Ok(Outcome { metrics, provenance, resumed: false })
    }
}

/// Counts the answers that are judged.
fn judged(path: &Path) -> Result<u64, Failure> {
    let mut count = 0;
    for answer in read_answers(path)? {
        count += u64::from(answer?.has_words());
    }
    Ok(count)
}

/// The questions about an answer, one a judgement.
fn questions(
    config: &JudgeConfig,
    template: &Template,
    answer: &Answer,
    number: u64,
    seed: u64,
) -> Result<Vec<Question>, Failure> {
    let messages = template.question(answer)?;
    let (content, sampling) = (Prompt::id_of(&messages), config.sampling.as_of_answers());
    // Known to messages by the id of the prompt that was answered.
    let prompt = Arc::new(Prompt { id: answer.prompt.clone(), messages, reference: None });
    let seed = sampling.drawing.seed.unwrap_or(seed);
    let question = |sample| {
        let request = Request {
            messages: prompt.messages.clone(),
            sampling: sampling.request(),
            capture: None,
            sample,
            attempt: 0,
            seed: (sampling.temperature > 0.0).then(|| seed_of(seed, &content, sample)),
            given: None,
        };
        Question { prompt: Arc::clone(&prompt), number, request }
    };
    Ok((0..config.samples).map(question).collect())
}

/// Which judgements are asked for again, with another seed.
#[derive(Clone)]
struct Policy {
    reader: Reader,
    times: u32,
    on_failed: OnFailed,
}

impl Policy {
    fn of(config: &JudgeConfig) -> Self {
        let reader = Reader { score: config.score.clone(), scale: config.scale.clone() };
        Self { reader, times: config.ask_again_times, on_failed: config.outcomes.failed }
    }

    /// Those without a score; of those that nobody gave the table says itself what becomes.
    fn asks_again(&self, request: &Request, reply: &Reply) -> bool {
        match reply.outcome {
            // It would be rejected again.
            Answered::Rejected => false,
            Answered::Failed => self.on_failed.asks_again(request.attempt, reply.outcome, self.times),
            _ => request.attempt < self.times && self.reader.read(reply).is_err(),
        }
    }

    fn into_again(self) -> Again {
        Box::new(move |request, reply| self.asks_again(request, reply).then(|| request.again()))
    }
}

/// Takes a judgement; the last one settles the answer.
fn take(
    question: &Question,
    reply: &Reply,
    policy: &Policy,
    config: &JudgeConfig,
    waiting: &mut VecDeque<Judged>,
    output: &mut Output,
) -> Result<(), Failure> {
    pass_over(waiting, output)?;
    let Some(judged) = waiting.front_mut().filter(|judged| judged.number == question.number) else {
        return Err(Failure::internal(format!("a judgement of answer {} came out of turn", question.number)));
    };
    let (request, read) = (&question.request, policy.reader.read(reply));
    output.judgement(&Judgement {
        prompt: judged.prompt.clone(),
        sample: judged.sample,
        judgement: request.sample,
        attempt: request.attempt,
        score: read.ok(),
        why: read.err().map(|why| why.name().to_owned()),
        text: if reply.outcome.was_answered() { reply.text.clone() } else { reply.finish.clone() },
    })?;
    if policy.asks_again(request, reply) {
        return Ok(());
    }
    judged.scores.push(read);
    if judged.scores.len() == config.samples as usize
        && let Some(judged) = waiting.pop_front()
    {
        output.settle(&judged)?;
    }
    Ok(())
}

/// Takes those off the front that are not judged.
fn pass_over(waiting: &mut VecDeque<Judged>, output: &mut Output) -> Result<(), Failure> {
    while let Some(answer) = waiting.pop_front_if(|answer| answer.not_judged.is_some()) {
        output.pass_over(&answer)?;
    }
    Ok(())
}

/// From answers to questions, one answer at a time.
struct Questions<'a> {
    answers: Box<dyn Iterator<Item = Result<Answer, Failure>>>,
    template: Template,
    config: &'a JudgeConfig,
    seed: u64,
    waiting: &'a RefCell<VecDeque<Judged>>,
    next: VecDeque<Question>,
    number: u64,
}

impl<'a> Questions<'a> {
    fn of(
        config: &'a JudgeConfig,
        answers: JsonlReader<Answer>,
        seed: u64,
        waiting: &'a RefCell<VecDeque<Judged>>,
    ) -> Result<Self, Failure> {
        let answers = Box::new(answers.map(|answer| answer.map_err(Failure::from)));
        let template = Template::of(config)?;
        Ok(Self { answers, template, config, seed, waiting, next: VecDeque::new(), number: 0 })
    }

    fn answer(&mut self, answer: &Answer) -> Result<(), Failure> {
        self.number += 1;
        let not_judged = (!answer.has_words()).then_some(answer.outcome);
        if not_judged.is_none() {
            self.next = questions(self.config, &self.template, answer, self.number, self.seed)?.into();
        }
        let (number, prompt, sample) = (self.number, answer.prompt.clone(), answer.sample);
        self.waiting.borrow_mut().push_back(Judged { number, prompt, sample, not_judged, scores: Vec::new() });
        Ok(())
    }
}

impl Iterator for Questions<'_> {
    type Item = Result<Question, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(question) = self.next.pop_front() {
                return Some(Ok(question));
            }
            let answer = match self.answers.next()? {
                Ok(answer) => answer,
                Err(failure) => return Some(Err(failure)),
            };
            if let Err(failure) = self.answer(&answer) {
                return Some(Err(failure));
            }
        }
    }
}
