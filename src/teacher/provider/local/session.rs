//! A model that runs here and is asked a stage's own questions, batch by batch.

use serde_json::{Value, json};
use stillhouse_stage::Failure;

use super::Local;
use super::run::{Reached, Teacher};
use crate::asking::Question;
use crate::provider::terms;
use crate::session::{Asks, Session, Take, Tally};

/// Opens a teacher; its model is loaded when a reply is missing.
///
/// # Errors
/// If its folder or its replies cannot be read.
pub fn open<'a>(settings: &Local, asks: Asks<'a>) -> Result<Box<dyn Session + 'a>, Failure> {
    let teacher = Teacher::open(settings, asks.asker)?;
    let terms = terms::for_record(settings.terms.as_ref());
    Ok(Box::new(Open { teacher, batch: *settings.batch, terms, asks, answered: 0 }))
}

struct Open<'a> {
    teacher: Teacher<'a>,
    batch: usize,
    terms: Value,
    asks: Asks<'a>,
    answered: u64,
}

impl Open<'_> {
    /// A batch's replies in the order of its questions, each behind those after which it was asked again.
    fn settle(&mut self, batch: Vec<Question>) -> Result<Vec<Vec<(Question, Reached)>>, Failure> {
        let mut settled: Vec<Vec<(Question, Reached)>> = batch.iter().map(|_| Vec::new()).collect();
        let mut waiting: Vec<(usize, Question)> = batch.into_iter().enumerate().collect();
        while !waiting.is_empty() {
            let (places, questions): (Vec<usize>, Vec<Question>) = waiting.drain(..).unzip();
            let answered = self.teacher.answer(&questions)?;
            for ((place, question), reached) in places.into_iter().zip(questions).zip(answered) {
                let again = self.asks.again.as_ref().and_then(|again| again(&question.request, &reached.reply));
                if let Some(request) = again {
                    waiting.push((place, Question { request, ..question.clone() }));
                }
                settled[place].push((question, reached));
            }
        }
        Ok(settled)
    }
}

impl Session for Open<'_> {
    fn ask(
        &mut self,
        questions: &mut dyn Iterator<Item = Result<Question, Failure>>,
        take: &mut Take<'_>,
    ) -> Result<(), Failure> {
        loop {
            let batch = (&mut *questions).take(self.batch).collect::<Result<Vec<_>, _>>()?;
            if batch.is_empty() {
                return Ok(());
            }
            let context = self.asks.asker.context;
            if context.is_cancelled() {
                return Err(Failure::interrupted());
            }
            self.answered += batch.len() as u64;
            for (question, Reached { reply, tokens: _, origin }) in self.settle(batch)?.into_iter().flatten() {
                take(&question, reply, origin)?;
            }
            context.progress(self.answered, Some(self.asks.total), self.asks.unit);
        }
    }

    fn finish(&mut self, _: &Tally) -> Value {
        json!({ "provider": "local", "model": self.teacher.id, "device": self.teacher.device(), "terms": self.terms })
    }

    fn add_spent_to(&self, _: &mut Value) {}
}
