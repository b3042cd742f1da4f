//! The file of vectors. All numbers are little-endian.
//!
//! ```text
//! "STHEMBD1"                                                      8 bytes
//! rows u64, width u32, texts u32 (0 prompt, 1 answer, 2 both)    16 bytes
//! blake3 of all bytes behind the header                          32 bytes
//! zero                                                            8 bytes
//! vectors: f32 × width × rows, as the server gave them
//! texts: a digest of 16 bytes a row, in the order of the vectors
//! ```

use std::collections::HashMap;
use std::io::{BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use fs_err::File;

use super::{Embedded, TextDigest};
use crate::error::{DataError, DataResult};
use crate::mapped::{Cursor, Mapped};

/// The name of the file in a stage's output.
pub const EMBEDDINGS_FILE: &str = "embeddings.bin";

const HEAD: &[u8; 8] = b"STHEMBD1";
const HEADER_BYTES: u64 = 64;
const DIGEST_BYTES: u64 = 16;

/// Writes vectors one at a time. [`EmbeddingWriter::finish`] must be called: a file without its header is no file.
pub struct EmbeddingWriter {
    path: PathBuf,
    output: BufWriter<File>,
    of: Embedded,
    width: usize,
    rows: u64,
    texts: Vec<u8>,
    hasher: blake3::Hasher,
}

impl EmbeddingWriter {
    /// Creates the file; `of` says which texts the vectors stand for.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(path: &Path, of: Embedded) -> DataResult<Self> {
        let mut output = BufWriter::with_capacity(1 << 18, File::create(path).map_err(DataError::own_io(path))?);
        output.write_all(&[0; HEADER_BYTES as usize]).map_err(DataError::own_io(path))?;
        let (texts, hasher) = (Vec::new(), blake3::Hasher::new());
        Ok(Self { path: path.to_path_buf(), output, of, width: 0, rows: 0, texts, hasher })
    }

    /// Numbers of a vector; 0 before the first.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Vectors written.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Adds the vector of a text that has none yet.
    ///
    /// # Errors
    /// A vector of another width than the first; if it cannot be written.
    pub fn add(&mut self, text: TextDigest, vector: &[f32]) -> DataResult<()> {
        if self.rows == 0 {
            self.width = vector.len();
        }
        if vector.len() != self.width || vector.is_empty() {
            return Err(DataError::invalid(
                format!("a vector has {} numbers, those before it had {}", vector.len(), self.width),
                "vectors of different models cannot stand in one file",
            ));
        }
        let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.hasher.update(&bytes);
        self.output.write_all(&bytes).map_err(DataError::own_io(&self.path))?;
        self.texts.extend_from_slice(&text.0);
        self.rows += 1;
        Ok(())
    }

    /// Completes the file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(mut self) -> DataResult<()> {
        self.hasher.update(&self.texts);
        let mut header = Vec::with_capacity(HEADER_BYTES as usize);
        header.extend_from_slice(HEAD);
        header.extend_from_slice(&self.rows.to_le_bytes());
        header.extend_from_slice(&(self.width as u32).to_le_bytes());
        header.extend_from_slice(&self.of.number().to_le_bytes());
        header.extend_from_slice(self.hasher.finalize().as_bytes());
        let write = |output: &mut BufWriter<File>| {
            output.write_all(&self.texts)?;
            output.seek(SeekFrom::Start(0))?;
            output.write_all(&header)?;
            output.flush()
        };
        write(&mut self.output).map_err(DataError::own_io(&self.path))
    }
}

/// Finds the vectors of texts. Cheap to share between threads.
pub struct EmbeddingReader {
    data: Mapped,
    of: Embedded,
    width: usize,
    places: HashMap<TextDigest, u32>,
}

impl EmbeddingReader {
    /// Opens a file and reads all of it once.
    ///
    /// # Errors
    /// A file that is none, is cut short, or is not as it was written.
    pub fn open(path: &Path) -> DataResult<Self> {
        let data = Mapped::open_own(path)?;
        if !data.all().starts_with(HEAD) {
            return Err(DataError::corrupt(path, "not a file of embeddings, or of another version"));
        }
        let damaged = || DataError::corrupt(path, "the file of embeddings is cut short or damaged");
        let mut header = Cursor::new(data.part(HEAD.len() as u64, HEADER_BYTES - HEAD.len() as u64)?);
        let mut numbers = || Some((header.u64()?, header.u32()?, header.u32()?, header.take(32)?.to_vec()));
        let (rows, width, of, check) = numbers().ok_or_else(damaged)?;
        let vectors = rows.checked_mul(u64::from(width) * 4).ok_or_else(damaged)?;
        let length =
            rows.checked_mul(DIGEST_BYTES).and_then(|texts| texts.checked_add(vectors)?.checked_add(HEADER_BYTES));
        let of = Embedded::from_number(of).ok_or_else(damaged)?;
        if length != Some(data.all().len() as u64) || u32::try_from(rows).is_err() {
            return Err(damaged());
        }
        if blake3::hash(&data.all()[HEADER_BYTES as usize..]).as_bytes() != check.as_slice() {
            return Err(damaged());
        }
        let (texts, _) = data.part(HEADER_BYTES + vectors, rows * DIGEST_BYTES)?.as_chunks::<16>();
        let places = texts.iter().zip(0..).map(|(text, place)| (TextDigest(*text), place)).collect();
        Ok(Self { data, of, width: width as usize, places })
    }

