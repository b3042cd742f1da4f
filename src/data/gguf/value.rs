//! Values of a GGUF file's metadata, and questions to them that name file and key when the answer is no.

use std::ops::Range;

use super::container::GgufFile;
use crate::error::{DataError, DataResult};

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any of the unsigned types.
    Unsigned(u64),
    /// Any of the signed types.
    Signed(i64),
    /// Either of the float types. An f32 becomes the f64 that is written with the same shortest decimal, so that 1e-5
    /// stays 1e-5 and does not become 9.999999747378752e-6.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// Text.
    String(String),
    /// A list.
    Array(Array),
}

/// A list of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    /// Texts.
    Strings(Vec<String>),
    /// Numbers or truth values: their type and where they lie in the file. Decoded when they are asked for.
    Numbers(Scalar, Range<usize>),
    /// Lists of lists, which no setting read here has.
    Nested,
}

/// The types that have a fixed size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar {
    /// 1 byte.
    U8,
    /// 1 byte.
    I8,
    /// 2 bytes.
    U16,
    /// 2 bytes.
    I16,
    /// 4 bytes.
    U32,
    /// 4 bytes.
    I32,
    /// 4 bytes.
    F32,
    /// 1 byte, 0 or 1.
    Bool,
    /// 8 bytes.
    U64,
    /// 8 bytes.
    I64,
    /// 8 bytes.
    F64,
}

impl Scalar {
    /// The type with this number in the file.
    pub(super) fn numbered(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    /// Bytes of one value.
    pub(super) fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// One value from exactly its bytes; none from another number of bytes.
    pub(super) fn read(self, bytes: &[u8]) -> Option<Value> {
        Some(match self {
            Self::U8 => Value::Unsigned(u8::from_le_bytes(bytes.try_into().ok()?).into()),
            Self::I8 => Value::Signed(i8::from_le_bytes(bytes.try_into().ok()?).into()),
            Self::U16 => Value::Unsigned(u16::from_le_bytes(bytes.try_into().ok()?).into()),
            Self::I16 => Value::Signed(i16::from_le_bytes(bytes.try_into().ok()?).into()),
            Self::U32 => Value::Unsigned(u32::from_le_bytes(bytes.try_into().ok()?).into()),
            Self::I32 => Value::Signed(i32::from_le_bytes(bytes.try_into().ok()?).into()),
            Self::F32 => Value::Float(shortest(f32::from_le_bytes(bytes.try_into().ok()?))),
            Self::Bool => Value::Bool(u8::from_le_bytes(bytes.try_into().ok()?) != 0),
            Self::U64 => Value::Unsigned(u64::from_le_bytes(bytes.try_into().ok()?)),
            Self::I64 => Value::Signed(i64::from_le_bytes(bytes.try_into().ok()?)),
            Self::F64 => Value::Float(f64::from_le_bytes(bytes.try_into().ok()?)),
        })
    }
}

fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or_else(|_| value.into())
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Unsigned(_) | Self::Signed(_) => "a whole number",
            Self::Float(_) => "a number",
            Self::Bool(_) => "true or false",
            Self::String(_) => "text",
            Self::Array(_) => "a list",
        }
    }

    fn number(&self) -> Option<f64> {
        match self {
            Self::Unsigned(value) => Some(*value as f64),
            Self::Signed(value) => Some(*value as f64),
            Self::Float(value) => Some(*value),
            Self::Bool(_) | Self::String(_) | Self::Array(_) => None,
        }
    }
}

/// Questions to the metadata. Each gives none where the key is missing, and an error where it has another type.
impl GgufFile {
    /// A size, a count or an id.
    pub(super) fn size(&self, key: &str) -> DataResult<Option<usize>> {
        self.ask(key, "a whole number", |value| match value {
            Value::Unsigned(value) => usize::try_from(*value).ok(),
            Value::Signed(value) => usize::try_from(*value).ok(),
            _ => None,
        })
    }

    /// A number.
    pub(super) fn number(&self, key: &str) -> DataResult<Option<f64>> {
        self.ask(key, "a number", Value::number)
    }

    /// True or false.
    pub(super) fn flag(&self, key: &str) -> DataResult<Option<bool>> {
        self.ask(key, "true or false", |value| match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        })
    }

    /// A text.
    pub(super) fn text(&self, key: &str) -> DataResult<Option<&str>> {
        self.ask(key, "text", |value| match value {
            Value::String(value) => Some(value.as_str()),
            _ => None,
        })
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &str) -> DataResult<Option<&[String]>> {
        self.ask(key, "a list of texts", |value| match value {
            Value::Array(Array::Strings(values)) => Some(values.as_slice()),
            _ => None,
        })
    }

    /// A list of numbers.
    pub(super) fn numbers(&self, key: &str) -> DataResult<Option<Vec<f64>>> {
        self.ask(key, "a list of numbers", |value| match value {
            Value::Array(Array::Numbers(scalar, range)) => {
                let bytes = self.bytes().get(range.clone())?;
                bytes.chunks_exact(scalar.size()).map(|one| scalar.read(one)?.number()).collect()
            }
            _ => None,
        })
    }

    /// What must be there.
    pub(super) fn required<T>(&self, key: &str, found: Option<T>) -> DataResult<T> {
        found.ok_or_else(|| {
            self.fault(format!("metadata `{key}` is missing"), Some("was it made by llama.cpp's own converter?"))
        })
    }

    fn ask<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> DataResult<Option<T>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match read(value) {
            Some(found) => Ok(Some(found)),
            None => Err(self.fault(format!("metadata `{key}` is {}, where {wanted} belongs", value.kind()), None)),
        }
    }

    /// A fault of this file's content.
    pub(super) fn fault(&self, message: impl Into<String>, hint: Option<&str>) -> DataError {
        DataError::File { path: self.path().to_path_buf(), message: message.into(), hint: hint.map(str::to_owned) }
    }
}
