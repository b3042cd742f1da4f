//! The stage with a model that runs here: a made-up one, whose words can be computed by hand.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use stillhouse_data::answer::Outcome;
use stillhouse_data::lm::{Finish, GenerateRequest, Generated, LanguageModel, LmError, ModelLoader, Watch};
use stillhouse_data::model_folder::ModelFolder;
use stillhouse_data::signals::{
    Head, HeadReader, HiddenPrecision, SIGNALS_FILE, Says, SequenceKey, SignalReader, head_file,
};
use stillhouse_stage::{Class, CountedBy, FileInput, Forecast};

use super::bench::Bench;
use super::forecast::forecast_with;

const WORDS: [&str; 8] = ["<end>", "one", "two", "three", "four", "five", "six", "seven"];

/// Counts on from the prompt's last word, and ends after `seven`. Its distribution is peaked at the next word.
struct Counting(&'static AtomicUsize);

fn log_probs(after: u32) -> Vec<f32> {
    let next = (after as usize + 1) % WORDS.len();
    (0..WORDS.len()).map(|word| if word == next { 0.5f32.ln() } else { (0.5f32 / 7.0).ln() }).collect()
}

impl LanguageModel for Counting {
    fn vocabulary(&self) -> usize {
        WORDS.len()
    }

    fn max_length(&self) -> usize {
        6
    }

    fn device(&self) -> String {
        "cpu".to_owned()
    }

    fn score(&mut self, rows: &[Vec<u32>], visit: &mut dyn FnMut(usize, usize, &[f32])) -> Result<(), LmError> {
        for position in 0..self.max_length() {
            for (row, tokens) in rows.iter().enumerate().filter(|(_, tokens)| position + 1 < tokens.len()) {
                visit(row, position, &log_probs(tokens[position]));
            }
        }
        Ok(())
    }

    fn hidden(&mut self, rows: &[Vec<u32>], visit: &mut dyn FnMut(usize, usize, &[f32])) -> Result<(), LmError> {
        for (row, tokens) in rows.iter().enumerate() {
            (0..tokens.len() - 1).for_each(|position| visit(row, position, &[tokens[position] as f32, 0.5]));
        }
        Ok(())
    }

    /// A state is the last token's id and a half; the head makes the logit of word w of it as `id · (w + 1)`.
    fn head(&mut self) -> Result<Head, LmError> {
        let weights = (0..WORDS.len()).flat_map(|word| [(word + 1) as f32, 0.0]).collect();
        Ok(Head { width: 2, weights })
    }

    fn log_probs_of(&mut self, states: &[f32], visit: &mut dyn FnMut(usize, &[f32])) -> Result<(), LmError> {
        states.chunks(2).enumerate().for_each(|(number, state)| visit(number, &log_probs(state[0] as u32)));
        Ok(())
    }

    fn generate(&mut self, requests: &[GenerateRequest], _: &mut Watch<'_>) -> Result<Vec<Generated>, LmError> {
        self.0.fetch_add(requests.len(), Ordering::Relaxed);
        let continued = requests.iter().map(|request| {
            let mut tokens = Vec::new();
            let mut last = request.prompt[request.prompt.len() - 1];
            while tokens.len() < request.sampling.max_tokens && request.prompt.len() + tokens.len() < self.max_length()
            {
                last = (last + 1) % WORDS.len() as u32;
                tokens.push(last);
                if request.sampling.stop_ids.contains(&last) {
                    return Generated { tokens, finish: Finish::Stop };
                }
            }
            Generated { tokens, finish: Finish::Length }
        });
        Ok(continued.collect())
    }
}

struct Loader {
    generated: &'static AtomicUsize,
}

impl ModelLoader for Loader {
    fn load(&self, _: &ModelFolder, device: &str) -> Result<Box<dyn LanguageModel>, LmError> {
        assert_eq!(device, "cpu");
        Ok(Box::new(Counting(self.generated)))
    }
}

/// A bench with the model folder in place, and the count of what was generated.
fn bench() -> (Bench, &'static AtomicUsize) {
    let mut bench = Bench::new();
    let folder = bench.folder.path().join("model");
    let vocabulary: BTreeMap<&str, usize> = WORDS.iter().enumerate().map(|(id, word)| (*word, id)).collect();
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [{ "id": 0, "content": "<end>", "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false }],
        "pre_tokenizer": { "type": "Whitespace" },
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<end>" },
    });
    fs_err::create_dir_all(&folder).unwrap();
    fs_err::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs_err::write(folder.join("config.json"), r#"{"eos_token_id": [0]}"#).unwrap();
    let digest_of = |name: &str| bench.store.digest_of(&folder.join(name)).unwrap().0;
    let members = ["config.json", "tokenizer.json"].map(|name| (name.to_owned(), digest_of(name)));
    bench.model = Some(FileInput {
        path: folder.clone(),
        digest: digest_of("config.json"),
        members: Some(BTreeMap::from(members)),
    });
    let generated: &'static AtomicUsize = Box::leak(Box::default());
    bench.loader = Box::leak(Box::new(Loader { generated }));
    (bench, generated)
}

fn prompts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn teacher() -> serde_json::Value {
    json!({ "provider": "local", "model": "m", "batch": 2 })
}

#[test]
fn a_local_teacher_answers_in_order_and_tells_its_tokens() {
    let (bench, _) = bench();
    let made = bench.run(&prompts(&["five", "one two", "seven"]), teacher(), json!({})).unwrap();
    let answers = made.answers();
    let seen: Vec<_> = answers.iter().map(|answer| (answer.text.as_str(), answer.outcome)).collect();
    assert_eq!(seen, [("six seven", Outcome::Ok), ("three four five six", Outcome::Cut), ("", Outcome::Empty)]);
    let tokens = answers[0].tokens.as_ref().unwrap();
    assert_eq!((&tokens.prompt, &tokens.completion), (&vec![5], &vec![6, 7, 0]));
    assert_eq!(made.outcome.metrics["tokens"], json!({ "prompt": 4, "completion": 8 }));
}

#[test]
fn a_plan_says_what_would_be_generated_in_the_model_s_own_tokens_and_for_nothing() {
    let (bench, _) = bench();
    let texts = prompts(&["five", "one two", "seven"]);
    let folder = bench.model.as_ref().unwrap().path.clone();
    let of = |more: serde_json::Value| {
        let mut answers = json!({ "sampling": { "max-tokens": 8 } });
        answers.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        forecast_with(&bench, Some(&texts), &teacher(), answers, Some(&folder)).unwrap()
    };
    let free = Forecast { usd: Some(0.0), counted_by: CountedBy::Tokenizer, ..Forecast::default() };
    assert_eq!(of(json!({})), Forecast { requests: 3, tokens: Some(1 + 2 + 1 + 3 * 8), ..free });
    bench.run(&texts[..2], teacher(), json!({ "sampling": { "max-tokens": 8 } })).unwrap();
    let rest = Forecast { requests: 1, tokens: Some(1 + 8), ..free };
    assert_eq!(of(json!({})), rest);
    assert_eq!(of(json!({ "capture": { "top-k": 3 } })), rest, "signals are computed of what is stored");
    let nowhere = folder.join("elsewhere");
    assert_eq!(forecast_with(&bench, Some(&texts), &teacher(), json!({}), Some(&nowhere)), None);
}

#[test]
fn what_was_generated_is_not_generated_again_and_capture_does_not_change_it() {
    let (bench, generated) = bench();
    let texts = prompts(&["five", "one two", "three"]);
    let made = bench.run(&texts, teacher(), json!({})).unwrap();
    let captured = bench.run(&texts, teacher(), json!({ "capture": { "full": true, "precision": "f32" } })).unwrap();
    assert_eq!(generated.load(Ordering::Relaxed), 3);
    assert_eq!(made.bytes(), captured.bytes());
    assert_eq!(captured.metric("from-cache"), 3);
}

#[test]
fn signals_are_found_by_content_and_speak_of_the_completion_only() {
    let (bench, _) = bench();
    let answers = json!({ "capture": { "top-k": 3, "precision": "f32" } });
    let made = bench.run(&prompts(&["five", "one two"]), teacher(), answers).unwrap();
    let reader = SignalReader::open(&made.out.join(SIGNALS_FILE)).unwrap();
    assert_eq!((reader.len(), reader.header().vocabulary), (2, 8));
    let teacher = &reader.header().teachers[0];
    let sequence = made.answers()[0].tokens.as_ref().unwrap().sequence();
    let signal = reader.get(&SequenceKey::of(teacher, &sequence)).unwrap().unwrap();
    assert_eq!((signal.first_position(), signal.len()), (1, 3));
    let first = signal.position(0);
    assert_eq!(first.ids, [6, 0, 1], "after five comes six; the others are equal, the lowest ids stand for them");
    assert_eq!(first.log_probs[0], 0.5f32.ln());
    assert_eq!(made.outcome.metrics["signals"]["positions"], 7);
}

#[test]
fn the_whole_vocabulary_is_kept_where_it_is_wanted() {
    let (bench, _) = bench();
    let made =
        bench.run(&prompts(&["six"]), teacher(), json!({ "capture": { "full": true, "precision": "f32" } })).unwrap();
    let reader = SignalReader::open(&made.out.join(SIGNALS_FILE)).unwrap();
    let sequence = made.answers()[0].tokens.as_ref().unwrap().sequence();
    let signal = reader.find(&sequence).unwrap().unwrap();
    assert!(signal.is_dense());
    assert_eq!(signal.position(1).log_probs, log_probs(7));
}

#[test]
fn every_selection_reads_back_and_the_record_says_what_it_costs() {
    let (bench, generated) = bench();
    let texts = prompts(&["five", "one two"]);
    let signal = |capture: serde_json::Value| {
        let made = bench.run(&texts, teacher(), json!({ "capture": capture })).unwrap();
        let reader = SignalReader::open(&made.out.join(SIGNALS_FILE)).unwrap();
        let sequence = made.answers()[0].tokens.as_ref().unwrap().sequence();
        let signal = reader.find(&sequence).unwrap().unwrap();
        let mut state = Vec::new();
        signal.hidden(0, &mut state);
        (signal.says(), signal.position(0), state, made.outcome.metrics["signals"].clone())
    };
    let (says, first, _, record) = signal(json!({ "top-k": 3, "encoding": { "compact": { "kl": 1e-4 } } }));
    assert_eq!((says, first.ids.as_slice()), (Says::MostLikely, [6, 0, 1].as_slice()));
    assert!((first.log_probs[0] - 0.5f32.ln()).abs() < 0.02);
    assert_eq!(record["encoding"], "compact kl 0.0001");
    assert_eq!(record["quality"]["measured"], 7);
    let figure = |name: &str| record["quality"][name].as_f64().unwrap();
    assert!(figure("kl-max") <= 1.1e-4 && figure("kept-kl-max") <= 1.1e-4, "{record}");
    assert!((figure("outside-mean") - 5.0 * 0.5 / 7.0).abs() < 1e-6);
    assert!(record["bytes-per-token"].as_f64().unwrap() > 1.0);

    let (says, first, _, record) = signal(json!({ "top-p": 0.6, "precision": "f32" }));
    assert_eq!((says, first.ids.as_slice(), &record["top-k"]), (Says::MostLikely, [6, 0, 1].as_slice(), &json!(8)));
    let (says, first, _, record) = signal(json!({ "samples": 16 }));
    assert_eq!((says, &record["encoding"]), (Says::Drawn { samples: 16 }, &json!("drawn 16")));
    let shares: f32 = first.log_probs.iter().map(|share| share.exp()).sum();
    assert!((shares - 1.0).abs() < 1e-6 && record.get("quality").is_none());
    let (says, _, state, record) = signal(json!({ "hidden": "bf16" }));
    assert_eq!(says, Says::Hidden { width: 2, precision: HiddenPrecision::Bf16 });
    assert_eq!((state.as_slice(), &record["encoding"]), ([5.0, 0.5].as_slice(), &json!("hidden bf16")));
    assert_eq!(generated.load(Ordering::Relaxed), 2, "no other selection generates anew");
    // 8 words by 2 numbers that bfloat16 holds, and the file's beginning.
    assert_eq!((&record["head-bytes"], &record["quality"]["measured"]), (&json!(24 + 8 * 2 * 2), &json!(7)));
    assert!(record["quality"]["kl-max"].as_f64().unwrap() < 1e-9, "small numbers are exact in bfloat16");
}

#[test]
fn hidden_states_lie_beside_the_head_that_makes_distributions_of_them() {
    let (bench, _) = bench();
    let run = |capture| bench.run(&prompts(&["five", "one two"]), teacher(), json!({ "capture": capture })).unwrap();
    let made = run(json!({ "hidden": "f16" }));
    let reader = SignalReader::open(&made.out.join(SIGNALS_FILE)).unwrap();
    let head = HeadReader::open(&made.out.join(head_file(&reader.header().teachers[0]))).unwrap();
    assert_eq!((head.vocabulary(), head.width()), (reader.header().vocabulary as usize, 2));
    assert_eq!(head.read().unwrap().weights[..4], [1.0, 0.0, 2.0, 0.0]);
    let plain = run(json!({ "top-k": 2 }));
    assert!(plain.outcome.metrics["signals"].get("head-bytes").is_none() && !plain.out.join("signals/heads").exists());
}

#[test]
fn a_prompt_that_leaves_no_room_is_named() {
    let (bench, _) = bench();
    let failure = bench.run(&prompts(&["one", "one two three four five six"]), teacher(), json!({})).err().unwrap();
    assert_eq!(failure.class, Class::Input);
    assert!(failure.message.starts_with("prompt 2 (") && failure.message.contains("has 6 tokens"), "{failure}");
}

#[test]
fn images_are_refused_before_anything_is_generated() {
    let (bench, generated) = bench();
    let failure = bench.run(&prompts(&["one", "data:image/png;base64,AAAA"]), teacher(), json!({})).err().unwrap();
    assert_eq!(failure.class, Class::Input);
    assert!(failure.message.ends_with(" shows an image, and a local teacher reads text only"), "{failure}");
    assert_eq!(generated.load(Ordering::Relaxed), 0);
}

#[test]
fn a_local_teacher_is_asked_again_and_only_that_is_generated() {
    let (bench, generated) = bench();
    let texts = prompts(&["five", "one two", "three"]);
    bench.run(&texts, teacher(), json!({})).unwrap();
    assert_eq!(generated.swap(0, Ordering::Relaxed), 3);
    let again = json!({
        "outcomes": { "cut": "ask-again" }, "ask-again-then": "drop", "capture": { "full": true, "precision": "f32" },
    });
    let made = bench.run(&texts, teacher(), again.clone()).unwrap();
    assert_eq!(generated.swap(0, Ordering::Relaxed), 2, "one of them is cut however often it is asked");
    let said: Vec<_> = made.answers().into_iter().map(|answer| answer.text).collect();
    assert_eq!(said, ["six seven", "four five six seven"]);
    assert_eq!((made.metric("asked"), made.metric("asked-again"), made.metric("from-cache")), (2, 2, 3));
    assert_eq!(made.outcome.metrics["dropped"], json!({ "cut": 1 }));
    assert_eq!(SignalReader::open(&made.out.join(SIGNALS_FILE)).unwrap().len(), 2);
    let once_more = bench.run(&texts, teacher(), again).unwrap();
    assert_eq!((generated.load(Ordering::Relaxed), once_more.metric("from-cache")), (0, 5));
    assert_eq!(made.bytes(), once_more.bytes());
}

#[test]
fn a_local_teacher_scores_what_others_said_and_generates_nothing() {
    let (bench, generated) = bench();
    let given = |said: &[(&str, Outcome)]| super::scoring::given(&bench, said);
    let capture = json!({ "capture": { "top-k": 2, "precision": "f32" } });
    // `question 0` is one unknown word and another; a space keeps the answer's first word from being part of it.
    let said = given(&[(" two three", Outcome::Ok), (" four", Outcome::Cut)]);
    let made = super::scoring::score(&bench, said, teacher(), capture.clone()).unwrap();
    let answers = made.answers();
    assert_eq!(answers.iter().map(|answer| answer.text.as_str()).collect::<Vec<_>>(), [" two three", " four"]);
    let tokens = |place: usize| answers[place].tokens.as_ref().unwrap();
    assert_eq!(tokens(0).completion[..2], [2, 3]);
    assert_eq!(tokens(1).completion, [4], "what was cut has no end");
    let reader = SignalReader::open(&made.out.join(SIGNALS_FILE)).unwrap();
    let signal = reader.find(&tokens(0).sequence()).unwrap().unwrap();
    assert_eq!(signal.len(), tokens(0).completion.len());
    // After two comes three.
    assert_eq!((signal.position(1).ids[0], signal.position(1).log_probs[0]), (3, 0.5f32.ln()));
    assert_eq!((generated.load(Ordering::Relaxed), made.metric("asked")), (0, 0));
    let long = given(&[(" one two three four five six", Outcome::Ok)]);
    let failure = super::scoring::score(&bench, long, teacher(), capture).err().unwrap();
    assert!(failure.message.starts_with("answer 1 (to prompt ") && failure.message.contains("reads 6"), "{failure}");
}
