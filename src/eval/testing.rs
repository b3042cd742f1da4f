//! A model whose every distribution is written down, and small datasets, for this crate's tests.

use std::path::Path;

use stillhouse_data::example::{Example, ExampleReader, ExampleWriter, Row};
use stillhouse_data::lm::{Finish, GenerateRequest, Generated, LanguageModel, LmError, Watch};

/// Gives the log-probabilities of its script, by position; greedy generation follows them too.
pub struct Scripted {
    /// Log-probabilities for the token at `position + 1`; the last one is used for all further positions.
    pub by_position: Vec<Vec<f32>>,
    pub max_length: usize,
    /// Sequences given to each call of `score`.
    pub batches: Vec<usize>,
}

impl Scripted {
    pub fn from_logits(logits: &[Vec<f64>]) -> Self {
        let by_position = logits
            .iter()
            .map(|row| {
                let total: f64 = row.iter().map(|logit| logit.exp()).sum();
                row.iter().map(|logit| (logit - total.ln()) as f32).collect()
            })
            .collect();
        Self { by_position, max_length: 1_000, batches: Vec::new() }
    }

    pub fn uniform(vocabulary: usize) -> Self {
        Self::from_logits(&[vec![0.0; vocabulary]])
    }

    fn at(&self, position: usize) -> &[f32] {
        &self.by_position[position.min(self.by_position.len() - 1)]
    }
}

impl LanguageModel for Scripted {
    fn vocabulary(&self) -> usize {
        self.by_position[0].len()
    }

    fn max_length(&self) -> usize {
        self.max_length
    }

    fn device(&self) -> String {
        "cpu".to_owned()
    }

    fn score(&mut self, sequences: &[Vec<u32>], visit: &mut dyn FnMut(usize, usize, &[f32])) -> Result<(), LmError> {
        self.batches.push(sequences.len());
        let longest = sequences.iter().map(Vec::len).max().unwrap_or(0);
        // Position by position over all rows: rows interleave, as the contract allows.
        for position in 0..longest.saturating_sub(1) {
            for (row, _) in sequences.iter().enumerate().filter(|(_, sequence)| position + 1 < sequence.len()) {
                visit(row, position, self.at(position));
            }
        }
        Ok(())
    }

    fn generate(&mut self, requests: &[GenerateRequest], _: &mut Watch<'_>) -> Result<Vec<Generated>, LmError> {
        let continued = requests.iter().map(|request| {
            let mut tokens = Vec::new();
            let mut finish = Finish::Length;
            while tokens.len() < request.sampling.max_tokens {
                let next = crate::divergence::most_likely(self.at(request.prompt.len() + tokens.len() - 1)) as u32;
                tokens.push(next);
                if request.sampling.stop_ids.contains(&next) {
                    finish = Finish::Stop;
                    break;
                }
            }
            Generated { tokens, finish }
        });
        Ok(continued.collect())
    }
}

/// An example whose every token but the first is scored, four bytes each.
pub fn example(tokens: &[u32]) -> Example {
    let scored = (0..tokens.len()).map(|place| place > 0).collect();
    Example { tokens: tokens.to_vec(), scored, bytes: 4 * (tokens.len() as u64 - 1), source: 0 }
}

/// The readable row of an example, a prompt of one token.
pub fn row(line: u64, completion: &str, reference: Option<&str>) -> Row {
    Row {
        source: 0,
        line,
        prompt: None,
        sample: 0,
        messages: vec![stillhouse_data::prompt::Message::user("?")],
        completion: completion.to_owned(),
        reference: reference.map(str::to_owned),
        prompt_tokens: 1,
    }
}

/// Writes a part of a dataset and opens it.
pub fn write_part(folder: &Path, examples: &[Example]) -> ExampleReader {
    let mut writer = ExampleWriter::create(folder).unwrap();
    for (place, example) in examples.iter().enumerate() {
        writer.add(example, &row(place as u64 + 1, "x", None)).unwrap();
    }
    writer.finish().unwrap();
    ExampleReader::open(folder).unwrap()
}

/// Eight positions over four tokens, with reference values computed in `f64` by PyTorch.
pub mod fixture {
    use super::Example;

    pub const STUDENT_LOGITS: [[f64; 4]; 8] = [
        [1.125, -0.4102, -0.0879, -2.5],
        [0.2676, 0.3535, 0.8711, -1.4688],
        [-0.1084, 1.6641, 0.0084, 0.1196],
        [0.5, -0.6406, -0.2236, -1.5938],
        [-1.5312, -1.9219, 0.0, -0.5039],
        [-1.5391, 1.5312, 0.582, 0.2695],
        [-0.3887, 1.2188, 0.0, 0.6055],
        [0.5, 1.3828, 0.1309, -1.0312],
    ];
    #[expect(clippy::approx_constant, reason = "0.3926 is a logit like the others")]
    pub const TEACHER_LOGITS: [[f64; 4]; 8] = [
        [-0.0381, -1.2578, -1.2031, 0.0947],
        [-0.7852, 0.4492, 1.5547, 0.0972],
        [0.8203, 0.0012, 0.7656, 0.3477],
        [-1.5781, 0.4297, 0.5977, 0.3926],
        [1.5156, 0.1641, 2.0781, -0.7734],
        [-0.5898, 0.4453, -0.7969, 0.6328],
        [0.6289, -0.8359, 0.9258, 0.2109],
        [0.0006, 0.5195, 3.2344, -1.5781],
    ];

    /// A start token and the eight labels.
    pub fn example() -> Example {
        super::example(&[0, 0, 3, 3, 1, 1, 1, 1, 1])
    }
}
