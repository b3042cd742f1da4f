//! A teacher whose hidden states were stored teaches what it teaches beside the student.

use stillhouse_data::dataset::TRAIN;
use stillhouse_data::example::ExampleReader;
use stillhouse_data::lm::ModelLoader;
use stillhouse_data::model_folder::ModelFolder;
use stillhouse_data::signals::{
    HiddenPrecision, Precision, SIGNALS_FILE, SequenceKey, SignalHeader, SignalWriter, head_file,
};

use super::super::super::tests::{write_examples, write_tokenizer};
use super::*;
use crate::language_model::BurnLoader;

/// Puts the teacher's states at every second example's scored tokens, or at all, into the data, as a local teacher
/// captures them.
fn store_states(world: &mut World, precision: HiddenPrecision, every: usize) {
    let teacher = ModelFolder::open(&world.files["teacher.model.path"].path).unwrap();
    let mut model = BurnLoader.load(&teacher, "cpu").unwrap();
    let data = tempfile::tempdir_in(world.folder.path()).unwrap();
    let folder = data.path();
    write_tokenizer(&folder.join("tokenizer"));
    write_examples(folder, false);
    let examples = ExampleReader::open(&folder.join(TRAIN)).unwrap();
    let sequences: Vec<Vec<u32>> = (0..examples.len()).map(|place| examples.get(place).unwrap().tokens).collect();
    let mut states = vec![Vec::new(); sequences.len()];
    let mut width = 0;
    model
        .hidden(&sequences, &mut |row, position, state| {
            width = state.len();
            if position > 0 {
                states[row].extend_from_slice(state);
            }
        })
        .unwrap();
    let vocabulary = model.vocabulary() as u32;
    let header = SignalHeader { teachers: vec!["t".into()], tokenizer: "x".into(), vocabulary };
    let mut signals = SignalWriter::create(&folder.join(SIGNALS_FILE), header, Precision::F16).unwrap();
    for (tokens, states) in sequences.iter().zip(&states).step_by(every) {
        signals.add_hidden(SequenceKey::of("t", tokens), 2, states, width, precision).unwrap();
    }
    signals.finish().unwrap();
    model.head().unwrap().write(&folder.join(head_file("t"))).unwrap();
    world.data.output = world.store.put_tree(folder).unwrap().0;
}

fn figures(outcome: &stillhouse_stage::Outcome) -> Vec<f64> {
    ["loss", "forward-kl", "jsd", "adaptive-kl", "total-variation"]
        .map(|name| outcome.metrics[name].as_f64().unwrap())
        .to_vec()
}

fn losses() -> Value {
    json!({ "cross-entropy": { "weight": 0.5 }, "forward-kl": { "temperature": 2.0 }, "jsd": {}, "adaptive-kl": {},
            "total-variation": {} })
}

#[test]
fn stored_states_teach_what_the_teacher_teaches_beside_the_student() {
    let mut world = with_teacher();
    let live = figures(&world.run(&beside(12, losses())).unwrap().0);
    for (precision, apart) in [(HiddenPrecision::F32, 2e-5), (HiddenPrecision::F16, 5e-3)] {
        store_states(&mut world, precision, 1);
        let stored = figures(&world.run(&table(12, losses())).unwrap().0);
        for (live, stored) in live.iter().zip(&stored) {
            assert!((live - stored).abs() < apart * live.abs().max(1.0), "{precision:?}: {live} {stored}");
        }
    }
    // In bf16 both read in bf16.
    let in_bf16 = |mut config: Value| {
        config["precision"] = json!("bf16");
        figures(&world.run(&config).unwrap().0)
    };
    let (live, stored) = (in_bf16(beside(4, losses())), in_bf16(table(4, losses())));
    for (live, stored) in live.iter().zip(&stored) {
        assert!((live - stored).abs() < 0.05 * live.abs().max(1.0), "{live} {stored}");
    }
}

#[test]
fn examples_without_states_learn_from_their_labels_alone() {
    let mut world = with_teacher();
    store_states(&mut world, HiddenPrecision::F32, 2);
    let (outcome, _) = world.run(&table(60, losses())).unwrap();
    assert!(outcome.metrics["jsd"].as_f64().unwrap() < 0.3, "{}", outcome.metrics);
    let warnings = world.warnings();
    assert!(
        warnings.iter().any(|warning| warning == "only 50.0 % of the training examples have a teacher's signal"),
        "{warnings:?}"
    );
}
