//! The decoder computes what transformers computes.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use crate::support::{MODELS, expected, flat, golden, largest_difference, load, logits};
use burn::backend::{Autodiff, Flex};
use burn::tensor::{Int, Tensor, TensorData};
use stillhouse_student::kernels::Visibility;
use stillhouse_student::model::ModelInput;
use stillhouse_student::weights::{LoadedModel, read_model, take_values, write_model};

#[test]
fn logits_are_those_of_transformers() {
    for name in MODELS {
        let expected = expected(name);
        let computed = flat(logits(&load::<Flex>(name), &expected.ids));
        let reference: Vec<f32> = expected.logits.concat().concat();
        let difference = largest_difference(&computed, &reference);
        assert!(difference < 2e-4, "{name}: {difference}");
    }
}

#[test]
fn packed_examples_do_not_see_each_other() {
    let model = load::<Flex>("llama-gqa-tied");
    let rows = expected("llama-gqa-tied").ids;
    let (left, right) = (&rows[0][..10], &rows[1][..7]);
    let alone = |tokens: &[u32]| flat(logits(&model, &[tokens.to_vec()]));
    let input = ModelInput {
        tokens: [left, right, &[0, 0]].concat(),
        positions: (0..10).chain(0..7).chain([0, 0]).collect(),
        visibility: Visibility::from_segments(&[vec![1; 10], vec![2; 7], vec![0; 2]].concat(), 1, 19),
    };
    let packed = flat(model.decoder.logits(model.decoder.hidden(&input, &model.rotary, None)));
    let apart = [alone(left), alone(right)].concat();
    let difference = largest_difference(&packed[..apart.len()], &apart);
    assert!(difference < 1e-5, "{difference}");
}

#[test]
fn gradients_are_those_of_transformers() {
    type Tape = Autodiff<Flex>;
    for name in MODELS {
        let expected = expected(name);
        let model: LoadedModel<Tape> = load(name);
        let loss = next_token_loss(&model, &expected.ids);
        let value = f64::from(loss.clone().into_scalar());
        assert!((value - expected.loss).abs() < 2e-4, "{name}: {value}");
        let gradients = gradient_norms(&model, &loss);
        assert_eq!(gradients.len(), expected.grad_norms.len());
        for (tensor, norm) in &expected.grad_norms {
            let computed = gradients[tensor];
            assert!((computed - norm).abs() <= 1e-3 * norm, "{name} {tensor}: {computed} is not {norm}");
        }
    }

    fn next_token_loss(model: &LoadedModel<Tape>, rows: &[Vec<u32>]) -> Tensor<Tape, 1> {
        let (batch, time) = (rows.len(), rows[0].len());
        let log_probs = burn::tensor::activation::log_softmax(logits(model, rows), 1);
        let vocabulary = log_probs.dims()[1];
        let log_probs = log_probs.reshape([batch, time, vocabulary]).narrow(1, 0, time - 1);
        let targets: Vec<i32> = rows.iter().flat_map(|row| row[1..].iter().map(|token| *token as i32)).collect();
        let targets =
            Tensor::<Tape, 3, Int>::from_data(TensorData::new(targets, [batch, time - 1, 1]), &Default::default());
        log_probs.gather(2, targets).mean().neg()
    }

    fn gradient_norms(model: &LoadedModel<Tape>, loss: &Tensor<Tape, 1>) -> std::collections::BTreeMap<String, f64> {
        stillhouse_student::weights::take_gradients(&model.decoder, loss.backward())
            .into_iter()
            .map(|(name, gradient)| {
                let values: Vec<f32> = gradient.into_data().to_vec().unwrap();
                (name, values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt())
            })
            .collect()
    }
}

/// With this variable set, written models are left in the folder that it names, for `transformers_check.py`.
const KEEP: &str = "STILLHOUSE_KEEP_MODELS";

#[test]
fn a_written_model_is_the_same_model() {
    for name in MODELS {
        let model = load::<Flex>(name);
        let copy = tempfile::tempdir().unwrap();
        write_model(copy.path(), &model.config, &take_values(&model.decoder)).unwrap();
        keep(name, copy.path(), &model);
        let folder = stillhouse_data::model_folder::ModelFolder::open(copy.path()).unwrap();
        let again: LoadedModel<Flex> = read_model(&folder, &Default::default()).unwrap();
        let rows = expected(name).ids;
        assert_eq!(flat(logits(&again, &rows)), flat(logits(&model, &rows)));
        assert_eq!(again.config, model.config);
        // transformers reads the tensors by these names.
        let original = fs_err::read(golden(name).join("model.safetensors")).unwrap();
        let written = fs_err::read(copy.path().join("model.safetensors")).unwrap();
        let names = |bytes: &[u8]| {
            let tensors = safetensors::SafeTensors::deserialize(bytes).unwrap();
            let mut names: Vec<String> = tensors.names().iter().map(|name| (*name).to_owned()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&written), names(&original));
    }
}

/// Copies a written model to where transformers can be asked about it, with the logits that it should find.
fn keep(name: &str, written: &std::path::Path, model: &LoadedModel<Flex>) {
    let Some(to) = std::env::var_os(KEEP).map(|folder| std::path::Path::new(&folder).join(name)) else { return };
    fs_err::create_dir_all(&to).unwrap();
    for file in fs_err::read_dir(written).unwrap() {
        let file = file.unwrap();
        fs_err::copy(file.path(), to.join(file.file_name())).unwrap();
    }
    let rows = expected(name).ids;
    let logits = serde_json::json!({ "ids": rows, "logits": flat(logits(model, &rows)) });
    fs_err::write(to.join("logits.json"), logits.to_string()).unwrap();
}
