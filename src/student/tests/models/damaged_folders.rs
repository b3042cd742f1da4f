//! Every fault of a model folder is one clear error.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use crate::support::{MODELS, expected, flat, golden, load, logits};
use burn::backend::Flex;
use burn::tensor::Tensor;
use stillhouse_data::model_folder::ModelFolder;
use stillhouse_student::score::score;
use stillhouse_student::weights::{LoadedModel, NamedValues, Values, encode_tensors, read_model, take_values};

const MODEL: &str = "llama-gqa-tied";

/// A copy of a good folder with its weights changed; gives what reading it says.
fn complaint(change: impl FnOnce(&mut NamedValues)) -> String {
    complaint_of(MODEL, change)
}

fn complaint_of(model: &str, change: impl FnOnce(&mut NamedValues)) -> String {
    let mut weights = take_values(&load::<Flex>(model).decoder);
    change(&mut weights);
    complaint_about(model, encode_tensors(&weights).unwrap())
}

fn complaint_about_bytes(bytes: Vec<u8>) -> String {
    complaint_about(MODEL, bytes)
}

fn complaint_about(model: &str, bytes: Vec<u8>) -> String {
    let copy = tempfile::tempdir().unwrap();
    fs_err::copy(golden(model).join("config.json"), copy.path().join("config.json")).unwrap();
    fs_err::write(copy.path().join("model.safetensors"), bytes).unwrap();
    read(copy.path()).err().unwrap().to_string()
}

fn read(folder: &std::path::Path) -> Result<LoadedModel<Flex>, stillhouse_student::error::StudentError> {
    let mut folder = ModelFolder::open(folder)?;
    folder.label = "model.tiny".into();
    read_model(&folder, &Default::default())
}

#[test]
fn a_missing_tensor_is_named() {
    let error = complaint(|weights| {
        weights.shift_remove("model.layers.1.mlp.up_proj.weight");
    });
    assert_eq!(
        error,
        "the weights of model.tiny do not fit its config.json: there is no tensor `model.layers.1.mlp.up_proj.weight`"
    );
}

#[test]
fn a_surplus_tensor_is_named() {
    let error = complaint(|weights| {
        weights.insert("model.layers.9.mlp.up_proj.weight".into(), Values::new(vec![1], vec![0.0]));
    });
    assert!(error.ends_with("there is no place for tensor `model.layers.9.mlp.up_proj.weight`"), "{error}");
}

#[test]
fn a_misshapen_tensor_is_named_with_both_shapes() {
    let error = complaint(|weights| {
        weights.insert("model.norm.weight".into(), Values::new(vec![47], vec![1.0; 47]));
    });
    assert!(error.ends_with("`model.norm.weight` is [47] where [48] belongs"), "{error}");
}

#[test]
fn another_head_than_the_embedding_is_not_left_out_without_a_word() {
    const HEAD: &str = "lm_head.weight";
    let with_head = |change: fn(&mut Vec<f32>)| {
        move |weights: &mut NamedValues| {
            let embedding = weights["model.embed_tokens.weight"].clone();
            let mut data = embedding.data.to_vec();
            change(&mut data);
            weights.insert(HEAD.into(), Values::new(embedding.shape, data));
        }
    };
    let error = complaint(with_head(|data| data[7] += 0.5));
    assert_eq!(
        error,
        "config.json of model.tiny says that the head is the embedding, but the weights hold another `lm_head.weight`"
    );
    let narrow = complaint(|weights| {
        weights.insert(HEAD.into(), Values::new(vec![2], vec![0.0; 2]));
    });
    assert_eq!(narrow, error);
    // The embedding once more is no other head.
    let copy = tempfile::tempdir().unwrap();
    let mut weights = take_values(&load::<Flex>(MODEL).decoder);
    with_head(|_| ())(&mut weights);
    fs_err::copy(golden(MODEL).join("config.json"), copy.path().join("config.json")).unwrap();
    fs_err::write(copy.path().join("model.safetensors"), encode_tensors(&weights).unwrap()).unwrap();
    assert!(read(copy.path()).is_ok());
}

/// What `check` can see without reading a number is what reading the folder would say.
#[test]
fn a_look_at_the_heads_of_the_files_finds_what_does_not_fit() {
    use stillhouse_student::weights::look_at;
    let copy = tempfile::tempdir().unwrap();
    fs_err::copy(golden(MODEL).join("config.json"), copy.path().join("config.json")).unwrap();
    let looked = || {
        let folder = ModelFolder { label: "model.tiny".into(), ..ModelFolder::open(copy.path()).unwrap() };
        look_at(&folder).err().map(|error| error.to_string())
    };
    assert_eq!(looked().unwrap(), "model.tiny has no model.safetensors");
    let file = copy.path().join("model.safetensors");
    let whole = fs_err::read(golden(MODEL).join("model.safetensors")).unwrap();
    fs_err::write(&file, &whole).unwrap();
    assert_eq!(looked(), None);
    fs_err::write(&file, &whole[..whole.len() - 1]).unwrap();
    assert!(looked().unwrap().contains("not a readable safetensors file"), "{:?}", looked());
    let mut weights = take_values(&load::<Flex>(MODEL).decoder);
    weights.shift_remove("model.norm.weight");
    fs_err::write(&file, encode_tensors(&weights).unwrap()).unwrap();
    assert!(looked().unwrap().ends_with("there is no tensor `model.norm.weight`"), "{:?}", looked());
}

#[test]
fn values_that_are_not_finite_are_counted() {
    let error = complaint(|weights| {
        let mut values = vec![1.0; 48];
        values[5] = f32::NAN;
        values[7] = f32::INFINITY;
        weights.insert("model.norm.weight".into(), Values::new(vec![48], values));
    });
    assert_eq!(
        error,
        "tensor `model.norm.weight` of model.tiny holds 2 values that are not finite, the first is element 5"
    );
}

