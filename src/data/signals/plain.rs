//! Plain entries: ids and log-probabilities as they are, or log-probabilities of the whole vocabulary.

use half::f16;

use super::layout::{Encoded, entry_head};
use super::{Precision, TopK, id_width};
use crate::error::{DataError, DataResult};
use crate::mapped::Cursor;

/// A plain entry, read in place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) precision: Precision,
    vocabulary: u32,
    /// Ends (u32) and ids; `None` when dense.
    sparse: Option<(&'a [u8], &'a [u8])>,
    log_probs: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Checks every length once, so that reading a position cannot fail.
    pub(super) fn parse(entry: &Encoded<'a>) -> Option<Self> {
        let Encoded { code, positions, vocabulary, payload, .. } = *entry;
        let precision = if code & 1 == 1 { Precision::F32 } else { Precision::F16 };
        let mut cursor = Cursor::new(payload);
        let (sparse, values) = if code >= 2 {
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
        let log_probs = cursor.take(values.checked_mul(precision.width())?)?;
        let whole = sparse.map_or(0, |(ends, ids)| ends.len() + ids.len()) + log_probs.len();
        (whole == payload.len()).then_some(Self { precision, vocabulary, sparse, log_probs })
    }

    pub(super) fn is_dense(&self) -> bool {
        self.sparse.is_none()
    }

    /// A position; `place` is below the entry's number.
    pub(super) fn read(&self, place: usize, out: &mut TopK) {
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

/// An entry's bytes. Where no position has ids, all are whole distributions.
pub(super) fn encode(first_position: u32, positions: &[TopK], vocabulary: u32, precision: Precision) -> Vec<u8> {
    let dense = positions.iter().all(|position| position.ids.is_empty());
    let code = u8::from(dense) * 2 + u8::from(precision == Precision::F32);
    let mut record = entry_head(code, first_position);
    if !dense {
        let mut end = 0u32;
        for position in positions {
            end += position.ids.len() as u32;
            record.extend_from_slice(&end.to_le_bytes());
        }
        for id in positions.iter().flat_map(|position| &position.ids) {
            match id_width(vocabulary) {
                2 => record.extend_from_slice(&(*id as u16).to_le_bytes()),
                _ => record.extend_from_slice(&id.to_le_bytes()),
            }
        }
    }
    for position in positions {
        for log_prob in &position.log_probs {
            match precision {
                Precision::F16 => record.extend_from_slice(&f16::from_f32(*log_prob).to_le_bytes()),
                Precision::F32 => record.extend_from_slice(&log_prob.to_le_bytes()),
            }
        }
    }
    record
}

/// That positions can be what they say: ids of the vocabulary, as many log-probabilities as ids or, where none has ids, as
/// the vocabulary has tokens.
pub(super) fn check(positions: &[TopK], vocabulary: u32) -> DataResult<()> {
    let dense = positions.iter().all(|position| position.ids.is_empty());
    for position in positions {
        if let Some(id) = position.ids.iter().find(|id| **id >= vocabulary) {
            return Err(DataError::invalid(
                format!("a signal names token {id}, but the vocabulary has {vocabulary} tokens"),
                "is this the tokenizer of that teacher?",
            ));
        }
        let width = if dense { vocabulary as usize } else { position.ids.len() };
        if position.log_probs.len() != width {
            return Err(DataError::invalid(
                format!("a signal has {} log-probabilities where {width} belong", position.log_probs.len()),
                "this is a fault of the teacher that made it",
            ));
        }
    }
    Ok(())
}

fn read_u32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
