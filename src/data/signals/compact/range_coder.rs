//! An arithmetic coder over 64-bit ranges (Martin, 1979, "Range encoding: an algorithm for removing redundancy from a
//! digitised message"), with integers only, so that what one machine wrote every other reads.
//!
//! A symbol is a part `[start, start + size)` of `[0, total)`. The state is an interval `[low, low + range)` of 64-bit
//! fractions; a symbol narrows it to its part, and leading bytes that can no longer change are written. A decoder
//! looks eight bytes ahead and reads zeros behind the end.

/// The interval is widened by a byte whenever it is narrower than this.
const NARROW: u64 = 1 << 56;

/// A decoder looks eight bytes ahead, an encoder writes one at its end: so many zeros are read behind a whole message.
const AHEAD: usize = 7;

/// Totals are at most this, so that a symbol's share is off by at most 2⁻²⁴ of itself.
pub(super) const LARGEST_TOTAL: u64 = 1 << 32;

/// Writes symbols.
#[derive(Debug)]
pub(super) struct RangeEncoder {
    low: u64,
    range: u64,
    bytes: Vec<u8>,
}

impl RangeEncoder {
    pub(super) fn new() -> Self {
        Self { low: 0, range: u64::MAX, bytes: Vec::new() }
    }

    /// Writes the symbol `[start, start + size)` of `[0, total)`; `size` is not zero.
    pub(super) fn encode(&mut self, start: u64, size: u64, total: u64) {
        debug_assert!(size > 0 && start + size <= total && total <= LARGEST_TOTAL);
        let unit = self.range / total;
        let (low, carry) = self.low.overflowing_add(unit * start);
        self.low = low;
        self.range = unit * size;
        if carry {
            self.carry();
        }
        while self.range < NARROW {
            self.bytes.push((self.low >> 56) as u8);
            self.low <<= 8;
            self.range <<= 8;
        }
    }

    /// Writes `bits` bits of a number, all values alike.
    pub(super) fn encode_bits(&mut self, value: u32, bits: u32) {
        self.encode(u64::from(value), 1, 1 << bits);
    }

    fn carry(&mut self) {
        for byte in self.bytes.iter_mut().rev() {
            let (sum, again) = byte.overflowing_add(1);
            *byte = sum;
            if !again {
                return;
            }
        }
    }

    /// The shortest bytes that lie in the interval.
    pub(super) fn finish(mut self) -> Vec<u8> {
        // The interval is at least 2⁵⁶ wide, so one multiple of 2⁵⁶ lies in it: one byte, and the zeros behind the end.
        let (point, carry) = self.low.overflowing_add(NARROW - 1);
        if carry {
            self.carry();
        }
        self.bytes.push((point >> 56) as u8);
        self.bytes
    }
}

/// Reads symbols. Any bytes decode to something: damage gives wrong symbols, never a fault.
#[derive(Debug)]
pub(super) struct RangeDecoder<'a> {
    /// Where the message lies above the interval's low end.
    code: u64,
    range: u64,
    /// `range / total` of the symbol that is being read.
    unit: u64,
    rest: &'a [u8],
    /// Zeros that were read behind the end.
    beyond: usize,
}

impl<'a> RangeDecoder<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let mut decoder = Self { code: 0, range: u64::MAX, unit: 1, rest: bytes, beyond: 0 };
        (0..8).for_each(|_| decoder.shift());
        decoder
    }

    fn shift(&mut self) {
        let next = match self.rest.split_first() {
            Some((next, rest)) => {
                self.rest = rest;
                *next
            }
            None => {
                self.beyond += 1;
                0
            }
        };
        self.code = self.code << 8 | u64::from(next);
    }

    /// Whether more was read than was ever written.
    pub(super) fn is_beyond_its_end(&self) -> bool {
        self.beyond > AHEAD
    }

    /// Whether all was read that was written, and no more.
    pub(super) fn is_at_its_end(&self) -> bool {
        self.beyond == AHEAD
    }

    /// A number in `[0, total)` that lies in the next symbol's part; [`RangeDecoder::take`] must follow.
    pub(super) fn peek(&mut self, total: u64) -> u64 {
        self.unit = self.range / total;
        (self.code / self.unit).min(total - 1)
    }

    /// Goes past the symbol that [`RangeDecoder::peek`] pointed into.
    pub(super) fn take(&mut self, start: u64, size: u64) {
        self.code = self.code.wrapping_sub(self.unit * start);
        self.range = self.unit * size.max(1);
        while self.range < NARROW {
            self.shift();
            self.range <<= 8;
        }
    }

    /// Reads what [`RangeEncoder::encode_bits`] wrote.
    pub(super) fn decode_bits(&mut self, bits: u32) -> u32 {
        let value = self.peek(1 << bits);
        self.take(value, 1);
        value as u32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn symbols_read_back(symbols in prop::collection::vec((0u64..1000, 1u64..50, 0u64..LARGEST_TOTAL - 2000), 0..300)) {
            let mut encoder = RangeEncoder::new();
            for (start, size, more) in &symbols {
                encoder.encode(*start, *size, start + size + more);
            }
            let bytes = encoder.finish();
            let mut decoder = RangeDecoder::new(&bytes);
            for (start, size, more) in &symbols {
                let found = decoder.peek(start + size + more);
                prop_assert!((*start..start + size).contains(&found), "{found} is not in {start} + {size}");
                decoder.take(*start, *size);
            }
        }

        #[test]
        fn any_bytes_decode(bytes in prop::collection::vec(any::<u8>(), 0..60), totals in prop::collection::vec(1u64..1 << 20, 0..90)) {
            let mut decoder = RangeDecoder::new(&bytes);
            for total in totals {
                let found = decoder.peek(total);
                prop_assert!(found < total);
                decoder.take(found, 1);
            }
        }
    }

    #[test]
    fn a_message_takes_its_information_and_a_byte() {
        let mut encoder = RangeEncoder::new();
        // 1,000 symbols of probability 15/16: 93.1 bits.
        (0..1000).for_each(|_| encoder.encode(1, 15, 16));
        assert!(encoder.finish().len() <= 13);
        let mut carries = RangeEncoder::new();
        (0..1000).for_each(|_| carries.encode(255, 1, 256));
        assert_eq!(carries.finish().len(), 1001);
    }
}
