//! Signals that are no local teacher's distributions: draws, and a server's log-probabilities.

use stillhouse_data::captured::teacher_of;
use stillhouse_data::example::ExampleReader;
use stillhouse_data::signals::{Precision, SIGNALS_FILE, SequenceKey, SignalHeader, SignalWriter, TopK};

use super::*;

/// A world whose signals are written by `write`, for each example with its tokens.
fn world(teacher: &str, write: impl Fn(&mut SignalWriter, SequenceKey, &[u32])) -> World {
    let mut world = World::new(false);
    let folder = world.folder.path().join("other-signals");
    write_tokenizer(&folder.join("tokenizer"));
    write_examples(&folder, false);
    let header = SignalHeader { teachers: vec![teacher.to_owned()], tokenizer: "x".into(), vocabulary: VOCABULARY };
    let mut signals = SignalWriter::create(&folder.join(SIGNALS_FILE), header, Precision::F32).unwrap();
    let examples = ExampleReader::open(&folder.join("train")).unwrap();
    for place in 0..examples.len() {
        let tokens = examples.get(place).unwrap().tokens;
        write(&mut signals, SequenceKey::of(teacher, &tokens), &tokens);
    }
    signals.finish().unwrap();
    world.data.output = world.store.put_tree(&folder).unwrap().0;
    world
}

#[test]
fn a_student_learns_from_draws_with_the_losses_that_may() {
    let draws = || {
        world("t", |signals, key, tokens| {
            let drawn = |token: &u32| TopK { ids: vec![*token, 0], log_probs: vec![0.75f32.ln(), 0.25f32.ln()] };
            let said: Vec<TopK> = tokens[2..]
                .iter()
                .map(|token| if *token == 0 { TopK { ids: vec![0], log_probs: vec![0.0] } } else { drawn(token) })
                .collect();
            signals.add_drawn(key, 2, 4, &said).unwrap();
        })
    };
    let world = draws();
    let (outcome, out) = world.run(&table(60, json!({ "forward-kl": {} }))).unwrap();
    assert!(outcome.metrics["forward-kl"].as_f64().unwrap() < 0.1, "{}", outcome.metrics);
    let loss = json!({ "sampled-cross-entropy": { "samples": 8 } });
    let (outcome, _) = world.run(&table(4, loss.clone())).unwrap();
    let (longer, _) = world.run(&table(9, loss.clone())).unwrap();
    assert!(outcome.metrics["sampled-cross-entropy"].is_number() && longer.resumed);
    let other = draws();
    let (_, again) = other.run(&table(60, json!({ "forward-kl": {} }))).unwrap();
    assert!(weights(&out) == weights(&again));
    let refused = |loss: Value| {
        let failure = world.run(&table(2, loss)).err().unwrap();
        format!("{} / {}", failure.message, failure.hint.unwrap_or_default())
    };
    let message = refused(json!({ "forward-kl": {}, "jsd": {} }));
    assert!(
        message.contains("`jsd` can't learn from draws of the teacher's distribution: it is not linear"),
        "{message}"
    );
    let message = refused(json!({ "forward-kl": { "temperature": 2.0 } }));
    assert!(message.contains("at temperature 2 their mean") && message.contains("capture distributions"), "{message}");
}

#[test]
fn hidden_states_are_refused_where_they_are_found() {
    let world = world("t", |signals, key, tokens| {
        let states = vec![0.5; (tokens.len() - 2) * 8];
        signals.add_hidden(key, 2, &states, 8, stillhouse_data::signals::HiddenPrecision::F16).unwrap();
    });
    let failure = world.run(&table(2, both())).err().unwrap();
    assert!(failure.message.contains("hidden states, which no loss takes"), "{}", failure.message);
}

/// A server that said something of one token in `every`, the first of them.
fn server(every: usize) -> World {
    let file = tempfile::NamedTempFile::new().unwrap();
    let teacher = teacher_of(file.path()).unwrap();
    world(&teacher, |signals, key, tokens| {
        let said = |(place, token): (usize, &u32)| match place % every {
            0 => certain_of(*token),
            _ => TopK::default(),
        };
        signals.add(key, 2, &tokens[2..].iter().enumerate().map(said).collect::<Vec<_>>()).unwrap();
    })
}

#[test]
fn a_student_learns_from_a_server_if_enough_of_what_it_said_is_in_the_datas_tokens() {
    let whole = server(1);
    let (outcome, _) = whole.run(&table(60, both())).unwrap();
    assert!(outcome.metrics["forward-kl"].as_f64().unwrap() < 0.5, "{}", outcome.metrics);
    assert_eq!(whole.warnings(), Vec::<String>::new());
    let half = server(2);
    half.run(&table(2, both())).unwrap();
    let warnings = half.warnings();
    assert!(
        matches!(&warnings[..], [warning] if warning.contains("has it the tokenizer of the data?")),
        "{warnings:?}"
    );
    let failure = server(4).run(&table(2, both())).err().unwrap();
    let message = format!("{} / {}", failure.message, failure.hint.unwrap_or_default());
    assert!(
        message.contains("its tokenizer is another than the data's / give the dataset and the student"),
        "{message}"
    );
    assert!(message.contains("`cross-entropy`") && message.contains("`uld`"), "{message}");
    // A local teacher may well have spoken of some positions only.
    let local = world("t", |signals, key, tokens| signals.add(key, 2, &[certain_of(tokens[2])]).unwrap());
    local.run(&table(2, both())).unwrap();
    assert_eq!(local.warnings(), Vec::<String>::new());
}
