//! Rows that training must not see: those that share a run of words with evaluation data.
//!
//! The rule is GPT-3's (Brown et al. 2020, appendix C): a run of 13 words, in lower case and without punctuation, that
//! stands in evaluation data and in a training row is a leak, unless it stands under more than 10 training prompts: then
//! it is boilerplate ("common cultural phrases, legal boilerplate", in their words). Since small datasets have fewer than
//! 10 prompts, a run under more than half of them is boilerplate too. Instructions (`system` turns) are not looked at.
//!
//! Evaluation texts of fewer words have no run of 13 and are not found; how many there are is in the figures.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use stillhouse_stage::{Context, Failure};

use super::config::{DatasetConfig, Decontamination};
use super::dropped::DroppedRow;
use super::evaluated;
use super::gate::Passed;
use super::select::Parts;
use crate::error::DataResult;
use crate::example::{ROWS_FILE, Row};
use crate::filters::words;
use crate::jsonl::JsonlReader;
use crate::source::{LineReader, ObjectReader};

/// The reason of rows that share words with evaluation data.
pub(super) const CONTAMINATED: &str = "decontamination";

/// Rows that are searched at once, on all processors.
const CHUNK: usize = 1024;

/// What decontamination found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DecontaminationStatistics {
    /// The datasets and files of `against`, in their order.
    pub against: Vec<EvaluationStatistics>,
    /// The dataset's own holdout.
    pub holdout: EvaluationStatistics,
}

/// Evaluation data in figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EvaluationStatistics {
    /// Rows of evaluation data.
    pub rows: u64,
    /// Those that are too short to be found.
    pub too_short: u64,
    /// Training rows left out because of them.
    pub removed: u64,
}

/// Runs of words of evaluation data.
pub(super) struct Evaluations {
    words: usize,
    common: usize,
    /// Run → the first row that has it: number of the data, place of the row from 1.
    runs: HashMap<u64, (usize, u64)>,
    /// What the data is called in messages: `` `against` 0 ``.
    names: Vec<String>,
    statistics: Vec<EvaluationStatistics>,
}

/// A row to leave out: its place, the number of the evaluation data, the reason in words.
type Leak = (usize, usize, String);

impl Evaluations {
    fn new(config: &Decontamination) -> Self {
        let (words, common) = (config.words, config.common);
        Self { words, common, runs: HashMap::new(), names: Vec::new(), statistics: Vec::new() }
    }

    /// Reads what `against` names.
    pub(super) fn open(config: &DatasetConfig, context: &Context) -> Result<Self, Failure> {
        let mut all = Self::new(&config.decontaminate);
        let against = config.decontaminate.against.iter().flatten().filter(|_| all.words > 0);
        for (number, evaluated) in against.enumerate().collect::<Vec<_>>() {
            all.begin(format!("`against` {number}"));
            let field = |name: &str| format!("decontaminate.against.{number}.{name}");
            if evaluated.dataset.is_some() {
                let artifact = context.input(&field("dataset"))?;
                let path = artifact.path(&format!("{}/{ROWS_FILE}", evaluated.split.part()))?;
                for row in JsonlReader::<Row>::open(&path)? {
                    all.add_row(&row?);
                }
            } else {
                all.add_file(&context.file(&field("file"))?)?;
            }
        }
        Ok(all)
    }

    fn begin(&mut self, name: String) {
        self.names.push(name);
        self.statistics.push(EvaluationStatistics::default());
    }

    fn add_row(&mut self, row: &Row) {
        let reference = row.reference.as_deref().filter(|reference| *reference != row.completion);
        let texts = [text(row)].into_iter().chain(reference.map(|reference| with_answer(row, reference)));
        self.add(texts.collect::<Vec<_>>().iter().map(String::as_str));
    }

    /// JSON lines are rows, see [`evaluated`]; of another file every line that is not blank is one.
    fn add_file(&mut self, path: &Path) -> DataResult<()> {
        if path.extension().is_some_and(|ending| ending == "jsonl") {
            let mut objects = ObjectReader::open(path)?;
            while let Some((_, members)) = objects.next_members()? {
                self.add(evaluated::texts(&members).iter().map(String::as_str));
            }
            return Ok(());
        }
        let mut lines = LineReader::open(path)?;
        while let Some(line) = lines.next_line()? {
            if !line.text.trim().is_empty() {
                self.add([line.text].into_iter());
            }
        }
        Ok(())
    }

