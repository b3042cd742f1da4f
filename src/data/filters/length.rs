//! Keeps rows of a length.

use stillhouse_stage::Failure;
use stillhouse_stage::spec::{Config, Diagnostic, Diagnostics, Node};

use super::{EachRow, Filter, Judged, Pass, Place, Verdict};

/// Keeps rows whose prompt and completion together have so many tokens.
#[derive(Clone, Copy, Debug, Config)]
#[config(check = sound)]
pub struct Length {
    /// At least.
    #[config(default = 0)]
    pub min_tokens: usize,
    /// At most.
    pub max_tokens: Option<usize>,
}

fn sound(config: &Length, node: &Node, report: &mut Diagnostics) {
    if config.max_tokens.is_some_and(|max| max < config.min_tokens) {
        report.push(Diagnostic::error(node.at, "`max-tokens` is less than `min-tokens`: no row would stay"));
    }
}

impl Filter for Length {
    fn start(&self, _place: &Place<'_>) -> Result<Box<dyn Pass>, Failure> {
        let length = *self;
        Ok(Box::new(EachRow(move |row: &Judged<'_>| length.judge(row))))
    }
}

impl Length {
    fn judge(&self, row: &Judged<'_>) -> Verdict {
        if row.tokens < self.min_tokens {
            return Verdict::Drop(format!("{} tokens, {} are needed", row.tokens, self.min_tokens));
        }
        match self.max_tokens {
            Some(max) if row.tokens > max => Verdict::Drop(format!("{} tokens, {max} are allowed", row.tokens)),
            _ => Verdict::Keep,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::testing::{judged, reasons};

    #[test]
    fn both_bounds_are_inclusive() {
        let filter = Length { min_tokens: 2, max_tokens: Some(3) };
        let reasons = reasons(&filter, &["a", "ab", "abc", "abcd"].map(judged));
        assert_eq!(reasons, ["1 tokens, 2 are needed", "", "", "4 tokens, 3 are allowed"]);
    }
}
