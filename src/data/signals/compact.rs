//! Compact entries: which tokens, how likely in steps that a bound on the divergence chooses, both in an arithmetic code;
//! and targets that were drawn, with their counts, in the same code of tokens.

mod levels;
mod model;
mod quantiser;
mod range_coder;
mod token_set;

use levels::{Numbers, level_of};
use model::{Beginning, Model};
use quantiser::{Grid, Quantised, STEPS};
use range_coder::{RangeDecoder, RangeEncoder};
use stillhouse_stage::spec::{Config, Diagnostic, Diagnostics, Node};

use super::encoding::{Encoding, Form};
use super::layout::{Append, COMPACT, entry_head};
use super::{Precision, SequenceKey, TopK};
use crate::error::DataResult;

/// Positions from which a file's model is made, at most: they wait in memory meanwhile.
const MODEL_POSITIONS: usize = 32_768;
/// Tokens that may wait, at most.
const MODEL_TOKENS: usize = 4 << 20;
/// A model for fewer positions takes more than it saves.
const WORTH_A_MODEL: usize = 256;

/// Tokens and their probabilities in an arithmetic code, rounded as coarsely as a divergence allows.
#[derive(Clone, Debug, Config)]
#[config(check = sound)]
pub struct Compact {
    /// KL(exact ‖ kept) that rounding may cost a position, in nats: over the tokens that are kept and all others as one.
    #[config(default = 1e-3, max = 1.0)]
    pub kl: f64,
}

fn sound(config: &Compact, node: &Node, report: &mut Diagnostics) {
    // Finer than this, what a teacher computes in f32 is not exact itself.
    if config.kl < 1e-6 {
        report.push(
            Diagnostic::error(node.at, format!("`kl` is {:?}, less than 0.000001", config.kl))
                .hint("for exact values: `encoding = \"plain\"` with `precision = \"f32\"`"),
        );
    }
}

impl Encoding for Compact {
    fn form(&self, _: Precision) -> Form {
        Form::Compact { kl: self.kl }
    }
}

/// A distribution as a compact entry gives it back.
pub(super) fn reconstructed(exact: &TopK, vocabulary: u32, kl: f64) -> TopK {
    let mut out = TopK::default();
    read(&quantised(exact, vocabulary, kl), &mut out);
    out
}

/// A distribution in levels.
fn quantised(exact: &TopK, vocabulary: u32, kl: f64) -> Quantised {
    let whole = exact.ids.len() == vocabulary as usize;
    Quantised::of(&exact.ids, &exact.log_probs, whole, kl)
}

/// Most likely first, the lower id first among equals.
fn read(position: &Quantised, out: &mut TopK) {
    let mut order: Vec<(i32, u32, f32)> =
        position.tokens.iter().zip(position.log_probs()).map(|((id, level), log)| (*level, *id, log)).collect();
    order.sort_unstable_by_key(|(level, id, _)| (*level, *id));
    out.ids.clear();
    out.log_probs.clear();
    out.ids.extend(order.iter().map(|(_, id, _)| *id));
    out.log_probs.extend(order.iter().map(|(_, _, log_prob)| *log_prob));
}

/// What an entry holds, decoded.
#[derive(Debug, Clone)]
pub(super) enum Decoded {
    /// Distributions.
    Levels(Vec<Quantised>),
    /// Tokens that were drawn, with their counts, of so many draws.
    Drawn(u32, Vec<Vec<(u32, u32)>>),
}

impl Decoded {
    /// Distributions in levels.
    pub(super) fn of(positions: &[TopK], vocabulary: u32, kl: f64) -> Self {
        Self::Levels(positions.iter().map(|position| quantised(position, vocabulary, kl)).collect())
    }

    /// Draws, of which a position holds the shares.
    pub(super) fn of_draws(positions: &[TopK], samples: u32) -> Self {
        let counts = |position: &TopK| {
            let share = |log_prob: &f32| libm::round(libm::exp(f64::from(*log_prob)) * f64::from(samples)) as u32;
            let mut counts: Vec<_> = position
                .ids
                .iter()
                .copied()
                .zip(position.log_probs.iter().map(share))
                .filter(|(_, count)| *count > 0)
                .collect();
            counts.sort_unstable();
            counts
        };
        Self::Drawn(samples, positions.iter().map(counts).collect())
    }

