use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::json;

use super::*;

const SCHEMA: &str = "message rows {
    required binary q (UTF8);
    required int64 n;
    optional double x;
    required binary raw;
    optional group messages (LIST) {
        repeated group list {
            optional group element {
                optional binary role (UTF8);
                optional binary content (UTF8);
            }
        }
    }
}";

/// Two rows as the usual writers lay them out: `q`, `n`, `x` (once null), `raw` (bytes) and `messages`, a list of structs.
pub(crate) fn written(compression: Compression) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let mut file = SerializedFileWriter::new(Vec::new(), schema, properties).unwrap();
    let mut group = file.next_row_group().unwrap();
    let bytes = |texts: &[&str]| texts.iter().map(|text| ByteArray::from(*text)).collect::<Vec<_>>();
    let mut column = 0;
    while let Some(mut writer) = group.next_column().unwrap() {
        match column {
            0 => writer.typed::<ByteArrayType>().write_batch(&bytes(&["one", "zwölf"]), None, None),
            1 => writer.typed::<Int64Type>().write_batch(&[1, 12], None, None),
            2 => writer.typed::<DoubleType>().write_batch(&[0.1], Some(&[1, 0]), None),
            3 => {
                let raw = [ByteArray::from(vec![0xff, 0]), ByteArray::from("text")];
                writer.typed::<ByteArrayType>().write_batch(&raw, None, None)
            }
            // Two turns in the first row, one in the second.
            4 => {
                let roles = bytes(&["user", "assistant", "user"]);
                writer.typed::<ByteArrayType>().write_batch(&roles, Some(&[4, 4, 4]), Some(&[0, 1, 0]))
            }
            _ => {
                let contents = bytes(&["hi", "Hello.", "who?"]);
                writer.typed::<ByteArrayType>().write_batch(&contents, Some(&[4, 4, 4]), Some(&[0, 1, 0]))
            }
        }
        .unwrap();
        writer.close().unwrap();
        column += 1;
    }
    group.close().unwrap();
    file.into_inner().unwrap()
}

fn read(content: &[u8]) -> Result<Vec<Object>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.parquet");
    fs_err::write(&path, content).unwrap();
    let name = |error: DataError| error.to_string().rsplit('/').next().unwrap().to_owned();
    let mut reader = ParquetReader::open(&path).map_err(name)?;
    let mut all = Vec::new();
    while let Some(object) = reader.next_object().map_err(name)? {
        all.push(object);
    }
    Ok(all)
}

#[test]
fn texts_numbers_bytes_nulls_and_lists_of_structs_are_read_in_every_compression() {
    let expected = [
        json!({
            "q": "one", "n": 1, "x": 0.1, "raw": "/wA=",
            "messages": [{ "role": "user", "content": "hi" }, { "role": "assistant", "content": "Hello." }],
        }),
        json!({ "q": "zwölf", "n": 12, "x": null, "raw": "text", "messages": [{ "role": "user", "content": "who?" }] }),
    ];
    let compressions = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::ZSTD(parquet::basic::ZstdLevel::default()),
        Compression::LZ4_RAW,
        Compression::GZIP(parquet::basic::GzipLevel::default()),
    ];
    for compression in compressions {
        let rows = read(&written(compression)).unwrap();
        assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [1, 2]);
        for (row, expected) in rows.into_iter().zip(&expected) {
            assert_eq!(&Value::Object(row.fields), expected, "{compression}");
        }
    }
}

#[test]
fn times_in_nanoseconds_are_text_as_those_in_larger_units_are() {
    const TIMES: &str = "message rows {
        required int64 ns (TIMESTAMP(NANOS,true));
        required int64 us (TIMESTAMP(MICROS,true));
        required int64 day (TIME(NANOS,true));
        required int64 n;
        required group list (LIST) { repeated group list { required int64 element (TIMESTAMP(NANOS,false)); } }
    }";
    let schema = Arc::new(parse_message_type(TIMES).unwrap());
    let mut file = SerializedFileWriter::new(Vec::new(), schema, Arc::new(WriterProperties::default())).unwrap();
    let mut group = file.next_row_group().unwrap();
    let ns = 1_700_000_000_123_456_789;
    for (value, levels) in
        [(ns, None), (ns / 1000, None), (45_296_000_000_001, None), (ns, None), (ns, Some((&[1][..], &[0][..])))]
    {
        let mut writer = group.next_column().unwrap().unwrap();
        let (definition, repetition) = levels.unzip();
        writer.typed::<Int64Type>().write_batch(&[value], definition, repetition).unwrap();
        writer.close().unwrap();
    }
    group.close().unwrap();
    let rows = read(&file.into_inner().unwrap()).unwrap();
    let expected = json!({
        "ns": "2023-11-14T22:13:20.123456789Z",
        "us": "2023-11-14T22:13:20.123456Z",
        "day": "12:34:56.000000001",
        "n": ns,
        "list": ["2023-11-14T22:13:20.123456789Z"],
    });
    assert_eq!(Value::Object(rows[0].fields.clone()), expected);
}

#[test]
fn a_damaged_file_is_an_error_wherever_the_damage_is() {
    let whole = written(Compression::SNAPPY);
    assert!(read(&whole[..whole.len() / 2]).unwrap_err().starts_with("rows.parquet: cannot be read as Parquet: "));
    // Whatever comes out, nothing but an error or rows.
    let mut faults = 0;
    for at in (4..whole.len()).step_by(7) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x5a;
        faults += usize::from(read(&damaged).is_err());
    }
    assert!(faults > 0);
}
