//! Sets of tokens, coded near what they tell: the order of a set tells nothing, a frequent token little, and one that a
//! sequence has named before less than a new one.
//!
//! Every token has a weight, its share of a line from 0 to the sum of all. A set of n is coded as n points on the line in
//! ascending order, each as the least of those that are left: that the least of n points lies beyond a share x of
//! what remains has probability `(1 − x)ⁿ`. With the weights `−ln(1 − p)` of tokens that are in a set with probability p, that is the
//! information of independent choices, given their number. All of it in whole numbers.

use super::range_coder::{RangeDecoder, RangeEncoder};

/// What a token weighs more for each time that its sequence named it.
pub(super) const NAMED: u64 = 4096;
/// Out of this many, the parts of a symbol's range that follow the weights; beside it every token has one.
const SCALE: u64 = 1 << 31;

/// The weights of a vocabulary, with their running sums in a tree (Fenwick, 1994, "A new data structure for cumulative
/// frequency tables").
#[derive(Debug, Clone)]
pub(super) struct TokenWeights {
    /// Place `i` (from 1) holds the sum of the weights of the `i & −i` tokens up to token `i − 1`.
    tree: Vec<u64>,
    total: u64,
    /// The largest power of two that is not above the number of tokens.
    top: usize,
}

/// Where a set's next token may lie.
struct Remaining {
    /// The first token that may be next.
    first: u32,
    /// Weight of the tokens before it.
    before: u64,
    /// Weight from it on.
    rest: u64,
    /// 2⁶³ / rest, for shares without a division each.
    inverse: u64,
    /// Tokens that are left.
    count: u32,
}

impl Remaining {
    fn new(weights: &TokenWeights, first: u32, before: u64, count: u32) -> Self {
        let rest = (weights.total - before).max(1);
        Self { first, before, rest, inverse: (1 << 63) / rest, count }
    }

    /// Parts of the symbol's range.
    fn total(&self, weights: &TokenWeights) -> u64 {
        SCALE + (weights.len() as u64 - u64::from(self.first))
    }

    /// Parts that stand for tokens below `token`, before which lies the weight `before`.
    fn below(&self, token: usize, before: u64) -> u64 {
        let beyond = self.rest.saturating_sub(before - self.before);
        let share = (beyond.wrapping_mul(self.inverse) >> 31).min(1 << 32);
        SCALE - (power(share, self.count) >> 1) + (token as u64 - u64::from(self.first))
    }
}

/// A power of a share out of 2³². Rounds down at every step, so a smaller share never has a larger power.
fn power(share: u64, exponent: u32) -> u64 {
    let (mut result, mut square, mut exponent) = (1u64 << 32, share, exponent);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = times(result, square);
        }
        square = times(square, square);
        exponent >>= 1;
    }
    result
}

fn times(a: u64, b: u64) -> u64 {
    // 2³² · 2³² does not fit; one of them being the whole, the other is the product.
    if a >> 32 != 0 {
        b
    } else if b >> 32 != 0 {
        a
    } else {
        (a * b) >> 32
    }
}

impl TokenWeights {
    /// One weight, not 0, a token.
    pub(super) fn new(weights: impl ExactSizeIterator<Item = u64>) -> Self {
        let length = weights.len();
        let mut tree = vec![0; length + 1];
        let mut total = 0;
        for (place, weight) in (1..).zip(weights) {
            tree[place] += weight;
            total += weight;
            let parent = place + (place & place.wrapping_neg());
            if parent <= length {
                tree[parent] += tree[place];
            }
        }
        Self { tree, total, top: if length == 0 { 0 } else { 1 << length.ilog2() } }
    }

    /// Number of tokens.
    pub(super) fn len(&self) -> usize {
        self.tree.len() - 1
    }

    /// Weight of the tokens below one.
    fn before(&self, token: usize) -> u64 {
        let (mut place, mut sum) = (token, 0);
        while place > 0 {
            sum += self.tree[place];
            place &= place - 1;
        }
        sum
    }

    /// Makes a token more likely to be named again.
    fn name(&mut self, token: u32) {
        let mut place = token as usize + 1;
        while place < self.tree.len() {
            self.tree[place] += NAMED;
            place += place & place.wrapping_neg();
        }
        self.total += NAMED;
    }

