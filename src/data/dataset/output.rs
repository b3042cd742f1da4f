//! Writing the artifact's parts.

use std::collections::BTreeSet;
use std::path::Path;

use stillhouse_stage::{Context, Failure};

use super::artifact::{HOLDOUT, TOKENIZER, TRAIN};
use super::assemble::{CONTENT_FILTER, EMPTY, REJECTED};
use super::gate::Passed;
use super::select::Parts;
use super::source::OpenSource;
use super::statistics::PartStatistics;
use crate::error::{DataError, DataResult};
use crate::example::{ExampleWriter, Row};
use crate::model_folder::ModelFolder;
use crate::signals::{Precision, SIGNALS_FILE, SequenceKey, SignalHeader, SignalReader, SignalWriter};
use crate::tokenizer::Tokenizer;

/// The figures of the two parts.
pub(super) struct Written {
    pub(super) train: PartStatistics,
    pub(super) holdout: PartStatistics,
}

pub(super) fn write(
    passed: &mut Passed,
    parts: &Parts,
    sources: &[OpenSource],
    tokenizer: &Tokenizer,
    tokenizer_files: &ModelFolder,
    context: &Context,
) -> Result<Written, Failure> {
    if parts.train.is_empty() {
        let failure = Failure::input(format!("no row is left to train on: {}", reasons(passed)));
        return Err(failure.hint(way_out(passed)));
    }
    let out = context.out();
    let readers: Vec<Option<&SignalReader>> = sources
        .iter()
        .map(|source| source.signals.as_ref().filter(|signals| signals.header().tokenizer == tokenizer.digest()))
        .collect();
    let mut signals = Signals::create(&readers, &out)?;
    let train = write_part(passed, &parts.train, &out.join(TRAIN), &mut signals)?;
    let holdout = write_part(passed, &parts.holdout, &out.join(HOLDOUT), &mut signals)?;
    signals.finish()?;
    copy_tokenizer(tokenizer_files, &out.join(TOKENIZER))?;
    Ok(Written { train, holdout })
}

fn reasons(passed: &Passed) -> String {
    let read: u64 = passed.read.iter().sum();
    if read == 0 {
        return "the sources of `mix` gave none".to_owned();
    }
    let dropped: Vec<String> =
        passed.dropped.iter().filter(|(_, rows)| **rows > 0).map(|(why, rows)| format!("{rows} {why}")).collect();
    format!("of {read} rows were dropped: {}", if dropped.is_empty() { "none".into() } else { dropped.join(", ") })
}

/// What to do about a dataset of nothing depends on why there is nothing.
fn way_out(passed: &Passed) -> &'static str {
    let of_the_teacher =
        |why: &str| passed.dropped.get(why).is_some_and(|rows| *rows > 0 && *rows == passed.read.iter().sum::<u64>());
    if passed.read.iter().all(|rows| *rows == 0) {
        return "look at what made them";
    }
    if [EMPTY, CONTENT_FILTER, REJECTED].iter().any(|why| of_the_teacher(why)) {
        return "the teacher said nothing: change the prompts or `sampling` of the answers, or add sources";
    }
    "loosen the filters, raise `max-length`, or add sources"
}

/// `places` ascends, so one pass over the rows' file is enough.
fn write_part(
    passed: &Passed,
    places: &[usize],
    folder: &Path,
    signals: &mut Signals<'_>,
) -> DataResult<PartStatistics> {
    let mut writer = ExampleWriter::create(folder)?;
    let mut statistics = PartStatistics::default();
    let mut rows = passed.examples.rows()?.enumerate();
    for place in places {
        let example = passed.examples.get(*place)?;
        let row = row_at(&mut rows, *place)?;
        let found = signals.copy(row.source, &passed.kept[*place].signal_keys, &example.tokens)?;
        statistics.count(&example, found);
        writer.add(&example, &row)?;
    }
    writer.finish()?;
    Ok(statistics)
}

fn row_at(rows: &mut impl Iterator<Item = (usize, DataResult<Row>)>, place: usize) -> DataResult<Row> {
    rows.find(|(number, _)| *number == place)
        .map(|(_, row)| row)
        .unwrap_or_else(|| Err(DataError::corrupt("rows.jsonl", format!("row {place} is gone"))))
}

/// The signals of all sources, those of kept rows only.
struct Signals<'a> {
    readers: &'a [Option<&'a SignalReader>],
    writer: Option<SignalWriter>,
}

impl<'a> Signals<'a> {
    fn create(readers: &'a [Option<&'a SignalReader>], out: &Path) -> DataResult<Self> {
        let headers: Vec<&SignalHeader> = readers.iter().flatten().map(|reader| reader.header()).collect();
        let Some(first) = headers.first() else { return Ok(Self { readers, writer: None }) };
        if let Some(other) = headers.iter().find(|header| header.vocabulary != first.vocabulary) {
            return Err(DataError::invalid(
                format!(
                    "teachers of {} and of {} tokens cannot share a dataset, though their tokenizers are the same",
                    first.vocabulary, other.vocabulary
                ),
                "make a dataset for each teacher",
            ));
        }
        let teachers: BTreeSet<&String> = headers.iter().flat_map(|header| &header.teachers).collect();
        let header = SignalHeader { teachers: teachers.into_iter().cloned().collect(), ..(*first).clone() };
        let writer = SignalWriter::create(&out.join(SIGNALS_FILE), header, Precision::default())?;
        Ok(Self { readers, writer: Some(writer) })
    }

    /// Copies what the row's source has under `known` (a key for each of its teachers) to the row's own tokens, which
    /// begin like the sequence it was made for; tells whether there was anything.
    fn copy(&mut self, source: u32, known: &[SequenceKey], tokens: &[u32]) -> DataResult<bool> {
        let (Some(writer), Some(reader)) = (&mut self.writer, self.readers[source as usize]) else {
            return Ok(false);
        };
        let mut found = false;
        for (teacher, key) in reader.header().teachers.iter().zip(known) {
            if let Some(signal) = reader.get(key)? {
                let positions = tokens.len().saturating_sub(signal.first_position() as usize);
                writer.copy(SequenceKey::of(teacher, tokens), &signal, positions)?;
                found = true;
            }
        }
        Ok(found)
    }

    fn finish(self) -> DataResult<()> {
        self.writer.map_or(Ok(0), SignalWriter::finish).map(drop)
    }
}

fn copy_tokenizer(files: &ModelFolder, folder: &Path) -> DataResult<()> {
    fs_err::create_dir_all(folder).map_err(DataError::io(folder))?;
    files.copy_to(folder)
}
