//! Muon: momentum, orthogonalised by Newton and Schulz (Jordan et al., 2024, `https://kellerjordan.github.io/posts/muon/`).
//!
//! For a matrix W with gradient G:
//!
//! ```text
//! M ← β·M + (1 − β)·G
//! U = (1 − β)·G + β·M with Nesterov's look-ahead, else M
//! X₀ = U / (‖U‖ + 1e-7);  Xₖ₊₁ = a·X + (b·A + c·A²)·X with A = X·Xᵀ;  (a, b, c) = (3.4445, −4.7750, 2.0315), five times
//! W ← W·(1 − lr·decay) − lr · √max(1, rows/columns) · X₅
//! ```
//!
//! The iteration is in the model's precision (f32), where the original uses bf16.

use burn::tensor::Tensor;
use stillhouse_spec::Config;

use super::{AdamW, OptimizerState, OptimizerStep, Parameter, UpdateRule, taken};
use crate::kernels::Kernels;

/// Muon: orthogonalised momentum for the matrices of the layers; embedding, head, norms, biases and maps between hidden
/// states follow `adamw`, whose rate takes the same schedule.
#[derive(Clone, Debug, Config)]
pub struct Muon {
    /// Learning rate of the layers' matrices, before the schedule's factor.
    #[config(default = 0.02, above = 0)]
    pub lr: f64,
    /// Decay of the running mean of the gradient.
    #[config(default = 0.95, min = 0, below = 1)]
    pub momentum: f64,
    /// Whether the update looks ahead by one step of the momentum.
    #[config(default = true)]
    pub nesterov: bool,
    /// Every step shrinks the layers' matrices by this times the learning rate.
    #[config(default = 0.0, min = 0)]
    pub weight_decay: f64,
    /// What everything else follows.
    pub adamw: AdamW,
}

/// Coefficients of the iteration, chosen by its authors for the steepest slope at zero.
const COEFFICIENTS: (f64, f64, f64) = (3.4445, -4.7750, 2.0315);
const ITERATIONS: usize = 5;

impl Muon {
    /// Whether a weight is one of the layers' matrices; everything else follows AdamW.
    pub(super) fn orthogonalises(parameter: &Parameter<'_>) -> bool {
        parameter.shape.len() == 2 && parameter.name.contains("layers.")
    }
}

impl UpdateRule for Muon {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn update<B: Kernels>(
        &self,
        parameter: &Parameter<'_>,
        weight: Tensor<B, 1>,
        gradient: Tensor<B, 1>,
        state: &mut OptimizerState<B>,
        step: &OptimizerStep,
    ) -> Tensor<B, 1> {
        let &Parameter { name, shape } = parameter;
        let (&[rows, columns], true) = (shape, Self::orthogonalises(parameter)) else {
            // The schedule's factor is the same for both rates.
            let step = OptimizerStep { lr: step.lr / self.lr * self.adamw.lr, ..*step };
            return self.adamw.update(parameter, weight, gradient, state, &step);
        };
        let gradient = gradient * step.gradient_scale;
        let before = taken(&mut state.first, name, &weight);
        let momentum = before * self.momentum + gradient.clone() * (1.0 - self.momentum);
        let update = match self.nesterov {
            true => gradient * (1.0 - self.momentum) + momentum.clone() * self.momentum,
            false => momentum.clone(),
        };
        state.first.insert(name.to_owned(), momentum);
        let norm = B::sum_of_squares(update.clone()).sqrt() + 1e-7;
        let direction = orthogonalised((update / norm).reshape([rows, columns])).reshape([rows * columns]);
        let size = (rows as f64 / columns as f64).max(1.0).sqrt();
        weight * (1.0 - step.lr * self.weight_decay) - direction * (step.lr * size)
    }
}

