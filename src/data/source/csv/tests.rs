use super::*;

fn read(content: &[u8], delimiter: u8) -> (Vec<(u64, String)>, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.csv");
    fs_err::write(&path, content).unwrap();
    let (mut rows, mut faults) = (Vec::new(), Vec::new());
    let name = |error: &DataError| error.to_string().rsplit('/').next().unwrap().to_owned();
    let mut reader = match CsvReader::open(&path, delimiter) {
        Ok(reader) => reader,
        Err(error) => return (rows, vec![name(&error)]),
    };
    loop {
        match reader.next_object() {
            Ok(Some(Object { line, fields })) => rows.push((line, serde_json::to_string(&fields).unwrap())),
            Ok(None) => return (rows, faults),
            Err(error) => {
                assert!(error.hint().is_some(), "{error}");
                faults.push(name(&error));
                if !matches!(error, DataError::Row { .. }) {
                    return (rows, faults);
                }
            }
        }
    }
}

fn rows(content: &str) -> Vec<(u64, String)> {
    let (rows, faults) = read(content.as_bytes(), b',');
    assert!(faults.is_empty(), "{faults:?}");
    rows
}

fn faults(content: &str) -> Vec<String> {
    read(content.as_bytes(), b',').1
}

#[test]
fn quotes_hold_delimiters_line_ends_and_quotes() {
    let read = rows("q,a\r\n\"one, two\",\"say \"\"hi\"\"\"\r\n\r\n\"line\r\nbreak\",5\" pipe\r\n,last");
    let expected = [
        (2, r#"{"a":"say \"hi\"","q":"one, two"}"#),
        (4, r#"{"a":"5\" pipe","q":"line\r\nbreak"}"#),
        (6, r#"{"a":"last","q":""}"#),
    ];
    let sorted = |text: &str| serde_json::from_str::<std::collections::BTreeMap<String, String>>(text).unwrap();
    assert_eq!(read.len(), expected.len());
    for ((line, text), (expected_line, expected)) in read.iter().zip(expected) {
        assert_eq!((*line, sorted(text)), (expected_line, sorted(expected)));
    }
}

#[test]
fn another_delimiter_and_a_mark_are_taken() {
    let (rows, faults) = read(b"\xef\xbb\xbfq\na,b\tc\n", b'\t');
    assert_eq!((rows.len(), faults), (0, vec!["rows.csv:2:5: the row has 2 fields, the header 1".to_owned()]));
    let (rows, _) = read("\u{feff}q\tr\nä,b\tc\n".as_bytes(), b'\t');
    assert_eq!(rows, [(2, r#"{"q":"ä,b","r":"c"}"#.to_owned())]);
}

#[test]
fn rows_of_another_width_are_named_by_line_and_column_and_reading_goes_on() {
    let (rows, faults) = read("q,a\nonly\n1,2\nä,ö,ü\n\"x\ny\",2,3\n3,4\nshort".as_bytes(), b',');
    assert_eq!(rows.iter().map(|row| row.0).collect::<Vec<_>>(), [3, 7]);
    assert_eq!(
        faults,
        [
            "rows.csv:2:5: the row has 1 fields, the header 2",
            "rows.csv:4:5: the row has 3 fields, the header 2",
            "rows.csv:6:6: the row has 3 fields, the header 2",
            "rows.csv:8:6: the row has 1 fields, the header 2",
        ]
    );
}

#[test]
fn quotes_that_do_not_fit_are_named_where_they_stand() {
    let (rows, faults) = read(b"q,a\n1,\"x\"y, z\n3,4\n", b',');
    assert_eq!(rows, [(3, r#"{"a":"4","q":"3"}"#.to_owned())].map(|(l, t)| (l, ordered(&t))));
    assert_eq!(faults, ["rows.csv:2:5: text follows the closing quote"]);
    assert_eq!(self::faults("q,a\n1,2\n3,\"x\n4,5\n"), ["rows.csv:3:3: a quote opens here and is never closed"]);
}

/// The same object in the order in which this build writes fields.
fn ordered(text: &str) -> String {
    let mut fields = Map::new();
    let value: Map<String, Value> = serde_json::from_str(text).unwrap();
    for name in ["q", "a"] {
        fields.insert(name.into(), value[name].clone());
    }
    serde_json::to_string(&fields).unwrap()
}

#[test]
fn bytes_that_are_no_utf_8_are_named_by_line_and_column() {
    let (rows, faults) = read(b"q,a\n\"x\n\xc3\xa4b\xff\",2\n3,4\n", b',');
    assert_eq!(rows.len(), 1);
    assert_eq!(faults, ["rows.csv:3:3: not valid UTF-8"]);
}

#[test]
fn a_file_without_rows_is_an_error() {
    assert_eq!(faults(""), ["rows.csv: the file is empty"]);
    assert_eq!(faults("q,a\n\n"), ["rows.csv: the file has no rows, only the names of the fields"]);
    assert_eq!(faults("q,a,q\n1,2,3\n"), ["rows.csv:1:5: two fields have the name `q`: the fields 1 and 3"]);
}

#[test]
fn an_unclosed_quote_in_a_huge_file_does_not_fill_the_memory() {
    let mut content = b"q,a\n1,\"".to_vec();
    content.resize(20 << 20, b'x');
    assert_eq!(read(&content, b',').1, ["rows.csv:2:3: the row that begins here is longer than 16 MiB"]);
}

#[test]
fn lines_that_end_in_carriage_returns_alone_are_read_and_counted() {
    let (rows, faults) = read(b"q,a\r1,\"x\ry\"\r\r2,b,c\r3,d\r", b',');
    assert_eq!(rows, [(2, r#"{"q":"1","a":"x\ry"}"#), (6, r#"{"q":"3","a":"d"}"#)].map(|(l, t)| (l, ordered(t))));
    assert_eq!(faults, ["rows.csv:5:5: the row has 3 fields, the header 2"]);
    // Among other line ends it is a character of a field.
    assert_eq!(self::rows("q,a\n1,x\ry\n"), [(2, ordered(r#"{"q":"1","a":"x\ry"}"#))]);
}
