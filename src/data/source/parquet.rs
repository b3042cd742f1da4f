//! Rows of a Parquet file.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parquet::basic::{LogicalType, TimeUnit};
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::types::{SchemaDescPtr, Type, TypePtr};
use serde_json::{Map, Number, Value};

use super::plain_file::open_plain_file;
use super::{Object, Rows};
use crate::error::{DataError, DataResult};

/// Reads the rows of a Parquet file; an [`Object`]'s line is the row's number, counted from 1.
///
/// Numbers and truth values stay what they are, structs are objects, lists and maps are lists and objects. Dates and times
/// are text as in RFC 3339, decimals are text, bytes are text where they are UTF-8 and base64 where they are not.
pub struct ParquetReader {
    path: PathBuf,
    schema: SchemaDescPtr,
    rows: RowIter<'static>,
    read: u64,
}

impl ParquetReader {
    /// Opens a file.
    ///
    /// # Errors
    /// When it cannot be opened or is no Parquet file.
    pub fn open(path: &Path) -> DataResult<Self> {
        let (file, _) = open_plain_file(path)?.into_parts();
        let opened = unharmed(|| SerializedFileReader::new(file));
        let reader = opened.map_err(|message| DataError::File {
            path: path.to_path_buf(),
            message: format!("cannot be read as Parquet: {message}"),
            hint: Some("is it a Parquet file, and complete?".into()),
        })?;
        let schema = reader.metadata().file_metadata().schema_descr_ptr();
        Ok(Self { path: path.to_path_buf(), schema, rows: RowIter::from_file_into(Box::new(reader)), read: 0 })
    }
}

impl Rows for ParquetReader {
    fn next_object(&mut self) -> DataResult<Option<Object>> {
        let next = unharmed(|| self.rows.next().transpose()).map_err(|message| DataError::File {
            path: self.path.clone(),
            message: format!("cannot be read behind row {}: {message}", self.read),
            hint: Some("the file is damaged, or uses what this build does not read (Brotli, encryption)".into()),
        })?;
        match next {
            Some(row) => {
                self.read += 1;
                Ok(Some(Object { line: self.read, fields: fields(row, self.schema.root_schema()) }))
            }
            None if self.read == 0 => Err(DataError::File {
                path: self.path.clone(),
                message: "the file has no rows".into(),
                hint: Some("it must have at least one".into()),
            }),
            None => Ok(None),
        }
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// The library panics on some damaged files, and on columns of types that it does not convert.
fn unharmed<T, E: std::fmt::Display>(work: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => {
            let words = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(words.unwrap_or("its pages do not fit its description").to_owned())
        }
    }
}

/// The fields of a row, or of a struct, of this type.
fn fields(row: Row, of: &Type) -> Map<String, Value> {
    let types = members(of);
    row.into_columns()
        .into_iter()
        .map(|(name, field)| {
            let of = types.iter().find(|of| of.name() == name);
            let value = value(field, of.map(|of| &**of));
            (name, value)
        })
        .collect()
}

fn members(of: &Type) -> &[TypePtr] {
    if of.is_group() { of.get_fields() } else { &[] }
}

/// What a list holds: of the usual three levels the innermost, of older ones what is repeated.
fn element(of: &Type) -> Option<&Type> {
    let [repeated] = members(of) else { return None };
    match members(repeated) {
        [element] => Some(element),
        _ => Some(repeated),
    }
}

/// A field's value; `of` is its type, where the file says it.
fn value(field: Field, of: Option<&Type>) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => value.into(),
        Field::Byte(value) => value.into(),
        Field::Short(value) => value.into(),
        Field::Int(value) => value.into(),
        Field::Long(value) => of.and_then(|of| time(value, of)).unwrap_or_else(|| value.into()),
        Field::UByte(value) => value.into(),
        Field::UShort(value) => value.into(),
        Field::UInt(value) => value.into(),
        Field::ULong(value) => value.into(),
        // The shortest decimal that means this number: 0.1, not 0.10000000149.
        Field::Float(value) => value.to_string().parse().ok().and_then(number).unwrap_or_default(),
        Field::Float16(value) => number(value.to_f64()).unwrap_or_default(),
        Field::Double(value) => number(value).unwrap_or_default(),
        Field::Str(text) => text.into(),
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => text.into(),
            Err(_) => STANDARD.encode(bytes.data()).into(),
        },
        Field::Group(row) => match of {
            Some(of) => Value::Object(fields(row, of)),
            None => row
                .into_columns()
                .into_iter()
                .map(|(name, field)| (name, value(field, None)))
                .collect::<Map<_, _>>()
                .into(),
        },
        Field::ListInternal(list) => {
            let of = of.and_then(element);
            list.elements().iter().map(|field| value(field.clone(), of)).collect()
        }
        Field::MapInternal(map) => {
            let entry = of.map(members).and_then(|entries| entries.first()).map_or(&[][..], |entry| members(entry));
            let (key_type, value_type) = (entry.first().map(|of| &**of), entry.get(1).map(|of| &**of));
            let name = |key: &Field| match value(key.clone(), key_type) {
                Value::String(text) => text,
                other => other.to_string(),
            };
            let entries = map.entries().iter().map(|(key, field)| (name(key), value(field.clone(), value_type)));
            entries.collect::<Map<_, _>>().into()
        }
        Field::TimestampMillis(since) => instant(jiff::Timestamp::from_millisecond(since), since),
        Field::TimestampMicros(since) => instant(jiff::Timestamp::from_microsecond(since), since),
        Field::Date(days) => {
            let day = jiff::civil::date(1970, 1, 1).checked_add(jiff::Span::new().days(days));
            day.map_or_else(|_| days.into(), |day| day.to_string().into())
        }
        // Decimals and times of day: as the library writes them.
        other @ (Field::Decimal(_) | Field::TimeMillis(_) | Field::TimeMicros(_)) => other.to_string().into(),
    }
}

/// JSON has no number for infinity and NaN: they read as null.
fn number(value: f64) -> Option<Value> {
    Number::from_f64(value).map(Value::Number)
}

/// What a number of a type is that the library reads as a plain number: times in nanoseconds, and those of files that have the
/// newer annotation alone.
fn time(value: i64, of: &Type) -> Option<Value> {
    let since = i128::from(value);
    match of.get_basic_info().logical_type_ref()? {
        LogicalType::Timestamp(kind) => {
            let nanoseconds = since * per(&kind.unit);
            jiff::Timestamp::from_nanosecond(nanoseconds).ok().map(|time| time.to_string().into())
        }
        LogicalType::Time(kind) => {
            let nanoseconds = i64::try_from(since * per(&kind.unit)).ok()?;
            let midnight = jiff::civil::Time::midnight();
            let time = midnight.checked_add(jiff::SignedDuration::from_nanos(nanoseconds)).ok()?;
            Some(time.to_string().into())
        }
        _ => None,
    }
}

/// Nanoseconds of a unit.
fn per(unit: &TimeUnit) -> i128 {
    match unit {
        TimeUnit::MILLIS => 1_000_000,
        TimeUnit::MICROS => 1_000,
        TimeUnit::NANOS => 1,
    }
}

fn instant(time: Result<jiff::Timestamp, jiff::Error>, since: i64) -> Value {
    time.map_or_else(|_| since.into(), |time| time.to_string().into())
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::written;
