//! The table a run ends with: what was measured, and what it was measured on.

use std::collections::{BTreeMap, BTreeSet};

use indexmap::IndexMap;
use serde::Deserialize;

use crate::format::{IntervalStyle, plain, with_interval};
use crate::grid::{Grid, Layout, wrap};
use crate::run_record::{RunRecord, StageResult};

/// A figure as an evaluation's record has it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Figure {
    /// The figure.
    pub value: f64,
    /// Lower bound of its interval.
    pub low: Option<f64>,
    /// Upper bound.
    pub high: Option<f64>,
    /// Examples.
    pub n: u64,
    /// What it is counted in; empty for a bare number.
    pub unit: String,
    /// Which direction is good.
    pub better: Better,
    /// What a reader of the interval must know.
    #[serde(default)]
    pub note: Option<String>,
}

/// Which direction is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// Less is better.
    Lower,
    /// More is better.
    Higher,
}

/// The metrics of an `eval` stage's record, as far as this crate reads them. A suite is known by the path of the field
/// that names it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct EvalMetrics {
    scores: BTreeMap<String, BTreeMap<String, Figure>>,
    intervals: Intervals,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Intervals {
    resamples: u64,
    confidence: f64,
}

/// All that was measured on one suite: a row a target.
#[derive(Debug, Clone, PartialEq)]
pub struct SuiteScores {
    /// The suite's name.
    pub suite: String,
    /// What was measured → name of the figure → figure.
    pub targets: IndexMap<String, BTreeMap<String, Figure>>,
    /// How the intervals were made, in words; more than one where evaluations differ.
    pub intervals: BTreeSet<String>,
}

/// An evaluation's figures with the names that its tables have in this run.
struct Eval<'a> {
    stage: &'a str,
    /// `student.small`; the stage's own name where the log does not tell.
    model: &'a str,
    metrics: EvalMetrics,
    names: &'a BTreeMap<String, String>,
}

/// The figures of every evaluation in a run, by suite. Evaluations whose record this version cannot read are left out.
pub fn scores(record: &RunRecord) -> Vec<SuiteScores> {
    let evals: Vec<Eval<'_>> = record.of_kind("eval").filter_map(|(stage, result)| Eval::read(stage, result)).collect();
    let mut suites: IndexMap<&str, SuiteScores> = IndexMap::new();
    for eval in &evals {
        let alone = evals.iter().filter(|other| other.model == eval.model).count() == 1;
        let target = if alone { eval.model.to_owned() } else { format!("{} ({})", eval.model, eval.stage) };
        for (path, figures) in &eval.metrics.scores {
            let suite = eval.suite(path);
            let scores = suites.entry(suite).or_insert_with(|| SuiteScores {
                suite: suite.to_owned(),
                targets: IndexMap::new(),
                intervals: BTreeSet::new(),
            });
            scores.targets.insert(target.clone(), figures.clone());
            scores.intervals.insert(eval.metrics.intervals.words());
        }
    }
    suites.into_values().collect()
}

impl<'a> Eval<'a> {
    fn read(stage: &'a str, result: &'a StageResult) -> Option<Self> {
        let metrics = serde_json::from_value(result.metrics.clone()).ok()?;
        let model = result.names.get("model").map_or(stage, String::as_str);
        Some(Self { stage, model, metrics, names: &result.names })
    }

    /// The name of the suite that the field at `path` names: `held-out`; the path where the log does not tell.
    fn suite<'b>(&'b self, path: &'b str) -> &'b str {
        let label = self.names.get(path).map_or(path, String::as_str);
        label.strip_prefix("suite.").unwrap_or(label)
    }
}

impl Intervals {
    fn words(&self) -> String {
        let percent = self.confidence * 100.0;
        format!("{} % intervals from {} resamples of the examples", trim_zeros(percent), self.resamples)
    }
}