    /// Number of positions.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Levels(positions) => positions.len(),
            Self::Drawn(_, positions) => positions.len(),
        }
    }

    /// The same with no more than so many positions.
    pub(super) fn first(&self, positions: usize) -> Self {
        let mut first = self.clone();
        match &mut first {
            Self::Levels(all) => all.truncate(positions),
            Self::Drawn(_, all) => all.truncate(positions),
        }
        first
    }

    /// A position as losses read it.
    pub(super) fn read(&self, place: usize, out: &mut TopK) {
        match self {
            Self::Levels(positions) => read(&positions[place], out),
            Self::Drawn(samples, positions) => {
                let mut counts = positions[place].clone();
                counts.sort_unstable_by_key(|(id, count)| (std::cmp::Reverse(*count), *id));
                out.ids.clear();
                out.log_probs.clear();
                out.ids.extend(counts.iter().map(|(id, _)| *id));
                let log = |count: u32| libm::log(f64::from(count) / f64::from(*samples)) as f32;
                out.log_probs.extend(counts.iter().map(|(_, count)| log(*count)));
            }
        }
    }

    fn tokens(&self) -> usize {
        match self {
            Self::Levels(positions) => positions.iter().map(|position| position.tokens.len()).sum(),
            Self::Drawn(_, positions) => positions.iter().map(Vec::len).sum(),
        }
    }

    fn encode(&self, beginning: &Beginning) -> Vec<u8> {
        let mut coder = RangeEncoder::new();
        let (mut tokens, mut steps, mut rests) =
            (beginning.tokens.clone(), beginning.steps.clone(), beginning.rests.clone());
        let (mut counts, mut numbers) = (Numbers::new(), Numbers::new());
        match self {
            Self::Levels(positions) => {
                for Quantised { step, rest, tokens: said } in positions {
                    counts.encode(said.len() as u32, &mut coder);
                    if said.is_empty() {
                        continue;
                    }
                    steps.encode(*step as usize, &mut coder);
                    steps.see_alone(*step as usize);
                    let symbol = match rest {
                        None => {
                            rests.encode(0, &mut coder);
                            0
                        }
                        Some(level) => rests.encode_level(*level, 1, &mut coder) + 1,
                    };
                    rests.see(symbol);
                    let ids: Vec<u32> = said.iter().map(|(id, _)| *id).collect();
                    tokens.encode(ids.iter().copied(), &mut coder);
                    let mut levels = beginning.levels[*step as usize].clone();
                    for (_, level) in said {
                        let symbol = levels.encode_level(*level, 0, &mut coder);
                        levels.see(symbol);
                    }
                }
            }
            Self::Drawn(_, positions) => {
                for drawn in positions {
                    counts.encode(drawn.len() as u32, &mut coder);
                    let ids: Vec<u32> = drawn.iter().map(|(id, _)| *id).collect();
                    tokens.encode(ids.iter().copied(), &mut coder);
                    drawn.iter().for_each(|(_, count)| numbers.encode(count - 1, &mut coder));
                }
            }
        }
        coder.finish()
    }

    /// Reads distributions; none where the bytes can't be any.
    fn decode_levels(bytes: &[u8], positions: usize, beginning: &Beginning) -> Option<Self> {
        let mut coder = RangeDecoder::new(bytes);
        let (mut tokens, mut steps, mut rests) =
            (beginning.tokens.clone(), beginning.steps.clone(), beginning.rests.clone());
        let mut counts = Numbers::new();
        let mut all = Vec::new();
        let mut ids = Vec::new();
        for _ in 0..positions {
            let count = counts.decode(&mut coder) as usize;
            if count == 0 {
                all.push(Quantised::default());
                continue;
            }
            let step = steps.decode(&mut coder);
            steps.see_alone(step);
            let symbol = rests.decode(&mut coder);
            let rest = symbol.checked_sub(1).map(|symbol| level_of(symbol, &mut coder));
            rests.see(symbol);
            ids.clear();
            tokens.decode(count, &mut coder, &mut ids)?;
            let mut levels = beginning.levels[step].clone();
            let said = ids.iter().map(|id| {
                let (symbol, level) = levels.decode_level(&mut coder);
                levels.see(symbol);
                (*id, level)
            });
            let read = Quantised { step: step as u8, rest, tokens: said.collect() };
            let grid = Grid::of(read.step);
            let sound = read.tokens.iter().map(|(_, level)| *level).chain(rest).all(|level| grid.has(level));
            if !sound || coder.is_beyond_its_end() {
                return None;
            }
            all.push(read);
        }
        coder.is_at_its_end().then_some(Self::Levels(all))
    }

    /// Reads draws; none where the bytes can't be any.
    fn decode_draws(bytes: &[u8], positions: usize, samples: u32, beginning: &Beginning) -> Option<Self> {
        let mut coder = RangeDecoder::new(bytes);
        let mut tokens = beginning.tokens.clone();
        let (mut counts, mut numbers) = (Numbers::new(), Numbers::new());
        let mut all = Vec::new();
        let mut ids = Vec::new();
        for _ in 0..positions {
            let count = counts.decode(&mut coder) as usize;
            ids.clear();
            tokens.decode(count, &mut coder, &mut ids)?;
            let mut drawn = Vec::with_capacity(ids.len());
            for id in &ids {
                drawn.push((*id, numbers.decode(&mut coder).checked_add(1).filter(|count| *count <= samples)?));
            }
            if coder.is_beyond_its_end() {
                return None;
            }
            all.push(drawn);
        }
        coder.is_at_its_end().then_some(Self::Drawn(samples, all))
    }
}

