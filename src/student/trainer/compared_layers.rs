//! Which layers of student and teacher the losses of a training compare, checked against the models' shapes.

use stillhouse_spec::Origin;

use super::losses::Losses;
use crate::error::StudentError;
use crate::loss::{HiddenLayers, LayerPair, Projection};
use crate::model::DecoderConfig;

/// The pairs of layers that losses compare.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ComparedLayers {
    pub(super) pairs: Vec<ComparedPair>,
    /// Numbers of layers after which the student's stream is read, ascending.
    pub(super) of_student: Vec<usize>,
    /// The same of the teacher.
    pub(super) of_teacher: Vec<usize>,
    /// Width of the student's stream.
    pub(super) student_width: usize,
    /// Width of the teacher's.
    pub(super) teacher_width: usize,
}

/// One of them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ComparedPair {
    /// Name of the loss that compares them.
    pub(super) loss: String,
    /// Place of the student's stream in [`ComparedLayers::of_student`].
    pub(super) student: usize,
    /// Place of the teacher's in [`ComparedLayers::of_teacher`].
    pub(super) teacher: usize,
    /// Name of the learned map between them, if there is one.
    pub(super) map: Option<String>,
}

/// Why layers can't be compared.
#[derive(Debug, Clone)]
pub struct Misfit {
    /// The pair at fault, where one is written.
    pub at: Option<Origin>,
    /// Else the key at fault, below the student's table.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// Everything that can't be compared; at least one thing.
#[derive(Debug, Clone, Default)]
pub struct Misfits(Vec<Misfit>);

impl IntoIterator for Misfits {
    type Item = Misfit;
    type IntoIter = std::vec::IntoIter<Misfit>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl From<Misfits> for StudentError {
    fn from(misfits: Misfits) -> Self {
        let joined = |of: fn(Misfit) -> String| {
            let mut said: Vec<String> = misfits.clone().into_iter().map(of).collect();
            said.dedup();
            said.join("; ")
        };
        Self::training(joined(|misfit| misfit.message), joined(|misfit| misfit.hint))
    }
}

impl ComparedLayers {
    /// The layers that losses compare; none at all where no loss with a weight compares hidden states.
    ///
    /// # Errors
    /// No teacher, layers that one of the models does not have, or widths that differ without a map between them: all that
    /// there is of it.
    pub fn of(losses: &Losses<'_>, student: &DecoderConfig, teacher: Option<&DecoderConfig>) -> Result<Self, Misfits> {
        let (mut found, mut misfits) = (Vec::new(), Vec::new());
        let comparing = losses.iter().filter(|loss| !loss.weights.is_zero());
        for (name, hidden) in comparing.filter_map(|loss| Some((loss.name, loss.value.reads().hidden_states()?))) {
            let Some(teacher) = teacher else {
                misfits.push(no_teacher(name));
                continue;
            };
            misfits.extend(of_widths(name, hidden.projection, student, teacher));
            for (number, pair) in pairs(hidden, student, teacher).into_iter().enumerate() {
                misfits.extend(misfits_of(name, &pair, student, teacher));
                let map = format!("projections.{name}.{number}.weight");
                found.push((name, pair, (hidden.projection == Projection::Learned).then_some(map)));
            }
        }
        if !misfits.is_empty() {
            return Err(Misfits(misfits));
        }
        let numbers = |of: fn(&LayerPair) -> usize| {
            let mut numbers: Vec<usize> = found.iter().map(|(_, pair, _)| of(pair)).collect();
            numbers.sort_unstable();
            numbers.dedup();
            numbers
        };
        let (of_student, of_teacher) = (numbers(|pair| pair.student), numbers(|pair| pair.teacher));
        // Every number is in its list, so the fallback is never taken.
        let place = |numbers: &[usize], number: usize| numbers.binary_search(&number).unwrap_or_default();
        let pairs = found.into_iter().map(|(loss, pair, map)| ComparedPair {
            loss: loss.to_owned(),
            student: place(&of_student, pair.student),
            teacher: place(&of_teacher, pair.teacher),
            map,
        });
        Ok(Self {
            pairs: pairs.collect(),
            student_width: student.hidden,
            teacher_width: teacher.map_or(0, |teacher| teacher.hidden),
            of_student,
            of_teacher,
        })
    }

    /// Whether nothing is compared.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }
}

/// The error of a loss that compares hidden states with no teacher's.
pub(crate) fn no_teacher(loss: &str) -> Misfit {
    Misfit {
        at: None,
        key: format!("loss.{loss}"),
        message: format!("`{loss}` compares with the hidden states of a teacher beside the student, and none is named"),
        hint: "add `teacher = \"…\"`, a teacher with `provider = \"local\"`; no data holds hidden states".into(),
    }
}

/// The pairs as written, or the last layers of both.
fn pairs(hidden: &HiddenLayers, student: &DecoderConfig, teacher: &DecoderConfig) -> Vec<LayerPair> {
    match &hidden.pairs[..] {
        [] => vec![LayerPair::new(student.layers, teacher.layers)],
        written => written.to_vec(),
    }
}

/// What is wrong with a pair.
fn misfits_of(loss: &str, pair: &LayerPair, student: &DecoderConfig, teacher: &DecoderConfig) -> Vec<Misfit> {
    let mut misfits = Vec::new();
    let at = Some(pair.at).filter(|at| *at != LayerPair::new(0, 0).at);
    for (who, number, config) in [("student", pair.student, student), ("teacher", pair.teacher, teacher)] {
        let layers = config.layers;
        if number > layers {
            let s = if layers == 1 { "" } else { "s" };
            let message = format!("`{loss}` compares layer {number} of the {who}, which has {layers} layer{s}");
            let hint = format!("layers count from 0, the embedding, to {layers}, what the final norm reads");
            misfits.push(Misfit { at, key: format!("loss.{loss}.layers"), message, hint });
        }
    }
    misfits
}

/// Widths that differ without a map between them.
fn of_widths(loss: &str, projection: Projection, student: &DecoderConfig, teacher: &DecoderConfig) -> Option<Misfit> {
    let (student, teacher) = (student.hidden, teacher.hidden);
    (projection == Projection::None && student != teacher).then(|| Misfit {
        at: None,
        key: format!("loss.{loss}.projection"),
        message: format!(
            "`{loss}` with `projection = \"none\"` needs equal widths, but the student's hidden states have {student} \
             numbers and the teacher's {teacher}"
        ),
        hint: "take `projection = \"learned\"`".into(),
    })
}
