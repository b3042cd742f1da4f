//! What the second version of the format has: compact, drawn and hidden entries.

use proptest::prelude::*;

use super::*;

/// A teacher's distribution over `vocabulary` tokens: a few tokens that depend on the place before a common tail.
fn distribution(vocabulary: u32, seed: u32, place: u32) -> Vec<f32> {
    let logit = |token: u32| {
        let mixed = token
            .wrapping_mul(2_654_435_761)
            .wrapping_add(seed.wrapping_mul(97).wrapping_add(place).wrapping_mul(40_503));
        let noise = f64::from(mixed.wrapping_mul(2_246_822_519) >> 8) / f64::from(1 << 24);
        4.0 * noise - 1.1 * f64::from(token + 2).ln()
    };
    let logits: Vec<f64> = (0..vocabulary).map(logit).collect();
    let log_sum = logits.iter().map(|x| x.exp()).sum::<f64>().ln();
    logits.iter().map(|x| (x - log_sum) as f32).collect()
}

fn signal(vocabulary: u32, seed: u32, positions: u32, k: usize) -> Vec<TopK> {
    let mut order = Vec::new();
    (0..positions).map(|place| most_likely(&distribution(vocabulary, seed, place), k, &mut order)).collect()
}

fn write_as(vocabulary: u32, form: Form, entries: &[(SequenceKey, Vec<TopK>)]) -> (tempfile::TempDir, SignalReader) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(SIGNALS_FILE);
    let mut writer = SignalWriter::with_form(&path, header(vocabulary), form).unwrap();
    entries.iter().for_each(|(key, positions)| writer.add(*key, 1, positions).unwrap());
    let size = writer.finish().unwrap();
    assert_eq!(size.bytes, fs_err::metadata(&path).unwrap().len());
    (folder, SignalReader::open(&path).unwrap())
}

fn key(number: u32) -> SequenceKey {
    SequenceKey::of("w1", &[number])
}

fn sorted(ids: &[u32]) -> Vec<u32> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids
}

#[test]
fn compact_entries_keep_every_token_and_read_what_the_form_says() {
    for sequences in [3, 20] {
        let entries: Vec<_> = (0..sequences).map(|number| (key(number), signal(3_000, number, 20, 50))).collect();
        let form = Form::Compact { kl: 1e-3 };
        let (_folder, reader) = write_as(3_000, form, &entries);
        for (key, positions) in &entries {
            let read = reader.get(key).unwrap().unwrap();
            assert_eq!((read.says(), read.len(), read.precision()), (Says::MostLikely, 20, None));
            for (place, exact) in positions.iter().enumerate() {
                let found = read.position(place);
                assert_eq!(found, form.reconstructed(exact, 3_000));
                assert_eq!(sorted(&found.ids), sorted(&exact.ids));
                assert!(found.log_probs.is_sorted_by(|a, b| a >= b));
            }
        }
    }
}

#[test]
fn compact_takes_less_than_half_of_plain() {
    let entries: Vec<_> = (0..40).map(|number| (key(number), signal(3_000, number, 20, 50))).collect();
    let (plain, _) = write_as(3_000, Form::Plain(Precision::F16), &entries);
    let (compact, _) = write_as(3_000, Form::Compact { kl: 1e-3 }, &entries);
    let size = |folder: &tempfile::TempDir| fs_err::metadata(folder.path().join(SIGNALS_FILE)).unwrap().len();
    assert!(size(&compact) * 2 < size(&plain), "{} of {}", size(&compact), size(&plain));
}

#[test]
fn a_copy_of_a_compact_entry_is_exact_though_the_other_file_has_another_model() {
    let entries: Vec<_> = (0..20).map(|number| (key(number), signal(900, number, 20, 30))).collect();
    let (folder, reader) = write_as(900, Form::Compact { kl: 1e-2 }, &entries);
    let path = folder.path().join("copy.bin");
    let mut writer = SignalWriter::create(&path, header(900), Precision::F16).unwrap();
    writer.copy(key(100), &reader.get(&key(7)).unwrap().unwrap(), 5).unwrap();
    writer.add(key(101), 1, &signal(900, 1, 2, 3)).unwrap();
    writer.finish().unwrap();
    let copied = SignalReader::open(&path).unwrap();
    let (from, to) = (reader.get(&key(7)).unwrap().unwrap(), copied.get(&key(100)).unwrap().unwrap());
    assert_eq!(to.len(), 5);
    (0..5).for_each(|place| assert_eq!(from.position(place), to.position(place)));
    assert_eq!(copied.get(&key(101)).unwrap().unwrap().precision(), Some(Precision::F16));
}