/// What a file's compact entries are read with.
#[derive(Debug, Clone)]
pub(super) struct FileModel {
    beginning: Beginning,
}

impl FileModel {
    /// From its bytes; from no bytes the blank one.
    pub(super) fn read(vocabulary: u32, bytes: &[u8]) -> Self {
        let model = if bytes.is_empty() { Model::blank(vocabulary) } else { Model::read(vocabulary, bytes) };
        Self { beginning: model.beginning() }
    }

    /// An entry's payload: positions u32, draws u32 (0: distributions), then the code.
    pub(super) fn decode(&self, payload: &[u8], positions: usize) -> Option<Decoded> {
        let mut cursor = crate::mapped::Cursor::new(payload);
        // Said twice, so that a damaged index is found out before it is believed.
        if cursor.u32()? as usize != positions {
            return None;
        }
        let samples = cursor.u32()?;
        let code = cursor.take(payload.len() - 8)?;
        match samples {
            0 => Decoded::decode_levels(code, positions, &self.beginning),
            _ => Decoded::decode_draws(code, positions, samples, &self.beginning),
        }
    }
}

/// Writes compact entries: the first ones wait until there are enough of them to make the file's model from.
#[derive(Debug)]
pub(super) struct CompactCoder {
    vocabulary: u32,
    waiting: Vec<(SequenceKey, u32, Decoded)>,
    positions: usize,
    tokens: usize,
    beginning: Option<Beginning>,
    model: Vec<u8>,
}

impl CompactCoder {
    pub(super) fn new(vocabulary: u32) -> Self {
        Self { vocabulary, waiting: Vec::new(), positions: 0, tokens: 0, beginning: None, model: Vec::new() }
    }

    pub(super) fn add(
        &mut self,
        key: SequenceKey,
        first: u32,
        signal: Decoded,
        sink: &mut dyn Append,
    ) -> DataResult<()> {
        if let Some(beginning) = &self.beginning {
            return append(key, first, &signal, beginning, sink);
        }
        self.positions += signal.len();
        self.tokens += signal.tokens();
        self.waiting.push((key, first, signal));
        if self.positions >= MODEL_POSITIONS || self.tokens >= MODEL_TOKENS {
            self.begin(sink)?;
        }
        Ok(())
    }

    /// Writes what waits; gives the file's model.
    pub(super) fn finish(mut self, sink: &mut dyn Append) -> DataResult<Vec<u8>> {
        if self.beginning.is_none() {
            self.begin(sink)?;
        }
        Ok(self.model)
    }

    fn begin(&mut self, sink: &mut dyn Append) -> DataResult<()> {
        let model = if self.positions < WORTH_A_MODEL {
            Model::blank(self.vocabulary)
        } else {
            let model = self.learn();
            self.model = model.write();
            model
        };
        let beginning = self.beginning.insert(model.beginning());
        for (key, first, signal) in self.waiting.drain(..) {
            append(key, first, &signal, beginning, sink)?;
        }
        Ok(())
    }

    fn learn(&self) -> Model {
        let drawn: Vec<Quantised> = self.waiting.iter().flat_map(|(_, _, signal)| as_levels(signal)).collect();
        let levels = self.waiting.iter().flat_map(|(_, _, signal)| match signal {
            Decoded::Levels(positions) => positions.as_slice(),
            Decoded::Drawn(..) => &[],
        });
        Model::learn(self.vocabulary, levels.chain(&drawn))
    }
}

/// Draws, as a model learns which tokens they name.
fn as_levels(signal: &Decoded) -> Vec<Quantised> {
    let Decoded::Drawn(_, positions) = signal else { return Vec::new() };
    let tokens = |drawn: &Vec<(u32, u32)>| drawn.iter().map(|(id, _)| (*id, 0)).collect();
    positions.iter().map(|drawn| Quantised { step: STEPS as u8 - 1, rest: None, tokens: tokens(drawn) }).collect()
}

fn append(
    key: SequenceKey,
    first: u32,
    signal: &Decoded,
    beginning: &Beginning,
    sink: &mut dyn Append,
) -> DataResult<()> {
    let samples = match signal {
        Decoded::Levels(_) => 0,
        Decoded::Drawn(samples, _) => *samples,
    };
    let positions = signal.len() as u32;
    let mut record = entry_head(COMPACT, first);
    record.extend_from_slice(&positions.to_le_bytes());
    record.extend_from_slice(&samples.to_le_bytes());
    record.extend_from_slice(&signal.encode(beginning));
    sink.append(key, positions, &record)
}