fn trim_zeros(value: f64) -> String {
    format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// One table a suite: a row a target, a column a figure with its interval, the best of each column marked (the best
/// student, where there are several). Empty when nothing was measured.
pub fn scores_table(record: &RunRecord, layout: Layout) -> String {
    let tables: Vec<String> = scores(record).iter().map(|suite| suite.render(layout)).collect();
    tables.join("\n")
}

/// The order of the columns; what is not here follows by name.
const ORDER: &[&str] = &["perplexity", "bits-per-byte", "kl", "top-1", "exact-match"];
/// Not shown: the logarithm of a figure that is.
const HIDDEN: &[&str] = &["nll"];

impl SuiteScores {
    fn render(&self, layout: Layout) -> String {
        let title = match (layout, self.examples()) {
            (Layout::Text, Some(n)) => format!("{} (n = {n})\n", self.suite),
            (Layout::Text, None) => format!("{}\n", self.suite),
            (Layout::Markdown, Some(n)) => format!("### {} (n = {n})\n\n", self.suite),
            (Layout::Markdown, None) => format!("### {}\n\n", self.suite),
        };
        let grid = self.grid(layout);
        let tables: Vec<String> = match layout {
            Layout::Text => grid.split().iter().map(|part| part.render(layout)).collect(),
            Layout::Markdown => vec![grid.render(layout)],
        };
        // In Markdown lines of one paragraph run together, so each note is an item of a list.
        let notes: Vec<String> = match layout {
            Layout::Text => self.notes().iter().map(|note| wrap(note)).collect(),
            Layout::Markdown => self.notes().iter().map(|note| format!("- {note}")).collect(),
        };
        format!("{title}{}\n{}\n", tables.join("\n"), notes.join("\n"))
    }

    fn columns(&self) -> Vec<&str> {
        let names: BTreeSet<&str> =
            self.targets.values().flat_map(|figures| figures.keys().map(String::as_str)).collect();
        let mut names: Vec<&str> = names.into_iter().filter(|name| !HIDDEN.contains(name)).collect();
        names.sort_by_key(|name| ORDER.iter().position(|known| known == name).unwrap_or(ORDER.len()));
        names
    }

    fn figures(&self, column: &str) -> impl Iterator<Item = &Figure> {
        self.targets.values().filter_map(move |figures| figures.get(column))
    }

    fn all_figures(&self) -> impl Iterator<Item = &Figure> {
        self.columns().into_iter().flat_map(|column| self.figures(column))
    }

    /// The number of examples, where it is the same for all figures.
    fn examples(&self) -> Option<u64> {
        let counts: BTreeSet<u64> = self.all_figures().map(|figure| figure.n).collect();
        counts.first().copied().filter(|_| counts.len() == 1)
    }

    fn grid(&self, layout: Layout) -> Grid {
        let columns = self.columns();
        let heading = |column: &&str| match self.figures(column).next().map(|figure| figure.better) {
            Some(Better::Lower) => format!("{column} ↓"),
            Some(Better::Higher) => format!("{column} ↑"),
            None => (*column).to_owned(),
        };
        let mut grid = Grid::new(std::iter::once("model".to_owned()).chain(columns.iter().map(heading)));
        let bests: Vec<Option<f64>> = columns.iter().map(|column| self.best(column)).collect();
        let styles: Vec<IntervalStyle> = columns.iter().map(|column| self.style(column)).collect();
        for (target, figures) in &self.targets {
            let cells = columns.iter().enumerate().map(|(index, column)| match figures.get(*column) {
                None => mark("–", false, layout),
                Some(figure) => mark(&figure.text(styles[index]), self.is_best(target, figure, bests[index]), layout),
            });
            grid.row(std::iter::once(target.clone()).chain(cells));
        }
        grid
    }

    /// The best value of a column among those that compete; none where there is nothing to choose from.
    fn best(&self, column: &str) -> Option<f64> {
        let competing = || {
            let targets = self.targets.iter().filter(|(target, _)| self.competes(target));
            targets.filter_map(|(_, figures)| figures.get(column))
        };
        if competing().count() < 2 {
            return None;
        }
        let better = competing().next()?.better;
        let values = competing().map(|figure| figure.value);
        match better {
            Better::Lower => values.min_by(f64::total_cmp),
            Better::Higher => values.max_by(f64::total_cmp),
        }
    }

    /// Students compete with each other; a model folder beside them, such as the teacher, is what they are held
    /// against. Without two students everything competes.
    fn competes(&self, target: &str) -> bool {
        let student = |target: &str| target.starts_with("student.");
        student(target) || self.targets.keys().filter(|target| student(target)).count() < 2
    }

    fn is_best(&self, target: &str, figure: &Figure, best: Option<f64>) -> bool {
        best == Some(figure.value) && self.competes(target)
    }

    fn style(&self, column: &str) -> IntervalStyle {
        let bounds = |figure: &Figure| Some((figure.value, figure.low?, figure.high?));
        IntervalStyle::for_all(self.figures(column).filter_map(bounds))
    }

    fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = Vec::new();
        let mut key = vec!["↓ lower is better, ↑ higher is better"];
        if self.columns().iter().any(|column| self.best(column).is_some()) {
            let all_compete = self.targets.keys().all(|target| self.competes(target));
            key.push(if all_compete { "* best of its column" } else { "* best student" });
            key.push("overlapping intervals may be chance");
        }
        notes.push(key.join("; "));
        notes.extend(self.intervals.iter().cloned());
        let mut units: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for column in self.columns() {
            if let Some(figure) = self.figures(column).find(|figure| !figure.unit.is_empty()) {
                units.entry(&figure.unit).or_default().push(column);
            }
        }
        let units: Vec<String> =
            units.iter().map(|(unit, columns)| format!("{unit}: {}", columns.join(", "))).collect();
        if !units.is_empty() {
            notes.push(units.join("; "));
        }
        for (target, figures) in &self.targets {
            for column in self.columns() {
                if let Some(note) = figures.get(column).and_then(|figure| figure.note.as_ref()) {
                    notes.push(format!("{target}, {column}: {note}"));
                }
            }
        }
        if self.examples().is_none() {
            let counts = self.columns().into_iter().map(|column| {
                let counts: BTreeSet<u64> = self.figures(column).map(|figure| figure.n).collect();
                let counts: Vec<String> = counts.iter().map(u64::to_string).collect();
                format!("{column} {}", counts.join(" or "))
            });
            notes.push(format!("n: {}", counts.collect::<Vec<_>>().join(", ")));
        }
        notes
    }
}

impl Figure {
    /// The value and its interval, with the digits the interval supports.
    pub fn text(&self, style: IntervalStyle) -> String {
        match (self.low, self.high) {
            (Some(low), Some(high)) => with_interval(self.value, low, high, style),
            _ => plain(self.value),
        }
    }
}

fn mark(text: &str, best: bool, layout: Layout) -> String {
    match (layout, best) {
        (Layout::Text, true) => format!("{text} *"),
        (Layout::Text, false) => format!("{text}  "),
        (Layout::Markdown, true) => format!("**{text}** \\*"),
        (Layout::Markdown, false) => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