#[test]
fn drawn_targets_read_back_with_their_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(SIGNALS_FILE);
    let mut writer = SignalWriter::create(&path, header(500), Precision::F16).unwrap();
    let drawn: Vec<TopK> =
        (0..9).map(|place| draw(&distribution(500, 1, place), 64, 17, &key(1), place).unwrap()).collect();
    writer.add_drawn(key(1), 4, 64, &drawn).unwrap();
    writer.finish().unwrap();
    let reader = SignalReader::open(&path).unwrap();
    let read = reader.get(&key(1)).unwrap().unwrap();
    assert_eq!((read.says(), read.first_position()), (Says::Drawn { samples: 64 }, 4));
    (0..9).for_each(|place| assert_eq!(read.position(place), drawn[place]));
}

#[test]
fn a_head_makes_the_same_logits_of_a_hidden_state_that_was_kept() {
    let states: Vec<f32> = (0..3 * 4).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
    let head: Vec<f32> = (0..7 * 4).map(|i| (i as f32 * 1.7).cos()).collect();
    let logits = |state: &[f32]| -> Vec<f32> {
        head.chunks(4).map(|row| row.iter().zip(state).map(|(a, b)| a * b).sum()).collect()
    };
    for (precision, off) in [(HiddenPrecision::F32, 0.0), (HiddenPrecision::F16, 0.01), (HiddenPrecision::Bf16, 0.1)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(SIGNALS_FILE);
        let mut writer = SignalWriter::create(&path, header(7), Precision::F16).unwrap();
        writer.add_hidden(key(1), 2, &states, 4, precision).unwrap();
        writer.finish().unwrap();
        let reader = SignalReader::open(&path).unwrap();
        let read = reader.get(&key(1)).unwrap().unwrap();
        assert_eq!((read.says(), read.len()), (Says::Hidden { width: 4, precision }, 3));
        assert!(read.position(0).log_probs.is_empty());
        let mut state = Vec::new();
        for place in 0..3 {
            read.hidden(place, &mut state);
            for (exact, found) in logits(&states[place * 4..][..4]).iter().zip(logits(&state)) {
                assert!((exact - found).abs() <= off, "{precision:?}: {exact} {found}");
            }
        }
    }
}

#[test]
fn hidden_states_that_a_precision_cannot_hold_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = SignalWriter::create(&folder.path().join("x"), header(7), Precision::F16).unwrap();
    let error = writer.add_hidden(key(1), 1, &[1.0, 1e6], 2, HiddenPrecision::F16).unwrap_err().to_string();
    assert_eq!(error, "a hidden state holds 1000000, which F16 can't");
    assert!(writer.add_hidden(key(1), 1, &[f32::NAN], 1, HiddenPrecision::F32).is_err());
    assert!(writer.add_hidden(key(1), 1, &[1.0; 5], 2, HiddenPrecision::Bf16).is_err());
}

#[test]
fn a_file_of_plain_entries_is_still_of_the_first_version() {
    let (folder, _) = write_as(9, Form::Plain(Precision::F16), &[(key(1), vec![top_k(&[1, 2], &[-1.0, -2.0])])]);
    let json = br#"{"teachers":["w1","w2"],"tokenizer":"t","vocabulary":9}"#;
    let entry = [0u8, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 2, 0, 0x00, 0xbc, 0x00, 0xc0];
    let offset = 12 + json.len() as u64;
    // Pinned byte by byte, so that files that were written before read as they did.
    let mut expected = b"STHSIGN1".to_vec();
    expected.extend_from_slice(&(json.len() as u32).to_le_bytes());
    expected.extend_from_slice(json);
    expected.extend_from_slice(&entry);
    expected.extend_from_slice(&key(1).0);
    expected.extend_from_slice(&offset.to_le_bytes());
    expected.extend_from_slice(&(entry.len() as u64).to_le_bytes());
    expected.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend_from_slice(&(offset + entry.len() as u64).to_le_bytes());
    expected.extend_from_slice(&1u64.to_le_bytes());
    expected.extend_from_slice(b"STHSIEND");
    assert_eq!(fs_err::read(folder.path().join(SIGNALS_FILE)).unwrap(), expected);
}

