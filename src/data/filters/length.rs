//! Keeps rows of a length.

use stillhouse_stage::spec::{Config, Diagnostic, Diagnostics, Node};

use super::{Filter, Judged, Pass};

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
    fn start(&self) -> Box<dyn Pass> {
        Box::new(*self)
    }
}

impl Pass for Length {
    fn keeps(&mut self, row: &Judged<'_>) -> bool {
        row.tokens >= self.min_tokens && self.max_tokens.is_none_or(|max| row.tokens <= max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::judged;

    #[test]
    fn both_bounds_are_inclusive() {
        let mut pass = Length { min_tokens: 2, max_tokens: Some(3) }.start();
        let kept: Vec<bool> = ["a", "ab", "abc", "abcd"].iter().map(|text| pass.keeps(&judged(text))).collect();
        assert_eq!(kept, [false, true, true, false]);
    }
}
