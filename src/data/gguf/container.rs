//! The container: header, metadata, where each tensor lies.
//!
//! Versions 2 and 3, little-endian. Lengths and counts are u64, strings are a length and UTF-8 without an end mark:
//!
//! ```text
//! "GGUF"  version: u32  tensors: u64  settings: u64
//! settings × { key: string  type: u32  value }
//! tensors  × { name: string  dimensions: u32  length of each, the fastest first: u64…  type: u32  offset: u64 }
//! padding to a multiple of `general.alignment` (32 where it is missing)
//! the data; offsets count from here and are multiples of the alignment
//! ```
//!
//! Types of values: 0 u8, 1 i8, 2 u16, 3 i16, 4 u32, 5 i32, 6 f32, 7 bool, 8 string, 9 array (type of its elements: u32,
//! count: u64, the elements), 10 u64, 11 i64, 12 f64. Source: the GGUF specification in ggml's documentation
//! (`docs/gguf.md`).
//!
//! Nothing the file says is believed before it is compared with the file's length, so a damaged or hostile file costs
//! no more memory than a few times its size.

use std::collections::BTreeMap;
use std::path::Path;

use super::quant::{self, Quant};
use super::value::{Array, Scalar, Value};
use crate::error::{DataError, DataResult};
use crate::mapped::Mapped;

/// Lists in lists in lists: more is no file that anybody made.
const DEEPEST_NESTING: usize = 4;
/// Four dimensions are all that ggml knows.
const MOST_DIMENSIONS: u32 = 4;

/// An open file: its settings and the places of its tensors. The tensors' bytes are mapped, not read.
pub struct GgufFile {
    mapped: Mapped,
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, TensorInfo>,
}

/// Where a tensor lies and what its bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Lengths of the dimensions, the slowest first, as in Hugging Face's files: `[out, in]` for a matrix.
    pub shape: Vec<usize>,
    /// The number of its type, see the list of quantisations.
    kind: u32,
    /// The first byte in the file.
    start: u64,
}

impl GgufFile {
    /// Maps a file, reads its settings and checks that each tensor lies inside it.
    ///
    /// # Errors
    /// The file can't be read, is not GGUF, or is damaged; the message names the byte and the entry.
    pub fn open(path: &Path) -> DataResult<Self> {
        let mapped = Mapped::open(path)?;
        let mut reader = Reader { bytes: mapped.all(), at: 0, path, entry: "the header".into() };
        let (tensors, settings) = reader.header()?;
        let metadata = reader.metadata(settings)?;
        let infos = reader.tensor_infos(tensors)?;
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(Value::Unsigned(alignment)) if alignment.is_power_of_two() => *alignment,
            Some(other) => {
                reader.entry = "metadata `general.alignment`".into();
                return Err(reader.fault(format!("{other:?} is not an alignment: a power of two belongs there")));
            }
        };
        let tensors = reader.places(infos, alignment)?;
        Ok(Self { mapped, metadata, tensors })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.mapped.path()
    }

    /// A setting.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// The tensors by their names in the file.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// A tensor's numbers, row-major, dequantised to f32.
    ///
    /// # Errors
    /// No such tensor; a type that can't be dequantised here: the message names it and those that can.
    pub fn tensor(&self, name: &str) -> DataResult<Vec<f32>> {
        let info = self.tensors.get(name).ok_or_else(|| self.fault(format!("there is no tensor `{name}`"), None))?;
        let quant = supported(info.kind)
            .map_err(|(message, hint)| self.fault(format!("tensor `{name}` {message}"), Some(&hint)))?;
        let elements: usize = info.shape.iter().product();
        // In bounds and without overflow: `places` compared every supported tensor with the file's length.
        let length = elements / quant.block * quant.bytes;
        Ok(quant.dequantise(self.mapped.part(info.start, length as u64)?))
    }

    /// Everything.
    pub(super) fn bytes(&self) -> &[u8] {
        self.mapped.all()
    }
}

impl std::fmt::Debug for GgufFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "GgufFile({})", self.path().display())
    }
}

