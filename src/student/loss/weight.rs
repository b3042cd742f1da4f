//! The factor of a loss in the sum: a number, or a line from one number to another.

use serde_json::json;
use stillhouse_spec::config::Json;
use stillhouse_spec::{Canonical, Config, Described, Diagnostics, Node};

/// A loss's factor: `0.5`, or `{ from = 1.0, to = 0.0, over = 1000, after = 0 }`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weight {
    /// The same at every step.
    Constant(f64),
    /// One that moves.
    Line(WeightLine),
}

/// A weight that moves in a straight line from one value to another and then stays there. It does not depend on how
/// many steps there are in all, so that longer trainings share it.
#[derive(Clone, Copy, Debug, PartialEq, Config)]
pub struct WeightLine {
    /// Weight before the line begins.
    #[config(min = 0)]
    pub from: f64,
    /// Weight after it has ended.
    #[config(min = 0)]
    pub to: f64,
    /// Steps that it takes.
    #[config(min = 1)]
    pub over: u64,
    /// Steps before it begins.
    #[config(default = 0)]
    pub after: u64,
}

impl Weight {
    /// The weight at a step, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        match self {
            Self::Constant(weight) => *weight,
            Self::Line(WeightLine { from, to, over, after }) => {
                let gone = step.saturating_sub(*after).min(*over);
                // The ends are met exactly, without the rounding of the line.
                match gone {
                    0 => *from,
                    gone if gone == *over => *to,
                    gone => from + (to - from) * (gone as f64 / *over as f64),
                }
            }
        }
    }

    /// Whether it is 0 at every step.
    pub fn is_zero(&self) -> bool {
        match self {
            Self::Constant(weight) => *weight == 0.0,
            Self::Line(WeightLine { from, to, .. }) => *from == 0.0 && *to == 0.0,
        }
    }
}

impl From<f64> for Weight {
    fn from(weight: f64) -> Self {
        Self::Constant(weight)
    }
}

/// Written by hand: a number and a table are told apart by what they are, and a number has the key it always had.
impl Config for Weight {
    fn decode(node: &Node, report: &mut Diagnostics) -> Option<Self> {
        match node.as_table() {
            Some(_) => WeightLine::decode(node, report).map(Self::Line),
            None => f64::decode(node, report).map(Self::Constant),
        }
    }

    fn schema() -> Json {
        json!({ "anyOf": [{ "type": "number" }, WeightLine::schema()] })
    }

    fn describe(&self) -> Described {
        match self {
            Self::Constant(weight) => Described::Value(Canonical::Float(*weight)),
            Self::Line(line) => line.describe(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(written: Json) -> Result<Weight, String> {
        let mut report = Diagnostics::default();
        let decoded = Weight::decode(&Node::from_json(&written), &mut report);
        decoded.ok_or_else(|| report.sorted().iter().map(|error| error.message.clone()).collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn a_line_begins_after_its_wait_and_ends_at_its_end() {
        let weight = decode(json!({ "from": 1.0, "to": 0.0, "over": 4, "after": 2 })).unwrap();
        let at: Vec<f64> = (0..9).map(|step| weight.at(step)).collect();
        assert_eq!(at, [1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0, 0.0]);
        assert!(!weight.is_zero());
    }

    #[test]
    fn a_number_stays_and_is_described_as_a_number() {
        let weight = decode(json!(0.5)).unwrap();
        assert_eq!((weight.at(0), weight.at(1 << 40)), (0.5, 0.5));
        assert_eq!(weight.describe(), 0.5f64.describe());
    }

    #[test]
    fn what_is_neither_is_refused_where_it_stands() {
        assert_eq!(decode(json!("half")).unwrap_err(), "expected a number, found a string");
        assert_eq!(decode(json!({ "from": 1.0, "to": 0.0 })).unwrap_err(), "missing `over`");
        assert_eq!(
            decode(json!({ "from": -1.0, "to": 0.0, "over": 3 })).unwrap_err(),
            "`from` must be at least 0, not -1"
        );
    }
}
