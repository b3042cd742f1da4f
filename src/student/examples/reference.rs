//! Compares a model, folder or GGUF file, with reference values of another implementation:
//!
//! ```text
//! cargo run -p stillhouse-student --no-default-features --example reference -- MODEL REFERENCE.json
//! ```
//!
//! The reference holds any of `cases` (`prompt`, `ids`, `token_logprobs`, `last_top20`, `greedy_ids`), `texts` (`text`,
//! `ids` without what the tokenizer puts around them) and `chats` (`messages`, `text`). Ends with 1 where something is
//! not equal, or further than 1e-3 from it.

#![allow(clippy::print_stdout, reason = "it is a program")]

use std::path::Path;
use std::process::ExitCode;

use serde::Deserialize;
use stillhouse_data::lm::{GenerateRequest, LanguageModel, ModelLoader, Sampling};
use stillhouse_data::model_folder::ModelFolder;
use stillhouse_data::prompt::Message;
use stillhouse_data::tokenizer::Tokenizer;
use stillhouse_student::language_model::BurnLoader;

/// Log-probabilities are in f32 on both sides.
const TOLERANCE: f32 = 1e-3;

#[derive(Deserialize)]
struct Reference {
    #[serde(default)]
    cases: Vec<Case>,
    #[serde(default)]
    texts: Vec<Text>,
    #[serde(default)]
    chats: Vec<Chat>,
}

#[derive(Deserialize)]
struct Case {
    prompt: String,
    ids: Vec<u32>,
    token_logprobs: Vec<Option<f32>>,
    last_top20: Vec<(u32, f32)>,
    greedy_ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Chat {
    messages: Vec<Message>,
    text: String,
}

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, reference] = arguments.as_slice() else {
        return Err("it takes a model and a file of reference values".into());
    };
    let reference: Reference = serde_json::from_str(&fs_err::read_to_string(reference)?)?;
    let folder = ModelFolder::open(Path::new(model))?;
    let tokenizer = Tokenizer::load(&folder)?;
    let mut faults = tokens(&tokenizer, &reference)?;
    if !reference.cases.is_empty() {
        let mut model = BurnLoader.load(&folder, "cpu")?;
        for case in &reference.cases {
            faults += numbers(model.as_mut(), &tokenizer, case)?;
        }
    }
    println!("{faults} faults");
    Ok(if faults == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Token ids of odd texts, and conversations in the model's own template.
fn tokens(tokenizer: &Tokenizer, reference: &Reference) -> Result<usize, Box<dyn std::error::Error>> {
    let mut faults = 0;
    for Text { text, ids } in &reference.texts {
        let found = tokenizer.encode(text, false)?;
        if found != *ids {
            println!("{text:?}: {found:?} is not {ids:?}");
            faults += 1;
        }
    }
    let format = tokenizer.chat_format()?;
    for Chat { messages, text } in &reference.chats {
        let found = tokenizer.prompt_text(messages, &format)?;
        if found != *text {
            println!("{found:?} is not {text:?}");
            faults += 1;
        }
    }
    println!("{} texts, {} conversations", reference.texts.len(), reference.chats.len());
    Ok(faults)
}

/// Ids, log-probabilities, the most likely tokens and the greedy continuation of one prompt.
fn numbers(
    model: &mut dyn LanguageModel,
    tokenizer: &Tokenizer,
    case: &Case,
) -> Result<usize, Box<dyn std::error::Error>> {
    let ids = tokenizer.encode(&case.prompt, true)?;
    let (mut furthest, mut furthest_top) = (0f32, 0f32);
    // One token more, since the last position is not scored.
    let row = case.greedy_ids[..=case.ids.len()].to_vec();
    model.score(&[row], &mut |_, position, log_probs| {
        let at = |id: u32| log_probs.get(id as usize).copied().unwrap_or(f32::NAN);
        if let (Some(id), Some(Some(expected))) = (case.ids.get(position + 1), case.token_logprobs.get(position + 1)) {
            furthest = furthest.max((at(*id) - expected).abs());
        }
        if position + 1 == case.ids.len() {
            for (id, expected) in &case.last_top20 {
                furthest_top = furthest_top.max((at(*id) - expected).abs());
            }
        }
    })?;
    let max_tokens = case.greedy_ids.len() - case.ids.len();
    let sampling =
        Sampling { temperature: 0.0, top_k: None, top_p: 1.0, min_p: 0.0, max_tokens, stop_ids: vec![], allowed: None };
    let request = GenerateRequest { prompt: case.ids.clone(), sampling, seed: 0 };
    let generated = model.generate(&[request], &mut |_, _| true)?.remove(0).tokens;
    let checks = [
        ("ids", ids == case.ids),
        ("log-probabilities", furthest < TOLERANCE),
        ("top 20", furthest_top < TOLERANCE),
        ("greedy", generated == case.greedy_ids[case.ids.len()..]),
    ];
    let wrong: Vec<&str> = checks.iter().filter(|(_, right)| !right).map(|(name, _)| *name).collect();
    println!(
        "{:?}: furthest log-probability {furthest:.1e}, of the top 20 {furthest_top:.1e}; {}",
        case.prompt,
        if wrong.is_empty() {
            "ids and greedy tokens equal".to_owned()
        } else {
            format!("WRONG: {}", wrong.join(", "))
        }
    );
    Ok(wrong.len())
}
