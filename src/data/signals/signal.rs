//! One sequence's signal.

use half::f16;

use super::{ENTRY_HEAD, Encoding, Precision, TopK, id_width};
use crate::mapped::Cursor;

/// One sequence's signal, decoded position by position.
#[derive(Debug, Clone, Copy)]
pub struct Signal<'a> {
    first_position: u32,
    precision: Precision,
    vocabulary: u32,
    positions: usize,
    /// Ends (u32) and ids; `None` when dense.
    sparse: Option<(&'a [u8], &'a [u8])>,
    log_probs: &'a [u8],
}

impl<'a> Signal<'a> {
    /// Checks every length once, so that reading a position cannot fail.
    pub(super) fn parse(record: &'a [u8], positions: usize, vocabulary: u32) -> Option<Self> {
        let mut cursor = Cursor::new(record);
        let encoding = Encoding::of(cursor.take(4)?[0])?;
        let first_position = cursor.u32()?;
        let (sparse, values) = if encoding.dense {
            (None, positions.checked_mul(vocabulary as usize)?)
        } else {
            let ends = cursor.take(positions.checked_mul(4)?)?;
            let mut last = 0;
            for end in ends.chunks_exact(4).map(read_u32) {
                if end < last {
                    return None;
                }
                last = end;
            }
            let ids = cursor.take(last as usize * id_width(vocabulary))?;
            (Some((ends, ids)), last as usize)
        };
        let log_probs = cursor.take(values.checked_mul(encoding.precision.width())?)?;
        let whole = ENTRY_HEAD + sparse.map_or(0, |(ends, ids)| ends.len() + ids.len()) + log_probs.len();
        (whole == record.len()).then_some(Self {
            first_position,
            precision: encoding.precision,
            vocabulary,
            positions,
            sparse,
            log_probs,
        })
    }

    /// Index in the sequence of the token that the first position predicts.
    pub fn first_position(&self) -> u32 {
        self.first_position
    }

    /// Number of positions.
    pub fn len(&self) -> usize {
        self.positions
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.positions == 0
    }

    /// How its log-probabilities are kept.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Whether every position holds the whole vocabulary.
    pub fn is_dense(&self) -> bool {
        self.sparse.is_none()
    }

    /// The distribution for the token at `first_position + place`.
    ///
    /// # Panics
    /// When `place` is not below [`Signal::len`].
    pub fn position(&self, place: usize) -> TopK {
        let mut out = TopK::default();
        self.read(place, &mut out);
        out
    }

    /// As [`Signal::position`], into buffers that are used again.
    ///
    /// # Panics
    /// When `place` is not below [`Signal::len`].
    pub fn read(&self, place: usize, out: &mut TopK) {
        assert!(place < self.positions, "position {place} of a signal with {}", self.positions);
        out.ids.clear();
        out.log_probs.clear();
        let values = match self.sparse {
            None => place * self.vocabulary as usize..(place + 1) * self.vocabulary as usize,
            Some((ends, ids)) => {
                let end = |place: usize| read_u32(&ends[place * 4..place * 4 + 4]) as usize;
                let values = if place == 0 { 0 } else { end(place - 1) }..end(place);
                let width = id_width(self.vocabulary);
                let bytes = &ids[values.start * width..values.end * width];
                match width {
                    2 => out.ids.extend(bytes.chunks_exact(2).map(|id| u32::from(u16::from_le_bytes([id[0], id[1]])))),
                    _ => out.ids.extend(bytes.chunks_exact(4).map(read_u32)),
                }
                values
            }
        };
        let width = self.precision.width();
        let bytes = &self.log_probs[values.start * width..values.end * width];
        match self.precision {
            Precision::F16 => {
                out.log_probs.extend(bytes.chunks_exact(2).map(|x| f16::from_le_bytes([x[0], x[1]]).to_f32()))
            }
            Precision::F32 => out.log_probs.extend(bytes.chunks_exact(4).map(|x| f32::from_bits(read_u32(x)))),
        }
    }
}

fn read_u32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
