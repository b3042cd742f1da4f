//! A local teacher's signals: found again for the rows that are kept, and made smaller.

use super::*;

#[test]
fn signals_of_kept_rows_are_found_by_the_rows_own_tokens() {
    let mut fixture = Fixture::new();
    let tokens = |prompt: &str, text: &str| AnswerTokens {
        tokenizer: fixture.tokenizer.digest().to_owned(),
        prompt: fixture.tokenizer.encode_start(prompt, true).unwrap(),
        // As a teacher might spell it: byte by byte, not as the tokenizer would.
        completion: text
            .bytes()
            .flat_map(|byte| fixture.tokenizer.encode(&char::from(byte).to_string(), false).unwrap())
            .collect(),
    };
    let make =
        |prompt: &str, text: &str| Answer { tokens: Some(tokens(prompt, text)), ..answer(prompt, text, Reply::Ok) };
    let all = [make("a", "It is four."), make("b", "I cannot provide it."), make("c", "Paris")];
    let top = |place: usize| TopK { ids: vec![place as u32], log_probs: vec![-0.5] };
    let entries = all
        .iter()
        .enumerate()
        .map(|(place, answer)| (SequenceKey::of("w", &answer.tokens.as_ref().unwrap().sequence()), top(place)));
    let header =
        SignalHeader { teachers: vec!["w".into()], tokenizer: fixture.tokenizer.digest().into(), vocabulary: 290 };
    let entries = entries.collect();
    answers(&mut fixture.bench, "replies", &all, Some((header, entries)));
    let made = fixture.run(json!({ "mix": [{ "answers": "replies" }], "filters": ["refusal"] })).unwrap();
    let (examples, _) = part(&made, TRAIN);
    let signals = SignalReader::open(&made.out.join(SIGNALS_FILE)).unwrap();
    assert_eq!(signals.len(), 2, "the dropped row's signal is not kept");
    for (example, place) in examples.iter().zip([0, 2]) {
        let signal = signals.get(&SequenceKey::of("w", &example.tokens)).unwrap().unwrap();
        assert_eq!(signal.position(0).ids, [place]);
        assert!(signal.first_position() as usize + signal.len() <= example.tokens.len());
    }
    assert!(examples[0].tokens.len() > 12, "the teacher's own ids are taken as they are");
    assert_eq!(made.outcome.metrics["train"]["rows-with-signal"], 2);

    let other = fixture.run(json!({ "mix": [{ "answers": "replies" }], "chat-template": "none" })).unwrap();
    assert_eq!(other.outcome.metrics["train"]["rows-with-signal"], 0);
    let unused = |warning: &String| warning.starts_with("the teacher's signals of source 0");
    assert!(fixture.bench.said.warnings().iter().any(unused));
}

#[test]
fn signals_are_made_smaller_of_what_is_stored_and_no_teacher_is_asked() {
    let mut fixture = Fixture::new();
    let digest = fixture.tokenizer.digest().to_owned();
    let ids = |text: &str| fixture.tokenizer.encode_start(text, true).unwrap();
    let tokens = AnswerTokens { tokenizer: digest.clone(), prompt: ids("a"), completion: ids("It is four.") };
    let key = SequenceKey::of("w", &tokens.sequence());
    let said = Answer { tokens: Some(tokens), ..answer("a", "It is four.", Reply::Ok) };
    // A whole distribution: token i has a probability ∝ 1 / (i + 1)².
    let sum: f32 = (1..=290).map(|i| 1.0 / (i * i) as f32).sum();
    let whole = TopK { ids: vec![], log_probs: (1..=290).map(|i| (1.0 / (i * i) as f32 / sum).ln()).collect() };
    let header = SignalHeader { teachers: vec!["w".into()], tokenizer: digest, vocabulary: 290 };
    answers(&mut fixture.bench, "replies", &[said], Some((header, vec![(key, whole)])));
    let with = |signals: Value| fixture.run(json!({ "mix": [{ "answers": "replies" }], "signals": signals })).unwrap();
    let kept = |made: &Made| {
        let signals = SignalReader::open(&made.out.join(SIGNALS_FILE)).unwrap();
        signals.get(&SequenceKey::of("w", &part(made, TRAIN).0[0].tokens)).unwrap().unwrap().position(0)
    };
    let cut = with(json!({ "top-k": 7, "precision": "f32" }));
    assert_eq!(kept(&cut).ids, [0, 1, 2, 3, 4, 5, 6]);
    let compact = with(json!({ "top-p": 0.9, "encoding": { "compact": { "kl": 0.0001 } } }));
    let found = kept(&compact);
    assert_eq!(found.ids, [0, 1, 2, 3, 4, 5], "6 tokens hold 0.9");
    assert!((found.log_probs[0] - (1.0 / sum).ln()).abs() < 0.02);
    let figures = &compact.outcome.metrics["signals"];
    assert_eq!(figures["encoding"], "compact kl 0.0001");
    assert!(figures["quality"]["kept-kl-max"].as_f64().unwrap() <= 1.1e-4, "{figures}");
    assert!(figures["quality"]["outside-mean"].as_f64().unwrap() < 0.1);
    assert_eq!(
        faults(&Dataset, &json!({ "mix": [{ "jsonl": "x" }], "signals": { "top-k": 5, "top-p": 0.5 } })).len(),
        1
    );
}
