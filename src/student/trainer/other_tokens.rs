//! A micro-batch in the tokens of a teacher that has others: what it reads, and where its positions meet the student's.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;
use stillhouse_data::error::DataResult;
use stillhouse_data::retokenise::Retokenised;

use super::batch::MicroBatch;
use super::rewriter::Rewriter;
use crate::error::Result;
use crate::kernels::Visibility;
use crate::model::ModelInput;

/// The teacher's rows of a micro-batch.
#[derive(Debug, Clone)]
pub(super) struct OtherTokens {
    /// What it reads: the examples in their order, as many in a row as fit the longest, none sees another.
    pub input: ModelInput,
    /// Places in `input` of the positions that have a partner among the student's counted ones.
    pub places: Vec<i32>,
    /// Which of the counted positions these partners are, ascending.
    pub counted: Vec<u32>,
}

impl OtherTokens {
    /// Writes every example of a micro-batch in other tokens; none if no counted position has a partner.
    ///
    /// # Errors
    /// Text that the teacher's tokenizer has no tokens for.
    pub(super) fn of(micro: &MicroBatch<'_>, rewriter: &Rewriter) -> Result<Option<Self>> {
        let examples = examples(micro);
        let rewrite = |example: &Example| rewriter.rewrite(&example.tokens, &example.scored, example.comes_again);
        let rewritten: Vec<Arc<Retokenised>> = examples.par_iter().map(rewrite).collect::<DataResult<_>>()?;
        let mut ranks = vec![None; micro.input.tokens.len()];
        for (rank, place) in (0u32..).zip(&micro.counted) {
            ranks[*place as usize] = Some(rank);
        }
        // Of each example: its other tokens, and the pairs of a counted position and the one there that is comparable.
        let met = examples.iter().zip(rewritten).map(|(example, rewritten)| {
            let pairs = rewritten.partners.iter().enumerate().skip(1).filter_map(|(token, partner)| {
                // Position i predicts token i + 1, on both sides.
                Some((ranks[example.start + token - 1]?, (*partner)? - 1))
            });
            (pairs.collect::<Vec<(u32, usize)>>(), rewritten)
        });
        let met: Vec<_> = met.filter(|(pairs, _)| !pairs.is_empty()).collect();
        if met.is_empty() {
            return Ok(None);
        }
        let spans: Vec<usize> = met.iter().map(|(_, rewritten)| rewritten.tokens.len() - 1).collect();
        let (starts, rows, length) = lay(&spans);
        let size = rows * length;
        let (mut tokens, mut positions, mut segments) = (vec![0; size], vec![0; size], vec![0; size]);
        let (mut places, mut counted) = (Vec::new(), Vec::new());
        for (number, ((pairs, rewritten), start)) in met.iter().zip(starts).enumerate() {
            let span = spans[number];
            tokens[start..start + span].copy_from_slice(&rewritten.tokens[..span]);
            segments[start..start + span].fill(number as u32 + 1);
            positions[start..start + span].iter_mut().zip(0..).for_each(|(position, place)| *position = place);
            counted.extend(pairs.iter().map(|(rank, _)| *rank));
            places.extend(pairs.iter().map(|(_, place)| (start + place) as i32));
        }
        let visibility = Visibility::from_segments(&segments, rows, length);
        Ok(Some(Self { input: ModelInput { tokens, positions, visibility }, places, counted }))
    }
}

/// Where spans begin when they are laid into rows as long as the longest, one behind the other; how many rows that takes,
/// and their length.
fn lay(spans: &[usize]) -> (Vec<usize>, usize, usize) {
    let length = spans.iter().copied().max().unwrap_or(0);
    let (mut row, mut filled) = (0, 0);
    let start = |span: &usize| {
        if filled + span > length {
            (row, filled) = (row + 1, 0);
        }
        filled += span;
        row * length + filled - span
    };
    let starts = spans.iter().map(start).collect();
    (starts, row + 1, length)
}

/// An example as it lies in a micro-batch.
#[derive(Debug, PartialEq)]
struct Example {
    /// Place in the micro-batch of the position that reads its first token.
    start: usize,
    /// Its tokens, the last of which is predicted and never read.
    tokens: Vec<u32>,
    /// Whether each is scored.
    scored: Vec<bool>,
    /// Whether it lies there as the data has it, so that a later step may read it again. What the student wrote does not.
    comes_again: bool,
}

/// The examples of a micro-batch in the order in which they lie there. They are found by their borders: where the student
/// wrote a text itself, the row is not what was laid into it.
fn examples(micro: &MicroBatch<'_>) -> Vec<Example> {
    let batch = micro.step;
    let first = micro.rows.start * batch.length;
    let laid: BTreeSet<usize> =
        batch.placements.iter().map(|placement| placement.row * batch.length + placement.offset).collect();
    let of_row = |row: usize| {
        let mut examples = Vec::new();
        let end = (row + 1) * batch.length;
        let mut start = row * batch.length;
        while start < end {
            let same = batch.segments[start..end].iter().take_while(|segment| **segment == batch.segments[start]);
            let places: Range<usize> = start..start + same.count();
            if batch.segments[start] != 0 {
                let mut tokens = batch.inputs[places.clone()].to_vec();
                tokens.push(batch.targets[places.end - 1]);
                let scored = std::iter::once(false).chain(batch.scored[places.clone()].iter().copied()).collect();
                examples.push(Example { start: start - first, tokens, scored, comes_again: laid.contains(&start) });
            }
            start = places.end;
        }
        examples
    };
    micro.rows.clone().flat_map(of_row).collect()
}

#[cfg(test)]
mod tests {
    use stillhouse_data::batch::{Batch, Placement};

    use super::super::batch::StepBatch;
    use super::*;
    use crate::loss::Teacher;

    #[test]
    fn spans_go_into_rows_of_the_longest_in_their_order() {
        assert_eq!(lay(&[3, 5, 2, 3, 1]), (vec![0, 5, 10, 12, 15], 4, 5));
        assert_eq!(lay(&[4]), (vec![0], 1, 4));
    }

    #[test]
    fn examples_are_found_in_packed_rows_whichever_part_of_the_step_they_are_in() {
        let step = StepBatch {
            batch: Batch {
                rows: 2,
                length: 5,
                inputs: vec![1, 2, 11, 12, 13, 21, 22, 23, 0, 0],
                targets: vec![2, 3, 12, 13, 14, 22, 23, 24, 0, 0],
                scored: vec![false, true, true, true, true, false, false, true, false, false],
                segments: vec![1, 1, 2, 2, 2, 1, 1, 1, 0, 0],
                positions: vec![0, 1, 0, 1, 2, 0, 1, 2, 0, 0],
                placements: vec![Placement { row: 0, offset: 2, example: 7 }],
            },
            teacher: Teacher::default(),
        };
        let whole = step.micro_batches(2).next().map(|micro| examples(&micro)).unwrap();
        let [one, two, three] = &whole[..] else { panic!("{whole:?}") };
        assert_eq!((one.start, &one.tokens, &one.scored), (0, &vec![1, 2, 3], &vec![false, false, true]));
        assert_eq!((two.start, &two.tokens, two.scored.len()), (2, &vec![11, 12, 13, 14], 4));
        assert_eq!((three.start, &three.tokens), (5, &vec![21, 22, 23, 24]));
        assert_eq!([one, two, three].map(|example| example.comes_again), [false, true, false]);
        let second = step.micro_batches(1).nth(1).map(|micro| examples(&micro)).unwrap();
        assert_eq!((second.len(), second[0].start, &second[0].tokens), (1, 0, &three.tokens));
    }
}
