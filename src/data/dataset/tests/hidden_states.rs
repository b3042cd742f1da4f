//! Hidden states on their way into a dataset.

use super::*;
use crate::signals::{Head, HiddenPrecision, Says, head_file};

#[test]
fn hidden_states_take_their_teachers_head_along() {
    let mut fixture = Fixture::new();
    let digest = fixture.tokenizer.digest().to_owned();
    let ids = |text: &str| fixture.tokenizer.encode_start(text, true).unwrap();
    let tokens = AnswerTokens { tokenizer: digest.clone(), prompt: ids("a"), completion: ids("It is four.") };
    let key = SequenceKey::of("w", &tokens.sequence());
    let said = Answer { tokens: Some(tokens), ..answer("a", "It is four.", Reply::Ok) };
    let folder = tempfile::tempdir().unwrap();
    let mut writer = write_answers(&folder.path().join(ANSWERS_FILE)).unwrap();
    writer.write(&said).unwrap();
    writer.finish().unwrap();
    let header = SignalHeader { teachers: vec!["w".into()], tokenizer: digest, vocabulary: 290 };
    let mut signals = SignalWriter::create(&folder.path().join(SIGNALS_FILE), header, Precision::F32).unwrap();
    let states: Vec<f32> = (0..3 * 20).map(|number| number as f32 / 8.0).collect();
    signals.add_hidden(key, 1, &states, 3, HiddenPrecision::F16).unwrap();
    signals.finish().unwrap();
    let head = Head { width: 3, weights: (0..290 * 3).map(|number| number as f32 / 7.0).collect() };
    head.write(&folder.path().join(head_file("w"))).unwrap();
    fixture.bench.input("replies", folder.path());
    let made = fixture.run(json!({ "mix": [{ "answers": "replies" }] })).unwrap();
    let reader = SignalReader::open(&made.out.join(SIGNALS_FILE)).unwrap();
    let kept = reader.find(&part(&made, TRAIN).0[0].tokens).unwrap().unwrap();
    assert_eq!(kept.says(), Says::Hidden { width: 3, precision: HiddenPrecision::F16 });
    let bytes = |folder: &std::path::Path| fs_err::read(folder.join(head_file("w"))).unwrap();
    assert!(bytes(&made.out) == bytes(folder.path()));
    // A row that is rendered otherwise has no signal, and of a state nothing can be cut.
    let other = fixture.run(json!({ "mix": [{ "answers": "replies" }], "chat-template": "none" })).unwrap();
    assert_eq!(other.outcome.metrics["train"]["rows-with-signal"], 0);
    let cut = json!({ "mix": [{ "answers": "replies" }], "signals": { "top-k": 5 } });
    let failure = fixture.run(cut).err().unwrap();
    assert!(failure.message.ends_with("but the answers hold hidden states"), "{failure}");
}
