use burn::backend::Flex;
use serde_json::json;

use super::*;
use crate::init::fresh;
use crate::model::{Biases, RotaryTable, read_config};

fn cut(table: serde_json::Value) -> Cut {
    let mut report = Diagnostics::default();
    let made = Cut::decode(&Node::from_json(&table), &mut report);
    made.unwrap_or_else(|| panic!("{:?}", report.sorted()))
}

fn complaints(table: serde_json::Value) -> String {
    let mut report = Diagnostics::default();
    Cut::decode(&Node::from_json(&table), &mut report);
    report.sorted().iter().map(|error| error.message.clone()).collect::<Vec<_>>().join("; ")
}

/// A shape with every kind of tensor that a family has.
fn small() -> DecoderConfig {
    let text = include_str!("../tests/golden/qwen3/config.json");
    let (_, config) = read_config("m", text).unwrap();
    let biases = Biases { attention_input: true, attention_output: true, feed_forward: true };
    DecoderConfig { hidden: 24, intermediate: 20, heads: 6, kv_heads: 3, head_width: 4, biases, ..config }
}

fn loaded(config: DecoderConfig, change: impl Fn(&str, &[usize], Vec<f32>) -> Vec<f32>) -> LoadedModel<Flex> {
    let device = Default::default();
    let values = take_values(&fresh::<Flex>(&config, 5, &device).unwrap());
    let decoder = load_into(Decoder::empty(&config, &device), &device, |name, shape| {
        Ok(change(name, shape, values[name].data.to_vec()))
    });
    LoadedModel { decoder: decoder.unwrap(), rotary: RotaryTable::new(&config), config }
}

/// Numbers that tell the places of a tensor apart.
fn varied(name: &str, _: &[usize], values: Vec<f32>) -> Vec<f32> {
    let salt = name.len() as f32;
    values.iter().enumerate().map(|(place, value)| value + 0.5 + ((place as f32 + salt) * 0.7).sin() * 0.25).collect()
}

#[test]
fn what_was_added_without_any_weight_is_what_goes() {
    let small = loaded(small(), varied);
    let kept = take_values(&small.decoder);
    let large =
        DecoderConfig { layers: 4, hidden: 36, intermediate: 40, heads: 10, kv_heads: 5, ..small.config.clone() };
    // Where the small model's places lie in the large one; all others stay zero.
    let channels: Vec<usize> = (0..24).map(|place| place + place / 2).collect();
    let neurons: Vec<usize> = (0..20).map(|place| 2 * place + 1).collect();
    let groups = [0, 2, 3];
    let spread =
        |length: usize| groups.iter().flat_map(|group| group * length..(group + 1) * length).collect::<Vec<_>>();
    let layers = [0, 2, 3];
    let source = loaded(large, |name, shape, _| {
        let (layer, below) = split(name);
        let mut out = vec![0.0; shape.iter().product()];
        let place = match layer.map(|layer| layers.iter().position(|kept| *kept == layer)) {
            Some(None) => return vec![3.0; out.len()],
            Some(Some(place)) => format!("model.layers.{place}.{below}"),
            None => name.to_owned(),
        };
        let small = &kept[&place];
        let places: Vec<Vec<usize>> = axes(below)
            .unwrap()
            .iter()
            .zip(&small.shape)
            .map(|(axis, length)| match axis {
                Axis::Channels => channels.clone(),
                Axis::Neurons => neurons.clone(),
                Axis::Queries => spread(8),
                Axis::Keys => spread(4),
                Axis::Vocabulary | Axis::HeadWidth => (0..*length).collect(),
            })
            .collect();
        for (from, value) in small.data.iter().enumerate() {
            let at = match places.as_slice() {
                [rows, columns] => rows[from / columns.len()] * shape[1] + columns[from % columns.len()],
                [only] => only[from],
                _ => unreachable!(),
            };
            out[at] = *value;
        }
        out
    });
    let cut = cut(json!({ "from": "m", "layers": layers, "hidden": 24, "intermediate": 20, "heads": 6 }));
    assert_eq!(cut.shape(&source.config).unwrap(), small.config);
    assert_eq!(take_values(&cut.apply(&source, &Default::default()).unwrap()), kept);
}

#[test]
fn only_layers_go_where_no_width_is_named() {
    let source = loaded(small(), varied);
    let whole = take_values(&source.decoder);
    let cut = cut(json!({ "from": "m", "every": 2 }));
    let left = take_values(&cut.apply(&source, &Default::default()).unwrap());
    assert_eq!(left["model.layers.1.mlp.up_proj.weight"], whole["model.layers.2.mlp.up_proj.weight"]);
    assert_eq!(left["model.embed_tokens.weight"], whole["model.embed_tokens.weight"]);
    assert!(left.len() < whole.len() && !left.contains_key("model.layers.2.mlp.up_proj.weight"));
    assert_eq!(cut.identity(&source.config, "weights x"), "cut 1 layers [0, 2] of weights x");
}

