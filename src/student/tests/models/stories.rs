//! A model that was trained on real text says what it says in PyTorch.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;

use crate::support::{flat, golden, load, logits};
use serde::Deserialize;
use stillhouse_data::lm::{GenerateRequest, Sampling};
use stillhouse_data::signals::HiddenPrecision;
use stillhouse_student::backend::Cpu;
use stillhouse_student::generate::generate;
use stillhouse_student::score::{hidden, score, score_hidden};

const MODEL: &str = "stories260k";

#[derive(Deserialize)]
struct Reference {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    ids: Vec<u32>,
    greedy_ids: Vec<u32>,
    last_top20: Vec<(u32, f64)>,
    /// Of each token after the first.
    token_logprobs: Vec<Option<f64>>,
    logit_sum_last: f64,
}

fn cases() -> Vec<Case> {
    let text = fs_err::read_to_string(golden(MODEL).join("expected.json")).unwrap();
    serde_json::from_str::<Reference>(&text).unwrap().cases
}

#[test]
fn log_probabilities_are_those_of_pytorch() {
    let model = load::<Cpu>(MODEL);
    for case in cases() {
        let mut seen = vec![None];
        score(&model, std::slice::from_ref(&case.ids), &mut |_, position, log_probs| {
            seen.push(Some(f64::from(log_probs[case.ids[position + 1] as usize])));
        })
        .unwrap();
        assert_eq!(seen.len(), case.token_logprobs.len());
        for (computed, reference) in seen.iter().zip(&case.token_logprobs) {
            let apart = computed.zip(*reference).map_or(0.0, |(computed, reference)| (computed - reference).abs());
            assert!(apart < 2e-4, "{computed:?} is not {reference:?}");
        }
    }
}

/// `Σ p (log p − log q)` of both made to sum to 1.
fn divergence(log_p: &[f64], log_q: &[f64]) -> f64 {
    let mass = |logs: &[f64]| logs.iter().map(|log| log.exp()).sum::<f64>().ln();
    let (all_p, all_q) = (mass(log_p), mass(log_q));
    log_p.iter().zip(log_q).map(|(p, q)| (p - all_p).exp() * ((p - all_p) - (q - all_q))).sum()
}

#[test]
fn the_head_makes_of_a_hidden_state_what_the_model_says() {
    let model = load::<Cpu>(MODEL);
    let sequences: Vec<Vec<u32>> = cases().into_iter().map(|case| case.ids).collect();
    let mut direct = BTreeMap::new();
    score(&model, &sequences, &mut |row, position, log_probs| {
        direct.insert((row, position), log_probs.iter().map(|log| f64::from(*log)).collect::<Vec<f64>>());
    })
    .unwrap();
    let mut states = Vec::new();
    hidden(&model, &sequences, &mut |row, position, state| states.push(((row, position), state.to_vec()))).unwrap();
    assert_eq!(states.len(), direct.len());
    let head = flat(model.decoder.head());
    let width = model.config.hidden;
    for (precision, largest, mean) in
        [(HiddenPrecision::F32, 1e-9, 1e-10), (HiddenPrecision::F16, 1e-5, 2e-6), (HiddenPrecision::Bf16, 6e-4, 1.2e-4)]
    {
        let mut found = Vec::new();
        for (place, state) in &states {
            let kept = precision.rounded(state);
            // By hand, in f64: what a file with states and head holds is all that this takes.
            let logits =
                head.chunks(width).map(|row| row.iter().zip(&kept).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum());
            found.push(divergence(&direct[place], &logits.collect::<Vec<f64>>()));
        }
        let worst = found.iter().copied().fold(0.0, f64::max);
        let average = found.iter().sum::<f64>() / found.len() as f64;
        assert!(worst < largest && average < mean, "{precision:?}: {worst} {average}");
    }
    let all: Vec<f32> = states.iter().flat_map(|(_, state)| state.clone()).collect();
    let mut seen = 0;
    score_hidden(&model, &all, &mut |number, log_probs| {
        let log_probs: Vec<f64> = log_probs.iter().map(|log| f64::from(*log)).collect();
        assert_eq!(number, seen);
        assert!(divergence(&direct[&states[number].0], &log_probs) < 1e-9);
        seen += 1;
    })
    .unwrap();
    assert_eq!(seen, states.len());
    let refused = score_hidden(&model, &all[1..], &mut |_, _| {}).err().unwrap();
    assert!(refused.to_string().ends_with(&format!("are no hidden states of {width} each")), "{refused}");
}

#[test]
fn the_likeliest_next_tokens_are_those_of_pytorch() {
    let model = load::<Cpu>(MODEL);
    for case in cases() {
        let logits = flat(logits(&model, std::slice::from_ref(&case.ids)));
        let last = &logits[logits.len() - model.config.vocabulary..];
        let sum: f64 = last.iter().map(|logit| f64::from(*logit)).sum();
        assert!((sum - case.logit_sum_last).abs() < 2e-4 * last.len() as f64, "{sum} is not {}", case.logit_sum_last);
        let largest = last.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mass = last.iter().map(|logit| f64::from(logit - largest).exp()).sum::<f64>().ln();
        let mut order: Vec<(u32, f64)> =
            (0..).zip(last).map(|(id, logit)| (id, f64::from(logit - largest) - mass)).collect();
        order.sort_by(|left, right| right.1.total_cmp(&left.1));
        assert_eq!(case.last_top20.len(), 20);
        for ((id, log_prob), (reference_id, reference)) in order.iter().zip(&case.last_top20) {
            assert_eq!(id, reference_id);
            assert!((log_prob - reference).abs() < 2e-4, "token {id}: {log_prob} is not {reference}");
        }
    }
}

#[test]
fn greedy_text_is_that_of_pytorch() {
    let model = load::<Cpu>(MODEL);
    let cases = cases();
    let request = |case: &Case| {
        let max_tokens = case.greedy_ids.len() - case.ids.len();
        let sampling = Sampling {
            temperature: 0.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            max_tokens,
            stop_ids: vec![],
            allowed: None,
        };
        GenerateRequest { prompt: case.ids.clone(), sampling, seed: 0 }
    };
    let requests: Vec<GenerateRequest> = cases.iter().map(request).collect();
    for (made, case) in generate(&model, &requests, &mut |_, _| true).unwrap().iter().zip(&cases) {
        assert_eq!(made.tokens, case.greedy_ids[case.ids.len()..]);
    }
}
