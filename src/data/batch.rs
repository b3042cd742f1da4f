//! Which example is trained on at which step, in which row: decided once, by content-independent arithmetic, so that
//! any step's batch can be made again without those before it.
//!
//! Every epoch is a new random order of the examples. With packing, an epoch's examples are laid into rows of
//! `length` positions, each whole, best fit; without, each has a row of its own.
//! The rows of all epochs form one endless stream and step n takes rows `n · rows .. (n + 1) · rows` of it, so no
//! batch is short and every example comes exactly once an epoch.
//!
//! Instead of rows a batch may have a number of tokens ([`BatchPlan::by_tokens`]): examples of like length then lie
//! together, one a row, as many as fit, and the rows of a step are as long as its longest example.
//!
//! The causal shift happens here and only here: an example of n tokens takes n − 1 positions, position i reads token
//! i and predicts token i + 1.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::error::{DataError, DataResult};
use crate::example::Example;
use crate::random::Stream;

/// The order of a whole training run over examples of given lengths.
pub struct BatchPlan {
    /// Positions each example takes: its tokens less one.
    spans: Vec<u32>,
    rows: usize,
    length: usize,
    seed: u64,
    pack: bool,
    /// Positions of a step, where steps are made by tokens: the stream is then one of whole batches.
    tokens: Option<usize>,
    /// `starts[e]`: the number in the stream of epoch e's first row; known as far as it was asked for.
    starts: Vec<u64>,
    epoch: Option<(u64, Vec<PackedRow>)>,
}

/// What lies in a row: examples and the positions they start at. By tokens: a batch's examples, each in a row of its own.
type PackedRow = Vec<(u32, u32)>;

/// Where an example lies in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placement {
    /// Row of the batch.
    pub row: usize,
    /// First position in the row. Position `offset + i` reads the example's token i and predicts its token i + 1.
    pub offset: usize,
    /// Which example.
    pub example: usize,
}

/// One step's arrays, each `rows × length` in row-major order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Rows.
    pub rows: usize,
    /// Positions in a row.
    pub length: usize,
    /// Token read at a position; 0 where nothing lies.
    pub inputs: Vec<u32>,
    /// Token to predict there; 0 where nothing lies.
    pub targets: Vec<u32>,
    /// Whether that prediction counts. Aligned with `targets`: the shift is done.
    pub scored: Vec<bool>,
    /// Which example of the row lies there, from 1; 0 where none does. Attention must not cross from one to another.
    pub segments: Vec<u32>,
    /// Position within the example, from 0; 0 where nothing lies.
    pub positions: Vec<u32>,
    /// The examples, by row, then offset.
    pub placements: Vec<Placement>,
}

impl BatchPlan {
    /// A plan for examples of these lengths (in tokens), `rows` rows a step of `length` positions each.
    ///
    /// # Errors
    /// When there is nothing to train on, a row or a batch has no room, or an example does not fit a row (it is named).
    pub fn new(lengths: &[u32], rows: usize, length: usize, seed: u64, pack: bool) -> DataResult<Self> {
        if rows == 0 || length == 0 {
            return Err(DataError::invalid("a batch has no rows or no length", "both must be at least 1"));
        }
        if lengths.is_empty() {
            return Err(DataError::invalid("there is no example to train on", "is the dataset's part empty?"));
        }
        let mut spans = Vec::with_capacity(lengths.len());
        for (place, tokens) in lengths.iter().enumerate() {
            match tokens.checked_sub(1).filter(|span| *span > 0 && *span as usize <= length) {
                Some(span) => spans.push(span),
                None => {
                    return Err(DataError::invalid(
                        format!("example {place} has {tokens} tokens, rows hold 2 to {}", length + 1),
                        "set the dataset's max-length to the student's row length, or make the rows longer",
                    ));
                }
            }
        }
        Ok(Self { spans, rows, length, seed, pack, tokens: None, starts: vec![0], epoch: None })
    }

    /// A plan for examples of these lengths, as many a step as fit into `tokens` positions (rows times the longest).
    ///
    /// # Errors
    /// As [`BatchPlan::new`]; an example that is longer than a step.
    pub fn by_tokens(lengths: &[u32], tokens: usize, seed: u64) -> DataResult<Self> {
        if let Some(place) = lengths.iter().position(|length| *length as usize > tokens + 1) {
            return Err(DataError::invalid(
                format!("example {place} has {} tokens, a batch holds {tokens}", lengths[place]),
                "a larger `batch.tokens`, or a smaller max-length of the dataset",
            ));
        }
        let plan = Self::new(lengths, 1, tokens, seed, false)?;
        Ok(Self { tokens: Some(tokens), ..plan })
    }