#[test]
fn what_only_some_families_have_must_be_there_and_nowhere_else() {
    for (model, tensor, width) in [
        ("qwen2", "model.layers.2.self_attn.k_proj.bias", 24),
        ("qwen3", "model.layers.1.self_attn.q_norm.weight", 16),
        ("qwen3", "model.layers.0.self_attn.k_norm.weight", 16),
    ] {
        let values = |width, value| Values::new(vec![width], vec![value; width]);
        let missing = complaint_of(model, |weights| {
            weights.shift_remove(tensor);
        });
        assert!(missing.ends_with(&format!("there is no tensor `{tensor}`")), "{missing}");
        let misshapen = complaint_of(model, |weights| {
            weights.insert(tensor.into(), values(width + 1, 1.0));
        });
        assert!(misshapen.ends_with(&format!("`{tensor}` is [{}] where [{width}] belongs", width + 1)), "{misshapen}");
        let infinite = complaint_of(model, |weights| {
            weights.insert(tensor.into(), values(width, f32::INFINITY));
        });
        assert!(infinite.starts_with(&format!("tensor `{tensor}` of model.tiny holds {width} values")), "{infinite}");
        for other in ["llama-mha-untied", "mistral"] {
            let surplus = complaint_of(other, |weights| {
                weights.insert(tensor.into(), values(width, 1.0));
            });
            assert!(surplus.ends_with(&format!("there is no place for tensor `{tensor}`")), "{surplus}");
        }
    }
}

#[test]
fn no_family_reads_beyond_its_longest_sequence() {
    for name in MODELS {
        let model = load::<Flex>(name);
        let rows = vec![vec![1; 3], vec![1; model.config.context + 1]];
        let error = score(&model, &rows, &mut |_, _, _| {}).unwrap_err().to_string();
        let context = model.config.context;
        assert_eq!(
            error,
            format!("sequence 1 has {} tokens, the model's longest sequence is {context}", context + 1),
            "{name}"
        );
    }
}

#[test]
fn a_truncated_file_is_damaged_wherever_it_was_cut() {
    let whole = fs_err::read(golden(MODEL).join("model.safetensors")).unwrap();
    for length in [0, 4, 100, whole.len() / 2, whole.len() - 1] {
        let error = complaint_about_bytes(whole[..length].to_vec());
        assert!(error.contains("model.safetensors is not a readable safetensors file"), "{length}: {error}");
    }
}

#[test]
fn a_folder_without_weights_says_what_it_has() {
    let copy = tempfile::tempdir().unwrap();
    fs_err::copy(golden(MODEL).join("config.json"), copy.path().join("config.json")).unwrap();
    let error = read(copy.path()).err().unwrap();
    assert_eq!(error.to_string(), "model.tiny has no model.safetensors");
    assert_eq!(error.hint().unwrap(), "it has: config.json");
}

#[test]
fn shards_are_read_through_their_index() {
    MODELS.iter().for_each(|name| reads_shards(name));
}

fn reads_shards(name: &str) {
    let copy = tempfile::tempdir().unwrap();
    fs_err::copy(golden(name).join("config.json"), copy.path().join("config.json")).unwrap();
    let model = load::<Flex>(name);
    let weights = take_values(&model.decoder);
    let mut index = serde_json::Map::new();
    for (shard, part) in weights.iter().collect::<Vec<_>>().chunks(10).enumerate() {
        let file = format!("model-{shard:05}.safetensors");
        let part: NamedValues = part.iter().map(|(name, values)| ((*name).clone(), (*values).clone())).collect();
        index.extend(part.keys().map(|name| (name.clone(), file.clone().into())));
        fs_err::write(copy.path().join(&file), encode_tensors(&part).unwrap()).unwrap();
    }
    let index = serde_json::json!({ "weight_map": index });
    fs_err::write(copy.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    let rows = expected(name).ids;
    let sharded = read(copy.path()).unwrap();
    assert_eq!(flat(logits(&sharded, &rows)), flat(logits(&model, &rows)));

    fs_err::remove_file(copy.path().join("model-00001.safetensors")).unwrap();
    assert_eq!(read(copy.path()).err().unwrap().to_string(), "model.tiny has no model-00001.safetensors");
}

#[test]
fn half_precision_weights_are_widened() {
    MODELS.iter().for_each(|name| reads_half_precision(name));
}

fn reads_half_precision(name: &str) {
    use safetensors::tensor::{Dtype, TensorView};
    let model = load::<Flex>(name);
    let weights = take_values(&model.decoder);
    for dtype in [Dtype::F16, Dtype::BF16] {
        let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = weights
            .iter()
            .map(|(name, values)| {
                let narrow = |value: &f32| match dtype {
                    Dtype::F16 => half::f16::from_f32(*value).to_le_bytes(),
                    _ => half::bf16::from_f32(*value).to_le_bytes(),
                };
                (name.clone(), values.shape.clone(), values.data.iter().flat_map(narrow).collect())
            })
            .collect();
        let views =
            bytes.iter().map(|(name, shape, bytes)| (name, TensorView::new(dtype, shape.clone(), bytes).unwrap()));
        let copy = tempfile::tempdir().unwrap();
        fs_err::copy(golden(name).join("config.json"), copy.path().join("config.json")).unwrap();
        fs_err::write(copy.path().join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
        let rows = expected(name).ids;
        let difference: Tensor<Flex, 2> = logits(&read(copy.path()).unwrap(), &rows) - logits(&model, &rows);
        let largest = difference.abs().max().into_scalar();
        assert!(largest > 0.0 && largest < 0.3, "{largest}");
    }
}
