//! Writing the artifact's parts.

use std::collections::BTreeMap;
use std::path::Path;

use stillhouse_stage::{Context, Failure};

use super::artifact::{HOLDOUT, TOKENIZER, TRAIN};
use super::assemble::{CONTENT_FILTER, EMPTY, FAILED, REJECTED};
use super::config::DatasetConfig;
use super::diversity::{self, Diversity, Sampled};
use super::gate::Passed;
use super::select::Parts;
use super::signals::Signals;
use super::source::OpenSource;
use super::statistics::{PartStatistics, SignalStatistics};
use crate::embeddings::{EmbeddingReader, TextDigest};
use crate::error::{DataError, DataResult};
use crate::example::{ExampleWriter, Row};
use crate::model_folder::ModelFolder;
use crate::server_tokens::Matched;
use crate::signals::{HEADS, SignalReader};
use crate::tokenizer::Tokenizer;

/// The figures of the two parts.
pub(super) struct Written {
    pub(super) train: PartStatistics,
    pub(super) holdout: PartStatistics,
    pub(super) signals: Option<SignalStatistics>,
    /// What could be made of servers' log-probabilities, by source.
    pub(super) matched: Vec<Option<Matched>>,
    pub(super) diversity: Option<Diversity>,
}

pub(super) fn write(
    config: &DatasetConfig,
    passed: &Passed,
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
    for source in sources.iter().zip(&readers).filter_map(|(source, reader)| reader.and(Some(source))) {
        copy_heads(source, &out.join(HEADS))?;
    }
    let captured: Vec<bool> = sources.iter().map(|source| source.matched.is_some()).collect();
    let mut signals = Signals::create(config.signals.as_ref(), &readers, &captured, &out)?;
    let mut sample = Sample::of(passed, &parts.train);
    let train = write_part(passed, &parts.train, &out.join(TRAIN), &mut signals, &mut sample)?;
    let holdout = write_part(passed, &parts.holdout, &out.join(HOLDOUT), &mut signals, &mut Sample::default())?;
    let signals = signals.finish()?;
    copy_tokenizer(tokenizer_files, &out.join(TOKENIZER))?;
    let matched = sources.iter().map(|source| source.matched).collect();
    let diversity = diversity::measure(sample.rows(), passed.vectors.is_some())?;
    if diversity.as_ref().is_some_and(|figures| figures.embedding_rows == Some(0)) {
        context.warn("the embeddings have a vector for none of the rows: they are of other texts");
    }
    Ok(Written { train, holdout, signals, matched, diversity })
}

fn reasons(passed: &Passed) -> String {
    let read: u64 = passed.read.iter().sum();
    if read == 0 {
        return "the sources of `mix` gave none".to_owned();
    }
    let dropped: Vec<String> = passed
        .dropped
        .counts
        .iter()
        .filter(|(_, rows)| **rows > 0)
        .map(|(why, rows)| format!("{rows} {why}"))
        .collect();
    let count: u64 = passed.dropped.counts.values().sum();
    let why = dropped.join(", ");
    match (read, count) {
        (_, 0) => format!("none of {read} was dropped"),
        (1, _) => format!("the only one was dropped ({why})"),
        (read, count) if read == count => format!("all {read} were dropped ({why})"),
        _ => format!("{count} of {read} were dropped ({why})"),
    }
}

/// What to do about a dataset of nothing depends on why there is nothing.
fn way_out(passed: &Passed) -> &'static str {
    let read: u64 = passed.read.iter().sum();
    let are_all =
        |reasons: &[&str]| reasons.iter().filter_map(|why| passed.dropped.counts.get(*why)).sum::<u64>() == read;
    if read == 0 {
        return "look at what made them";
    }
    if are_all(&[FAILED]) {
        return "nobody answered these prompts: `outcomes = { failed = \"ask-again\" }` of the answers asks them anew; or add sources";
    }
    if are_all(&[EMPTY, CONTENT_FILTER, REJECTED, FAILED]) {
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
    sample: &mut Sample<'_>,
) -> DataResult<PartStatistics> {
    let mut writer = ExampleWriter::create(folder)?;
    let mut statistics = PartStatistics::default();
    let mut rows = passed.examples.rows()?.enumerate();
    for place in places {
        let example = passed.examples.get(*place)?;
        let row = row_at(&mut rows, *place)?;
        let found = signals.copy(row.source, &passed.kept[*place].signal_keys, &example.tokens)?;
        statistics.count(&example, found);
        sample.take(*place, &row, passed.kept[*place].embedded)?;
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

/// The rows whose variety is measured: those whose content hashes lowest, in that order.
#[derive(Default)]
struct Sample<'a> {
    /// Place → rank.
    ranks: BTreeMap<usize, u64>,
    vectors: Option<&'a EmbeddingReader>,
    rows: Vec<(u64, Sampled)>,
}

impl<'a> Sample<'a> {
    fn of(passed: &'a Passed, places: &[usize]) -> Self {
        let mut by_rank: Vec<(u64, usize)> = places.iter().map(|place| (passed.kept[*place].rank, *place)).collect();
        by_rank.sort_unstable();
        by_rank.truncate(diversity::SAMPLE);
        let ranks = by_rank.into_iter().map(|(rank, place)| (place, rank)).collect();
        Self { ranks, vectors: passed.vectors.as_ref(), rows: Vec::new() }
    }

    /// `embedded` is the text that the row had before filters changed it; its vector says what the row is about, too.
    fn take(&mut self, place: usize, row: &Row, embedded: Option<TextDigest>) -> DataResult<()> {
        let Some(rank) = self.ranks.get(&place) else { return Ok(()) };
        let mut vector = None;
        if let Some(vectors) = self.vectors {
            let now = || Some(TextDigest::of(&vectors.of().text(&row.messages, &row.completion)?));
            if let Some(text) = embedded.or_else(now) {
                vector = vectors.unit_of(text)?;
            }
        }
        self.rows.push((*rank, Sampled { completion: row.completion.clone(), vector }));
        Ok(())
    }

    fn rows(mut self) -> Vec<Sampled> {
        self.rows.sort_by(|(a, one), (b, other)| (a, &one.completion).cmp(&(b, &other.completion)));
        self.rows.into_iter().map(|(_, row)| row).collect()
    }
}

/// Hidden states say nothing without the head of their teacher. Teachers of several sources may be the same.
fn copy_heads(source: &OpenSource, folder: &Path) -> DataResult<()> {
    for (name, head) in &source.heads {
        let to = folder.join(name);
        if to.exists() {
            continue;
        }
        fs_err::create_dir_all(folder).map_err(DataError::own_io(folder))?;
        let mut from = fs_err::File::open(head).map_err(DataError::own_io(head))?;
        let mut file = fs_err::File::create(&to).map_err(DataError::own_io(&to))?;
        std::io::copy(&mut from, &mut file).map_err(DataError::own_io(&to))?;
    }
    Ok(())
}

fn copy_tokenizer(files: &ModelFolder, folder: &Path) -> DataResult<()> {
    fs_err::create_dir_all(folder).map_err(DataError::own_io(folder))?;
    files.copy_to(folder)
}