    /// Rows of step `step` and positions in each of them.
    pub fn shape(&mut self, step: u64) -> (usize, usize) {
        if self.tokens.is_none() {
            return (self.rows, self.length);
        }
        let epoch = self.epoch_of_row(step);
        let within = (step - self.starts[epoch as usize]) as usize;
        self.packed(epoch);
        let batch = self.epoch.as_ref().map_or(&[][..], |(_, batches)| &batches[within]);
        (batch.len(), self.longest(batch))
    }

    fn longest(&self, batch: &[(u32, u32)]) -> usize {
        batch.iter().map(|(example, _)| self.spans[*example as usize]).max().unwrap_or(0) as usize
    }

    /// What lies where at step `step`, counted from 0: by row, then offset.
    pub fn placements(&mut self, step: u64) -> Vec<Placement> {
        if self.tokens.is_some() {
            let epoch = self.epoch_of_row(step);
            let within = (step - self.starts[epoch as usize]) as usize;
            return rows_of(&self.packed(epoch)[within]).collect();
        }
        let first = step * self.rows as u64;
        let mut placements = Vec::with_capacity(self.rows);
        for row in 0..self.rows {
            let number = first + row as u64;
            let epoch = self.epoch_of_row(number);
            let within = (number - self.starts[epoch as usize]) as usize;
            let packed = &self.packed(epoch)[within];
            placements.extend(place(row, packed));
        }
        placements
    }

    /// The epoch in which step `step` begins, and the share of it that lies before the step, in 0..1.
    pub fn epoch(&mut self, step: u64) -> (u64, f64) {
        // By tokens `rows` is 1, and the stream is one of batches.
        let number = step * self.rows as u64;
        let epoch = self.epoch_of_row(number);
        let rows = self.packed(epoch).len() as f64;
        (epoch, (number - self.starts[epoch as usize]) as f64 / rows)
    }

    /// One pass over every example, in their own order: batches for validation and scoring, the last one may have
    /// fewer examples. Same rows and length as in training.
    pub fn single_pass(&self) -> Vec<Vec<Placement>> {
        let order: Vec<u32> = (0..self.spans.len() as u32).collect();
        let packed = self.lay(&order);
        if self.tokens.is_some() {
            return packed.iter().map(|batch| rows_of(batch).collect()).collect();
        }
        packed
            .chunks(self.rows)
            .map(|rows| rows.iter().enumerate().flat_map(|(row, packed)| place(row, packed)).collect())
            .collect()
    }

    /// The share of positions that carry a token, over one epoch: 1 means no padding at all.
    pub fn efficiency(&mut self) -> f64 {
        let filled: u64 = self.spans.iter().map(|span| u64::from(*span)).sum();
        self.packed(0);
        let packed = self.epoch.as_ref().map_or(&[][..], |(_, packed)| packed);
        let positions: usize = match self.tokens {
            None => packed.len() * self.length,
            Some(_) => packed.iter().map(|batch| batch.len() * self.longest(batch)).sum(),
        };
        filled as f64 / positions as f64
    }

    /// Rows a batch has.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Positions a row has.
    pub fn length(&self) -> usize {
        self.length
    }

    fn epoch_of_row(&mut self, number: u64) -> u64 {
        while self.starts.last().is_some_and(|start| *start <= number) {
            let epoch = self.starts.len() as u64 - 1;
            let end = self.starts[epoch as usize] + self.packed(epoch).len() as u64;
            self.starts.push(end);
        }
        self.starts.partition_point(|start| *start <= number) as u64 - 1
    }

    fn packed(&mut self, epoch: u64) -> &[PackedRow] {
        if self.epoch.as_ref().is_none_or(|(known, _)| *known != epoch) {
            let mut order: Vec<u32> = (0..self.spans.len() as u32).collect();
            Stream::new("examples", self.seed, epoch).shuffle(&mut order);
            let mut rows = self.lay(&order);
            // The rows begun last are the emptiest: shuffled, they do not all fall into the epoch's last steps.
            Stream::new("rows", self.seed, epoch).shuffle(&mut rows);
            self.epoch = Some((epoch, rows));
        }
        self.epoch.as_ref().map_or(&[], |(_, rows)| rows)
    }

    /// Neighbours in length go together, those of equal length in their order, until a batch is full.
    fn lay_by_tokens(&self, order: &[u32], tokens: usize) -> Vec<PackedRow> {
        let mut order = order.to_vec();
        order.sort_by_key(|example| self.spans[*example as usize]);
        let mut batches: Vec<PackedRow> = Vec::new();
        for example in order {
            // Ascending, so this example is the longest so far.
            let span = self.spans[example as usize] as usize;
            match batches.last_mut().filter(|batch| (batch.len() + 1) * span <= tokens) {
                Some(batch) => batch.push((example, 0)),
                None => batches.push(vec![(example, 0)]),
            }
        }
        batches
    }

