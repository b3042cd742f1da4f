//! What a student's losses read of signals in the data, held against them before anything runs.

use stillhouse_spec::Config;
use stillhouse_stage::kind;

use super::*;

/// Answers, as far as a student looks at them.
#[derive(Clone, Debug, Config)]
struct AnswersConfig {
    /// What is kept.
    capture: Option<CaptureConfig>,
}

/// What is kept.
#[derive(Clone, Debug, Config)]
struct CaptureConfig {
    /// The k most likely tokens.
    top_k: Option<u32>,
    /// Draws.
    samples: Option<u32>,
    /// Hidden states.
    hidden: Option<String>,
}

struct Answers;

impl Kind for Answers {
    kind!("answers", AnswersConfig);
}

static ANSWERS: Answers = Answers;

fn decode(kind: &'static dyn Kind, config: &Value) -> (&'static dyn Kind, Box<dyn AnyConfig>) {
    let mut report = Diagnostics::default();
    let decoded = kind.decode(&Node::from_json(config), &mut report);
    (kind, decoded.unwrap_or_else(|| panic!("{:?}", report.sorted())))
}

/// A student whose data is made of answers. `links` are names beside those.
fn with_answers(
    loss: Value,
    capture: Value,
    folders: [&Path; 2],
    links: &[(&'static str, &'static str, &'static str)],
) -> Tables {
    let mut tables = tables(&table(2, loss), None, folders);
    tables.tables.insert("answers.a", decode(&ANSWERS, &json!({ "capture": capture })));
    let data = json!({ "tokenizer": "m", "mix": [{ "answers": "a" }] });
    tables.tables.insert("dataset.d", decode(&Dataset, &data));
    tables.links.extend([(("dataset.d", "mix.0.answers"), "answers.a"), (("answers.a", "teacher"), "teacher.t")]);
    tables.links.extend(links.iter().map(|(from, path, to)| ((*from, *path), *to)));
    tables
}

/// The one complaint, or all there are.
fn told(tables: &Tables) -> String {
    match &tables.complaints()[..] {
        [(message, hint)] => format!("{message} / {}", hint.as_deref().unwrap_or_default()),
        all => format!("{all:?}"),
    }
}

fn said(
    loss: Value,
    capture: Value,
    folders: [&Path; 2],
    links: &[(&'static str, &'static str, &'static str)],
) -> String {
    told(&with_answers(loss, capture, folders, links))
}

/// The same tokenizer in two folders, and another.
fn folders() -> (World, [std::path::PathBuf; 3]) {
    let world = with_teacher();
    let folder = world.files["teacher.model.path"].path.clone();
    let (same, other) = (world.folder.path().join("same"), world.folder.path().join("other"));
    for (copy, to) in [(&same, "w3"), (&other, "v3")] {
        fs_err::create_dir_all(copy).unwrap();
        let text = fs_err::read_to_string(folder.join("tokenizer.json")).unwrap();
        fs_err::write(copy.join("tokenizer.json"), text.replace("w3", to)).unwrap();
    }
    (world, [folder, same, other])
}

#[test]
fn a_servers_tokenizer_is_held_against_the_datas_and_asked_for_where_it_is_not_named() {
    let (_world, [folder, same, other]) = folders();
    let top_k = json!({ "top-k": 64 });
    let server = |second: &Path, links: &[_]| said(both(), top_k.clone(), [&folder, second], links);
    let message = server(&other, &[]);
    assert!(
        message.starts_with("`forward-kl` compares token by token, and nobody says which tokenizer teacher.t has"),
        "{message}"
    );
    assert!(message.ends_with("name it in the teacher's table: `tokenizer = \"m\"`, if it is this one"), "{message}");
    assert_eq!(server(&other, &[("teacher.t", "tokenizer", "model.m")]), "[]");
    assert_eq!(server(&same, &[("teacher.t", "tokenizer", "model.n")]), "[]");
    let message = server(&other, &[("teacher.t", "tokenizer", "model.n")]);
    let begins =
        "`forward-kl` compares token by token, but student.s reads model.m's tokens and teacher.t those of model.n / ";
    assert!(message.starts_with(begins), "{message}");
    for word in ["`tokenizer = \"n\"`", "`cross-entropy`", "`uld`", "`provider = \"local\"`"] {
        assert!(message.contains(word), "{message}");
    }
    let local = |model| said(both(), top_k.clone(), [&folder, &other], &[("teacher.t", "model", model)]);
    assert_eq!(local("model.m"), "[]");
    assert!(local("model.n").starts_with(begins), "{}", local("model.n"));
    // Who learns from the text alone reads no log-probabilities.
    assert_eq!(said(json!("cross-entropy"), top_k.clone(), [&folder, &other], &[]), "[]");
}

#[test]
fn draws_are_for_losses_that_are_linear_in_them_and_hidden_states_for_all() {
    let (_world, [folder, _, other]) = folders();
    let local = [("teacher.t", "model", "model.m")];
    let said = |loss: Value, capture: Value| said(loss, capture, [&folder, &other], &local);
    let draws = json!({ "samples": 64 });
    assert_eq!(
        said(json!({ "forward-kl": {}, "sampled-cross-entropy": {}, "cross-entropy": {} }), draws.clone()),
        "[]"
    );
    let message = said(json!({ "forward-kl": {}, "reverse-kl": {} }), draws.clone());
    assert!(
        message.starts_with("`reverse-kl` can't learn from the draws that answers.a keeps: it is not linear"),
        "{message}"
    );
    let message = said(json!({ "forward-kl": { "temperature": 2.0 } }), draws);
    assert!(
        message.starts_with("`forward-kl` can't learn from the draws that answers.a keeps: at temperature 2"),
        "{message}"
    );
    for loss in [both(), json!({ "reverse-kl": { "temperature": 2.0 } })] {
        assert_eq!(said(loss, json!({ "hidden": "bf16" })), "[]");
    }
}

#[test]
fn hidden_states_are_those_of_one_teacher_and_stand_beside_no_distributions() {
    let (_world, [folder, same, _]) = folders();
    let two = |other: Value, teacher: &'static str, model: &'static str| {
        let links = [("teacher.t", "model", "model.m"), ("answers.b", "teacher", teacher), (teacher, "model", model)];
        let mut tables = with_answers(both(), json!({ "hidden": "f32" }), [&folder, &same], &links);
        tables.tables.insert("answers.b", decode(&ANSWERS, &json!({ "capture": other })));
        tables.tables.insert("teacher.u", decode(&Model, &json!({ "path": folder })));
        let data = json!({ "tokenizer": "m", "mix": [{ "answers": "a" }, { "answers": "b" }] });
        tables.tables.insert("dataset.d", decode(&Dataset, &data));
        tables.links.insert(("dataset.d", "mix.1.answers"), "answers.b");
        told(&tables)
    };
    let hidden = || json!({ "hidden": "f16" });
    assert_eq!(two(hidden(), "teacher.t", "model.m"), "[]");
    assert_eq!(two(hidden(), "teacher.u", "model.m"), "[]", "two names of one model");
    let message = two(hidden(), "teacher.u", "model.n");
    assert!(
        message.starts_with("student.s can't learn from the hidden states of teacher.t and of teacher.u at once"),
        "{message}"
    );
    let message = two(json!({ "top-k": 4 }), "teacher.t", "model.m");
    assert!(
        message.starts_with(
            "student.s can't learn from the hidden states that answers.a keeps and from the distributions that answers.b \
             keeps at once / give both answers the same `capture`"
        ),
        "{message}"
    );
}