    /// Adds a row of the data begun last.
    fn add<'t>(&mut self, texts: impl Iterator<Item = &'t str>) {
        let data = self.names.len() - 1;
        let statistics = &mut self.statistics[data];
        statistics.rows += 1;
        let mut short = true;
        for text in texts {
            for run in words::hashes(text).windows(self.words) {
                short = false;
                self.runs.entry(words::run(run)).or_insert((data, statistics.rows));
            }
        }
        statistics.too_short += u64::from(short);
    }

    /// The rows at `places` (ascending) that share an uncommon run with the data.
    fn leaks(&mut self, passed: &Passed, places: &[usize]) -> DataResult<Vec<Leak>> {
        if self.runs.is_empty() {
            return Ok(Vec::new());
        }
        let group = |place: &usize| passed.kept[*place].group;
        // Run → the first prompts that have it, no more than are needed to call it common.
        let prompts: HashSet<u64> = places.iter().map(group).collect();
        let common = self.common.min((prompts.len() / 2).max(1));
        let mut shared: HashMap<u64, BTreeSet<u64>> = HashMap::new();
        each_chunk(passed, places, |rows| {
            let found: Vec<Vec<u64>> =
                rows.par_iter().map(|(_, row)| self.shared(&text(row)).map(|(run, _)| run).collect()).collect();
            for ((place, _), runs) in rows.iter().zip(found) {
                for run in runs {
                    let prompts = shared.entry(run).or_default();
                    if prompts.len() <= common {
                        prompts.insert(group(place));
                    }
                }
            }
            Ok(())
        })?;
        shared.retain(|_, prompts| prompts.len() <= common);
        let mut leaks: Vec<Leak> = Vec::new();
        if !shared.is_empty() {
            each_chunk(passed, places, |rows| {
                let found: Vec<Option<Leak>> = rows
                    .par_iter()
                    .map(|(place, row)| {
                        let text = text(row);
                        let (run, words) = self.shared(&text).find(|(run, _)| shared.contains_key(run))?;
                        let (data, line) = self.runs[&run];
                        let name = &self.names[data];
                        Some((
                            *place,
                            data,
                            format!("{} words in a row are those of row {line} of {name}: {words}", self.words),
                        ))
                    })
                    .collect();
                leaks.extend(found.into_iter().flatten());
                Ok(())
            })?;
        }
        leaks.iter().for_each(|(_, data, _)| self.statistics[*data].removed += 1);
        Ok(leaks)
    }

    /// The runs of a text that evaluation data has too, with their words.
    fn shared(&self, text: &str) -> impl Iterator<Item = (u64, String)> {
        let spans = words::spans(text);
        let hashes: Vec<u64> = spans.iter().map(|(hash, _)| *hash).collect();
        let found: Vec<(usize, u64)> = hashes
            .windows(self.words)
            .map(words::run)
            .enumerate()
            .filter(|(_, run)| self.runs.contains_key(run))
            .collect();
        let last = self.words - 1;
        found.into_iter().map(move |(start, run)| {
            let words = &text[spans[start].1.start..spans[start + last].1.end];
            (run, words.split_whitespace().collect::<Vec<_>>().join(" "))
        })
    }
}

/// What is compared of a row: its turns but for instructions, and its completion.
fn text(row: &Row) -> String {
    with_answer(row, &row.completion)
}

fn with_answer(row: &Row, answer: &str) -> String {
    let turns = row.messages.iter().filter(|message| message.role != "system").map(|message| message.content.as_str());
    turns.chain([answer]).collect::<Vec<_>>().join("\n")
}

/// Hands out the rows at `places`, which ascend, some at a time.
fn each_chunk(
    passed: &Passed,
    places: &[usize],
    mut take: impl FnMut(&[(usize, Row)]) -> DataResult<()>,
) -> DataResult<()> {
    let mut wanted = places.iter().copied().peekable();
    let mut chunk = Vec::with_capacity(CHUNK);
    for (place, row) in passed.examples.rows()?.enumerate() {
        let row = row?;
        if wanted.next_if_eq(&place).is_none() {
            continue;
        }
        chunk.push((place, row));
        if chunk.len() == CHUNK {
            take(&chunk)?;
            chunk.clear();
        }
    }
    take(&chunk)
}

/// Leaves out rows that share words with what `against` names; gives the places of the others.
pub(super) fn against(evaluations: &mut Evaluations, passed: &mut Passed) -> DataResult<Vec<usize>> {
    let mut places: Vec<usize> = (0..passed.kept.len()).collect();
    let leaks = evaluations.leaks(passed, &places)?;
    leave_out(leaks, passed, &mut places)?;
    Ok(places)
}

/// Leaves out training rows that share words with held-out ones; gives the figures of the whole.
pub(super) fn holdout(
    config: &DatasetConfig,
    evaluations: Evaluations,
    passed: &mut Passed,
    parts: &mut Parts,
) -> DataResult<Option<DecontaminationStatistics>> {
    if config.decontaminate.words == 0 || (parts.holdout.is_empty() && evaluations.names.is_empty()) {
        return Ok(None);
    }
    let mut own = Evaluations::new(&config.decontaminate);
    own.begin("the holdout".to_owned());
    if !parts.holdout.is_empty() {
        each_chunk(passed, &parts.holdout, |rows| {
            rows.iter().for_each(|(_, row)| own.add_row(row));
            Ok(())
        })?;
    }
    let leaks = own.leaks(passed, &parts.train)?;
    leave_out(leaks, passed, &mut parts.train)?;
    Ok(Some(DecontaminationStatistics { against: evaluations.statistics, holdout: own.statistics[0] }))
}

fn leave_out(leaks: Vec<Leak>, passed: &mut Passed, places: &mut Vec<usize>) -> DataResult<()> {
    if leaks.is_empty() {
        return Ok(());
    }
    let mut reasons: HashMap<usize, String> = leaks.into_iter().map(|(place, _, reason)| (place, reason)).collect();
    let gone: Vec<usize> = places.extract_if(.., |place| reasons.contains_key(place)).collect();
    let mut lines: Vec<DroppedRow> = Vec::with_capacity(gone.len());
    each_chunk(passed, &gone, |rows| {
        lines.extend(rows.iter().map(|(place, row)| DroppedRow::new(row, CONTAMINATED, reasons.remove(place))));
        Ok(())
    })?;
    lines.into_iter().try_for_each(|line| passed.dropped.add(line))
}

/// Tells when a good part of the data is gone: then the rule is likely wrong for it.
pub(super) fn warn(statistics: &DecontaminationStatistics, rows: usize, context: &Context) {
    let removed: u64 = statistics.against.iter().chain([&statistics.holdout]).map(|data| data.removed).sum();
    if removed > 0 && removed as usize * 10 > rows {
        context.warn(format!(
            "{removed} of {rows} rows share words with evaluation data and are left out (`dropped.jsonl` of the dataset lists \
             them); if that is a template, raise `decontaminate.words` or lower `decontaminate.common`"
        ));
    }
}
