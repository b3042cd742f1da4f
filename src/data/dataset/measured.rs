//! What a server's log-probabilities take as signals: without ids they have no encoding, so it is the dataset that first had them in its
//! own tokens that knows.

use serde_json::Value;
use stillhouse_stage::store::{Lookup, Record, Store, StoreError, Tree};

use crate::captured::CAPTURED_FILE;

/// What a dataset reads of an `answers` stage: as the field [`super::Source::answers`] has it.
const READ: &[&str] = &["answers.jsonl", "signals", CAPTURED_FILE];

/// What became of a server's log-probabilities so far.
#[derive(Debug, Clone, PartialEq)]
pub enum Measured {
    /// The newest dataset that was made of these answers tried encodings on them.
    By {
        /// The dataset, as it was named then.
        stage: String,
        /// The table, as its record has it.
        encodings: Value,
    },
    /// No dataset did.
    Nowhere,
}

impl Measured {
    /// Of the result of an `answers` stage, with the files of its output; nothing where it keeps no server's
    /// log-probabilities.
    ///
    /// # Errors
    /// A store that can't be read.
    pub fn of(store: &Store, answers: &Record, files: &Tree) -> Result<Option<Self>, StoreError> {
        if answers.kind != "answers" || !files.entries().iter().any(|file| file.path == CAPTURED_FILE) {
            return Ok(None);
        }
        // A recipe knows its inputs by what it reads of them.
        let read = files.part(READ).digest().to_string();
        for entry in store.records()?.iter().rev().filter(|entry| entry.kind == "dataset") {
            let Lookup::Found(record) = store.lookup(&entry.key)? else { continue };
            let encodings = &record.metrics["signals"]["encodings"];
            if record.recipe.contains(&read) && encodings.as_array().is_some_and(|rows| !rows.is_empty()) {
                return Ok(Some(Self::By { stage: record.stage.clone(), encodings: encodings.clone() }));
            }
        }
        Ok(Some(Self::Nowhere))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stillhouse_spec::{Config as _, Described, Diagnostics, Node};
    use stillhouse_stage::store::{Digest, Key};

    use super::*;
    use crate::dataset::Source;

    #[test]
    fn what_is_looked_for_is_what_a_dataset_reads() {
        let node = Node::from_json(&json!({ "answers": "a" }));
        let source = Source::decode(&node, &mut Diagnostics::default()).unwrap();
        let Described::Table(members) = source.describe() else { panic!() };
        let Described::Reference(answers) = &members["answers"] else { panic!("{members:?}") };
        assert_eq!(answers.parts, READ);
    }

    #[test]
    fn the_newest_dataset_of_these_very_answers_has_the_table() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        let output = |files: &[(&str, &str)]| {
            let folder = tempfile::tempdir_in(folder.path()).unwrap();
            for (name, text) in files {
                fs_err::write(folder.path().join(name), text).unwrap();
            }
            store.put_tree(folder.path()).unwrap().0
        };
        let tree = |digest: &Digest| store.tree(digest).unwrap().unwrap();
        let day = std::cell::Cell::new(0);
        let record = |kind: &str, stage: &str, recipe: String, output, metrics| Record {
            format: 1,
            key: Key::of("test", format!("{stage} {recipe}").as_bytes()),
            kind: kind.into(),
            revision: 1,
            stage: stage.into(),
            recipe,
            output,
            metrics,
            provenance: Value::Null,
            created: format!("2026-01-0{}T00:00:00Z", day.replace(day.get() + 1)),
            seconds: 0.0,
            run: String::new(),
        };
        let of = |content: &str| output(&[("answers.jsonl", "{}"), (CAPTURED_FILE, content)]);
        let answers = |content: &str| record("answers", "answers.a", content.to_owned(), of(content), Value::Null);
        let look = |answers: &Record| Measured::of(&store, answers, &tree(&answers.output)).unwrap();
        assert_eq!(look(&answers("one")), Some(Measured::Nowhere));
        let plain = record("answers", "answers.a", String::new(), output(&[("answers.jsonl", "{}")]), Value::Null);
        assert_eq!(look(&plain), None, "there is nothing to encode");
        for (stage, content) in [("dataset.first", "one"), ("dataset.second", "one"), ("dataset.other", "two")] {
            let digest = tree(&of(content)).part(READ).digest();
            let metrics = json!({ "signals": { "encodings": [{ "encoding": stage }] } });
            let made = output(&[("train", stage)]);
            let recipe = json!({ "inputs": { "mix.0.answers": digest.to_string() } }).to_string();
            store.publish(record("dataset", stage, recipe, made, metrics)).unwrap();
        }
        let table = json!([{ "encoding": "dataset.second" }]);
        assert_eq!(look(&answers("one")), Some(Measured::By { stage: "dataset.second".into(), encodings: table }));
        assert_eq!(look(&answers("three")), Some(Measured::Nowhere), "other answers than it read");
    }
}