/// The quantisation with this number, or what is wrong and what to do.
fn supported(kind: u32) -> Result<&'static Quant, (String, String)> {
    quant::numbered(kind).ok_or_else(|| {
        let names: Vec<&str> = quant::QUANTS.iter().map(|quant| quant.name).collect();
        (
            format!("is {}, which is not supported", quant::name_of(kind)),
            format!("supported are {}; convert the file with llama.cpp's quantize tool", names.join(", ")),
        )
    })
}

/// Reads forward through the file and knows what it is in the middle of.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    path: &'a Path,
    entry: String,
}

impl<'a> Reader<'a> {
    fn fault(&self, message: impl AsRef<str>) -> DataError {
        DataError::File {
            path: self.path.to_path_buf(),
            message: format!("damaged at byte {}, in {}: {}", self.at, self.entry, message.as_ref()),
            hint: Some("was the file copied whole?".into()),
        }
    }

    fn header(&mut self) -> DataResult<(u64, u64)> {
        if self.bytes.get(..4) != Some(b"GGUF".as_slice()) {
            return Err(DataError::File {
                path: self.path.to_path_buf(),
                message: "not a GGUF file: it does not begin with \"GGUF\"".into(),
                hint: Some("was it copied whole? a Git LFS pointer is a few lines of text instead of the file".into()),
            });
        }
        self.at = 4;
        let version = self.u32()?;
        if !(2..=3).contains(&version) {
            let what = match version.swap_bytes() {
                1..=3 => "it is big-endian".to_owned(),
                _ => format!("it is version {version}"),
            };
            return Err(DataError::File {
                path: self.path.to_path_buf(),
                message: format!("this GGUF file can't be read: {what}"),
                hint: Some("versions 2 and 3, little-endian, can be; convert the model again".into()),
            });
        }
        Ok((self.u64()?, self.u64()?))
    }

    fn metadata(&mut self, settings: u64) -> DataResult<BTreeMap<String, Value>> {
        let mut metadata = BTreeMap::new();
        for number in 0..settings {
            self.entry = format!("setting {} of {settings}", number + 1);
            let key = self.string()?;
            self.entry = format!("metadata `{key}`");
            let kind = self.u32()?;
            let value = self.value(kind)?;
            if metadata.insert(key, value).is_some() {
                return Err(self.fault("the key stands there twice"));
            }
        }
        Ok(metadata)
    }

    fn value(&mut self, kind: u32) -> DataResult<Value> {
        match kind {
            8 => Ok(Value::String(self.string()?)),
            9 => Ok(Value::Array(self.array(1)?)),
            _ => {
                let scalar = self.scalar(kind)?;
                let bytes = self.take(scalar.size() as u64)?;
                scalar.read(bytes).ok_or_else(|| self.fault("a value has the wrong size"))
            }
        }
    }

    fn scalar(&self, kind: u32) -> DataResult<Scalar> {
        Scalar::numbered(kind).ok_or_else(|| self.fault(format!("there is no type of values with the number {kind}")))
    }

    fn array(&mut self, depth: usize) -> DataResult<Array> {
        let kind = self.u32()?;
        match kind {
            8 => {
                // A string takes eight bytes at least.
                let count = self.count(8)?;
                Ok(Array::Strings((0..count).map(|_| self.string()).collect::<DataResult<_>>()?))
            }
            9 if depth >= DEEPEST_NESTING => Err(self.fault("lists lie in lists deeper than any model needs")),
            9 => {
                // A list takes a type and a count at least.
                for _ in 0..self.count(12)? {
                    self.array(depth + 1)?;
                }
                Ok(Array::Nested)
            }
            _ => {
                let scalar = self.scalar(kind)?;
                let count = self.count(scalar.size())?;
                let start = self.at;
                self.take((count * scalar.size()) as u64)?;
                Ok(Array::Numbers(scalar, start..self.at))
            }
        }
    }

