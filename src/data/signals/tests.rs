mod layouts;

use super::*;

fn header(vocabulary: u32) -> SignalHeader {
    SignalHeader { teachers: vec!["w1".into(), "w2".into()], tokenizer: "t".into(), vocabulary }
}

fn top_k(ids: &[u32], log_probs: &[f32]) -> TopK {
    TopK { ids: ids.to_vec(), log_probs: log_probs.to_vec() }
}

fn write(
    vocabulary: u32,
    precision: Precision,
    entries: &[(SequenceKey, u32, Vec<TopK>)],
) -> (tempfile::TempDir, SignalReader) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(SIGNALS_FILE);
    let mut writer = SignalWriter::create(&path, header(vocabulary), precision).unwrap();
    for (key, first, positions) in entries {
        writer.add(*key, *first, positions).unwrap();
    }
    writer.finish().unwrap();
    let reader = SignalReader::open(&path).unwrap();
    (folder, reader)
}

#[test]
fn the_key_is_pinned_and_separates_teacher_from_tokens() {
    let hex = blake3::Hash::from_bytes(SequenceKey::of("w1", &[1, 2, 3]).0).to_hex().to_string();
    assert_eq!(hex, "258db213c0840588eeb447c4fba011700a4d2748d51f3863ecb68b2b4bf497af");
    assert_ne!(SequenceKey::of("w1", &[1]), SequenceKey::of("w2", &[1]));
    assert_ne!(SequenceKey::of("w\u{1}\0\0\0", &[]), SequenceKey::of("w", &[1]));
}

#[test]
fn every_encoding_reads_back() {
    let wide = vec![top_k(&[69_999, 3], &[-0.125, -2.5]), top_k(&[7], &[-0.0]), top_k(&[], &[])];
    let narrow = vec![top_k(&[4, 3], &[-0.125, -2.5]), top_k(&[0], &[f32::NEG_INFINITY])];
    let dense = vec![top_k(&[], &[-1.5, -0.5, -4.0, -2.0, -8.0]); 3];
    let key = SequenceKey::of("w1", &[5]);
    for (vocabulary, positions) in [(70_000, wide), (5, narrow), (5, dense)] {
        for precision in [Precision::F16, Precision::F32] {
            let (_folder, reader) = write(vocabulary, precision, &[(key, 3, positions.clone())]);
            let signal = reader.get(&key).unwrap().unwrap();
            assert_eq!((signal.first_position(), signal.len()), (3, positions.len()));
            for (place, expected) in positions.iter().enumerate() {
                assert_eq!(&signal.position(place), expected, "{vocabulary} {precision:?} {place}");
            }
        }
    }
}

#[test]
fn half_precision_is_off_by_less_than_documented() {
    let log_probs: Vec<f32> = (1..2_000).map(|i| -(i as f32) * 0.0113).collect();
    let key = SequenceKey::of("w1", &[]);
    let (_folder, reader) = write(1_999, Precision::F16, &[(key, 1, vec![top_k(&[], &log_probs)])]);
    let back = reader.get(&key).unwrap().unwrap().position(0);
    for (exact, read) in log_probs.iter().zip(&back.log_probs) {
        assert!((exact - read).abs() <= exact.abs() / 2048.0, "{exact} {read}");
    }
}

#[test]
fn every_one_of_many_is_found_by_content_and_no_other() {
    let entries: Vec<_> =
        (0..300u32).map(|i| (SequenceKey::of("w2", &[i, i + 1]), 1, vec![top_k(&[i], &[-1.0])])).collect();
    let (_folder, reader) = write(300, Precision::F32, &entries);
    assert_eq!(reader.len(), 300);
    for i in 0..300 {
        assert_eq!(reader.find(&[i, i + 1]).unwrap().unwrap().position(0).ids, [i]);
    }
    assert!(reader.find(&[1, 1]).unwrap().is_none());
    assert!(reader.get(&SequenceKey::of("w3", &[0, 1])).unwrap().is_none());
}

#[test]
fn a_key_added_twice_keeps_its_first_signal() {
    let key = SequenceKey::of("w1", &[1]);
    let (_folder, reader) =
        write(9, Precision::F32, &[(key, 1, vec![top_k(&[1], &[-1.0])]), (key, 1, vec![top_k(&[2], &[-2.0])])]);
    assert_eq!(reader.len(), 1);
    assert_eq!(reader.get(&key).unwrap().unwrap().position(0).ids, [1]);
}

#[test]
fn a_copy_may_be_shorter_and_under_another_key() {
    let long = SequenceKey::of("w1", &[1, 2, 3]);
    let short = SequenceKey::of("w1", &[1, 2]);
    let positions = vec![top_k(&[1], &[-1.0]), top_k(&[2], &[-2.0])];
    let (folder, reader) = write(9, Precision::F16, &[(long, 1, positions)]);
    let path = folder.path().join("copy.bin");
    let mut writer = SignalWriter::create(&path, header(9), Precision::F16).unwrap();
    writer.copy(short, &reader.get(&long).unwrap().unwrap(), 1).unwrap();
    assert_eq!(writer.finish().unwrap().sequences, 1);
    let copied = SignalReader::open(&path).unwrap();
    let signal = copied.get(&short).unwrap().unwrap();
    assert_eq!((signal.len(), signal.position(0)), (1, top_k(&[1], &[-1.0])));
}

#[test]
fn ids_and_counts_that_cannot_be_are_refused_when_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = SignalWriter::create(&folder.path().join("x"), header(5), Precision::F16).unwrap();
    let key = SequenceKey::of("w1", &[]);
    let error = writer.add(key, 1, &[top_k(&[5], &[-1.0])]).unwrap_err().to_string();
    assert_eq!(error, "a signal names token 5, but the vocabulary has 5 tokens");
    assert!(writer.add(key, 1, &[top_k(&[1, 2], &[-1.0])]).is_err());
    assert!(writer.add(key, 1, &[top_k(&[], &[-1.0; 4])]).is_err());
}

#[test]
fn a_damaged_file_is_an_error_and_never_a_panic() {
    let key = SequenceKey::of("w1", &[1]);
    let (folder, _) = write(9, Precision::F16, &[(key, 1, vec![top_k(&[1, 2], &[-1.0, -2.0])])]);
    let path = folder.path().join(SIGNALS_FILE);
    let whole = fs_err::read(&path).unwrap();
    for cut in 0..whole.len() {
        fs_err::write(&path, &whole[..cut]).unwrap();
        assert!(SignalReader::open(&path).is_err(), "cut at {cut}");
    }
    for place in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[place] ^= 0x55;
        fs_err::write(&path, &damaged).unwrap();
        if let Ok(reader) = SignalReader::open(&path)
            && let Ok(Some(signal)) = reader.get(&key)
        {
            (0..signal.len()).for_each(|place| drop(signal.position(place)));
        }
    }
}
