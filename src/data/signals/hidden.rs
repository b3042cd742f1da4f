//! Entries with a model's last hidden states: what its head makes logits of. With the head they are the whole
//! distribution, at any temperature, in the bytes of a few hundred log-probabilities.

use half::{bf16, f16};
use stillhouse_stage::spec::Config;

use super::layout::{Encoded, HIDDEN, entry_head};
use crate::error::{DataError, DataResult};
use crate::mapped::Cursor;

/// How hidden states are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
pub enum HiddenPrecision {
    /// Two bytes a number: 11 bits of it.
    F16,
    /// Two bytes a number: 8 bits of it, and the range of four bytes.
    Bf16,
    /// Four bytes a number: exact.
    F32,
}

impl HiddenPrecision {
    const ALL: [Self; 3] = [Self::F16, Self::Bf16, Self::F32];

    /// Bytes of a number.
    pub(super) fn width(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }

    /// What files call it.
    pub(super) fn code(self) -> u8 {
        Self::ALL.iter().position(|one| *one == self).unwrap_or(0) as u8
    }

    pub(super) fn of_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// What is read back of a number: the nearest one that there is.
    fn rounded_number(self, number: f32) -> f32 {
        match self {
            Self::F16 => f16::from_f32(number).to_f32(),
            Self::Bf16 => bf16::from_f32(number).to_f32(),
            Self::F32 => number,
        }
    }

    /// What is read back of numbers that are kept so.
    #[must_use]
    pub fn rounded(self, numbers: &[f32]) -> Vec<f32> {
        numbers.iter().map(|number| self.rounded_number(*number)).collect()
    }

    /// Whether every number is read back with all its bits.
    pub(super) fn holds(self, numbers: &[f32]) -> bool {
        numbers.iter().all(|number| self.rounded_number(*number).to_bits() == number.to_bits())
    }

    /// Appends the numbers' bytes.
    pub(super) fn write(self, numbers: &[f32], bytes: &mut Vec<u8>) {
        match self {
            Self::F16 => numbers.iter().for_each(|x| bytes.extend_from_slice(&f16::from_f32(*x).to_le_bytes())),
            Self::Bf16 => numbers.iter().for_each(|x| bytes.extend_from_slice(&bf16::from_f32(*x).to_le_bytes())),
            Self::F32 => numbers.iter().for_each(|x| bytes.extend_from_slice(&x.to_le_bytes())),
        }
    }

    /// Appends the numbers of some bytes.
    pub(super) fn read(self, bytes: &[u8], numbers: &mut Vec<f32>) {
        match self {
            Self::F16 => numbers.extend(bytes.chunks_exact(2).map(|x| f16::from_le_bytes([x[0], x[1]]).to_f32())),
            Self::Bf16 => numbers.extend(bytes.chunks_exact(2).map(|x| bf16::from_le_bytes([x[0], x[1]]).to_f32())),
            Self::F32 => {
                numbers.extend(bytes.chunks_exact(4).map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])));
            }
        }
    }
}

/// An entry, read in place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) precision: HiddenPrecision,
    pub(super) width: usize,
    states: &'a [u8],
}

impl<'a> Entry<'a> {
    /// A payload: numbers a position u32, then the numbers.
    pub(super) fn parse(entry: &Encoded<'a>) -> Option<Self> {
        let precision = HiddenPrecision::of_code(entry.code - HIDDEN)?;
        let mut cursor = Cursor::new(entry.payload);
        let width = cursor.u32()? as usize;
        let length = entry.positions.checked_mul(width)?.checked_mul(precision.width())?;
        let states = cursor.take(length)?;
        (length + 4 == entry.payload.len()).then_some(Self { precision, width, states })
    }

    /// A position's numbers; `place` is below the entry's number.
    pub(super) fn read(&self, place: usize, out: &mut Vec<f32>) {
        let bytes = self.width * self.precision.width();
        let row = &self.states[place * bytes..(place + 1) * bytes];
        out.clear();
        self.precision.read(row, out);
    }
}

/// An entry's bytes from its states, `positions × width`.
pub(super) fn encode(
    first_position: u32,
    states: &[f32],
    width: usize,
    precision: HiddenPrecision,
) -> DataResult<Vec<u8>> {
    if let Some(number) = states.iter().find(|number| !precision.rounded_number(**number).is_finite()) {
        return Err(DataError::invalid(
            format!("a hidden state holds {number}, which {precision:?} can't"),
            "keep it as `f32` or `bf16`; a number that is none comes from weights that are not whole",
        ));
    }
    let mut record = entry_head(HIDDEN + precision.code(), first_position);
    record.extend_from_slice(&(width as u32).to_le_bytes());
    precision.write(states, &mut record);
    Ok(record)
}
