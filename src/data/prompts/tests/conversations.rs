//! Conversations that rows hold, and their images.

use super::*;
use crate::prompt::Part;

fn table(path: &str) -> Value {
    json!({ "jsonl": { "path": path, "messages": "messages" } })
}

fn row(turns: Value) -> String {
    format!("{}\n", json!({ "messages": turns }))
}

#[test]
fn both_shapes_are_one_prompt_and_a_last_answer_becomes_the_reference() {
    let bench = Bench::new();
    let openai = json!([
        { "role": "system", "content": "Be brief." }, { "role": "user", "content": "hi" },
        { "role": "assistant", "content": "Hello." }, { "role": "user", "content": [{ "type": "text", "text": "and now?" }] },
    ]);
    let share = json!([
        { "from": "system", "value": "Be brief." }, { "from": "human", "value": "hi" },
        { "from": "gpt", "value": "Hello." }, { "from": "human", "value": "and now?" },
        { "from": "gpt", "value": "Nothing." },
    ]);
    let made = |turns: &Value| bench.run(&Prompts, table(&bench.file("p.jsonl", &row(turns.clone())))).unwrap();
    let (first, second) = (prompts(&made(&openai)).remove(0), prompts(&made(&share)).remove(0));
    assert_eq!(
        first.messages,
        [Message::system("Be brief."), Message::user("hi"), Message::assistant("Hello."), Message::user("and now?")]
    );
    assert_eq!((first.id, first.reference), (second.id, None));
    assert_eq!(second.reference.as_deref(), Some("Nothing."));
}

#[test]
fn csv_and_parquet_hold_conversations_too() {
    let bench = Bench::new();
    let path = bench.file("p.csv", "id,talk\n1,\"[{\"\"from\"\": \"\"human\"\", \"\"value\"\": \"\"hi\"\"}]\"\n");
    let made = bench.run(&Prompts, json!({ "csv": { "path": path, "messages": "talk" } })).unwrap();
    assert_eq!(prompts(&made)[0].messages, [Message::user("hi")]);
    let path = bench.bytes("p.parquet", &crate::source::conversations_in_parquet());
    let made = bench.run(&Prompts, json!({ "parquet": { "path": path, "messages": "messages" } })).unwrap();
    let read = prompts(&made);
    assert_eq!((&read[0].messages[..], read[0].reference.as_deref()), (&[Message::user("hi")][..], Some("Hello.")));
    assert_eq!(read[1].messages, [Message::user("who?")]);
}

#[test]
fn instructions_of_the_table_stand_where_a_conversation_has_none() {
    let bench = Bench::new();
    let content = row(json!([{ "role": "user", "content": "a" }]))
        + &row(json!([{ "role": "developer", "content": "own" }, { "role": "user", "content": "b" }]));
    let path = bench.file("p.jsonl", &content);
    let made = bench
        .run(&Prompts, json!({ "jsonl": { "path": path, "messages": "messages", "system": "of the table" } }))
        .unwrap();
    let read = prompts(&made);
    assert_eq!(read[0].messages[0], Message::system("of the table"));
    assert_eq!(read[1].messages[0], Message::system("own"));
    assert_eq!(read[1].messages.len(), 2);
}

