//! Low-rank adapters beside frozen weights.

use super::*;

#[test]
fn learn_while_the_weights_beside_them_stay() {
    let lora = lora(&["q", "v", "down"]);
    let method = Method { lora: Some(&lora), seed: 5, ..Method::default() };
    let setup = constant(60);
    let checkpoints = InMemory::default();
    let mut watcher = Watcher::default();
    let optimizer = Optimizer::Adamw(adamw(2e-2));
    let options = Options { method, ..Options::default() };
    let done = train_with(&setup, &optimizer, options, &checkpoints, &mut watcher).unwrap();
    let (first, last) = (watcher.reports[0].loss, watcher.reports[59].loss);
    assert!(last < 0.97 * first, "{first} {last}");
    let before = beginning();
    for (name, values) in &done.weights {
        let adapted = ["q_proj", "v_proj", "down_proj"].iter().any(|target| name.contains(target));
        assert_eq!(*values != before[name], adapted, "{name}");
    }
    // Two layers with three adapters of two matrices; everything else is in no checkpoint.
    assert_eq!(done.checkpoint.weights.len(), 12);
    let whole: usize = before.values().map(|values| 4 * values.data.len()).sum();
    assert!(done.checkpoint.bytes() < whole as u64 / 2, "{} {whole}", done.checkpoint.bytes());
}

#[test]
fn are_merged_into_the_student_as_their_formula_says() {
    let lora = lora(&["q"]);
    let method = Method { lora: Some(&lora), seed: 5, ..Method::default() };
    let done = trained(&constant(5), &by_adamw(), method);
    let name = "model.layers.1.self_attn.q_proj.weight";
    let thin = done.adapters.unwrap();
    let (down, up) = (&thin[&format!("{name}.lora_A")], &thin[&format!("{name}.lora_B")]);
    assert_eq!((down.shape.as_slice(), up.shape.as_slice()), (&[2, 32][..], &[32, 2][..]));
    let (before, merged) = (&beginning()[name].data, &done.weights[name].data);
    for place in 0..merged.len() {
        let (row, column) = (place / 32, place % 32);
        let product: f32 = (0..2).map(|r| up.data[row * 2 + r] * down.data[r * 32 + column]).sum();
        assert!((merged[place] - before[place] - 2.0 * product).abs() < 1e-6);
    }
    let named = peft_names(&thin);
    assert!(named.contains_key("base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"), "{:?}", named.keys());
}

#[test]
fn have_the_slopes_of_the_loss_as_gradients() {
    let lora = lora(&["k", "up"]);
    let method = Method { lora: Some(&lora), seed: 5, ..Method::default() };
    let batch = Rule { vocabulary: 32, with_teacher: false }.step(0).unwrap();
    let cross_entropy = CrossEntropy { weight: Weight::Constant(1.0) };
    let losses = Losses::new([("cross-entropy", &cross_entropy as &dyn Loss)]);
    let optimizer = AdamW { beta1: 0.0, weight_decay: 0.0, ..adamw(1e-12) };
    let device = Default::default();
    let state = || State::<CpuTape>::begin(fresh::<Cpu>(&tiny(), 3, &device).unwrap(), &tiny(), &method).unwrap();
    // B begins with zeros, where A has no slope: begin somewhere else.
    let mut start = state().checkpoint();
    for (name, values) in &mut start.weights {
        if name.ends_with("lora_B") {
            values.data = Arc::new((0..values.data.len()).map(|place| (place % 7) as f32 * 0.02 - 0.06).collect());
        }
    }
    let loss_and_gradients = |start: &stillhouse_student::trainer::Checkpoint| {
        let state = state().take_up(start, &device).unwrap();
        let (state, report) = state.advance(&batch, &losses, &optimizer, 1e-12, None, 4).unwrap();
        (report.loss, state.checkpoint().optimizer.first)
    };
    let (_, gradients) = loss_and_gradients(&start);
    assert_eq!(gradients.len(), 8);
    for (name, gradient) in &gradients {
        let gradient = &gradient.data;
        let steepest = (0..gradient.len()).max_by(|a, b| gradient[*a].abs().total_cmp(&gradient[*b].abs())).unwrap();
        let moved = |by: f32| {
            let mut start = start.clone();
            let mut data = start.weights[name].data.to_vec();
            data[steepest] += by;
            start.weights[name].data = Arc::new(data);
            loss_and_gradients(&start).0
        };
        let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
        let computed = f64::from(gradient[steepest]);
        assert!((slope - computed).abs() < 0.03 * computed.abs() + 1e-5, "{name}: {computed} is not {slope}");
    }
}

#[test]
fn resume_exactly_with_an_average_beside_them() {
    let lora = lora(&["q", "v"]);
    resumes_exactly(&by_adamw(), Method { lora: Some(&lora), seed: 5, ema: Some(0.9), ..Method::default() });
}

#[test]
fn on_projections_that_are_not_there_are_refused() {
    let model = || fresh::<Cpu>(&tiny(), 3, &Default::default()).unwrap();
    let begun = |lora: &Lora| {
        let method = Method { lora: Some(lora), ..Method::default() };
        State::<CpuTape>::begin(model(), &tiny(), &method).err().unwrap()
    };
    let refused = |targets: &[&str]| begun(&lora(targets));
    let wide = begun(&Lora { rank: 1_000_000, ..lora(&["q"]) });
    assert!(wide.to_string().starts_with("`lora.rank` is 1000000, but `model.layers.0.self_attn.q_proj.weight`"));
    let error = refused(&["q", "gates"]);
    assert_eq!(error.to_string(), "`lora.targets` names `gates`, which the model does not have");
    assert_eq!(error.hint().unwrap(), "did you mean `gate`?");
    assert!(refused(&[]).to_string().contains("is empty"));
}
