//! A damaged or hostile file is one error that names file and place.

use super::*;
use crate::gguf::value::Scalar;

fn said_of(bytes: &[u8]) -> String {
    said(&open_bytes(bytes).unwrap_err())
}

fn said_of_file(writer: &GgufWriter) -> String {
    said_of(&writer.bytes())
}

#[test]
fn every_type_of_value_is_read() {
    let nested =
        [&9u32.to_le_bytes()[..], &1u64.to_le_bytes(), &0u32.to_le_bytes(), &1u64.to_le_bytes(), &[7]].concat();
    let file = open(
        &GgufWriter::default()
            .raw("u8", 0, &[200])
            .raw("i8", 1, &[200])
            .raw("u16", 2, &60_000u16.to_le_bytes())
            .raw("i16", 3, &(-7i16).to_le_bytes())
            .u32("u32", u32::MAX)
            .raw("i32", 5, &(-8i32).to_le_bytes())
            .f32("f32", 1e-5)
            .bool("bool", true)
            .text("text", "née")
            .texts("texts", &["a", ""])
            .i32s("i32s", &[3, -1])
            .raw("u64", 10, &u64::MAX.to_le_bytes())
            .raw("i64", 11, &i64::MIN.to_le_bytes())
            .raw("f64", 12, &0.1f64.to_le_bytes())
            .raw("nested", 9, &nested),
    )
    .unwrap();
    let values = [
        ("u8", Value::Unsigned(200)),
        ("i8", Value::Signed(-56)),
        ("u16", Value::Unsigned(60_000)),
        ("i16", Value::Signed(-7)),
        ("u32", Value::Unsigned(u32::MAX.into())),
        ("i32", Value::Signed(-8)),
        // Not 9.999999747378752e-6: the shortest spelling is kept.
        ("f32", Value::Float(1e-5)),
        ("bool", Value::Bool(true)),
        ("text", Value::String("née".into())),
        ("texts", Value::Array(Array::Strings(vec!["a".into(), String::new()]))),
        ("u64", Value::Unsigned(u64::MAX)),
        ("i64", Value::Signed(i64::MIN)),
        ("f64", Value::Float(0.1)),
        ("nested", Value::Array(Array::Nested)),
    ];
    for (key, value) in values {
        assert_eq!(file.value(key), Some(&value), "{key}");
    }
    assert!(matches!(file.value("i32s"), Some(Value::Array(Array::Numbers(Scalar::I32, _)))));
    assert_eq!(file.numbers("i32s").unwrap().unwrap(), [3.0, -1.0]);
}

#[test]
fn tensors_lie_where_the_alignment_puts_them() {
    let file =
        open(&GgufWriter::default().floats("a", &[3], &[1.0, 2.0, 3.0]).floats("b", &[2, 1], &[4.0, 5.0])).unwrap();
    assert_eq!(file.tensor("a").unwrap(), [1.0, 2.0, 3.0]);
    assert_eq!(file.tensor("b").unwrap(), [4.0, 5.0]);
    assert_eq!(file.tensors()["b"].shape, [2, 1]);
    assert_eq!(said(&file.tensor("c").unwrap_err()), "there is no tensor `c`");
}

#[test]
fn what_is_no_gguf_file_of_a_known_version_says_so() {
    assert_eq!(
        said_of(b"version https://git-lfs.github.com/spec/v1"),
        "not a GGUF file: it does not begin with \"GGUF\""
    );
    assert_eq!(said_of(b""), "not a GGUF file: it does not begin with \"GGUF\"");
    let version = |version: [u8; 4]| said_of(&[b"GGUF".as_slice(), &version, &[0; 16]].concat());
    assert_eq!(version([1, 0, 0, 0]), "this GGUF file can't be read: it is version 1");
    assert_eq!(version([0, 0, 0, 3]), "this GGUF file can't be read: it is big-endian");
    assert!(open_bytes(&[b"GGUF".as_slice(), &[2, 0, 0, 0], &[0; 16]].concat()).is_ok());
}

#[test]
fn a_file_that_is_cut_short_anywhere_is_damaged_there() {
    let whole = model("llama").bytes();
    for length in (4..1200).chain((1200..whole.len() - 32).step_by(97)) {
        let text = said_of(&whole[..length]);
        assert!(text.starts_with("damaged at byte "), "{length}: {text}");
    }
    let text = said_of(&whole[..whole.len() - 600]);
    assert!(text.contains(", in tensor `blk.0.ffn_down.weight`: its data lie beyond the file's end"), "{text}");
}

