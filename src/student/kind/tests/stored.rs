//! Signals that are no local teacher's distributions: draws, hidden states, and a server's log-probabilities.

use std::path::Path;

use stillhouse_data::captured::teacher_of;
use stillhouse_data::example::ExampleReader;
use stillhouse_data::signals::{
    Head, HiddenPrecision, Precision, SIGNALS_FILE, SequenceKey, SignalHeader, SignalWriter, TopK, head_file,
};

use super::*;

/// Data whose signals are written by `write`, for each example with its tokens.
fn write_data(folder: &Path, teacher: &str, write: impl Fn(&mut SignalWriter, SequenceKey, &[u32])) {
    write_tokenizer(&folder.join("tokenizer"));
    write_examples(folder, false);
    let header = SignalHeader { teachers: vec![teacher.to_owned()], tokenizer: "x".into(), vocabulary: VOCABULARY };
    let mut signals = SignalWriter::create(&folder.join(SIGNALS_FILE), header, Precision::F32).unwrap();
    let examples = ExampleReader::open(&folder.join("train")).unwrap();
    for place in 0..examples.len() {
        let tokens = examples.get(place).unwrap().tokens;
        write(&mut signals, SequenceKey::of(teacher, &tokens), &tokens);
    }
    signals.finish().unwrap();
}

/// A world whose signals are written by `write`.
fn world(teacher: &str, write: impl Fn(&mut SignalWriter, SequenceKey, &[u32])) -> World {
    let mut world = World::new(false);
    let folder = world.folder.path().join("other-signals");
    write_data(&folder, teacher, write);
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

/// A head: whose it is, its rows, its width, and how sure it is of a token whose place in a state has a 1.
type HeadOf = (&'static str, usize, usize, f32);

/// Gives a world's data hidden states of width 8 as signals, of every so many lengths, and heads beside them.
fn put_states(world: &mut World, heads: &[HeadOf], every: usize) {
    let folder = tempfile::tempdir_in(world.folder.path()).unwrap();
    write_data(folder.path(), "t", |signals, key, tokens| {
        let state = |token: &u32| (0..8).map(|place| f32::from(u8::from(*token == place))).collect::<Vec<_>>();
        match tokens.len() % every {
            0 => {
                let states: Vec<f32> = tokens[2..].iter().flat_map(state).collect();
                signals.add_hidden(key, 2, &states, 8, HiddenPrecision::F16).unwrap();
            }
            _ => signals.add(key, 2, &tokens[2..].iter().map(|token| certain_of(*token)).collect::<Vec<_>>()).unwrap(),
        }
    });
    for (teacher, rows, width, sure) in heads {
        let weight = |place: usize| if place / width == place % width { *sure } else { 0.0 };
        let head = Head { width: *width, weights: (0..rows * width).map(weight).collect() };
        head.write(&folder.path().join(head_file(teacher))).unwrap();
    }
    world.data.output = world.store.put_tree(folder.path()).unwrap().0;
}

fn of_states(heads: &[HeadOf], every: usize) -> World {
    let mut world = World::new(false);
    put_states(&mut world, heads, every);
    world
}

const ROWS: usize = VOCABULARY as usize;

#[test]
fn a_student_learns_from_hidden_states_and_their_head_and_another_head_begins_another_training() {
    let two = |steps: u64| table(steps, json!({ "forward-kl": {}, "jsd": {} }));
    let mut world = of_states(&[("t", ROWS, 8, 9.0)], 1);
    let (outcome, _) = world.run(&two(60)).unwrap();
    assert!(outcome.metrics["forward-kl"].as_f64().unwrap() < 0.3, "{}", outcome.metrics);
    let (longer, out) = world.run(&two(65)).unwrap();
    assert_eq!(longer.provenance["resumed-from-step"], 60);
    let at_once = of_states(&[("t", ROWS, 8, 9.0)], 1);
    let (_, undisturbed) = at_once.run(&two(65)).unwrap();
    assert!(weights(&out) == weights(&undisturbed));
    // Held-out examples have states, too.
    let mut measured = two(20);
    measured["early-stop"] = json!({ "every": 10, "patience": 0 });
    assert!(world.run(&measured).unwrap().0.metrics["validation"].is_number());
    put_states(&mut world, &[("t", ROWS, 8, 2.0)], 1);
    assert!(!world.run(&two(65)).unwrap().0.resumed, "the head is part of what a training reads");
}

#[test]
fn hidden_states_that_nobody_can_make_distributions_of_are_refused() {
    let refused = |world: World| {
        let failure = world.run(&table(2, both())).err().unwrap();
        assert_eq!(failure.class, Class::Input);
        format!("{} / {}", failure.message, failure.hint.unwrap_or_default())
    };
    let message = refused(of_states(&[], 1));
    assert!(message.starts_with("the teacher's signals are hidden states, and its head,"), "{message}");
    assert!(message.contains("`capture = { hidden = \"f16\" }`"), "{message}");
    let message = refused(of_states(&[("t", ROWS, 7, 9.0)], 1));
    assert!(message.starts_with("the teacher's signals are hidden states of 8 numbers, its head takes 7"), "{message}");
    let message = refused(of_states(&[("t", ROWS, 8, 9.0), ("u", ROWS, 8, 9.0)], 1));
    assert!(message.starts_with("the data has hidden states of 2 teachers, and a student takes"), "{message}");
    let message = refused(of_states(&[("t", ROWS + 1, 8, 9.0)], 1));
    assert!(message.starts_with("the teacher's head is over 7 tokens, its signals over 6"), "{message}");
    let message = refused(of_states(&[("t", ROWS, 8, 9.0)], 2));
    assert!(
        message.starts_with("the teacher's signals are hidden states in 6 examples and distributions in"),
        "{message}"
    );
    // Who learns from the text alone looks at none of it.
    of_states(&[("t", ROWS + 1, 8, 9.0)], 2).run(&table(2, json!("cross-entropy"))).unwrap();
    // A head without states of it is none that is needed.
    of_states(&[("t", ROWS, 8, 9.0)], 100).run(&table(2, both())).unwrap();
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
