use serde_json::{Value, json};
use stillhouse_data::example::ExampleWriter;
use stillhouse_data::lm::{GenerateRequest, ModelLoader, Sampling};
use stillhouse_data::model_folder::ModelFolder;
use stillhouse_spec::Node;
use stillhouse_stage::{Class, Input, StageEvent};

use super::*;
use crate::language_model::BurnLoader;

mod stored;
mod tables;
mod world;

pub(super) use world::write_tokenizer;
use world::{VOCABULARY, certain_of};
pub(super) use world::{World, both, table, weights, write_examples};

#[path = "../../data/gguf/testing.rs"]
#[allow(dead_code, missing_docs, reason = "a helper of other tests too")]
mod gguf_writer;

#[test]
fn a_student_learns_from_labels_and_signals_and_is_a_model_folder() {
    let world = World::new(true);
    let (outcome, out) = world.run(&table(60, both())).unwrap();
    assert!(outcome.metrics["loss"].as_f64().unwrap() < 0.6, "{}", outcome.metrics);
    assert!(outcome.metrics["forward-kl"].as_f64().unwrap() < 0.5, "{}", outcome.metrics);
    assert_eq!((&outcome.metrics["steps"], outcome.resumed), (&json!(60), false));
    let folder = ModelFolder::open(&out).unwrap();
    for name in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        assert!(folder.get(name).is_some(), "{name}");
    }
    let mut model = BurnLoader.load(&folder, "cpu").unwrap();
    let sampling = Sampling {
        temperature: 0.0,
        top_k: None,
        top_p: 1.0,
        min_p: 0.0,
        max_tokens: 3,
        stop_ids: vec![],
        allowed: None,
    };
    let request = GenerateRequest { prompt: vec![1, 2, 3], sampling, seed: 0 };
    assert_eq!(model.generate(&[request], &mut |_, _| true).unwrap()[0].tokens, [4, 5, 0]);
    let heard = world.heard.0.lock().unwrap();
    let steps: Vec<u64> = heard
        .iter()
        .filter_map(|event| match event {
            StageEvent::Metrics { step, .. } => Some(*step),
            _ => None,
        })
        .collect();
    assert_eq!(steps[..3], [1, 5, 10]);
}

/// A llama of one layer in a GGUF file, every matrix full of small numbers.
fn tiny_llama() -> gguf_writer::GgufWriter {
    let matrices = [
        ("token_embd", [VOCABULARY as usize, 8]),
        ("blk.0.attn_q", [8, 8]),
        ("blk.0.attn_k", [4, 8]),
        ("blk.0.attn_v", [4, 8]),
        ("blk.0.attn_output", [8, 8]),
        ("blk.0.ffn_gate", [16, 8]),
        ("blk.0.ffn_up", [16, 8]),
        ("blk.0.ffn_down", [8, 16]),
    ];
    let writer = gguf_writer::GgufWriter::default()
        .text("general.architecture", "llama")
        .u32("llama.block_count", 1)
        .u32("llama.context_length", 32)
        .u32("llama.embedding_length", 8)
        .u32("llama.feed_forward_length", 16)
        .u32("llama.attention.head_count", 2)
        .u32("llama.attention.head_count_kv", 1)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .u32("tokenizer.ggml.eos_token_id", 5);
    let writer = matrices.into_iter().fold(writer, |writer, (name, shape)| {
        let values: Vec<f32> =
            (0..shape[0] * shape[1]).map(|i| ((i * 37 + name.len()) % 19) as f32 / 19.0 - 0.5).collect();
        writer.floats(&format!("{name}.weight"), &shape, &values)
    });
    let norms = ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"];
    norms.into_iter().fold(writer, |writer, name| writer.floats(&format!("{name}.weight"), &[8], &[1.0; 8]))
}