#[test]
fn no_changed_byte_makes_it_panic() {
    let whole = model("llama").texts("tokenizer.ggml.tokens", &["a", "b"]).bytes();
    let mut refused = 0;
    for place in 0..1100 {
        for value in [0, 9, 0xff] {
            let mut changed = whole.clone();
            changed[place] = value;
            match open_bytes(&changed) {
                Ok(file) => {
                    for name in file.tensors().keys() {
                        file.tensor(name).ok();
                    }
                    rebuild(&file, "config.json").ok();
                    GgufTensors::new(Arc::new(file)).map(|tensors| tensors.values("model.norm.weight").is_ok()).ok();
                }
                Err(error) => {
                    assert!(!said(&error).is_empty());
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 500, "{refused}");
}

#[test]
fn lengths_are_compared_with_the_file_before_anything_is_kept() {
    let huge = u64::MAX.to_le_bytes();
    let list = |kind: u32| [&kind.to_le_bytes()[..], &huge].concat();
    let with = |kind: u32, value: &[u8]| said_of_file(&GgufWriter::default().raw("key", kind, value));
    for value in [list(8), list(5), list(9), list(12)] {
        let text = with(9, &value);
        assert!(text.contains("in metadata `key`: a list of 18446744073709551615 does not fit into the "), "{text}");
    }
    assert!(
        with(8, &huge).contains("in metadata `key`: 18446744073709551615 bytes belong here, "),
        "{}",
        with(8, &huge)
    );
    let counts = [b"GGUF".as_slice(), &3u32.to_le_bytes(), &huge, &huge].concat();
    assert!(said_of(&counts).contains("in setting 1 of 18446744073709551615: 8 bytes belong here, 0 follow"));
    let lists_in_lists = [9u32.to_le_bytes().as_slice(), &1u64.to_le_bytes()].concat().repeat(100);
    assert!(with(9, &lists_in_lists).ends_with("lists lie in lists deeper than any model needs"));
}

#[test]
fn contradictions_are_named_with_their_place() {
    let tensor =
        |shape: &[usize], kind: u32| said_of_file(&GgufWriter::default().tensor("t", shape, kind, vec![0; 64]));
    assert!(tensor(&[1, 33], 8).ends_with("in tensor `t`: rows of 33 values are no whole blocks of Q8_0"));
    assert!(tensor(&[usize::MAX, 32], 8).contains("in tensor `t`: its data lie beyond the file's end"));
    assert!(tensor(&[0], 0).ends_with("in tensor `t`: a dimension of length 0 is impossible"));
    assert!(tensor(&[1; 5], 0).ends_with("in tensor `t`: it has 5 dimensions, where 1 to 4 belong"));
    let text = said_of_file(&GgufWriter::default().raw("key", 13, &[]));
    assert!(text.ends_with("in metadata `key`: there is no type of values with the number 13"), "{text}");
    let text = said_of_file(&GgufWriter::default().raw("key", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]));
    assert!(text.ends_with("in metadata `key`: a text is not UTF-8"), "{text}");
    let text = said_of_file(&GgufWriter::default().u32("general.alignment", 24));
    assert!(
        text.ends_with(
            "in metadata `general.alignment`: Unsigned(24) is not an alignment: a power of two belongs there"
        ),
        "{text}"
    );
    let mut twice = GgufWriter::default().bool("aa", true).bool("bb", true).bytes();
    let second = twice.windows(2).position(|pair| pair == b"bb").unwrap();
    twice[second..second + 2].copy_from_slice(b"aa");
    assert!(said_of(&twice).ends_with("in metadata `aa`: the key stands there twice"));
}

#[test]
fn a_type_that_can_not_be_read_is_named_with_those_that_can() {
    let file = open(&GgufWriter::default().tensor("t", &[256], 23, vec![0; 136])).unwrap();
    let error = file.tensor("t").unwrap_err();
    assert_eq!(said(&error), "tensor `t` is IQ4_XS, which is not supported");
    assert!(error.hint().unwrap().starts_with("supported are F32, F16, BF16, Q8_0, Q4_0, Q4_1, "));
}

#[test]
fn a_folder_is_not_a_file() {
    assert!(GgufFile::open(Path::new("/nowhere/model.gguf")).is_err());
}