    /// Best fit: each example goes into the row with the least room that is enough.
    fn lay(&self, order: &[u32]) -> Vec<PackedRow> {
        if let Some(tokens) = self.tokens {
            return self.lay_by_tokens(order, tokens);
        }
        if !self.pack {
            return order.iter().map(|example| vec![(*example, 0)]).collect();
        }
        let length = self.length as u32;
        let mut rows: Vec<PackedRow> = Vec::new();
        // Room left → the rows that have it.
        let mut open: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for example in order {
            let span = self.spans[*example as usize];
            let best = open.range(span..).next().map(|(room, _)| *room);
            let (room, row) = match best.and_then(|room| Some((room, open.get_mut(&room)?.pop()?))) {
                Some((room, row)) => {
                    if open.get(&room).is_some_and(Vec::is_empty) {
                        open.remove(&room);
                    }
                    (room, row)
                }
                None => {
                    rows.push(Vec::new());
                    (length, rows.len() - 1)
                }
            };
            rows[row].push((*example, length - room));
            if room > span {
                open.entry(room - span).or_default().push(row);
            }
        }
        rows
    }
}

/// A batch made by tokens: one example a row.
fn rows_of(batch: &PackedRow) -> impl Iterator<Item = Placement> + '_ {
    batch.iter().enumerate().map(|(row, (example, _))| Placement { row, offset: 0, example: *example as usize })
}

fn place(row: usize, packed: &PackedRow) -> impl Iterator<Item = Placement> + '_ {
    packed.iter().map(move |(example, offset)| Placement { row, offset: *offset as usize, example: *example as usize })
}

impl Batch {
    /// Lays examples into the arrays; `example(place)` gives an example by its number.
    pub fn build<'a>(
        rows: usize,
        length: usize,
        placements: &[Placement],
        mut example: impl FnMut(usize) -> DataResult<Cow<'a, Example>>,
    ) -> DataResult<Self> {
        let size = rows * length;
        let mut batch = Self {
            rows,
            length,
            inputs: vec![0; size],
            targets: vec![0; size],
            scored: vec![false; size],
            segments: vec![0; size],
            positions: vec![0; size],
            placements: placements.to_vec(),
        };
        let mut segments = vec![0; rows];
        for Placement { row, offset, example: place } in placements {
            let example = example(*place)?;
            let span = example.tokens.len().saturating_sub(1);
            if *row >= rows || offset + span > length {
                return Err(DataError::invalid(
                    format!("example {place} with {} tokens does not fit where the plan puts it", span + 1),
                    "the plan was made from other examples",
                ));
            }
            segments[*row] += 1;
            let start = row * length + offset;
            let end = start + span;
            batch.inputs[start..end].copy_from_slice(&example.tokens[..span]);
            batch.targets[start..end].copy_from_slice(&example.tokens[1..]);
            batch.scored[start..end].copy_from_slice(&example.scored[1..]);
            batch.segments[start..end].fill(segments[*row]);
            batch.positions[start..end].iter_mut().zip(0..).for_each(|(position, i)| *position = i);
        }
        Ok(batch)
    }

    /// How many predictions count: what a mean loss is divided by.
    pub fn scored_tokens(&self) -> usize {
        self.scored.iter().filter(|scored| **scored).count()
    }

    /// How many positions carry a token.
    pub fn tokens(&self) -> usize {
        self.segments.iter().filter(|segment| **segment != 0).count()
    }

    /// What a training step reads of the batch, as a hash for trajectory keys: `blake3("stillhouse/batch/1\0" ‖ rows
    /// u64 ‖ length u64 ‖ inputs ‖ targets ‖ segments, each u32 little-endian ‖ scored as bytes)`.
    pub fn digest(&self) -> [u8; 32] {
        let Self { rows, length, inputs, targets, scored, segments, positions: _, placements: _ } = self;
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"stillhouse/batch/1\0");
        hasher.update(&(*rows as u64).to_le_bytes());
        hasher.update(&(*length as u64).to_le_bytes());
        let mut bytes = Vec::with_capacity(inputs.len() * 4);
        for numbers in [inputs, targets, segments] {
            bytes.clear();
            numbers.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
            hasher.update(&bytes);
        }
        bytes.clear();
        bytes.extend(scored.iter().map(|scored| u8::from(*scored)));
        hasher.update(&bytes);
        *hasher.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests;
