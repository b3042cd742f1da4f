//! What a file's first positions looked like: which tokens teachers name, and in which levels. It is kept once a file; each
//! sequence begins with it and learns on from there.

use super::levels::{Frequencies, SYMBOLS, symbol_of};
use super::quantiser::{Quantised, STEPS};
use super::range_coder::{RangeDecoder, RangeEncoder};
use super::token_set::{NAMED, TokenWeights};

/// How many positions of a sequence the file's positions weigh as much as.
const STRENGTH: f64 = 20.0;
/// Weight of a symbol that was seen once.
const ONCE: u64 = 64;
/// What all steps together weigh beside a step's own levels, in levels.
const OTHERS: u64 = 200;
/// Codes of a weight: code `c` is 2^(c/4), rounded down to a whole number.
const CODES: usize = 96;
/// 2^(0/4) … 2^(3/4) in 1/65,536.
const QUARTERS: [u64; 4] = [65_536, 77_936, 92_682, 110_218];
/// Code of tokens that a file without a model of its own begins with.
const UNKNOWN: u8 = 40;

/// The model as it is kept: codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Model {
    /// One a token.
    tokens: Vec<u8>,
    /// One a step.
    steps: Vec<u8>,
    /// One a symbol of what is outside, 0 standing for nothing.
    rests: Vec<u8>,
    /// By step, one a symbol.
    levels: Vec<Vec<u8>>,
}

/// The model as a sequence begins with it.
#[derive(Debug, Clone)]
pub(super) struct Beginning {
    pub(super) tokens: TokenWeights,
    pub(super) steps: Frequencies,
    pub(super) rests: Frequencies,
    pub(super) levels: Vec<Frequencies>,
}

impl Model {
    /// Nothing known.
    pub(super) fn blank(vocabulary: u32) -> Self {
        Self {
            tokens: vec![UNKNOWN; vocabulary as usize],
            steps: vec![0; STEPS],
            rests: vec![0; SYMBOLS + 1],
            levels: vec![vec![0; SYMBOLS]; STEPS],
        }
    }

    /// From positions.
    pub(super) fn learn<'a>(vocabulary: u32, positions: impl Iterator<Item = &'a Quantised>) -> Self {
        let mut tokens = vec![0u32; vocabulary as usize];
        let mut steps = [0u32; STEPS];
        let mut rests = vec![0u32; SYMBOLS + 1];
        let mut levels = vec![vec![0u32; SYMBOLS]; STEPS];
        let mut count = 0u32;
        for position in positions {
            count += 1;
            steps[position.step as usize] += 1;
            rests[position.rest.map_or(0, |level| symbol_of(level) + 1)] += 1;
            for (token, level) in &position.tokens {
                tokens[*token as usize] += 1;
                levels[position.step as usize][symbol_of(*level)] += 1;
            }
        }
        let named = |times: &u32| {
            let share = ((f64::from(*times) + 0.2) / (f64::from(count) + 0.4)).min(0.98);
            code(-libm::log(1.0 - share) * STRENGTH * NAMED as f64)
        };
        let times = |times: &u32| code(f64::from(*times) * ONCE as f64);
        Self {
            tokens: tokens.iter().map(named).collect(),
            steps: steps.iter().map(times).collect(),
            rests: rests.iter().map(times).collect(),
            levels: levels.iter().map(|levels| levels.iter().map(times).collect()).collect(),
        }
    }

    pub(super) fn beginning(&self) -> Beginning {
        let weights = |codes: &[u8]| codes.iter().map(|code| weight(*code)).collect::<Vec<u64>>();
        let frequencies = |codes: &[u8]| Frequencies::new(weights(codes).into_iter());
        // A step that is rare is taken to look like all steps together.
        let mut all = vec![0; SYMBOLS];
        for levels in &self.levels {
            all.iter_mut().zip(weights(levels)).for_each(|(all, own)| *all += own);
        }
        let sum: u64 = all.iter().sum();
        let blended = |codes: &Vec<u8>| {
            let weights: Vec<u64> =
                weights(codes).into_iter().zip(&all).map(|(own, all)| own + OTHERS * ONCE * all / sum).collect();
            Frequencies::new(weights.into_iter())
        };
        Beginning {
            tokens: TokenWeights::new(weights(&self.tokens).into_iter()),
            steps: frequencies(&self.steps),
            rests: frequencies(&self.rests),
            levels: self.levels.iter().map(blended).collect(),
        }
    }

    /// Its bytes: all codes, tokens and the others each with frequencies that follow what they see.
    pub(super) fn write(&self) -> Vec<u8> {
        let mut coder = RangeEncoder::new();
        let (mut of_tokens, mut of_others) = (alike(), alike());
        let Self { tokens, steps, rests, levels } = self;
        let mut write = |seen: &mut Frequencies, code: &u8| {
            seen.encode(*code as usize, &mut coder);
            seen.see_alone(*code as usize);
        };
        tokens.iter().for_each(|code| write(&mut of_tokens, code));
        let others = steps.iter().chain(rests).chain(levels.iter().flatten());
        others.for_each(|code| write(&mut of_others, code));
        coder.finish()
    }

    /// What [`Model::write`] wrote.
    pub(super) fn read(vocabulary: u32, bytes: &[u8]) -> Self {
        let mut model = Self::blank(vocabulary);
        let mut coder = RangeDecoder::new(bytes);
        let (mut of_tokens, mut of_others) = (alike(), alike());
        let Self { tokens, steps, rests, levels } = &mut model;
        let mut read = |seen: &mut Frequencies, code: &mut u8| {
            *code = seen.decode(&mut coder) as u8;
            seen.see_alone(*code as usize);
        };
        tokens.iter_mut().for_each(|code| read(&mut of_tokens, code));
        let others = steps.iter_mut().chain(rests).chain(levels.iter_mut().flatten());
        others.for_each(|code| read(&mut of_others, code));
        model
    }
}

fn alike() -> Frequencies {
    Frequencies::new((0..CODES).map(|_| 1))
}

fn code(weight: f64) -> u8 {
    if weight <= 1.0 { 0 } else { libm::round(4.0 * libm::log2(weight)).min((CODES - 1) as f64) as u8 }
}

fn weight(code: u8) -> u64 {
    (QUARTERS[code as usize % 4] << (code / 4)) >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_reads_back_and_knows_what_it_saw() {
        let position = |tokens: &[u32]| Quantised {
            step: 5,
            rest: Some(3),
            tokens: tokens.iter().map(|token| (*token, *token as i32 - 20)).collect(),
        };
        let seen: Vec<Quantised> = (0..300).map(|i| position(&[3, 10 + i % 40])).collect();
        let model = Model::learn(1000, seen.iter());
        let bytes = model.write();
        assert_eq!(Model::read(1000, &bytes), model);
        assert!(bytes.len() < 600, "{}", bytes.len());
        assert!(model.tokens[3] > model.tokens[10] && model.tokens[10] > model.tokens[900]);
        assert!(model.tokens.iter().all(|code| weight(*code) > 0));
    }
}
