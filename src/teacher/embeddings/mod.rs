//! The stage `[embeddings.X]`: a teacher's embedding model makes vectors of texts, by which a dataset finds what means the same and
//! says how far its rows spread.
//!
//! Each text is a request of its own, with its own key and its own stored reply, though several go in one body: which ones
//! go together changes nothing, and a text is paid once.

mod config;
mod output;
#[cfg(test)]
mod tests;
mod texts;

use std::cell::RefCell;
use std::collections::VecDeque;

use stillhouse_data::lm::ModelLoader;
use stillhouse_spec::Diagnostics;
use stillhouse_stage::{Ahead, Context, Failure, Forecast, Kind, Needs, Outcome, StageKind, View, kind};

pub use config::EmbeddingsConfig;

use self::output::Output;
use self::texts::{Named, Texts};
use crate::answers::OnFailed;
use crate::definition::{TeacherConfig, needs_of};
use crate::provider::{Asker, server};
use crate::session::{Asks, Tally};

/// The kind. The command line gives it the means to open models, as to all kinds that ask teachers.
pub struct Embeddings {
    /// Opens models.
    pub loader: &'static dyn ModelLoader,
}

impl Kind for Embeddings {
    kind!("embeddings", EmbeddingsConfig);

    fn as_stage(&self) -> Option<&dyn StageKind> {
        Some(self)
    }

    fn check(&self, view: &View<'_>, report: &mut Diagnostics) {
        if let Some(teacher) = view.follow("teacher").and_then(|teacher| teacher.config_as::<TeacherConfig>()) {
            teacher.settings.capabilities().check_embeddings(&|path| view.place(path), report);
        }
    }
}

impl StageKind for Embeddings {
    /// 1: the first.
    fn revision(&self) -> u32 {
        1
    }

    fn is_seeded(&self) -> bool {
        false
    }

    fn needs(&self, view: &View<'_>) -> Needs {
        needs_of(view)
    }

    fn forecast(&self, ahead: &Ahead<'_>) -> Option<Forecast> {
        let config = ahead.view.config_as::<EmbeddingsConfig>()?;
        let teacher = ahead.view.follow("teacher")?;
        let server = teacher.config_as::<TeacherConfig>()?.settings.embeddings(*config.batch)?;
        let (port, file) = texts::port(config);
        let mut texts = Texts::open(&ahead.input_file(port, file)?, config).ok()?;
        let mut known = std::iter::from_fn(|| {
            let text = texts.next_text().transpose()?;
            Some(text.ok().map(|(_, question)| question.request))
        });
        server::forecast_requests(&server, &mut known, 0, OnFailed::Fail, ahead)
    }

    fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        let config: EmbeddingsConfig = context.config()?;
        let teacher: TeacherConfig = context.definition("teacher")?;
        let asker = Asker { context, teacher: &context.definition_order("teacher")?.name, loader: self.loader };
        let server = teacher.settings.embeddings(*config.batch).ok_or_else(|| {
            Failure::input(format!("teacher {} makes no embeddings", asker.teacher))
                .hint("name a teacher whose server has `/v1/embeddings`")
        })?;
        let total = count(Texts::of(context, &config)?, context)?;
        let asks = Asks { asker, on_rejected: config.on_rejected, on_failed: None, again: None, total, unit: "texts" };
        let mut session = server::open(server, asks)?;
        let mut output = Output::create(&context.out(), config.of(), asker.teacher)?;
        let mut tally = Tally::default();
        // Texts whose reply is not there yet, in their order.
        let waiting: RefCell<VecDeque<Named>> = RefCell::default();
        let mut texts = Texts::of(context, &config)?;
        let mut next = || {
            let (named, question) = texts.next_text()?.unzip();
            waiting.borrow_mut().extend(named);
            Ok(question)
        };
        let mut questions = std::iter::from_fn(|| next().transpose());
        session.ask(&mut questions, &mut |question, reply, origin| {
            tally.count(question, &reply, origin);
            let named = waiting.borrow_mut().pop_front();
            let named = named.ok_or_else(|| Failure::internal("a reply came for a text that nobody asked about"))?;
            output.take(named, reply)
        })?;
        let provenance = session.finish(&tally);
        if output.refusals() > 0 {
            context.warn(format!(
                "texts without a vector ({}) are listed in `dropped.jsonl`; a dataset's `semantic-duplicate` stops at a row with one \
                 of them, unless it says what becomes of it: `unknown = \"keep\"` or `\"drop\"`",
                output.refusals()
            ));
        }
        let mut metrics = output.finish(texts.counts)?;
        tally.add_to(&mut metrics, session.as_ref());
        Ok(Outcome { metrics, provenance, resumed: false })
    }
}

/// How many texts there are.
fn count(mut texts: Texts, context: &Context) -> Result<u64, Failure> {
    let mut total = 0;
    while texts.next_text()?.is_some() {
        total += 1;
    }
    if total == 0 {
        let rows = texts.counts.rows;
        let stage = context.order().inputs.values().next().map_or("its input", |input| input.stage.as_str());
        return Err(Failure::input(format!(
            "there is no text to make a vector of: {stage} has {rows} rows, all blank"
        ))
        .hint("look at what made them"));
    }
    Ok(total)
}
