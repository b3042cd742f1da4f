use super::*;
use crate::captured::{CAPTURED_FILE, Candidate, Captured, TokenLogProbs};
use crate::jsonl::JsonlWriter;

/// What a server says of a text in the fixture's tokens, its end included: the token itself, and `~`.
fn said(fixture: &Fixture, text: &str) -> Vec<TokenLogProbs> {
    let ids = fixture.tokenizer.completion_tokens("x", text).unwrap();
    let of = |bytes: Vec<u8>, p: f32| Candidate { id: None, bytes, log_prob: p.ln() };
    let tokens = ids.into_iter().chain(fixture.tokenizer.eos()).map(|id| {
        let chosen = of(fixture.tokenizer.token_bytes(id).unwrap(), 0.75);
        TokenLogProbs { top: vec![chosen.clone(), of(b"~".to_vec(), 0.125)], chosen }
    });
    tokens.collect()
}

fn captured(fixture: &mut Fixture, all: &[Answer], said: &[Vec<TokenLogProbs>]) {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = write_answers(&folder.path().join(ANSWERS_FILE)).unwrap();
    all.iter().for_each(|answer| writer.write(answer).unwrap());
    writer.finish().unwrap();
    let mut writer = JsonlWriter::create(&folder.path().join(CAPTURED_FILE)).unwrap();
    for (answer, tokens) in all.iter().zip(said) {
        let tokens = tokens.clone();
        writer.write(&Captured { prompt: answer.prompt.clone(), sample: answer.sample, tokens }).unwrap();
    }
    writer.finish().unwrap();
    fixture.bench.input("replies", folder.path());
}

const TEXTS: [&str; 3] = ["It is four.", "I cannot provide it.", "Paris is it"];

fn world() -> Fixture {
    let mut fixture = Fixture::with_template(Some(CHATML));
    let all: Vec<Answer> =
        ["a", "b", "c"].iter().zip(TEXTS).map(|(prompt, text)| answer(prompt, text, Reply::Ok)).collect();
    let said: Vec<_> = TEXTS.iter().map(|text| said(&fixture, text)).collect();
    captured(&mut fixture, &all, &said);
    fixture
}

#[test]
fn a_servers_log_probs_become_signals_of_the_rows_that_stay() {
    let fixture = world();
    let made = fixture.run(json!({ "mix": [{ "answers": "replies" }], "filters": ["refusal"] })).unwrap();
    let (examples, rows) = part(&made, TRAIN);
    let signals = SignalReader::open(&made.out.join(SIGNALS_FILE)).unwrap();
    assert_eq!((signals.len(), signals.header().tokenizer.as_str()), (2, fixture.tokenizer.digest()));
    assert_eq!(signals.header().vocabulary as usize, fixture.tokenizer.vocabulary());
    for (example, row) in examples.iter().zip(&rows) {
        let signal = signals.find(&example.tokens).unwrap().unwrap();
        let first = row.prompt_tokens;
        assert_eq!((signal.first_position(), signal.len()), (first, example.tokens.len() - first as usize));
        for (place, token) in example.tokens[first as usize..].iter().enumerate() {
            let position = signal.position(place);
            assert_eq!(position.ids[0], *token);
            assert!((position.log_probs[0] - 0.75f32.ln()).abs() < 1e-3);
        }
    }
    assert_eq!(made.outcome.metrics["train"]["rows-with-signal"], 2);
    let figures = &made.outcome.metrics["sources"][0]["log-probs"];
    assert_eq!((&figures["matched"], &figures["mass"], &figures["left-out"]), (&json!(1.0), &json!(1.0), &json!(0)));
    assert!(fixture.bench.said.warnings().iter().all(|warning| !warning.starts_with("only")));
    // What other encodings would take, against what the server told.
    let figures = &made.outcome.metrics["signals"];
    assert_eq!(figures["encoding"], "as stored");
    let tried = figures["encodings"].as_array().unwrap();
    assert!(tried.iter().all(|row| row["against"] == "captured" && row["bytes-per-token"].as_f64().unwrap() > 0.0));
    let row = tried.iter().find(|row| row["encoding"] == "plain f32").unwrap();
    assert!(row["kl-max"].as_f64().unwrap() < 1e-5 && (row["outside-mean"].as_f64().unwrap() - 0.125).abs() < 1e-3);
    let cut = tried.iter().find(|row| row["encoding"] == "top-p 0.8, compact kl 0.001");
    assert!(cut.is_some(), "{figures}");
}

