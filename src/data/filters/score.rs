//! Takes scores of rows from a file: what a judge, a reward model or a program said of them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use stillhouse_stage::Failure;
use stillhouse_stage::spec::{Config, Diagnostic, Diagnostics, FilePath, Node, Ref, Target};

use super::{Filter, Judged, Pass, Place, Verdict};
use crate::error::{DataError, DataResult};
use crate::jsonl::JsonlReader;

/// Takes scores from a file of JSON lines, `{"prompt": "…", "sample": 0, "score": 0.5}`: drops rows outside of the bounds,
/// and gives the others their score, for `best-of`. `prompt` is the id that `prompts.jsonl` and `answers.jsonl` have.
#[derive(Clone, Debug, Config)]
#[config(check = sound)]
pub struct Score {
    /// The file.
    pub file: Option<FilePath>,
    /// The stage (a `[command]`, say) in whose output the file lies as `scores.jsonl`.
    #[config(parts = "scores.jsonl")]
    pub from: Option<Ref<AnyStage>>,
    /// At least.
    pub min: Option<f64>,
    /// At most.
    pub max: Option<f64>,
    /// What becomes of rows that the file does not know.
    #[config(default = Unknown::Error)]
    pub unknown: Unknown,
}

/// What becomes of rows of which nothing is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
pub enum Unknown {
    /// The stage fails.
    Error,
    /// They stay.
    Keep,
    /// They go.
    Drop,
}

/// The output of any stage.
#[derive(Clone, Debug)]
pub struct AnyStage;

impl Target for AnyStage {
    const KINDS: &'static [&'static str] = &[];
}

/// The name of the file in a stage's output.
const SCORES_FILE: &str = "scores.jsonl";

fn sound(config: &Score, node: &Node, report: &mut Diagnostics) {
    if config.file.is_some() == config.from.is_some() {
        report.push(Diagnostic::error(node.at, "scores come from exactly one of `file` and `from`"));
    }
    if let (Some(min), Some(max)) = (config.min, config.max)
        && min > max
    {
        report.push(Diagnostic::error(node.at, "`max` is less than `min`: no row would stay"));
    }
}

#[derive(Deserialize)]
struct Line {
    prompt: String,
    #[serde(default)]
    sample: u32,
    score: f64,
}

impl Filter for Score {
    fn start(&self, place: &Place<'_>) -> Result<Box<dyn Pass>, Failure> {
        let path = match &self.from {
            Some(_) => {
                let artifact = place.input("from")?;
                artifact.find(SCORES_FILE).ok_or_else(|| {
                    Failure::input(format!("the output of {} has no `{SCORES_FILE}`", artifact.stage))
                        .hint("write it there: `{\"prompt\": \"…\", \"sample\": 0, \"score\": 0.5}`, a row a line")
                })?
            }
            None => place.file("file")?,
        };
        Ok(Box::new(Known { scores: read(&path)?, path, filter: self.clone() }))
    }
}

fn read(path: &Path) -> DataResult<HashMap<(String, u32), f64>> {
    let mut scores = HashMap::new();
    for (line, number) in JsonlReader::<Line>::open(path)?.zip(1..) {
        let fault = |message: String| DataError::Row {
            path: path.to_path_buf(),
            line: number,
            column: None,
            message,
            hint: Some("a line is `{\"prompt\": \"…\", \"sample\": 0, \"score\": 0.5}`".into()),
        };
        let Line { prompt, sample, score } = match line {
            Ok(line) => line,
            // The reader takes the file for one of ours; this one is a person's or a program's.
            Err(DataError::Corrupt { message, .. }) => return Err(fault(message)),
            Err(other) => return Err(other),
        };
        if scores.insert((prompt, sample), score).is_some() {
            return Err(fault("this row has a score already".into()));
        }
    }
    Ok(scores)
}

struct Known {
    scores: HashMap<(String, u32), f64>,
    path: PathBuf,
    filter: Score,
}

impl Pass for Known {
    fn judge(&mut self, rows: &[Judged<'_>]) -> DataResult<Vec<Verdict>> {
        rows.iter().map(|row| self.row(row)).collect()
    }
}

impl Known {
    fn row(&self, row: &Judged<'_>) -> DataResult<Verdict> {
        let known = row.prompt.and_then(|prompt| self.scores.get(&(prompt.to_owned(), row.sample)));
        let Some(score) = known else {
            let (prompt, sample) = (row.prompt.unwrap_or("none"), row.sample);
            return match self.filter.unknown {
                Unknown::Keep => Ok(Verdict::Keep),
                Unknown::Drop => Ok(Verdict::Drop("it has no score".into())),
                Unknown::Error => Err(DataError::File {
                    path: self.path.clone(),
                    message: format!("there is no score for prompt {prompt}, sample {sample}"),
                    hint: Some("add it, or say `unknown = \"keep\"` or `\"drop\"`".into()),
                }),
            };
        };
        Ok(match (self.filter.min, self.filter.max) {
            (Some(min), _) if *score < min => Verdict::Drop(format!("its score is {score}, {min} is needed")),
            (_, Some(max)) if *score > max => Verdict::Drop(format!("its score is {score}, {max} is allowed")),
            _ => Verdict::Score(*score),
        })
    }
}