#[test]
fn what_a_newer_version_wrote_is_named_as_such() {
    let (folder, _) = write_as(9, Form::Plain(Precision::F16), &[(key(1), vec![top_k(&[1, 2], &[-1.0, -2.0])])]);
    let path = folder.path().join(SIGNALS_FILE);
    let whole = fs_err::read(&path).unwrap();
    let refuse = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        fs_err::write(&path, bytes).unwrap();
        let error = match SignalReader::open(&path) {
            Ok(reader) => reader.get(&key(1)).map(drop).unwrap_err(),
            Err(error) => error,
        };
        error.to_string().rsplit(": ").next().unwrap().to_owned()
    };
    assert_eq!(
        refuse(&|bytes| bytes[7] = b'3'),
        "the file of teacher signals is of format 3, this version reads formats 1 and 2"
    );
    assert_eq!(refuse(&|bytes| bytes[0] = b'X'), "not a file of teacher signals");
    let start = 12 + u32::from_le_bytes(whole[8..12].try_into().unwrap()) as usize;
    assert_eq!(
        refuse(&|bytes| bytes[start] = 77),
        "an entry of the teacher signals has layout 77, which this version doesn't know"
    );
}

/// A small file with every kind of entry of the second version.
fn mixed() -> (tempfile::TempDir, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(SIGNALS_FILE);
    let mut writer = SignalWriter::with_form(&path, header(60), Form::Compact { kl: 1e-3 }).unwrap();
    (0..30).for_each(|number| writer.add(key(number), 1, &signal(60, number, 9, 8)).unwrap());
    let drawn = draw(&distribution(60, 1, 1), 16, 17, &key(100), 1).unwrap();
    writer.add_drawn(key(100), 1, 16, &[drawn]).unwrap();
    writer.add_hidden(key(101), 1, &[0.5, 1.5], 2, HiddenPrecision::Bf16).unwrap();
    writer.finish().unwrap();
    let bytes = fs_err::read(&path).unwrap();
    assert_eq!(&bytes[..8], HEAD_2);
    (folder, bytes)
}

/// Opens bytes as a file and reads all there is to read.
fn read_all(folder: &std::path::Path, bytes: &[u8]) -> bool {
    let path = folder.join("damaged");
    fs_err::write(&path, bytes).unwrap();
    let Ok(reader) = SignalReader::open(&path) else { return false };
    let mut whole = true;
    let mut state = Vec::new();
    for number in (0..30).chain([100, 101]) {
        match reader.get(&key(number)) {
            Ok(Some(signal)) => (0..signal.len()).for_each(|place| {
                signal.position(place);
                signal.hidden(place, &mut state);
            }),
            Ok(None) | Err(_) => whole = false,
        }
    }
    whole
}

#[test]
fn a_file_of_the_second_version_that_is_cut_is_an_error() {
    let (folder, bytes) = mixed();
    assert!(read_all(folder.path(), &bytes));
    for cut in (0..bytes.len()).step_by(7) {
        assert!(!read_all(folder.path(), &bytes[..cut]), "cut at {cut}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn damage_is_an_error_or_other_numbers_and_never_a_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), 1u8..=255), 1..5),
    ) {
        let (folder, mut bytes) = mixed();
        for (place, flip) in damage {
            let place = place.index(bytes.len());
            bytes[place] ^= flip;
        }
        read_all(folder.path(), &bytes);
    }

    #[test]
    fn any_distribution_comes_back_within_its_bound(
        weights in prop::collection::vec(prop::collection::btree_map(0u32..200, -30.0f32..0.0, 0..40), 0..12)
            .prop_filter("no ids at all are whole distributions", |all| all.iter().any(|one| !one.is_empty())),
        kl in prop::sample::select(vec![1e-4, 1e-3, 1e-2, 0.1]),
    ) {
        let positions: Vec<TopK> = weights
            .iter()
            .map(|weights| {
                let sum: f64 = weights.values().map(|x| f64::from(*x).exp()).sum::<f64>() * 1.1;
                let log_probs = weights.values().map(|x| (f64::from(*x) - sum.ln()) as f32);
                TopK { ids: weights.keys().copied().collect(), log_probs: log_probs.collect() }
            })
            .collect();
        let form = Form::Compact { kl };
        let (_folder, reader) = write_as(200, form, &[(key(1), positions.clone())]);
        let read = reader.get(&key(1)).unwrap().unwrap();
        prop_assert_eq!(read.len(), positions.len());
        for (place, exact) in positions.iter().enumerate() {
            let found = read.position(place);
            prop_assert_eq!(sorted(&found.ids), exact.ids.clone());
            if !exact.ids.is_empty() {
                let mut whole = vec![f32::NEG_INFINITY; 200];
                exact.ids.iter().zip(&exact.log_probs).for_each(|(id, log_prob)| whole[*id as usize] = *log_prob);
                // What is left lies outside: anywhere.
                if let Some(other) = (0..200).find(|id| !exact.ids.contains(id)) {
                    whole[other as usize] = (1.0f32 / 11.0).ln();
                }
                let cost = Exact::new(&whole).divergence(&found).kept;
                prop_assert!(cost <= kl + 1e-5, "{} > {}", cost, kl);
            }
        }
    }
}