#[test]
fn they_are_cut_encoded_and_shortened_like_a_local_teachers() {
    let fixture = world();
    let made = fixture
        .run(json!({
            "mix": [{ "answers": "replies" }],
            "signals": { "top-k": 1, "encoding": { "compact": { "kl": 0.001 } } },
        }))
        .unwrap();
    let (examples, _) = part(&made, TRAIN);
    let signals = SignalReader::open(&made.out.join(SIGNALS_FILE)).unwrap();
    let signal = signals.find(&examples[0].tokens).unwrap().unwrap();
    assert_eq!(signal.position(0).ids.len(), 1);
    let figures = &made.outcome.metrics["signals"];
    let quality = &figures["captured-quality"];
    assert!(quality["measured"].as_u64().unwrap() > 0 && figures.get("quality").is_none(), "{figures}");
    // `~` is not kept: an eighth of the mass more than the server left open.
    assert!((quality["outside-mean"].as_f64().unwrap() - 0.25).abs() < 1e-6, "{quality}");
    assert!(quality["kl-mean"].as_f64().unwrap() > quality["kept-kl-mean"].as_f64().unwrap());
    let (longest, shortest) = (examples[0].tokens.len(), examples[0].tokens.len() - 2);
    for max_length in shortest..longest {
        let table = json!({ "mix": [{ "answers": "replies" }], "max-length": max_length, "long-rows": "cut" });
        let made = fixture.run(table).unwrap();
        let example = part(&made, TRAIN).0.remove(0);
        let signals = SignalReader::open(&made.out.join(SIGNALS_FILE)).unwrap();
        let signal = signals.find(&example.tokens).unwrap().unwrap();
        assert_eq!(signal.first_position() as usize + signal.len(), max_length);
    }
}

#[test]
fn encodings_are_measured_against_what_was_captured_whatever_is_made_of_it() {
    let fixture = world();
    let tried = |config: Value| {
        let made = fixture.run(config).unwrap();
        made.outcome.metrics["signals"]["encodings"].as_array().unwrap().clone()
    };
    let as_stored = tried(json!({ "mix": [{ "answers": "replies" }] }));
    let row = as_stored.iter().find(|row| row["encoding"] == "plain f16").unwrap();
    let rounding = row["kept-kl-mean"].as_f64().unwrap();
    assert!((1e-10..1e-5).contains(&rounding), "two bytes a number round: {row}");
    let anew = json!({ "top-k": 1, "encoding": { "compact": { "kl": 0.01 } } });
    assert_eq!(as_stored, tried(json!({ "mix": [{ "answers": "replies" }], "signals": anew })));
}

#[test]
fn rows_cut_to_what_the_server_said_nothing_of_have_no_signal() {
    let mut fixture = Fixture::new();
    let mut silent = said(&fixture, "It is four.");
    let last = silent.len() - 1;
    silent[..last].iter_mut().for_each(|position| position.top.clear());
    captured(&mut fixture, &[answer("a", "It is four.", Reply::Ok)], &[silent]);
    let rows = |config: Value| {
        let made = fixture.run(config).unwrap();
        (made.outcome.metrics["train"]["rows-with-signal"].clone(), part(&made, TRAIN).0[0].tokens.len())
    };
    let mix = json!([{ "answers": "replies" }]);
    let (with_signal, length) = rows(json!({ "mix": mix }));
    assert_eq!(with_signal, 1, "its end has one");
    let warned = fixture.bench.said.warnings().iter().filter(|warning| warning.starts_with("only")).count();
    assert_eq!(warned, 1);
    assert_eq!(rows(json!({ "mix": mix, "max-length": length - 1, "long-rows": "cut" })).0, 0);
}

#[test]
fn a_file_that_does_not_belong_to_the_answers_is_said() {
    let mut fixture = Fixture::new();
    let all = [answer("a", "It is four.", Reply::Ok), answer("b", "Paris", Reply::Ok)];
    let said = [said(&fixture, "It is four.")];
    captured(&mut fixture, &all, &said);
    let message = fixture.refuse(json!({ "mix": [{ "answers": "replies" }] }));
    assert!(message.contains("captured.jsonl has no line for sample 0 of prompt"), "{message}");
}
