//! The definition `[suite.X]`: which metrics are measured on what.

use stillhouse_spec::config::Described;
use stillhouse_spec::{Config, Diagnostics, Each, Node};
use stillhouse_stage::{Kind, View, kind};

use crate::metrics::Metric;

/// What is measured: a table of metrics, each with the data it is measured on.
#[derive(Clone, Debug)]
pub struct Suite {
    /// Name → metric.
    pub metrics: Each<dyn Metric>,
}

/// The suite is the table of its metrics, without a level between.
impl Config for Suite {
    fn decode(node: &Node, report: &mut Diagnostics) -> Option<Self> {
        Each::decode(node, report).map(|metrics| Self { metrics })
    }

    fn schema() -> serde_json::Value {
        let mut schema = Each::<dyn Metric>::schema();
        schema["description"] = "What is measured: a table of metrics, each with the data it is measured on.".into();
        schema
    }

    fn describe(&self) -> Described {
        self.metrics.describe()
    }
}

/// The kind `suite`.
pub struct SuiteKind;

impl Kind for SuiteKind {
    kind!("suite", Suite);

    fn check(&self, view: &View<'_>, report: &mut Diagnostics) {
        let Some(suite) = view.config_as::<Suite>() else { return };
        for (name, metric) in &suite.metrics.values {
            metric.check(view, name, report);
        }
    }
}

#[cfg(test)]
mod tests;
