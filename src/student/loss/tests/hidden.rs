//! Losses on hidden states against PyTorch's values and gradients, and at vectors of zeros.

use super::super::hidden_cosine::HiddenCosine;
use super::super::hidden_mse::HiddenMse;
use super::*;

#[derive(Deserialize)]
struct Reference {
    formulas: std::collections::BTreeMap<String, Formulas>,
}

#[derive(Deserialize)]
struct Formulas {
    value: f64,
    student: Vec<f64>,
    projection: Vec<f64>,
}

/// The numbers that the script makes, too.
fn grid(rows: usize, columns: usize, one: usize, other: usize) -> Tensor<CpuTape, 2> {
    let number = |place: usize| {
        let (row, column) = (place / columns, place % columns);
        (((row * one + column * other) % 23) as f64 - 11.0) as f32 / 22.0
    };
    Tensor::from_data(TensorData::new((0..rows * columns).map(number).collect(), [rows, columns]), &Default::default())
}

fn losses() -> [(&'static str, Box<dyn Loss>); 2] {
    let (weight, layers) = (Weight::Constant(1.0), HiddenLayers { pairs: vec![], projection: Projection::Learned });
    [
        ("hidden-mse", Box::new(HiddenMse { weight, layers: layers.clone() })),
        ("hidden-cosine", Box::new(HiddenCosine { weight, layers })),
    ]
}

/// Mean over positions whose hidden states these are.
fn mean_of_pairs(loss: &dyn Loss, pairs: Vec<HiddenPair<CpuTape>>) -> Tensor<CpuTape, 1> {
    let labels = vec![0; pairs[0].student.dims()[0]];
    let mut positions =
        Positions::new(Tensor::zeros([labels.len(), 1], &Default::default()), &labels, TeacherPositions::none());
    positions.hidden = pairs;
    let LossSum { sum, positions } = loss.sum_on_cpu(&positions);
    assert_eq!(positions, labels.len());
    sum.unwrap() / positions as f64
}

fn close(computed: Option<Tensor<Cpu, 2>>, expected: &[f64]) {
    let computed: Vec<f32> = computed.unwrap().into_data().to_vec().unwrap();
    assert_eq!(computed.len(), expected.len());
    for (computed, expected) in computed.into_iter().zip(expected) {
        assert!((f64::from(computed) - expected).abs() < 1e-6, "{computed} is not {expected}");
    }
}

#[test]
fn values_and_gradients_are_those_of_pytorch() {
    let reference: Reference = serde_json::from_str(include_str!("../../tests/golden/hidden_states.json")).unwrap();
    for (name, loss) in losses() {
        let expected = &reference.formulas[name];
        let (student, map) = (grid(5, 3, 7, 5).require_grad(), grid(4, 3, 2, 9).require_grad());
        let projected = CpuTape::projection(student.clone(), map.clone());
        let mean = mean_of_pairs(loss.as_ref(), vec![HiddenPair { student: projected, teacher: grid(5, 4, 3, 11) }]);
        let value = f64::from(mean.clone().into_scalar());
        assert!((value - expected.value).abs() < 1e-6, "{name}: {value} is not {}", expected.value);
        let mut gradients = mean.backward();
        close(student.grad_remove(&mut gradients), &expected.student);
        close(map.grad_remove(&mut gradients), &expected.projection);
    }
}

#[test]
fn several_pairs_are_their_mean() {
    for (name, loss) in losses() {
        let pairs: Vec<_> =
            [2, 5, 9].map(|other| HiddenPair { student: grid(6, 4, 3, other), teacher: grid(6, 4, 8, 1) }).into();
        let value = |pairs: &[HiddenPair<CpuTape>]| mean_of_pairs(loss.as_ref(), pairs.to_vec()).into_scalar();
        let alone: f32 = pairs.iter().map(|pair| value(std::slice::from_ref(pair))).sum();
        assert!((value(&pairs) - alone / 3.0).abs() < 1e-6, "{name}");
    }
}

#[test]
fn the_same_states_are_at_no_distance_and_zeros_have_no_direction() {
    let (zeros, some) = (Tensor::<CpuTape, 2>::zeros([2, 4], &Default::default()), grid(2, 4, 3, 5));
    for (name, loss) in losses() {
        let same = mean_of_pairs(loss.as_ref(), vec![HiddenPair { student: some.clone(), teacher: some.clone() }]);
        assert!(same.into_scalar().abs() < 1e-6, "{name}");
        let student = zeros.clone().require_grad();
        let mean = mean_of_pairs(loss.as_ref(), vec![HiddenPair { student: student.clone(), teacher: some.clone() }]);
        let value = mean.clone().into_scalar();
        assert!(value.is_finite() && (name != "hidden-cosine" || value == 1.0), "{name}: {value}");
        let gradient: Vec<f32> = student.grad_remove(&mut mean.backward()).unwrap().into_data().to_vec().unwrap();
        assert!(gradient.iter().all(|slope| slope.is_finite()), "{name}: {gradient:?}");
    }
}

#[test]
fn without_hidden_states_there_is_no_sum() {
    for (name, loss) in losses() {
        let positions = Positions::new(grid(2, 3, 1, 1), &[0, 1], TeacherPositions::none());
        let LossSum { sum, positions } = loss.sum_on_cpu(&positions);
        assert!(sum.is_none() && positions == 0, "{name}");
    }
}