#[test]
fn a_student_that_begins_with_a_gguf_file_is_a_model_folder() {
    let mut world = World::new(false);
    let path = world.folder.path().join("tiny.gguf");
    tiny_llama().write(&path);
    world.pretrained = Some(path.clone());
    let mut config = table(3, json!("cross-entropy"));
    config["init"] = json!({ "pretrained": "tiny" });
    let (_, out) = world.run(&config).unwrap();
    let folder = ModelFolder::open(&out).unwrap();
    let files: Vec<&str> = folder.files.keys().map(String::as_str).collect();
    let expected =
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    assert_eq!(files, expected);
    let settings: Value = folder.read_json("config.json").unwrap();
    assert_eq!((&settings["architectures"][0], &settings["eos_token_id"]), (&json!("LlamaForCausalLM"), &json!(5)));
    // Another file is another beginning: nothing is taken over from the first training.
    tiny_llama().floats("output_norm.weight", &[8], &[2.0; 8]).write(&path);
    let (outcome, other) = world.run(&config).unwrap();
    assert!(!outcome.resumed && weights(&other) != weights(&out));
}

#[test]
fn more_steps_go_on_where_fewer_ended_and_end_with_the_same_bytes() {
    let (short_first, at_once) = (World::new(true), World::new(true));
    short_first.run(&table(4, both())).unwrap();
    let (outcome, continued) = short_first.run(&table(9, both())).unwrap();
    assert!(outcome.resumed && outcome.provenance["resumed-from-step"] == 4, "{}", outcome.provenance);
    let (_, undisturbed) = at_once.run(&table(9, both())).unwrap();
    assert!(weights(&continued) == weights(&undisturbed));
    // All steps are there: nothing is trained, the result and its figures are the same.
    let (again, out) = short_first.run(&table(9, both())).unwrap();
    assert_eq!((&again.provenance["tokens"], &again.metrics), (&json!(0), &outcome.metrics));
    assert!(weights(&out) == weights(&undisturbed));
}

fn metrics_of(world: &World) -> Vec<serde_json::Map<String, Value>> {
    let heard = world.heard.0.lock().unwrap();
    let values = |event: &StageEvent| match event {
        StageEvent::Metrics { values, .. } => Some(values.clone()),
        _ => None,
    };
    heard.iter().filter_map(values).collect()
}

#[test]
fn figures_say_how_fast_it_goes_how_much_it_takes_and_how_long_it_will_be() {
    let world = World::new(true);
    world.run(&table(20, both())).unwrap();
    let said = metrics_of(&world);
    let last = &said[said.len() - 1];
    for name in ["tokens-per-second", "mfu", "memory-bytes", "seconds-left"] {
        assert!(last[name].is_number(), "{name}: {last:?}");
    }
    assert_eq!(last["seconds-left"], json!(0.0));
    assert!(last["mfu"].as_f64().unwrap() < 1.0 && last["memory-bytes"].as_u64().unwrap() > 1 << 20, "{last:?}");
    assert!(!said[0].contains_key("seconds-left"), "one step says nothing of the pace");
    assert!(!last.contains_key("device-memory-bytes"), "the processor has no memory beside the machine's");
}

#[test]
fn a_loss_without_a_position_has_no_figure() {
    let world = World::new(false);
    let mut config = table(10, json!({ "cross-entropy": {}, "forward-kl": { "weight": 0 } }));
    config["early-stop"] = json!({ "every": 5, "metric": "cross-entropy" });
    let (outcome, _) = world.run(&config).unwrap();
    let has = |values: &serde_json::Map<String, Value>, name: &str| values.keys().any(|key| key.ends_with(name));
    let figures = outcome.metrics.as_object().unwrap();
    assert!(has(figures, "cross-entropy") && !has(figures, "forward-kl"), "{figures:?}");
    let said = metrics_of(&world);
    assert!(said.iter().any(|values| values.contains_key("validation-cross-entropy")));
    assert!(said.iter().all(|values| !has(values, "forward-kl")), "{said:?}");
}