#[test]
fn what_weighs_more_stays_in_its_order() {
    let source = loaded(small(), |name, shape, values| {
        let heavy = |place: usize| match name {
            "model.layers.1.mlp.gate_proj.weight" => [3, 7, 19].contains(&(place / shape[1])),
            "model.layers.1.self_attn.o_proj.weight" => (8..16).contains(&(place % shape[1])),
            _ => false,
        };
        values.iter().enumerate().map(|(place, value)| if heavy(place) { value * 9.0 } else { *value }).collect()
    });
    let cut = cut(json!({ "from": "m", "layers": [1], "intermediate": 3, "heads": 2 }));
    let target = cut.shape(&source.config).unwrap();
    assert_eq!((target.layers, target.heads, target.kv_heads, target.intermediate), (1, 2, 1, 3));
    let kept = Kept::choose(&take_values(&source.decoder), &source.config, &target, vec![1]);
    assert_eq!(kept.neurons[&1], [3, 7, 19]);
    assert_eq!((&kept.queries[&1], &kept.keys[&1]), (&(8..16).collect(), &(4..8).collect()));
    assert_eq!(kept.channels, (0..24).collect::<Vec<_>>());
    assert_eq!(most_important(&[1.0, 3.0, 1.0, 2.0, 1.0], 3), [0, 1, 3]);
}

#[test]
fn every_tensor_has_the_same_say_in_what_a_channel_weighs() {
    let plain = small();
    // A hundredfold embedding has no more votes: channel 5 is heavy in everything else.
    let source = loaded(plain, |name, shape, values| {
        let channel = |place: usize| match axes(split(name).1).unwrap() {
            [Axis::Channels, _] => place / shape[1],
            [_, Axis::Channels] => place % shape[1],
            _ => usize::MAX,
        };
        let scale = |place: usize| match (name, channel(place)) {
            ("model.embed_tokens.weight", 9) => 500.0,
            ("model.embed_tokens.weight", _) => 100.0,
            (_, 5) => 4.0,
            _ => 1.0,
        };
        values.iter().enumerate().map(|(place, value)| value * scale(place)).collect()
    });
    let importance = take_values(&source.decoder);
    let channels = Importance::new(&importance, &source.config).channels(&[0, 1, 2]);
    assert_eq!(most_important(&channels, 1), [5]);
    assert_eq!(most_important(&channels, 2), [5, 9]);
}

#[test]
fn a_model_is_cut_of_what_it_has() {
    let source = DecoderConfig { sliding_window: Some(SlidingWindow { width: 8, layers: vec![1, 2] }), ..small() };
    let shape = |table| cut(table).shape(&source);
    assert_eq!(shape(json!({ "from": "m", "layers": [0, 2] })).unwrap().sliding_window.unwrap().layers, [1]);
    assert_eq!(shape(json!({ "from": "m", "layers": [0] })).unwrap().sliding_window, None);
    for (table, field, message, hint) in [
        (json!({ "from": "m", "layers": [0, 3] }), "layers", "there is no layer 3", "its layers are 0 to 2"),
        (
            json!({ "from": "m", "hidden": 25 }),
            "hidden",
            "`hidden` = 25 is more than the 24 it is cut from",
            "never wider",
        ),
        (json!({ "from": "m", "intermediate": 99 }), "intermediate", "more than the 20", "never wider"),
        (json!({ "from": "m", "heads": 3 }), "heads", "`heads` = 3 would split a group of 2 heads", "a multiple of 2"),
    ] {
        let unfit = shape(table.clone()).unwrap_err();
        assert_eq!(unfit.field, field);
        assert!(unfit.message.contains(message) && unfit.hint.contains(hint), "{table}: {unfit:?}");
    }
    let llama = DecoderConfig { family: "llama".into(), ..small() };
    let unfit = cut(json!({ "from": "m", "hidden": 20 })).shape(&llama).unwrap_err();
    assert_eq!(
        unfit.message,
        "what is left has a width of 20 that 6 heads do not divide, which transformers takes for a fault in llama"
    );
}

#[test]
fn a_table_that_cuts_nothing_or_names_layers_twice_is_refused() {
    for (table, message) in [
        (json!({ "from": "m" }), "nothing is cut away"),
        (json!({ "from": "m", "layers": [] }), "no layer stays"),
        (json!({ "from": "m", "layers": [0, 2, 1] }), "layer 2 stands before layer 1"),
        (json!({ "from": "m", "layers": [1, 1] }), "layer 1 stands before layer 1"),
        (json!({ "from": "m", "layers": [0], "every": 2 }), "both `layers` and `every`"),
        (json!({ "from": "m", "every": 1 }), "`every` must be at least 2"),
        (json!({ "from": "m", "hidden": 0 }), "`hidden` must be at least 1"),
    ] {
        let said = complaints(table.clone());
        assert!(said.contains(message), "{table}: {said}");
    }
}