    fn tensor_infos(&mut self, count: u64) -> DataResult<BTreeMap<String, TensorInfo>> {
        let mut infos = BTreeMap::new();
        for number in 0..count {
            self.entry = format!("entry {} of {count} tensors", number + 1);
            let name = self.string()?;
            self.entry = format!("tensor `{name}`");
            let dimensions = self.u32()?;
            if !(1..=MOST_DIMENSIONS).contains(&dimensions) {
                return Err(self.fault(format!("it has {dimensions} dimensions, where 1 to {MOST_DIMENSIONS} belong")));
            }
            let mut shape = Vec::new();
            for _ in 0..dimensions {
                let length = self.u64()?;
                shape.push(
                    usize::try_from(length)
                        .ok()
                        .filter(|length| *length > 0)
                        .ok_or_else(|| self.fault(format!("a dimension of length {length} is impossible")))?,
                );
            }
            shape.reverse();
            let (kind, start) = (self.u32()?, self.u64()?);
            if infos.insert(name, TensorInfo { shape, kind, start }).is_some() {
                return Err(self.fault("two tensors have this name"));
            }
        }
        Ok(infos)
    }

    /// Turns offsets into places in the file and checks that the tensors end before it does.
    fn places(
        &mut self,
        mut infos: BTreeMap<String, TensorInfo>,
        alignment: u64,
    ) -> DataResult<BTreeMap<String, TensorInfo>> {
        let data = (self.at as u64).checked_next_multiple_of(alignment);
        for (name, info) in &mut infos {
            self.entry = format!("tensor `{name}`");
            if !info.start.is_multiple_of(alignment) {
                return Err(self.fault(format!("its offset {} is no multiple of {alignment}", info.start)));
            }
            info.start = data.and_then(|data| data.checked_add(info.start)).ok_or_else(|| self.outside())?;
            // What is not supported is named when it is read; its size is not known here.
            let Some(quant) = quant::numbered(info.kind) else { continue };
            let row = info.shape.last().copied().unwrap_or(0);
            if !row.is_multiple_of(quant.block) {
                let message = format!("rows of {row} values are no whole blocks of {}", quant.name);
                return Err(self.fault(message));
            }
            let elements = info.shape.iter().try_fold(1usize, |product, length| product.checked_mul(*length));
            let length = elements.and_then(|elements| (elements / quant.block).checked_mul(quant.bytes));
            let end = length.and_then(|length| info.start.checked_add(length as u64));
            if end.is_none_or(|end| end > self.bytes.len() as u64) {
                return Err(self.outside());
            }
        }
        Ok(infos)
    }

    fn outside(&self) -> DataError {
        self.fault(format!("its data lie beyond the file's end at byte {}", self.bytes.len()))
    }

    /// A count of things that take `least` bytes each, compared with what is left of the file.
    fn count(&mut self, least: usize) -> DataResult<usize> {
        let count = self.u64()?;
        let left = self.bytes.len() - self.at;
        usize::try_from(count)
            .ok()
            .filter(|count| count.checked_mul(least).is_some_and(|bytes| bytes <= left))
            .ok_or_else(|| self.fault(format!("a list of {count} does not fit into the {left} bytes that follow")))
    }

    fn take(&mut self, length: u64) -> DataResult<&'a [u8]> {
        let left = &self.bytes[self.at..];
        let taken = usize::try_from(length).ok().and_then(|length| left.get(..length));
        let taken = taken.ok_or_else(|| self.fault(format!("{length} bytes belong here, {} follow", left.len())))?;
        self.at += taken.len();
        Ok(taken)
    }

    fn u32(&mut self) -> DataResult<u32> {
        let bytes = self.take(4)?;
        bytes.try_into().map(u32::from_le_bytes).map_err(|_| self.fault("a value has the wrong size"))
    }

    fn u64(&mut self) -> DataResult<u64> {
        let bytes = self.take(8)?;
        bytes.try_into().map(u64::from_le_bytes).map_err(|_| self.fault("a value has the wrong size"))
    }

    fn string(&mut self) -> DataResult<String> {
        let length = self.u64()?;
        let bytes = self.take(length)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| self.fault("a text is not UTF-8"))
    }
}