#[test]
fn a_student_that_stops_early_is_the_best_one_and_says_which() {
    let world = World::new(true);
    let mut config = table(40, both());
    config["early-stop"] = json!({ "every": 10, "patience": 0, "metric": "cross-entropy" });
    config["keep"] = json!({ "best": 1 });
    let (outcome, out) = world.run(&config).unwrap();
    let said = metrics_of(&world);
    let measured: Vec<f64> =
        said.iter().filter_map(|values| values.get("validation-cross-entropy")?.as_f64()).collect();
    assert_eq!(measured.len(), 4);
    let best = measured.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(outcome.metrics["validation"], json!(best));
    let step = outcome.metrics["best-step"].as_u64().unwrap();
    let elsewhere = World::new(true);
    let (_, plain) = elsewhere.run(&table(step, both())).unwrap();
    assert!(weights(&out) == weights(&plain), "measuring changes nothing");
    // With all there, nothing is trained and the same comes out.
    let (again, same) = world.run(&config).unwrap();
    assert!(again.provenance["tokens"] == 0 && again.metrics == outcome.metrics && weights(&same) == weights(&out));
}

#[test]
fn early_stopping_without_a_held_out_part_is_refused() {
    let world = World::new(true);
    let folder = world.folder.path().join("without");
    write_tokenizer(&folder.join("tokenizer"));
    write_examples(&folder, true);
    fs_err::remove_dir_all(folder.join("holdout")).unwrap();
    ExampleWriter::create(&folder.join("holdout")).unwrap().finish().unwrap();
    let (output, _) = world.store.put_tree(&folder).unwrap();
    let world = World { data: Input { stage: "dataset.train".into(), output }, ..world };
    let mut config = table(20, both());
    config["early-stop"] = json!({ "every": 10 });
    let failure = world.run(&config).err().unwrap();
    assert_eq!(failure.message, "`early-stop` measures on held-out examples, and the dataset holds none out");
    assert!(failure.class == Class::Input && failure.hint.unwrap().contains("holdout"));
}

#[test]
fn a_training_that_jumps_says_which_settings_make_a_student_of_its_checkpoint() {
    let world = World::new(false);
    let mut config = table(200, json!("cross-entropy"));
    config["optimizer"]["adamw"]["lr"] = json!(0.3);
    config["spike"] = json!({ "factor": 1.000_000_1, "window": 1 });
    let failure = world.run(&config).err().unwrap();
    let (_, kept) = failure.message.split_once("the checkpoint of step ").unwrap();
    let step: u64 = kept.split_once(' ').unwrap().0.parse().unwrap();
    assert!(failure.class == Class::Training && step > 0, "{}", failure.message);
    let hint = failure.hint.unwrap();
    assert!(hint.starts_with("a lower learning rate"), "{hint}");
    assert!(
        hint.ends_with(&format!("; `steps = {step}` with these settings makes a student of the checkpoint")),
        "{hint}"
    );
    config["steps"] = json!(step);
    assert_eq!(world.run(&config).unwrap().0.provenance["resumed-from-step"], step);
}

#[test]
fn a_checkpoint_is_said_to_make_a_student_only_where_the_schedule_lets_it() {
    let said = |schedule: Value, early_stop: Value| {
        let mut config = table(20, both());
        config["schedule"] = schedule;
        if !early_stop.is_null() {
            config["early-stop"] = early_stop;
        }
        let mut report = stillhouse_spec::Diagnostics::default();
        let config = <config::StudentConfig as stillhouse_spec::Config>::decode(&Node::from_json(&config), &mut report);
        config.unwrap().use_of_checkpoint(10)
    };
    let makes_one = |said: String| {
        let (yes, no) =
            (said.starts_with("`steps = 10` with these settings"), said.contains("no training of 10 steps"));
        assert!(yes != no, "{said}");
        yes
    };
    assert!(makes_one(said(json!("constant"), Value::Null)));
    assert!(makes_one(said(json!({ "constant": { "warmup": 10 } }), json!({ "every": 10 }))));
    assert!(makes_one(said(json!({ "cosine": { "warmup": 10 } }), Value::Null)), "all of it was warm-up");
    assert!(!makes_one(said(json!("cosine"), Value::Null)));
    assert!(!makes_one(said(json!({ "wsd": { "decay": 2 } }), Value::Null)));
    // Such a table would be refused.
    assert!(!makes_one(said(json!({ "constant": { "warmup": 11 } }), Value::Null)));
    assert!(!makes_one(said(json!("constant"), json!({ "every": 11 }))));
}

