//! Greedy text is that of transformers, and nobody's text depends on the batch.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use crate::support::{MODELS, expected, flat, load, logits};
use stillhouse_data::lm::{Finish, GenerateRequest, Sampling};
use stillhouse_student::backend::Cpu;
use stillhouse_student::generate::generate;
use stillhouse_student::score::score;

fn request(prompt: &[u32], temperature: f32, seed: u64, max_tokens: usize) -> GenerateRequest {
    let sampling =
        Sampling { temperature, top_k: None, top_p: 1.0, min_p: 0.0, max_tokens, stop_ids: vec![], allowed: None };
    GenerateRequest { prompt: prompt.to_vec(), sampling, seed }
}

#[test]
fn greedy_tokens_are_those_of_transformers() {
    for name in MODELS {
        let model = load::<Cpu>(name);
        let greedy = expected(name).greedy;
        let prompt = &greedy[..5];
        let made = generate(&model, &[request(prompt, 0.0, 0, greedy.len() - 5)], &mut |_, _| true).unwrap();
        assert_eq!(made[0].tokens, greedy[5..], "{name}");
        assert_eq!(made[0].finish, Finish::Length);
    }
}

#[test]
fn a_text_does_not_depend_on_its_neighbours() {
    let model = load::<Cpu>("llama-gqa-tied");
    let ids = expected("llama-gqa-tied").ids;
    let requests: Vec<GenerateRequest> = (0..40usize)
        .map(|number| {
            request(&ids[number % 2][..1 + number % 9], (number % 3) as f32 * 0.5, number as u64, 3 + number % 7)
        })
        .collect();
    let mut seen = vec![vec![]; requests.len()];
    let together = generate(&model, &requests, &mut |number, tokens| {
        seen[number].push(tokens.to_vec());
        true
    })
    .unwrap();
    for (seen, made) in seen.iter().zip(&together) {
        assert_eq!(seen.len(), made.tokens.len());
        assert_eq!(seen.last(), Some(&made.tokens));
    }
    for (request, made) in requests.iter().zip(&together) {
        let alone = generate(&model, std::slice::from_ref(request), &mut |_, _| true).unwrap();
        assert_eq!(&alone[0], made);
        assert_eq!(made.tokens.len(), request.sampling.max_tokens);
    }
}

#[test]
fn a_stop_token_ends_the_text_and_is_part_of_it() {
    let model = load::<Cpu>("llama3-rope-scaling");
    let mut request = request(&[3, 1, 4], 1.0, 1, 10);
    let free = generate(&model, std::slice::from_ref(&request), &mut |_, _| true).unwrap().remove(0);
    assert_eq!((free.tokens.len(), free.finish), (10, Finish::Length));
    request.sampling.stop_ids = vec![free.tokens[4]];
    let stopped = generate(&model, &[request], &mut |_, _| true).unwrap().remove(0);
    let first = free.tokens.iter().position(|token| *token == free.tokens[4]).unwrap();
    assert_eq!((stopped.tokens.as_slice(), stopped.finish), (&free.tokens[..=first], Finish::Stop));
}

#[test]
fn who_watches_may_end_one_text_and_leave_the_others() {
    let model = load::<Cpu>("llama-gqa-tied");
    let requests = [request(&[3, 1, 4], 1.0, 1, 8), request(&[1, 5, 9, 2], 1.0, 2, 8)];
    let made = generate(&model, &requests, &mut |number, tokens| number == 1 || tokens.len() < 3).unwrap();
    assert_eq!((made[0].tokens.len(), made[0].finish), (3, Finish::Stop));
    assert_eq!((made[1].tokens.len(), made[1].finish), (8, Finish::Length));
}

#[test]
fn the_context_is_a_limit_and_not_a_panic() {
    let model = load::<Cpu>("llama-gqa-tied");
    let context = model.config.context;
    let prompt = vec![7; context - 2];
    let made = generate(&model, &[request(&prompt, 0.0, 0, 50)], &mut |_, _| true).unwrap();
    assert_eq!((made[0].tokens.len(), made[0].finish), (2, Finish::Length));
    let full = generate(&model, &[request(&vec![7; context], 0.0, 0, 5)], &mut |_, _| true).unwrap();
    assert!(full[0].tokens.is_empty());
    for (prompt, word) in [(vec![7; context + 1], "longest sequence"), (vec![], "no tokens"), (vec![128], "vocabulary")]
    {
        let error = generate(&model, &[request(&prompt, 0.0, 0, 5)], &mut |_, _| true).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn scores_are_the_log_softmax_of_every_position_of_every_row() {
    let model = load::<Cpu>("llama-mha-untied");
    let ids = expected("llama-mha-untied").ids;
    let sequences = vec![ids[0].clone(), ids[1][..9].to_vec(), vec![5], ids[1].clone(), ids[0][..2].to_vec()];
    let mut seen: Vec<Vec<Vec<f32>>> = vec![vec![]; sequences.len()];
    score(&model, &sequences, &mut |row, position, log_probs| {
        assert_eq!(position, seen[row].len());
        seen[row].push(log_probs.to_vec());
    })
    .unwrap();
    for (sequence, scored) in sequences.iter().zip(&seen) {
        assert_eq!(scored.len(), sequence.len() - 1);
        if scored.is_empty() {
            continue;
        }
        let alone = burn::tensor::activation::log_softmax(logits(&model, std::slice::from_ref(sequence)), 1);
        let difference = crate::support::largest_difference(&scored.concat(), &flat(alone)[..scored.len() * 128]);
        assert!(difference < 1e-5, "{difference}");
    }
}