    /// Writes a set: tokens in ascending order, none twice, all of the vocabulary.
    pub(super) fn encode(&mut self, tokens: impl ExactSizeIterator<Item = u32> + Clone, coder: &mut RangeEncoder) {
        let mut left = Remaining::new(self, 0, 0, tokens.len() as u32);
        for token in tokens.clone() {
            let (start, end) = (self.before(token as usize), self.before(token as usize + 1));
            let (low, high) = (left.below(token as usize, start), left.below(token as usize + 1, end));
            coder.encode(low, high - low, left.total(self));
            left = Remaining::new(self, token + 1, end, left.count - 1);
        }
        tokens.for_each(|token| self.name(token));
    }

    /// Reads a set of `count` tokens; none where the bytes can't be one.
    pub(super) fn decode(&mut self, count: usize, coder: &mut RangeDecoder<'_>, tokens: &mut Vec<u32>) -> Option<()> {
        let begin = tokens.len();
        let mut left = Remaining::new(self, 0, 0, u32::try_from(count).ok()?);
        for _ in 0..count {
            if left.first as usize >= self.len() {
                return None;
            }
            let point = coder.peek(left.total(self));
            let (token, start) = self.find(&left, point);
            let end = self.before(token + 1);
            let (low, high) = (left.below(token, start), left.below(token + 1, end));
            coder.take(low, high - low);
            let token = token as u32;
            tokens.push(token);
            left = Remaining::new(self, token + 1, end, left.count - 1);
        }
        (begin..tokens.len()).for_each(|place| self.name(tokens[place]));
        Some(())
    }

    /// The token whose parts a point lies in, with the weight before it: the last one with no more parts below it.
    fn find(&self, left: &Remaining, point: u64) -> (usize, u64) {
        let (mut token, mut before, mut step) = (0, 0, self.top);
        while step > 0 {
            let next = token + step;
            if next < self.len() {
                let sum = before + self.tree[next];
                if next <= left.first as usize || left.below(next, sum) <= point {
                    (token, before) = (next, sum);
                }
            }
            step >>= 1;
        }
        (token, before)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn bytes(weights: &TokenWeights, sets: &[BTreeSet<u32>]) -> Vec<u8> {
        let (mut weights, mut coder) = (weights.clone(), RangeEncoder::new());
        sets.iter().for_each(|set| weights.encode(set.iter().copied().collect::<Vec<_>>().into_iter(), &mut coder));
        coder.finish()
    }

    proptest! {
        #[test]
        fn sets_read_back(
            weights in prop::collection::vec(1u64..1_000_000, 1..400),
            sets in prop::collection::vec(prop::collection::btree_set(0u32..400, 0..60), 1..9),
        ) {
            let weights = TokenWeights::new(weights.into_iter());
            let sets: Vec<BTreeSet<u32>> =
                sets.into_iter().map(|set| set.into_iter().map(|id| id % weights.len() as u32).collect()).collect();
            let bytes = bytes(&weights, &sets);
            let (mut reading, mut coder) = (weights, RangeDecoder::new(&bytes));
            for set in sets {
                let mut tokens = Vec::new();
                reading.decode(set.len(), &mut coder, &mut tokens).unwrap();
                prop_assert_eq!(tokens, set.into_iter().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_set_of_equals_takes_what_its_choice_tells() {
        let weights = TokenWeights::new(vec![4096; 50_000].into_iter());
        let set: BTreeSet<u32> = (0..50).map(|i| i * i * 19 + i * 7).collect();
        // log2 of 50,000 choose 50, in bytes: 71.0. Choosing with the chance to choose again costs a little more.
        let taken = bytes(&weights, &[set]).len();
        assert!((70..=73).contains(&taken), "{taken}");
    }

    #[test]
    fn what_was_named_before_is_cheap() {
        let weights = TokenWeights::new(vec![10; 50_000].into_iter());
        let set: BTreeSet<u32> = (0..50).map(|i| i * 800).collect();
        let (once, twice) =
            (bytes(&weights, std::slice::from_ref(&set)).len(), bytes(&weights, &[set.clone(), set.clone()]).len());
        assert!(twice < once + 25, "{once} then {twice}");
    }

    #[test]
    fn the_rarest_token_at_the_end_of_the_line_is_still_a_token() {
        let mut heavy = vec![1 << 40; 300];
        heavy[299] = 1;
        let weights = TokenWeights::new(heavy.into_iter());
        let only_last: BTreeSet<u32> = [299].into();
        let bytes = bytes(&weights, &[only_last]);
        let mut tokens = Vec::new();
        weights.clone().decode(1, &mut RangeDecoder::new(&bytes), &mut tokens).unwrap();
        assert_eq!(tokens, [299]);
    }
}