#[test]
fn adapters_are_merged_into_the_model_folder_and_lie_beside_it() {
    let world = World::new(true);
    let mut config = table(6, both());
    config["lora"] = json!({ "rank": 2, "targets": ["q", "up"] });
    let (_, out) = world.run(&config).unwrap();
    let mut model = BurnLoader.load(&ModelFolder::open(&out).unwrap(), "cpu").unwrap();
    assert_eq!(model.vocabulary(), VOCABULARY as usize);
    model
        .score(&[vec![1, 2, 3]], &mut |_, _, log_probs| assert!(log_probs.iter().all(|value| value.is_finite())))
        .unwrap();
    let bytes = fs_err::read(out.join("adapters/adapter_model.safetensors")).unwrap();
    let adapters = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let down = adapters.tensor("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight").unwrap();
    assert_eq!(down.shape(), [2, 32]);
    // The store sees a model folder whose weights are one file.
    let (output, _) = world.store.put_tree(&out).unwrap();
    let artifact = world.store.tree(&output).unwrap().unwrap();
    let files = artifact.entries().iter().map(|entry| (entry.path.clone(), world.store.blob_path(&entry.digest)));
    let folder = ModelFolder::from_files("student.test", files);
    assert_eq!(folder.weights().collect::<Vec<_>>(), ["model.safetensors"]);
    let (again, _) = world.run(&config).unwrap();
    assert_eq!(again.provenance["tokens"], 0, "found under its own trajectory");
    assert!(world.run(&table(6, both())).unwrap().0.provenance["tokens"] != 0, "which is not that of all weights");
}

#[test]
fn steps_by_tokens_train_and_go_on_like_any_other() {
    let by_tokens = |steps: u64| {
        let mut config = table(steps, both());
        config["batch"] = json!({ "tokens": 24 });
        config
    };
    let (short_first, at_once) = (World::new(true), World::new(true));
    short_first.run(&by_tokens(3)).unwrap();
    let (outcome, continued) = short_first.run(&by_tokens(8)).unwrap();
    assert_eq!(outcome.provenance["resumed-from-step"], 3);
    let (undisturbed, out) = at_once.run(&by_tokens(8)).unwrap();
    assert!(weights(&continued) == weights(&out));
    assert_eq!(outcome.metrics["tokens"], undisturbed.metrics["tokens"]);
    assert!(outcome.metrics["tokens"].as_u64().unwrap() <= 8 * 24);
    let mut narrow = by_tokens(2);
    narrow["batch"]["tokens"] = json!(6);
    assert!(short_first.run(&narrow).err().unwrap().message.contains("a batch holds 6"));
}

#[test]
fn a_student_is_cut_from_another_and_goes_on_where_the_same_cut_ended() {
    let world = World::new(false);
    let (_, teacher) = world.run(&table(4, json!("cross-entropy"))).unwrap();
    let mut cut = table(3, json!("cross-entropy"));
    cut["init"] = json!({ "cut": { "from": "other", "hidden": 16, "intermediate": 40, "heads": 2 } });
    let run = |config: &Value| world.run_with(config, [("init.cut.from", world.output_of_another(&teacher))]);
    let (short, first) = run(&cut).unwrap();
    assert!(!short.resumed && short.metrics["parameters"].as_u64().unwrap() < 4000, "{}", short.metrics);
    let config: Value = serde_json::from_slice(&fs_err::read(first.join("config.json")).unwrap()).unwrap();
    let size = |name: &str| config[name].as_u64().unwrap();
    assert_eq!([size("hidden_size"), size("intermediate_size"), size("num_attention_heads")], [16, 40, 2]);
    assert_eq!([size("num_key_value_heads"), size("head_dim"), size("num_hidden_layers")], [1, 8, 1]);

    cut["steps"] = json!(5);
    let (longer, continued) = run(&cut).unwrap();
    assert_eq!(longer.provenance["resumed-from-step"], 3);
    let fresh_store = World::new(false);
    let (_, undisturbed) =
        fresh_store.run_with(&cut, [("init.cut.from", fresh_store.output_of_another(&teacher))]).unwrap();
    assert!(weights(&continued) == weights(&undisturbed));
    // Another cut of the same model is another beginning.
    cut["init"]["cut"]["hidden"] = json!(24);
    assert!(!run(&cut).unwrap().0.resumed);
    // What the model does not have is said when its shape is known.
    cut["init"]["cut"] = json!({ "from": "other", "layers": [1] });
    let failure = run(&cut).err().unwrap();
    assert_eq!((failure.message.as_str(), failure.class), ("there is no layer 1", Class::Input));
    assert_eq!(failure.hint.as_deref(), Some("its layers are 0 to 0"));
}

