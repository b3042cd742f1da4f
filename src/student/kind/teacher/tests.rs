use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use stillhouse_data::dataset::Dataset;
use stillhouse_data::model::Model;
use stillhouse_spec::{Diagnostics, Node};
use stillhouse_stage::{AnyConfig, Definition, FileInput, Kind, Surroundings, View};

use super::super::Student;
use super::super::tests::{World, both, table, weights};

mod other_tokens;
mod stored;
mod stored_states;

/// Makes a folder the teacher of a world's students.
fn install(world: &mut World, folder: &Path) {
    let mut members = BTreeMap::new();
    for entry in fs_err::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let digest = world.store.digest_of(&entry.path()).unwrap().0;
        members.insert(entry.file_name().into_string().unwrap(), digest);
    }
    let file = FileInput { path: folder.to_owned(), digest: members["model.safetensors"], members: Some(members) };
    world.files.insert("teacher.model.path".into(), file);
    let definition = |kind: &str, config| Definition { kind: kind.into(), name: "bard".into(), config };
    world.definitions.insert("teacher".into(), definition("teacher", json!({ "provider": "local", "model": "bard" })));
    world.definitions.insert("teacher.model".into(), definition("model", json!({ "path": folder })));
}

/// A world whose teacher has learnt the data by heart.
fn with_teacher() -> World {
    let mut world = World::new(false);
    let (_, teacher) = world.run(&table(80, json!("cross-entropy"))).unwrap();
    install(&mut world, &teacher);
    world
}

fn beside(steps: u64, loss: Value) -> Value {
    let mut config = table(steps, loss);
    config["teacher"] = json!("bard");
    config
}

#[test]
fn a_student_learns_from_a_live_teacher_without_any_signal() {
    let world = with_teacher();
    let (outcome, _) = world.run(&beside(60, json!({ "jsd": {}, "reverse-kl": {} }))).unwrap();
    assert!(outcome.metrics["jsd"].as_f64().unwrap() < 0.05, "{}", outcome.metrics);
    assert!(outcome.metrics["reverse-kl"].as_f64().unwrap() < 0.2, "{}", outcome.metrics);
}

#[test]
fn a_training_beside_a_teacher_goes_on_and_another_teacher_begins_another() {
    let mut world = with_teacher();
    let (_, short) = world.run(&beside(4, both())).unwrap();
    let (longer, went_on) = world.run(&beside(9, both())).unwrap();
    assert_eq!(longer.provenance["resumed-from-step"], 4);
    let at_once = with_teacher();
    let (_, undisturbed) = at_once.run(&beside(9, both())).unwrap();
    assert!(weights(&went_on) == weights(&undisturbed));
    // Where no loss reads the teacher, it is not part of what the weights come from.
    let (plain, _) = world.run(&table(3, json!("cross-entropy"))).unwrap();
    let (beside_plain, _) = world.run(&beside(3, json!("cross-entropy"))).unwrap();
    assert_eq!((plain.resumed, beside_plain.provenance["tokens"].as_u64()), (false, Some(0)));
    install(&mut world, &short);
    let (other, out) = world.run(&beside(9, both())).unwrap();
    assert!(!other.resumed && weights(&out) != weights(&undisturbed));
}

#[test]
fn a_student_learns_from_hidden_states_and_holds_no_map_to_them() {
    let world = with_teacher();
    let loss = json!({ "hidden-mse": { "layers": [{ "student": 1, "teacher": 1 }, { "student": 0, "teacher": 0 }] },
                       "hidden-cosine": { "projection": "none" } });
    let (outcome, out) = world.run(&beside(40, loss.clone())).unwrap();
    assert!(outcome.metrics["hidden-cosine"].as_f64().unwrap() < 0.5, "{}", outcome.metrics);
    let bytes = weights(&out);
    let names = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert!(names.names().iter().all(|name| !name.contains("projections")), "{:?}", names.names());
    // What was trained is taken up with its maps, and ends as if nobody had stopped it.
    let (longer, went_on) = world.run(&beside(45, loss.clone())).unwrap();
    assert_eq!(longer.provenance["resumed-from-step"], 40);
    let at_once = with_teacher();
    let (_, undisturbed) = at_once.run(&beside(45, loss)).unwrap();
    assert!(weights(&went_on) == weights(&undisturbed));
}

#[test]
fn held_out_hidden_states_are_measured() {
    let world = with_teacher();
    let mut config = beside(20, json!({ "hidden-mse": {} }));
    config["early-stop"] = json!({ "every": 10, "patience": 0, "metric": "hidden-mse" });
    let (outcome, _) = world.run(&config).unwrap();
    assert!(outcome.metrics["validation"].as_f64().unwrap() > 0.0, "{}", outcome.metrics);
}

