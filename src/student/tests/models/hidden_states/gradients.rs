//! Values and gradients of one step against PyTorch's, and against the slopes of the loss.

use super::*;

#[derive(Deserialize)]
struct Reference {
    step: Step,
}

/// What PyTorch says of one step.
#[derive(Deserialize)]
struct Step {
    layers: BTreeMap<String, Vec<(usize, usize)>>,
    weights: BTreeMap<String, f64>,
    values: BTreeMap<String, f64>,
    gradients: BTreeMap<String, Gradient>,
}

#[derive(Deserialize)]
struct Gradient {
    norm: f64,
    first: Vec<f64>,
}

/// The learned maps that PyTorch was given.
fn grid(rows: usize, columns: usize, one: usize, other: usize) -> Values {
    let number = |place: usize| (((place / columns * one + place % columns * other) % 23) as f64 - 11.0) / 22.0;
    Values::new(vec![rows, columns], (0..rows * columns).map(|place| number(place) as f32).collect())
}

#[test]
fn a_step_has_the_values_and_gradients_of_pytorch() {
    let text = fs_err::read_to_string(golden("hidden_states.json")).unwrap();
    let Reference { step } = serde_json::from_str(&text).unwrap();
    let (student, teacher) = (load::<Cpu>("llama-gqa-tied"), load::<Cpu>("stories260k"));
    let pairs = |name: &str| layers(&step.layers[name]);
    let weight = |name: &str| Weight::Constant(step.weights[name]);
    let mse = HiddenMse { weight: weight("hidden-mse"), layers: pairs("hidden-mse") };
    let cosine = HiddenCosine { weight: weight("hidden-cosine"), layers: pairs("hidden-cosine") };
    let losses = Losses::new([
        ("cross-entropy", &CrossEntropy { weight: ONE } as &dyn Loss),
        ("hidden-mse", &mse),
        ("hidden-cosine", &cosine),
    ]);
    let mut batch = batch_of(&expected("llama-gqa-tied").ids);
    for place in 0..batch.scored.len() {
        batch.scored[place] = !(place / batch.length + place % batch.length).is_multiple_of(3);
    }
    let batch = StepBatch { batch, teacher: Teacher::default() };
    // With β₁ = 0 the first moment is the gradient.
    let optimizer = AdamW { beta1: 0.0, ..adamw(1e-3) };
    for gradient_checkpointing in [false, true] {
        let method = Method { gradient_checkpointing, ..Method::default() };
        let compared = ComparedLayers::of(&losses, &student.config, Some(&teacher.config)).unwrap();
        let state = State::<CpuTape>::begin(student.decoder.clone(), &student.config, &method).unwrap();
        let state = state.comparing(compared, 0).beside(Some(LiveTeacher::new(teacher.clone(), 128)));
        let mut start = state.checkpoint();
        assert_eq!(start.projections.len(), 4);
        for (name, map) in &mut start.projections {
            let number: usize = name.split('.').nth(2).unwrap().parse().unwrap();
            *map = grid(64, 48, 3 + number, 5 + number);
        }
        let state = state.take_up(&start, &Default::default()).unwrap();
        let (state, report) = state.advance(&batch, &losses, &optimizer, 1e-3, None, 1).unwrap();
        for part in &report.parts {
            let expected = step.values[&part.name];
            let mean = part.mean.unwrap();
            assert!((mean - expected).abs() < 1e-6 * expected.max(1.0), "{}: {mean} is not {expected}", part.name);
        }
        let computed = state.checkpoint().optimizer.first;
        assert_eq!(computed.len(), step.gradients.len());
        for (name, expected) in &step.gradients {
            let gradient = &computed[name].data;
            let norm = gradient.iter().map(|slope| f64::from(*slope).powi(2)).sum::<f64>().sqrt();
            assert!(
                (norm - expected.norm).abs() < 2e-6 * expected.norm.max(1.0),
                "{name}: {norm} is not {}",
                expected.norm
            );
            for (slope, expected) in gradient.iter().zip(&expected.first) {
                assert!((f64::from(*slope) - expected).abs() < 1e-6, "{name}: {slope} is not {expected}");
            }
        }
    }
}

#[test]
fn learned_maps_have_the_slopes_of_the_loss_as_gradients() {
    let (mse, cosine) = (mse(&[(1, 3)]), cosine(&[(0, 1), (2, 2)]));
    let losses = Losses::new([("hidden-mse", &mse as &dyn Loss), ("hidden-cosine", &cosine)]);
    let batch = rule().step(0).unwrap();
    let optimizer = AdamW { beta1: 0.0, weight_decay: 0.0, ..adamw(1e-12) };
    // Hidden states of a size at which the loss is steep and small, so that its differences are more than rounding.
    let student = DecoderConfig { initializer_range: 0.3, ..tiny() };
    let beside = DecoderConfig { initializer_range: 0.1, ..teacher_config() };
    let compared = ComparedLayers::of(&losses, &student, Some(&beside)).unwrap();
    let state = || {
        let state = State::<CpuTape>::new(fresh(&student, 3, &Default::default()).unwrap(), &student);
        state.comparing(compared.clone(), 5).beside(Some(teacher_of(beside.clone())))
    };
    let loss_and_gradients = |start: &Checkpoint| {
        let state = state().take_up(start, &Default::default()).unwrap();
        let (state, report) = state.advance(&batch, &losses, &optimizer, 1e-12, None, 3).unwrap();
        (report.loss, state.checkpoint().optimizer.first)
    };
    let start = state().checkpoint();
    let (_, gradients) = loss_and_gradients(&start);
    assert_eq!(start.projections.len(), 3);
    for name in start.projections.keys() {
        let gradient = &gradients[name].data;
        let steepest = (0..gradient.len()).max_by(|a, b| gradient[*a].abs().total_cmp(&gradient[*b].abs())).unwrap();
        let moved = |by: f32| {
            let mut start = start.clone();
            let mut data = start.projections[name].data.to_vec();
            data[steepest] += by;
            start.projections[name].data = Arc::new(data);
            loss_and_gradients(&start).0
        };
        let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
        let computed = f64::from(gradient[steepest]);
        assert!((slope - computed).abs() < 0.02 * computed.abs() + 2e-5, "{name}: {computed} is not {slope}");
    }
}
