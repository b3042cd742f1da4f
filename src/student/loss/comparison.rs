//! Settings that all losses against a teacher's distributions have in common.

use stillhouse_spec::{Config, Diagnostic, Diagnostics, Node};

/// What becomes of the probability outside the teacher's top k.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
pub enum Tail {
    /// The teacher's k are scaled to sum to 1; the student is judged on the whole vocabulary. Pushes the student's mass
    /// into the k.
    RenormaliseTeacher,
    /// Everything outside the k is one more outcome on both sides. With a temperature, the k + 1 probabilities of both
    /// sides are raised to 1/T and scaled to sum to 1.
    Bucket,
    /// Both are scaled to sum to 1 over the k: what the student does outside is not judged.
    RenormaliseBoth,
}

/// How two distributions are made comparable.
#[derive(Clone, Copy, Debug, PartialEq, Config)]
pub struct Comparison {
    /// Softens both distributions before they are compared.
    #[config(default = 1.0, above = 0)]
    pub temperature: f64,
    /// Multiply by T², which keeps the gradient's size when T changes (Hinton et al., 2015).
    #[config(default = true)]
    pub t_squared: bool,
    /// What to do about the probability outside the teacher's top k. Without effect where distributions are whole.
    #[config(default = Tail::Bucket)]
    pub tail: Tail,
}

impl Comparison {
    /// Why a loss that is linear in the teacher's distribution at temperature 1 can't learn from draws as it is set.
    pub fn refuses_draws(&self) -> Option<String> {
        if self.temperature != 1.0 {
            return Some(format!("at temperature {} their mean is not the teacher's distribution", self.temperature));
        }
        let cut = self.tail == Tail::RenormaliseBoth;
        cut.then(|| "with `tail = \"renormalise-both\"` the student is judged on what was drawn alone".to_owned())
    }

    /// Factor on the loss.
    pub fn scale(&self) -> f64 {
        if self.t_squared { self.temperature * self.temperature } else { 1.0 }
    }
}

/// Reports that a loss is infinite under [`Tail::RenormaliseTeacher`], at the key that asks for it.
pub(super) fn refuse_renormalised_teacher(what: &str, node: &Node, report: &mut Diagnostics) {
    let at = node.as_table().and_then(|table| table.get("tail")).map_or(node.at, |value| value.at);
    let message = format!(
        "{what} is infinite with `tail = \"renormalise-teacher\"`: the student gives probability to tokens that the \
         teacher then gives none"
    );
    report.push(Diagnostic::error(at, message).hint("use `tail = \"bucket\"` or `tail = \"renormalise-both\"`"));
}
