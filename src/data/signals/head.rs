//! A model's head beside its hidden states: with both, the whole distribution can be made again and nothing else of the
//! model is needed. The file is specified byte by byte in `docs/signals.md`:
//!
//! ```text
//! "STHHEAD1"                                   8 bytes
//! vocabulary u32, width u32, kind u32, zero u32
//! vocabulary × width numbers                   kind 0: f16, 1: bfloat16, 2: f32
//! ```

use std::io::{BufWriter, Write};
use std::path::Path;

use fs_err::File;

use super::HiddenPrecision;
use crate::error::{DataError, DataResult};
use crate::mapped::{Cursor, Mapped};

/// The folder of an artifact's heads: one file a teacher, named by the teacher's id.
pub const HEADS: &str = "signals/heads";

const MAGIC: &[u8; 8] = b"STHHEAD1";
const BEGINNING: u64 = 24;
/// Numbers that are read or written at once.
const BLOCK: usize = 1 << 16;

/// The file of a teacher's head within an artifact.
#[must_use]
pub fn head_file(teacher: &str) -> String {
    format!("{HEADS}/{teacher}.bin")
}

/// The matrix that makes a model's logits of its last hidden state: `logits = W · state`.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// Numbers of a hidden state.
    pub width: usize,
    /// `[vocabulary, width]`, row by row.
    pub weights: Vec<f32>,
}

impl Head {
    /// Writes it, and makes its folder: in the fewest bytes that hold every number exactly. Gives the number of bytes.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> DataResult<u64> {
        if let Some(folder) = path.parent() {
            fs_err::create_dir_all(folder).map_err(DataError::own_io(folder))?;
        }
        let rows = self.weights.len() / self.width.max(1);
        let size = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let narrow = [HiddenPrecision::Bf16, HiddenPrecision::F16];
        let precision = narrow.into_iter().find(|narrow| narrow.holds(&self.weights)).unwrap_or(HiddenPrecision::F32);
        let mut output = BufWriter::with_capacity(1 << 18, File::create(path).map_err(DataError::own_io(path))?);
        let mut block = MAGIC.to_vec();
        for number in [size(rows), size(self.width), precision.code().into(), 0] {
            block.extend_from_slice(&number.to_le_bytes());
        }
        let mut written = 0;
        for numbers in std::iter::once(&[][..]).chain(self.weights.chunks(BLOCK)) {
            precision.write(numbers, &mut block);
            output.write_all(&block).map_err(DataError::own_io(path))?;
            written += block.len() as u64;
            block.clear();
        }
        output.flush().map_err(DataError::own_io(path))?;
        Ok(written)
    }
}

/// A file with a head.
pub struct HeadReader {
    data: Mapped,
    vocabulary: usize,
    width: usize,
    precision: HiddenPrecision,
}

impl HeadReader {
    /// Opens a file; its numbers are read when they are asked for.
    ///
    /// # Errors
    /// A file that is damaged, or none of heads.
    pub fn open(path: &Path) -> DataResult<Self> {
        let data = Mapped::open_own(path)?;
        let damaged = || DataError::corrupt(path, "the file of a teacher's head is cut short or damaged");
        let mut start = Cursor::new(data.all());
        if start.take(8) != Some(MAGIC) {
            return Err(DataError::corrupt(path, "not a file of a teacher's head"));
        }
        let mut number = || start.u32().ok_or_else(damaged);
        let (vocabulary, width, code, _) = (number()? as usize, number()? as usize, number()?, number()?);
        let precision = u8::try_from(code).ok().and_then(HiddenPrecision::of_code).ok_or_else(damaged)?;
        let bytes = vocabulary.checked_mul(width).and_then(|numbers| numbers.checked_mul(precision.width()));
        if bytes.and_then(|bytes| bytes.checked_add(BEGINNING as usize)) != Some(data.all().len()) || width == 0 {
            return Err(damaged());
        }
        Ok(Self { data, vocabulary, width, precision })
    }

    /// Rows: the tokens that it makes logits of.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Numbers of a hidden state.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// The matrix.
    ///
    /// # Errors
    /// A file that shrank since it was opened.
    pub fn read(&self) -> DataResult<Head> {
        let numbers = self.vocabulary * self.width;
        let bytes = self.data.part(BEGINNING, (numbers * self.precision.width()) as u64)?;
        let mut weights = Vec::with_capacity(numbers);
        self.precision.read(bytes, &mut weights);
        Ok(Head { width: self.width, weights })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(head: &Head) -> (tempfile::TempDir, std::path::PathBuf, u64) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(head_file("t"));
        let bytes = head.write(&path).unwrap();
        assert_eq!(bytes, fs_err::metadata(&path).unwrap().len());
        (folder, path, bytes)
    }

    #[test]
    fn a_head_reads_back_bit_by_bit_in_the_fewest_bytes_that_hold_it() {
        let long = (0..3 * BLOCK).map(|i| (i % 251) as f32 / 8.0).collect::<Vec<_>>();
        // bfloat16 holds 8 bits of a number, f16 holds 11 and no number as small as 2⁻³⁰.
        for (weights, width, number) in [
            (vec![1.0, -0.5, 0.0, -0.0, f32::INFINITY, 3.0], 2, 2),
            (vec![0.1, 0.2, 0.3], 3, 4),
            (vec![1.0, -0.5, 0.25, 2f32.powi(-120)], 2, 2),
            (vec![1.0 + 2f32.powi(-8), 3.0], 1, 2),
            (vec![1.0 + 2f32.powi(-8), 2f32.powi(-30)], 1, 4),
            (long, 3, 2),
        ] {
            let head = Head { width, weights };
            let (_folder, path, bytes) = written(&head);
            let reader = HeadReader::open(&path).unwrap();
            assert_eq!((reader.vocabulary(), reader.width()), (head.weights.len() / width, width));
            let bits = |head: &Head| head.weights.iter().map(|weight| weight.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&reader.read().unwrap()), bits(&head));
            assert_eq!(bytes, BEGINNING + number * head.weights.len() as u64, "{:?}", &head.weights[..2]);
        }
    }

    #[test]
    fn a_damaged_head_is_an_error() {
        let (_folder, path, _) = written(&Head { width: 2, weights: vec![0.1; 6] });
        let whole = fs_err::read(&path).unwrap();
        let said = |bytes: &[u8]| {
            fs_err::write(&path, bytes).unwrap();
            HeadReader::open(&path).err().unwrap().to_string()
        };
        assert!(said(&whole[..whole.len() - 1]).contains("is cut short or damaged"));
        assert!(said(&whole[..10]).contains("is cut short or damaged"));
        assert!(said(b"{}").contains("not a file of a teacher's head"));
        let mut other = whole.clone();
        other[16] = 9;
        assert!(said(&other).contains("is cut short or damaged"), "a kind of numbers that there is not");
    }
}