#[test]
fn turns_that_are_none_are_named() {
    let bench = Bench::new();
    let user = json!({ "role": "user", "content": "x" });
    let cases = [
        (json!([]), "`messages` has no turn of the user to answer"),
        (
            json!([{ "role": "system", "content": "x" }]),
            "`messages` has no turn of the user to answer: it ends with one of role `system`",
        ),
        (
            json!([user, { "role": "assistant", "content": "x" }, { "role": "assistant", "content": "y" }]),
            "`messages` has no turn of the user to answer: it ends with one of role `assistant`",
        ),
        (json!("no json"), "`messages` is text that is not valid JSON: expected ident at line 1 column 2"),
        (json!({ "role": "user" }), "`messages` is no list of turns"),
        (json!([user, 3]), "turn 2 of `messages`: it is no object"),
        (json!([{ "content": "x" }]), "turn 1 of `messages`: it has neither `role` nor `from`"),
        (json!([{ "role": "tool", "content": "x" }]), "turn 1 of `messages`: unknown role `tool`"),
        (json!([{ "role": "user", "content": " " }]), "turn 1 of `messages`: it is empty"),
        (json!([{ "role": "user" }]), "turn 1 of `messages`: it has no text in `content` or `value`"),
        (
            json!([{ "role": "user", "content": [{ "type": "audio" }] }]),
            "turn 1 of `messages`: a part of its content is of the unknown type `audio`",
        ),
    ];
    for (turns, expected) in cases {
        let path = bench.file("p.jsonl", &format!("\n{}", row(turns)));
        let told = failure(&bench, table(&path));
        let (message, hint) = told.split_once(" | ").unwrap();
        assert_eq!(message, format!("p.jsonl:2: {expected}"));
        assert!(!hint.is_empty());
    }
    let path = bench.file("p.jsonl", "{\"message\": []}\n");
    assert_eq!(
        failure(&bench, table(&path)),
        "p.jsonl:1: the row has no field `messages`, which `messages` names | did you mean `message`? the row has `message`"
    );
}

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and so on";

fn asks(image: &str) -> String {
    row(json!([{ "role": "user", "content": [
        { "type": "text", "text": "What is this?" }, { "type": "image_url", "image_url": { "url": image } },
    ] }]))
}

#[test]
fn images_are_passed_through_and_files_become_part_of_the_prompt() {
    let bench = Bench::new();
    bench.bytes("images/deep/a.png", PNG);
    bench.bytes("images/b.jpg", b"\xff\xd8\xff and so on");
    let given = ["https://example.org/a.png", "data:image/gif;base64,AAAA", "deep/a.png", "./b.jpg"];
    let path = bench.file("p.jsonl", &given.map(asks).concat());
    let images = format!("{}/images", bench.folder());
    let made =
        bench.run(&Prompts, json!({ "jsonl": { "path": path, "messages": "messages", "images": images } })).unwrap();
    let read = prompts(&made);
    let url = |prompt: &Prompt| {
        assert_eq!(prompt.messages[0].content, "What is this?");
        assert_eq!(prompt.messages[0].parts[0], Part::Text { text: "What is this?".into() });
        prompt.messages[0].images().map(|image| image.url.clone()).collect::<String>()
    };
    let urls: Vec<String> = read.iter().map(url).collect();
    assert_eq!(urls[..2], given[..2]);
    assert_eq!(urls[2], "data:image/png;base64,iVBORw0KGgogYW5kIHNvIG9u");
    assert!(urls[3].starts_with("data:image/jpeg;base64,/9j/"), "{}", urls[3]);
    assert!((1..4).all(|at| read[at].id != read[0].id));
}

#[test]
fn images_that_cannot_be_had_are_named() {
    let bench = Bench::new();
    bench.bytes("images/a.png", b"no image");
    bench.file("secret.png", "x");
    let images = format!("{}/images", bench.folder());
    let told = |image: &str, images: Option<&str>| {
        let path = bench.file("p.jsonl", &asks(image));
        let mut table = table(&path);
        if let Some(images) = images {
            table["jsonl"]["images"] = json!(images);
        }
        bench.run(&Prompts, table).err().unwrap().message.rsplit("messages`: ").next().unwrap().to_owned()
    };
    assert_eq!(told("a.png", None), "it names the file a.png, but no folder of images is given");
    assert_eq!(told("a.png", Some(&images)), "a.png is no image");
    assert_eq!(told("b.png", Some(&images)), "the folder of images has no b.png");
    assert_eq!(told("../secret.png", Some(&images)), "the folder of images has no ../secret.png");
    assert_eq!(told("data:text/plain,hi", None), "a `data:` URI holds no image");
}