/// Newton and Schulz's iteration: brings every singular value near 1 and leaves the singular vectors alone.
///
/// # Shapes
/// - input, output: `[rows, columns]`; the norm of the input is at most 1
fn orthogonalised<B: Kernels>(input: Tensor<B, 2>) -> Tensor<B, 2> {
    let [rows, columns] = input.dims();
    let tall = rows > columns;
    let (a, b, c) = COEFFICIENTS;
    // On the side where the square matrix is the smaller one.
    let mut x = if tall { input.transpose() } else { input };
    for _ in 0..ITERATIONS {
        let square = x.clone().matmul(x.clone().transpose());
        let mixed = square.clone() * b + square.clone().matmul(square) * c;
        x = x.clone() * a + mixed.matmul(x);
    }
    if tall { x.transpose() } else { x }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;
    use crate::backend::Cpu;

    fn rule() -> Muon {
        let adamw = AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, decay_norms: false };
        Muon { lr: 0.5, momentum: 0.5, nesterov: false, weight_decay: 0.0, adamw }
    }

    fn flat(values: &[f32]) -> Tensor<Cpu, 1> {
        Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), &Default::default())
    }

    fn numbers<const D: usize>(tensor: Tensor<Cpu, D>) -> Vec<f32> {
        tensor.into_data().to_vec().unwrap()
    }

    /// The iteration acts on each singular value by itself: on a diagonal matrix it is a polynomial of each number.
    #[test]
    fn the_iteration_is_its_polynomial_on_singular_values() {
        let (a, b, c) = COEFFICIENTS;
        let expected = |start: f64| (0..ITERATIONS).fold(start, |x, _| a * x + b * x.powi(3) + c * x.powi(5)) as f32;
        let diagonal = Tensor::<Cpu, 2>::from_data([[0.6, 0.0, 0.0], [0.0, 0.3, 0.0]], &Default::default());
        for (input, [rows, columns]) in [(diagonal.clone(), [2, 3]), (diagonal.transpose(), [3, 2])] {
            let got = numbers(orthogonalised(input).reshape([rows * columns]));
            for (place, value) in got.iter().enumerate() {
                let wanted = match (place / columns, place % columns) {
                    (0, 0) => expected(0.6),
                    (1, 1) => expected(0.3),
                    _ => 0.0,
                };
                assert!((value - wanted).abs() < 1e-4, "{rows}×{columns} {place}: {value} is not {wanted}");
            }
        }
    }

    #[test]
    fn a_matrix_moves_by_its_direction_whatever_the_gradients_size() {
        let parameter = Parameter { name: "model.layers.0.mlp.up_proj.weight", shape: &[2, 2] };
        let step = OptimizerStep { lr: 0.5, gradient_scale: 1.0, step: 1 };
        let moved = |size: f32| {
            let mut state = OptimizerState::new();
            let gradient = flat(&[3.0 * size, 1.0 * size, -size, 2.0 * size]);
            let weight = rule().update(&parameter, flat(&[0.0; 4]), gradient, &mut state, &step);
            assert_eq!((state.first.len(), state.second.len()), (1, 0));
            numbers(weight)
        };
        for (large, small) in moved(1.0).iter().zip(moved(1e-3)) {
            assert!((large - small).abs() < 1e-3, "{large} {small}");
        }
        // W = −lr·X: the singular values of the step are near lr.
        let step = moved(1.0);
        let square = f64::from(step.iter().map(|value| value * value).sum::<f32>());
        assert!((square.sqrt() - 0.5 * 2f64.sqrt()).abs() < 0.2, "{square}");
    }

    #[test]
    fn what_is_no_matrix_of_a_layer_follows_adamw_at_its_own_rate() {
        let step = OptimizerStep { lr: 0.25, gradient_scale: 0.5, step: 1 };
        let names: [(&str, &[usize]); 2] =
            [("model.embed_tokens.weight", &[2, 2]), ("model.layers.0.input_layernorm.weight", &[4])];
        for (name, shape) in names {
            let parameter = Parameter { name, shape };
            let (weight, gradient) = (flat(&[1.0, -2.0, 3.0, 0.5]), flat(&[0.1, 0.2, -0.3, 0.0]));
            let (mut of_muon, mut of_adamw) = (OptimizerState::new(), OptimizerState::new());
            let rule = rule();
            let got = rule.update(&parameter, weight.clone(), gradient.clone(), &mut of_muon, &step);
            // Half the rate of the schedule's peak.
            let halved = OptimizerStep { lr: 0.5e-3, ..step };
            let wanted = rule.adamw.update(&parameter, weight, gradient, &mut of_adamw, &halved);
            assert_eq!(numbers(got), numbers(wanted), "{name}");
            assert_eq!(of_muon.save(), of_adamw.save());
        }
    }
}