/// A copy of a world's teacher with another text in its files.
fn changed(world: &World, name: &str, from: &str, to: &str) -> PathBuf {
    let folder = world.folder.path().join(name);
    fs_err::create_dir_all(&folder).unwrap();
    for entry in fs_err::read_dir(&world.files["teacher.model.path"].path).unwrap() {
        let entry = entry.unwrap();
        fs_err::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    for file in ["tokenizer.json", "config.json"] {
        let text = fs_err::read_to_string(folder.join(file)).unwrap();
        fs_err::write(folder.join(file), text.replace(from, to)).unwrap();
    }
    folder
}

/// A copy of a world's teacher that reads shorter sequences.
fn with_context(world: &World, name: &str, context: usize) -> PathBuf {
    let config = world.files["teacher.model.path"].path.join("config.json");
    let config: Value = serde_json::from_str(&fs_err::read_to_string(config).unwrap()).unwrap();
    let written = |context: String| format!("\"max_position_embeddings\": {context}");
    changed(world, name, &written(config["max_position_embeddings"].to_string()), &written(context.to_string()))
}

#[test]
fn held_out_rows_that_only_the_teacher_has_no_room_for_are_refused() {
    let mut world = with_teacher();
    world.hold_out_longer();
    let mut config = beside(2, both());
    config["early-stop"] = json!({ "every": 1 });
    world.run(&config).unwrap();
    let short = with_context(&world, "short", 7);
    install(&mut world, &short);
    world.run(&beside(2, both())).unwrap();
    let failure = world.run(&config).err().unwrap();
    assert_eq!(failure.message, "held-out rows of 8 positions do not fit teacher.bard, whose longest sequence is 7");
    assert!(failure.hint.unwrap().contains("a teacher with a longer context"));
}

#[test]
fn a_teacher_that_reads_other_tokens_or_shorter_rows_is_refused() {
    let mut world = with_teacher();
    let other = changed(&world, "other", "\"w3\"", "\"v3\"");
    let short = with_context(&world, "short", 5);
    install(&mut world, &other);
    let failure = world.run(&beside(2, both())).err().unwrap();
    assert_eq!(
        failure.message,
        "teacher.bard reads other tokens than the student's data: their distributions can't be compared token by token"
    );
    assert!(failure.hint.unwrap().contains("the teacher's tokenizer"));
    install(&mut world, &short);
    let failure = world.run(&beside(2, both())).err().unwrap();
    assert_eq!(failure.message, "rows of 7 positions do not fit teacher.bard, whose longest sequence is 5");
}

/// Tables that name each other.
struct Tables {
    tables: BTreeMap<&'static str, (&'static dyn Kind, Box<dyn AnyConfig>)>,
    links: BTreeMap<(&'static str, &'static str), &'static str>,
}

impl Surroundings for Tables {
    fn follow(&self, label: &str, path: &str) -> Option<View<'_>> {
        let (_, to) = self.links.iter().find(|((from, at), _)| (*from, *at) == (label, path))?;
        self.view(to)
    }
}

impl Tables {
    fn view(&self, label: &str) -> Option<View<'_>> {
        let (label, (kind, config)) = self.tables.get_key_value(label)?;
        Some(View::new(label, *kind, config.as_ref(), stillhouse_spec::Origin::new(0, 0..0), self))
    }

    fn complaints(&self) -> Vec<(String, Option<String>)> {
        let mut report = Diagnostics::default();
        Student.check(&self.view("student.s").unwrap(), &mut report);
        report.sorted().iter().map(|error| (error.message.clone(), error.hint.clone())).collect()
    }
}

/// A student, its dataset without signals, and two model folders.
fn tables(student: &Value, teacher_model: Option<&'static str>, folders: [&Path; 2]) -> Tables {
    let decode = |kind: &'static dyn Kind, config: &Value| {
        let mut report = Diagnostics::default();
        let decoded = kind.decode(&Node::from_json(config), &mut report);
        (kind, decoded.unwrap_or_else(|| panic!("{:?}", report.sorted())))
    };
    let model = |folder: &Path| decode(&Model, &json!({ "path": folder }));
    let tables = BTreeMap::from([
        ("student.s", decode(&Student, student)),
        ("dataset.d", decode(&Dataset, &json!({ "tokenizer": "m", "mix": [{ "text": "x.txt" }] }))),
        // Only what a teacher names is looked at, so any table will do.
        ("teacher.t", model(folders[0])),
        ("model.m", model(folders[0])),
        ("model.n", model(folders[1])),
    ]);
    let mut links = BTreeMap::from([(("student.s", "data"), "dataset.d"), (("dataset.d", "tokenizer"), "model.m")]);
    if student.get("teacher").is_some() {
        links.insert(("student.s", "teacher"), "teacher.t");
    }
    if let Some(model) = teacher_model {
        links.insert(("teacher.t", "model"), model);
    }
    Tables { tables, links }
}