#[test]
fn every_family_is_trained_from_scratch() {
    let world = World::new(false);
    for family in ["mistral", "qwen2", "qwen3"] {
        let mut config = table(3, json!("cross-entropy"));
        config["init"] = json!({ family: { "layers": 1, "hidden": 32, "heads": 4, "kv-heads": 2, "head-width": 6 } });
        let (outcome, out) = world.run(&config).unwrap();
        assert_eq!(outcome.metrics["steps"], 3);
        let folder = ModelFolder::open(&out).unwrap();
        let written: Value = folder.read_json("config.json").unwrap();
        assert_eq!((&written["model_type"], &written["head_dim"]), (&json!(family), &json!(6)));
        assert_eq!(BurnLoader.load(&folder, "cpu").unwrap().vocabulary(), VOCABULARY as usize);
    }
}

#[test]
fn a_student_beyond_this_machines_memory_is_refused_before_it_takes_it() {
    let mut config = table(1, json!("cross-entropy"));
    // 43 billion parameters: fewer than a file may ask for, more than a test's machine holds.
    config["init"] = json!({ "llama": { "layers": 200, "hidden": 4096, "heads": 32 } });
    let failure = World::new(false).run(&config).err().unwrap();
    assert!(failure.message.contains("GiB and more to train, this machine has"), "{}", failure.message);
    assert_eq!(failure.class, Class::Input);
}

#[test]
fn faults_of_the_data_are_the_users_and_say_what_to_do() {
    let without = World::new(false);
    let failure = without.run(&table(2, both())).err().unwrap();
    assert_eq!(failure.message, "a loss compares with a teacher's distributions, but the data has none");
    assert!(failure.class == Class::Input && failure.hint.unwrap().contains("capture"));
    without.run(&table(2, json!("cross-entropy"))).unwrap();

    let mut narrow = table(2, json!("cross-entropy"));
    narrow["init"]["llama"]["context"] = json!(4);
    let failure = without.run(&narrow).err().unwrap();
    assert_eq!(failure.message, "rows of 7 positions do not fit the model, whose longest sequence is 4");
    let mut short = table(2, json!("cross-entropy"));
    short["batch"]["length"] = json!(5);
    assert!(without.run(&short).err().unwrap().message.contains("tokens, rows hold 2 to 6"));
}

#[test]
fn a_student_trains_in_bf16_from_the_start_and_its_folder_is_as_any_other() {
    let world = World::new(false);
    let long = table(4, json!("cross-entropy"));
    world.run(&long).unwrap();
    let mut short = long.clone();
    short["precision"] = json!("bf16");
    // Nothing of the other's trajectory is its own.
    let (outcome, out) = world.run(&short).unwrap();
    assert!(!outcome.resumed);
    let warned =
        |event: &StageEvent| matches!(event, StageEvent::Warning { message } if message.contains("imitates bf16"));
    assert_eq!(world.heard.0.lock().unwrap().iter().filter(|event| warned(event)).count(), 1);
    let longer = {
        let mut config = short.clone();
        config["steps"] = json!(6);
        config
    };
    assert!(world.run(&longer).unwrap().0.resumed);
    let bytes = weights(&out);
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert!(tensors.tensors().iter().all(|(_, tensor)| tensor.dtype() == safetensors::Dtype::F32));
    let folder = ModelFolder::open(&out).unwrap();
    assert_eq!(BurnLoader.load(&folder, "cpu").unwrap().vocabulary(), VOCABULARY as usize);
}
