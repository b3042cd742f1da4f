//! Levels as symbols, and how likely each is: what the file's positions looked like, and what this one looks like so far.

use super::range_coder::{RangeDecoder, RangeEncoder};

/// Symbols of levels: [`ABOVE`] above the grids' border, from rarest to commonest, then the border and below.
pub(super) const SYMBOLS: usize = ABOVE + 128;
/// Symbols of levels above the border.
const ABOVE: usize = 64;
/// Levels above the border that have a symbol of their own; beyond, four share an octave, and the rest is bits.
const SINGLE: u32 = 16;

/// Weight of what a file's positions looked like, beside the tokens of one position.
const PRIOR: u64 = 22_528;
/// What a token of the same position weighs, over its own symbol and its neighbours: 2,816 in all.
const SEEN: [u64; 5] = [256, 640, 1024, 640, 256];

/// A level's symbol, the number of bits that follow it and the bits.
fn symbol(level: i32) -> (usize, u32, u32) {
    if level >= 0 {
        return (ABOVE + (level as usize).min(SYMBOLS - ABOVE - 1), 0, 0);
    }
    let above = level.unsigned_abs();
    if above < SINGLE {
        return (ABOVE - above as usize, 0, 0);
    }
    let octave = above.ilog2();
    let bits = octave - 2;
    let class = SINGLE + (octave - 4) * 4 + (above >> bits & 3);
    ((ABOVE as u32).saturating_sub(class).max(1) as usize, bits, above & ((1 << bits) - 1))
}

/// A symbol's first level, and the number of bits that follow it.
fn first_level(symbol: usize) -> (i32, u32) {
    if symbol >= ABOVE {
        return ((symbol - ABOVE) as i32, 0);
    }
    let class = (ABOVE - symbol) as u32;
    if class < SINGLE {
        return (-(class as i32), 0);
    }
    let octave = 4 + (class - SINGLE) / 4;
    let bits = octave - 2;
    (-(((4 + (class - SINGLE) % 4) << bits) as i32), bits)
}

/// The level of a symbol, whose bits follow.
pub(super) fn level_of(symbol: usize, coder: &mut RangeDecoder<'_>) -> i32 {
    let (first, bits) = first_level(symbol);
    let low = if bits > 0 { coder.decode_bits(bits) as i32 } else { 0 };
    first - low
}

/// The symbol of a level alone, for counting.
pub(super) fn symbol_of(level: i32) -> usize {
    symbol(level).0
}

/// A distribution over a few symbols that follows what it sees.
#[derive(Debug, Clone)]
pub(super) struct Frequencies {
    weights: Vec<u64>,
    total: u64,
}

impl Frequencies {
    /// From weights, scaled to [`PRIOR`]; no symbol is ruled out.
    pub(super) fn new(weights: impl Iterator<Item = u64> + Clone) -> Self {
        let sum = weights.clone().sum::<u64>().max(1);
        let weights: Vec<u64> = weights.map(|weight| (weight * PRIOR / sum).max(1)).collect();
        let total = weights.iter().sum();
        Self { weights, total }
    }

    pub(super) fn encode(&self, symbol: usize, coder: &mut RangeEncoder) {
        coder.encode(self.weights[..symbol].iter().sum(), self.weights[symbol], self.total);
    }

    pub(super) fn decode(&self, coder: &mut RangeDecoder<'_>) -> usize {
        let point = coder.peek(self.total);
        let (mut symbol, mut start) = (0, 0);
        while start + self.weights[symbol] <= point {
            start += self.weights[symbol];
            symbol += 1;
        }
        coder.take(start, self.weights[symbol]);
        symbol
    }

    /// A symbol was seen: it and its neighbours become likelier.
    pub(super) fn see(&mut self, symbol: usize) {
        for (offset, more) in SEEN.iter().enumerate() {
            if let Some(weight) =
                (symbol + offset).checked_sub(SEEN.len() / 2).and_then(|place| self.weights.get_mut(place))
            {
                *weight += more;
                self.total += more;
            }
        }
    }

    /// A symbol was seen, which tells nothing of its neighbours. Halves all once they are large, so that what is long ago
    /// counts less.
    pub(super) fn see_alone(&mut self, symbol: usize) {
        self.weights[symbol] += 2_816;
        self.total += 2_816;
        if self.total > 1 << 20 {
            self.weights.iter_mut().for_each(|weight| *weight = weight.div_ceil(2));
            self.total = self.weights.iter().sum();
        }
    }

    /// Writes a level's symbol, `offset` symbols further on, and its bits; gives the symbol.
    pub(super) fn encode_level(&self, level: i32, offset: usize, coder: &mut RangeEncoder) -> usize {
        let (symbol, bits, low) = symbol(level);
        self.encode(symbol + offset, coder);
        if bits > 0 {
            coder.encode_bits(low, bits);
        }
        symbol
    }

    /// Reads a level, and its symbol.
    pub(super) fn decode_level(&self, coder: &mut RangeDecoder<'_>) -> (usize, i32) {
        let symbol = self.decode(coder);
        (symbol, level_of(symbol, coder))
    }
}

/// Whole numbers of which small ones and those seen before are likely: the number of bits as a symbol, then the bits
/// under the first.
#[derive(Debug, Clone)]
pub(super) struct Numbers {
    lengths: Frequencies,
}

impl Numbers {
    pub(super) fn new() -> Self {
        Self { lengths: Frequencies::new((0..33u32).map(|length| 1 << (16 - length.min(16)))) }
    }

    pub(super) fn encode(&mut self, number: u32, coder: &mut RangeEncoder) {
        let length = u32::BITS - number.leading_zeros();
        self.lengths.encode(length as usize, coder);
        self.lengths.see_alone(length as usize);
        if length > 1 {
            coder.encode_bits(number & !(1 << (length - 1)), length - 1);
        }
    }

    pub(super) fn decode(&mut self, coder: &mut RangeDecoder<'_>) -> u32 {
        let length = self.lengths.decode(coder) as u32;
        self.lengths.see_alone(length as usize);
        match length {
            0 | 1 => length,
            _ => 1 << (length - 1) | coder.decode_bits(length - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_has_a_symbol_and_comes_back() {
        let uniform = Frequencies::new((0..SYMBOLS).map(|_| 1));
        let levels: Vec<i32> = (-40_000..128).collect();
        let mut coder = RangeEncoder::new();
        for level in &levels {
            assert_eq!(uniform.encode_level(*level, 0, &mut coder), symbol_of(*level));
        }
        let bytes = coder.finish();
        let mut coder = RangeDecoder::new(&bytes);
        for level in levels {
            assert_eq!(uniform.decode_level(&mut coder), (symbol_of(level), level));
        }
    }

    #[test]
    fn numbers_come_back_and_the_same_one_again_costs_little() {
        let numbers = [0, 1, 2, 3, 64, 64, 64, u32::MAX, 1 << 20];
        let (mut coder, mut model) = (RangeEncoder::new(), Numbers::new());
        numbers.iter().for_each(|number| model.encode(*number, &mut coder));
        let bytes = coder.finish();
        let (mut coder, mut model) = (RangeDecoder::new(&bytes), Numbers::new());
        assert_eq!(numbers.map(|_| model.decode(&mut coder)), numbers);
    }
}