#[test]
fn what_a_teacher_must_be_is_said_before_anything_runs() {
    let world = with_teacher();
    let folder = world.files["teacher.model.path"].path.clone();
    let (same, other) = (world.folder.path().join("same"), world.folder.path().join("other"));
    for (copy, from, to) in [(&same, "w3", "w3"), (&other, "w3", "v3")] {
        fs_err::create_dir_all(copy).unwrap();
        let text = fs_err::read_to_string(folder.join("tokenizer.json")).unwrap();
        fs_err::write(copy.join("tokenizer.json"), text.replace(from, to)).unwrap();
        for name in ["config.json", "model.safetensors"] {
            fs_err::copy(folder.join(name), copy.join(name)).unwrap();
        }
    }
    let said = |student: Value, model: Option<&'static str>, second: &Path| {
        let complaints = tables(&student, model, [&folder, second]).complaints();
        let [(message, hint)] = &complaints[..] else { return format!("{complaints:?}") };
        format!("{message} / {}", hint.as_deref().unwrap_or_default())
    };
    // A folder of its own with the same tokenizer will do.
    assert_eq!(said(beside(2, both()), Some("model.m"), &other), "[]");
    assert_eq!(said(beside(2, both()), Some("model.n"), &same), "[]");
    let message = said(beside(2, both()), Some("model.n"), &other);
    assert!(
        message.starts_with("`forward-kl` compares token by token, but student.s reads model.m's tokens"),
        "{message}"
    );
    assert!(
        message.contains("teacher.t those of model.n") && message.contains("learn from its answers alone"),
        "{message}"
    );
    let message = said(beside(2, both()), None, &same);
    assert!(message.starts_with("teacher.t is a server, which can't run beside a student / `forward-kl`"), "{message}");
    let message = said(beside(2, json!("cross-entropy")), Some("model.m"), &same);
    assert!(message.starts_with("no loss of student.s compares with teacher.t / leave `teacher` out"), "{message}");
    let message = said(beside(2, json!("hidden-mse")), None, &same);
    assert!(message.contains("can't run beside a student / `hidden-mse` needs hidden states"), "{message}");
    let message = said(table(2, json!({ "reverse-kl": {} })), None, &same);
    assert!(message.starts_with("`reverse-kl` needs a teacher's distributions, and dataset.d has none"), "{message}");
    assert!(message.contains("capture = { top-k = 64 }") && message.contains("`teacher = \"…\"`"), "{message}");
}

#[test]
fn layers_that_are_not_there_are_said_before_anything_runs() {
    let world = with_teacher();
    let folder = world.files["teacher.model.path"].path.clone();
    let said = |loss: Value| {
        let complaints = tables(&beside(2, loss), Some("model.m"), [&folder, &folder]).complaints();
        let [(message, hint)] = &complaints[..] else { return format!("{complaints:?}") };
        format!("{message} / {}", hint.as_deref().unwrap_or_default())
    };
    let pair = |student: u32, teacher: u32| json!([{ "student": student, "teacher": teacher }]);
    assert_eq!(
        said(json!({ "hidden-mse": { "layers": pair(1, 0) }, "hidden-cosine": { "projection": "none" } })),
        "[]"
    );
    assert_eq!(
        said(json!({ "hidden-mse": { "layers": pair(2, 1) } })),
        "`hidden-mse` compares layer 2 of the student, which has 1 layer / layers count from 0, the embedding, to 1, what the \
         final norm reads"
    );
    // All that is wrong is said at once.
    let both = json!({ "hidden-mse": { "layers": [{ "student": 2, "teacher": 1 }, { "student": 1, "teacher": 3 }] },
                       "hidden-cosine": { "layers": pair(4, 1) } });
    let complaints = tables(&beside(2, both), Some("model.m"), [&folder, &folder]).complaints();
    assert_eq!(complaints.len(), 3, "{complaints:?}");
    let message = said(json!({ "hidden-cosine": { "layers": pair(1, 7) } }));
    assert!(message.starts_with("`hidden-cosine` compares layer 7 of the teacher, which has 1 layer /"), "{message}");
}
