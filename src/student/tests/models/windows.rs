//! A sliding window hides what lies further back, in whole rows as in generation.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use crate::support::{expected, flat, largest_difference, load, logits};
use stillhouse_data::lm::{GenerateRequest, Sampling};
use stillhouse_data::model_folder::ModelFolder;
use stillhouse_student::backend::Cpu;
use stillhouse_student::generate::generate;
use stillhouse_student::model::{DecoderConfig, SlidingWindow};
use stillhouse_student::weights::{LoadedModel, NamedValues, read_model, take_values, write_model};

/// The reference model with its first layers only, which look back through a window.
fn windowed(name: &str, layers: usize, window: SlidingWindow) -> LoadedModel<Cpu> {
    let model = load::<Cpu>(name);
    let of_a_kept_layer = |name: &str| match name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next())
    {
        Some(layer) => layer.parse::<usize>().unwrap() < layers,
        None => true,
    };
    let weights: NamedValues =
        take_values(&model.decoder).into_iter().filter(|(name, _)| of_a_kept_layer(name)).collect();
    let config = DecoderConfig { layers, sliding_window: Some(window), ..model.config };
    let copy = tempfile::tempdir().unwrap();
    write_model(copy.path(), &config, &weights).unwrap();
    read_model(&ModelFolder::open(copy.path()).unwrap(), &Default::default()).unwrap()
}

#[test]
fn one_layer_sees_the_window_and_nothing_else() {
    for name in ["mistral", "qwen2", "qwen3"] {
        let model = windowed(name, 1, SlidingWindow { width: 5, layers: vec![0] });
        let row = expected(name).ids[0].clone();
        let whole = flat(logits(&model, std::slice::from_ref(&row)));
        for last in [3, 4, 5, 11, row.len() - 1] {
            let first = (last + 1usize).saturating_sub(5);
            // Rotary positions are relative, so the window's tokens alone give the same logits at their end.
            let alone = flat(logits(&model, &[row[first..=last].to_vec()]));
            let (ours, theirs) = (&whole[last * 128..(last + 1) * 128], &alone[(last - first) * 128..]);
            let difference = largest_difference(ours, theirs);
            assert!(difference < 1e-4, "{name} position {last}: {difference}");
        }
    }
}

#[test]
fn only_the_layers_that_have_it_are_changed_by_a_window() {
    let row = vec![expected("qwen3").ids[0].clone()];
    let plain = flat(logits(&load::<Cpu>("qwen3"), &row));
    let with = |width, layers| flat(logits(&windowed("qwen3", 3, SlidingWindow { width, layers }), &row));
    assert_eq!(with(24, vec![0, 1, 2]), plain);
    let (all, second) = (with(4, vec![0, 1, 2]), with(4, vec![1]));
    assert_eq!(all[..4 * 128], plain[..4 * 128]);
    assert!(largest_difference(&all, &plain) > 1e-3 && largest_difference(&second, &plain) > 1e-3);
    assert!(largest_difference(&all, &second) > 1e-3);
}

#[test]
fn generation_looks_through_the_same_window() {
    let model = windowed("mistral", 3, SlidingWindow { width: 4, layers: vec![0, 1, 2] });
    let prompt = expected("mistral").ids[0][..6].to_vec();
    let sampling = Sampling {
        temperature: 0.0,
        top_k: None,
        top_p: 1.0,
        min_p: 0.0,
        max_tokens: 12,
        stop_ids: vec![],
        allowed: None,
    };
    // Two lengths, so that one row is padded.
    let requests = [prompt.clone(), prompt[2..].to_vec()].map(|prompt| GenerateRequest {
        prompt,
        sampling: sampling.clone(),
        seed: 0,
    });
    let made = generate(&model, &requests, &mut |_, _| true).unwrap();
    for (request, made) in requests.iter().zip(&made) {
        let mut row = request.prompt.clone();
        for token in &made.tokens {
            let all = flat(logits(&model, std::slice::from_ref(&row)));
            let last = &all[all.len() - 128..];
            let best =
                (0..128u32).max_by(|left, right| last[*left as usize].total_cmp(&last[*right as usize])).unwrap();
            assert_eq!(*token, best);
            row.push(best);
        }
    }
}
