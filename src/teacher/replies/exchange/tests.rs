use stillhouse_data::answer::Outcome;

use super::*;
use crate::reply::{Candidate, TokenLogProbs, Usage};

fn key(number: u8) -> RequestKey {
    RequestKey([number; 32])
}

fn reply(text: &str) -> Reply {
    let chosen = Candidate { id: Some(3), bytes: vec![0xf0, 0x9f], log_prob: -0.1 };
    Reply {
        outcome: Outcome::Ok,
        text: text.to_owned(),
        finish: "stop".to_owned(),
        model: "m".to_owned(),
        usage: Usage { prompt: 1, completion: 3 },
        token_ids: Some(vec![1, 2]),
        vector: None,
        tokens: Some(vec![TokenLogProbs { chosen, top: vec![] }]),
    }
}

fn fill(folder: &Path, replies: &[(u8, u32, &str)]) {
    let store = ReplyStore::open(folder).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for (number, limit, text) in replies {
        runtime.block_on(store.put(key(*number), *limit, &reply(text))).unwrap();
    }
}

fn exported(folder: &Path) -> (String, Exported) {
    let mut out = Vec::new();
    let exported = export(folder, None, &mut out).unwrap();
    (String::from_utf8(out).unwrap(), exported)
}

/// Two teachers, one of whom answered a request twice, with different limits and with the same.
fn store() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fill(&folder.path().join("one"), &[(1, 16, "a"), (1, 8, "b"), (2, 8, "c \u{2028}\n"), (1, 8, "later")]);
    fill(&folder.path().join("two"), &[(1, 8, "of another")]);
    folder
}

#[test]
fn what_is_imported_gives_the_same_answers() {
    let (from, to) = (store(), tempfile::tempdir().unwrap());
    let (lines, counts) = exported(from.path());
    assert_eq!(counts, Exported { teachers: 2, replies: 5, damaged: 0 });
    let imported = import(to.path(), &mut lines.as_bytes()).unwrap();
    assert_eq!((imported.added, imported.known, imported.others, imported.bad_lines), (4, 0, 1, 0));
    for teacher in ["one", "two"] {
        let [from, to] = [&from, &to].map(|folder| ReplyStore::open(&folder.path().join(teacher)).unwrap());
        for (number, limit) in [(1, 8), (1, 16), (1, 9), (1, 100), (2, 8), (3, 8)] {
            let said = |store: &ReplyStore| {
                let location = store.find(&key(number), limit).unwrap()?;
                store.read(&key(number), location).unwrap()
            };
            assert_eq!(said(&from), said(&to), "{teacher} {number} {limit}");
        }
    }
    let again = import(to.path(), &mut lines.as_bytes()).unwrap();
    assert_eq!((again.added, again.known, again.others), (0, 4, 1));
    let (once, _) = exported(to.path());
    assert_eq!(once.lines().count(), 4);
    assert!(once.lines().all(|line| lines.contains(line)));
}

#[test]
fn the_line_is_pinned() {
    let folder = tempfile::tempdir().unwrap();
    let plain = Reply { token_ids: None, tokens: None, ..reply("a") };
    let store = ReplyStore::open(&folder.path().join("one")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(store.put(key(1), 16, &plain)).unwrap();
    let line = r#"{"teacher":"one","key":"0101010101010101010101010101010101010101010101010101010101010101","max-tokens":16,"reply":{"outcome":"ok","text":"a","finish":"stop","model":"m","usage":{"prompt":1,"completion":3}},"check":"cd58acc43cd3b965"}"#;
    assert_eq!(exported(folder.path()).0.trim_end(), line);
}

#[test]
fn bad_lines_are_named_and_the_others_imported() {
    let from = store();
    let lines = exported(from.path()).0;
    let mut lines: Vec<String> = lines.lines().map(str::to_owned).collect();
    lines[0] = lines[0].replace("\"text\":\"a\"", "\"text\":\"x\"");
    lines[2] = lines[2][..40].to_owned();
    lines[4] = lines[4].replace("\"two\"", "\"../two\"");
    lines.push(String::new());
    lines.push("[1, 2]".to_owned());
    let to = tempfile::tempdir().unwrap();
    let imported = import(to.path(), &mut lines.join("\n").as_bytes()).unwrap();
    assert_eq!((imported.added, imported.others, imported.bad_lines), (1, 1, 4));
    let said: Vec<_> = imported.faults.iter().map(|fault| (fault.line, fault.reason.as_str())).collect();
    assert_eq!(said[0], (1, "the reply does not match its checksum: it was changed, or comes from a newer version"));
    assert!(said[1].0 == 3 && said[1].1.starts_with("it is no exported reply: EOF"), "{said:?}");
    assert_eq!(said[2], (5, "`../two` is no teacher's folder"));
    assert_eq!(said[3].0, 7);
    assert_eq!(fs_err::read_dir(to.path()).unwrap().count(), 1);
}

#[test]
fn damaged_replies_are_left_out_and_counted() {
    let from = store();
    let path = from.path().join("one/00000000.replies");
    let mut bytes = fs_err::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    bytes[20] ^= 1;
    fs_err::write(&path, bytes).unwrap();
    assert_eq!(exported(from.path()).1, Exported { teachers: 2, replies: 3, damaged: 2 });
}

#[test]
fn one_teacher_may_be_named_and_an_unknown_one_is_an_error() {
    let from = store();
    let mut out = Vec::new();
    assert_eq!(export(from.path(), Some("two"), &mut out).unwrap().replies, 1);
    let failure = stillhouse_stage::Failure::from(export(from.path(), Some("three"), &mut out).unwrap_err());
    assert_eq!(failure.message, "there is no teacher `three` among the stored replies");
    assert_eq!(failure.hint.unwrap(), "there is one, two");
    let none = export(&from.path().join("none"), Some("x"), &mut out).unwrap_err();
    assert_eq!(none.hint(), "there are no replies yet");
}