    /// Which texts the vectors stand for.
    #[must_use]
    pub fn of(&self) -> Embedded {
        self.of
    }

    /// Numbers of a vector.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Vectors in the file.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.data.path()
    }

    /// The vector of a text, as the server gave it.
    ///
    /// # Errors
    /// A damaged file.
    pub fn vector(&self, text: &str) -> DataResult<Option<Vec<f32>>> {
        self.vector_of(TextDigest::of(text))
    }

    fn vector_of(&self, text: TextDigest) -> DataResult<Option<Vec<f32>>> {
        let Some(place) = self.places.get(&text) else { return Ok(None) };
        let bytes = self.width as u64 * 4;
        let (numbers, _) = self.data.part(HEADER_BYTES + u64::from(*place) * bytes, bytes)?.as_chunks::<4>();
        Ok(Some(numbers.iter().map(|number| f32::from_le_bytes(*number)).collect()))
    }

    /// The vector of a text at length 1: each number divided by the root of the sum of their squares.
    ///
    /// # Errors
    /// A damaged file; a vector without a direction.
    pub fn unit(&self, text: &str) -> DataResult<Option<Vec<f32>>> {
        self.unit_of(TextDigest::of(text))
    }

    /// The same of a text that is only known by its digest.
    ///
    /// # Errors
    /// As [`EmbeddingReader::unit`].
    pub fn unit_of(&self, text: TextDigest) -> DataResult<Option<Vec<f32>>> {
        let Some(vector) = self.vector_of(text)? else { return Ok(None) };
        let length = vector.iter().map(|number| f64::from(*number) * f64::from(*number)).sum::<f64>().sqrt();
        if !(length.is_finite() && length > 0.0) {
            return Err(DataError::corrupt(self.path(), "a vector has no direction"));
        }
        Ok(Some(vector.into_iter().map(|number| (f64::from(number) / length) as f32).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(folder: &Path) -> PathBuf {
        let path = folder.join(EMBEDDINGS_FILE);
        let mut writer = EmbeddingWriter::create(&path, Embedded::Both).unwrap();
        writer.add(TextDigest::of("a"), &[3.0, -4.0, 0.0]).unwrap();
        writer.add(TextDigest::of("b"), &[0.0, 0.0, 0.5]).unwrap();
        writer.finish().unwrap();
        path
    }

    #[test]
    fn vectors_are_found_by_their_texts_and_the_bytes_are_as_the_page_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        let reader = EmbeddingReader::open(&path).unwrap();
        assert_eq!((reader.len(), reader.width(), reader.of()), (2, 3, Embedded::Both));
        assert_eq!(reader.vector("a").unwrap().unwrap(), [3.0, -4.0, 0.0]);
        assert_eq!(reader.unit("a").unwrap().unwrap(), [0.6, -0.8, 0.0]);
        assert_eq!(reader.vector("c").unwrap(), None);
        let bytes = fs_err::read(&path).unwrap();
        assert_eq!(bytes.len(), 64 + 2 * 12 + 2 * 16);
        assert_eq!(&bytes[..24], b"STHEMBD1\x02\0\0\0\0\0\0\0\x03\0\0\0\x02\0\0\0");
        assert_eq!(bytes[64..68], 3f32.to_le_bytes());
        assert_eq!(bytes[104..120], TextDigest::of("b").0);
    }

    #[test]
    fn a_vector_of_another_width_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = EmbeddingWriter::create(&folder.path().join("x"), Embedded::Answer).unwrap();
        writer.add(TextDigest::of("a"), &[1.0, 2.0]).unwrap();
        let error = writer.add(TextDigest::of("b"), &[1.0]).unwrap_err();
        assert_eq!(error.to_string(), "a vector has 1 numbers, those before it had 2");
    }

    #[test]
    fn a_cut_or_changed_file_is_an_error_wherever_it_was_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        let whole = fs_err::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs_err::write(&path, &whole[..cut]).unwrap();
            assert!(EmbeddingReader::open(&path).is_err(), "cut at {cut}");
        }
        for place in (0..56).chain(64..whole.len()) {
            let mut changed = whole.clone();
            changed[place] ^= 4;
            fs_err::write(&path, &changed).unwrap();
            assert!(EmbeddingReader::open(&path).is_err(), "changed at {place}");
        }
    }
}
