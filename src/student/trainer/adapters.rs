//! Low-rank adapters (Hu et al., 2021, "LoRA"): a frozen matrix W₀ is trained through two thin ones.
//!
//! ```text
//! W = W₀ + α/r · B·A        A: [r, in], B: [out, r]
//! dA = α/r · Bᵀ·dW          dB = α/r · dW·Aᵀ
//! ```
//!
//! The model always computes with W as a whole, so forward and backward run at their usual speed, and the merged model is
//! at hand at any time. What is small are the optimizer's state and the checkpoints. A begins uniform in
//! ±1/√in (PEFT's choice), B with zeros, so that W = W₀ at first.

use std::collections::BTreeSet;

use burn::tensor::{Tensor, TensorData};
use indexmap::IndexMap;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use stillhouse_spec::Config;
use stillhouse_spec::suggest::{did_you_mean, list};

use super::parameters::{FlatWeights, Shapes};
use crate::backend::Device;
use crate::error::{Result, StudentError};
use crate::kernels::Kernels;
use crate::weights::{NamedGradients, NamedValues, Values};

/// Low-rank adapters: everything is frozen but two thin matrices beside each chosen projection. The student is saved
/// with the adapters merged.
#[derive(Clone, Debug, PartialEq, Config)]
pub struct Lora {
    /// Width of the thin matrices.
    #[config(default = 8, min = 1)]
    pub rank: usize,
    /// Their product counts `alpha / rank`.
    #[config(default = 16.0, above = 0)]
    pub alpha: f64,
    /// Which projections of every layer: `q`, `k`, `v`, `o`, `gate`, `up`, `down`.
    #[config(default = vec!["q".to_owned(), "v".to_owned()])]
    pub targets: Vec<String>,
}

/// Suffixes of the two matrices' names.
const DOWN: &str = ".lora_A";
const UP: &str = ".lora_B";

/// The adapters of a model.
#[derive(Debug, Clone)]
pub(super) struct Adapters<B: Kernels> {
    /// By the name of the matrix that they adapt.
    matrices: IndexMap<String, Adapter<B>>,
    scale: f64,
}

#[derive(Debug, Clone)]
struct Adapter<B: Kernels> {
    /// `[out, in]`
    base: Tensor<B, 2>,
    /// `[rank, in]`
    down: Tensor<B, 2>,
    /// `[out, rank]`
    up: Tensor<B, 2>,
}

/// The matrices that `lora` adapts.
///
/// # Errors
/// A target that the model does not have.
pub(crate) fn targets(shapes: &Shapes, lora: &Lora) -> Result<BTreeSet<String>> {
    for target in &lora.targets {
        has_target(shapes, target)?;
    }
    let projections: IndexMap<&String, &str> =
        shapes.keys().filter_map(|name| Some((name, projection_of(name)?))).collect();
    let chosen: BTreeSet<String> = projections
        .iter()
        .filter(|(_, projection)| lora.targets.iter().any(|target| target == *projection))
        .map(|(name, _)| (*name).clone())
        .collect();
    if chosen.is_empty() {
        let hint = format!("choose from {}", list(&known_targets(shapes)));
        return Err(StudentError::training("`lora.targets` is empty", hint));
    }
    // From the smaller side on, thin matrices are no thinner than what they stand for.
    let side = |name: &String| shapes.get(name).and_then(|shape| shape.iter().min()).copied().unwrap_or(0);
    if let Some(name) = chosen.iter().find(|name| side(name) < lora.rank) {
        return Err(StudentError::training(
            format!("`lora.rank` is {}, but `{name}` has only {} rows or columns", lora.rank, side(name)),
            "a rank below that, usually 4 to 64; or train the weights themselves, without `lora`",
        ));
    }
    Ok(chosen)
}

/// Whether a model has projections of this name.
///
/// # Errors
/// It has none.
pub(crate) fn has_target(shapes: &Shapes, target: &str) -> Result<()> {
    let known = known_targets(shapes);
    if known.contains(&target) {
        return Ok(());
    }
    let hint = did_you_mean(target, known.iter().copied())
        .map_or_else(|| format!("there are {}", list(&known)), |name| format!("did you mean `{name}`?"));
    Err(StudentError::training(format!("`lora.targets` names `{target}`, which the model does not have"), hint))
}

fn known_targets(shapes: &Shapes) -> Vec<&str> {
    let known: BTreeSet<&str> = shapes.keys().filter_map(|name| projection_of(name)).collect();
    known.into_iter().collect()
}

/// `model.layers.0.self_attn.q_proj.weight` → `q`
fn projection_of(name: &str) -> Option<&str> {
    name.strip_suffix("_proj.weight")?.rsplit('.').next()
}

/// Shapes of the thin matrices beside chosen ones.
pub(super) fn thin_shapes(shapes: &Shapes, chosen: &BTreeSet<String>, lora: &Lora) -> Shapes {
    let thin = |(name, shape): (&String, &Vec<usize>)| match shape.as_slice() {
        [rows, columns] if chosen.contains(name) => {
            let (down, up) = (vec![lora.rank, *columns], vec![*rows, lora.rank]);
            vec![(format!("{name}{DOWN}"), down), (format!("{name}{UP}"), up)]
        }
        _ => Vec::new(),
    };
    shapes.iter().flat_map(thin).collect()
}

impl<B: Kernels> Adapters<B> {
    /// Adapters that change nothing yet, beside flat matrices of the given shapes.
    pub(super) fn new(base: FlatWeights<B>, shapes: &Shapes, lora: &Lora, seed: u64) -> Self {
        let scale = lora.alpha / lora.rank as f64;
        let adapter = |(name, flat): (String, Tensor<B, 1>)| {
            let (rows, columns) = (shapes[&name][0], shapes[&name][1]);
            let device = flat.device();
            let down = uniform(seed, &name, lora.rank * columns, 1.0 / (columns as f64).sqrt());
            let adapter = Adapter {
                base: flat.reshape([rows, columns]),
                down: Tensor::from_data(TensorData::new(down, [lora.rank, columns]), &device),
                up: Tensor::zeros([rows, lora.rank], &device),
            };
            (name, adapter)
        };
        Self { matrices: base.into_iter().map(adapter).collect(), scale }
    }

    /// The thin matrices, flat, by name.
    pub(super) fn flat(&self) -> FlatWeights<B> {
        let flat = |matrix: &Tensor<B, 2>| {
            let elements = matrix.shape().num_elements();
            matrix.clone().reshape([elements])
        };
        self.matrices
            .iter()
            .flat_map(|(name, adapter)| {
                [(format!("{name}{DOWN}"), flat(&adapter.down)), (format!("{name}{UP}"), flat(&adapter.up))]
            })
            .collect()
    }

    /// The same adapters with other thin matrices.
    pub(super) fn with(&self, mut flat: FlatWeights<B>) -> Self {
        let mut other = self.clone();
        other.change(|name, _, old| flat.swap_remove(name).unwrap_or(old));
        other
    }

    /// Gives every thin matrix new values; see [`replace`](super::parameters::replace).
    pub(super) fn change(&mut self, mut change: impl FnMut(&str, &[usize], Tensor<B, 1>) -> Tensor<B, 1>) {
        for (name, adapter) in &mut self.matrices {
            for (suffix, matrix) in [(DOWN, &mut adapter.down), (UP, &mut adapter.up)] {
                let shape = matrix.dims();
                // Taken out, so that whoever changes it may work in place.
                let old = std::mem::replace(matrix, Tensor::empty([0, 0], &matrix.device()));
                let flat = change(&format!("{name}{suffix}"), &shape, old.reshape([shape[0] * shape[1]]));
                *matrix = flat.reshape(shape);
            }
        }
    }

    /// The adapted matrix W, flat.
    pub(super) fn merged(&self, name: &str) -> Option<Tensor<B, 1>> {
        let adapter = self.matrices.get(name)?;
        let [rows, columns] = adapter.base.dims();
        let product = adapter.up.clone().matmul(adapter.down.clone()) * self.scale;
        Some((adapter.base.clone() + product).reshape([rows * columns]))
    }

    /// Gradients of the thin matrices from those of the adapted ones.
    pub(super) fn gradients(&self, mut of_matrices: NamedGradients<B>) -> NamedGradients<B> {
        let mut gradients = NamedGradients::with_capacity(2 * self.matrices.len());
        for (name, adapter) in &self.matrices {
            let Some(gradient) = of_matrices.swap_remove(name) else { continue };
            let [rows, columns] = adapter.base.dims();
            let [rank, _] = adapter.down.dims();
            let gradient = gradient.reshape([rows, columns]) * self.scale;
            let down = adapter.up.clone().transpose().matmul(gradient.clone());
            let up = gradient.matmul(adapter.down.clone().transpose());
            gradients.insert(format!("{name}{DOWN}"), down.reshape([rank * columns]));
            gradients.insert(format!("{name}{UP}"), up.reshape([rows * rank]));
        }
        gradients
    }

    /// Shapes of the thin matrices.
    pub(super) fn shapes(&self) -> Shapes {
        self.matrices
            .iter()
            .flat_map(|(name, adapter)| {
                let (down, up) = (adapter.down.dims().to_vec(), adapter.up.dims().to_vec());
                [(format!("{name}{DOWN}"), down), (format!("{name}{UP}"), up)]
            })
            .collect()
    }
}

/// Thin matrices under the names that PEFT gives them in `adapter_model.safetensors`.
pub fn peft_names(thin: &NamedValues) -> NamedValues {
    let renamed = |name: &str| {
        let (matrix, suffix) = name.rsplit_once(".weight.")?;
        Some(format!("base_model.model.{matrix}.{suffix}.weight"))
    };
    thin.iter().filter_map(|(name, values)| Some((renamed(name)?, Values::clone(values)))).collect()
}

/// PEFT's `adapter_config.json` for adapters of these settings.
pub fn peft_config(lora: &Lora) -> serde_json::Value {
    let targets: Vec<String> = lora.targets.iter().map(|target| format!("{target}_proj")).collect();
    serde_json::json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": lora.rank, "lora_alpha": lora.alpha,
        "target_modules": targets, "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": false, "inference_mode": true,
    })
}

/// Uniform numbers in ±`bound`: ChaCha8 under `blake3("stillhouse/lora/1\0" ‖ seed u64 little-endian ‖ name)`.
fn uniform(seed: u64, name: &str, count: usize, bound: f64) -> Vec<f32> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"stillhouse/lora/1\0");
    hasher.update(&seed.to_le_bytes());
    hasher.update(name.as_bytes());
    let mut stream = ChaCha8Rng::from_seed(*hasher.finalize().as_bytes());
    let unit = |bits: u64| (bits >> 11) as f64 / (1u64 << 53) as f64;
    (0..count).map(|_| ((2.0 * unit(stream.next_u64()) - 1.0) * bound) as f32).collect()
}

/// Flat weights on a device.
pub(super) fn to_device<B: Kernels>(values: &NamedValues, device: &Device<B>) -> FlatWeights<B> {
    let put = |values: &Values| Tensor::from_data(TensorData::new(values.data.to_vec(), [values.data.len()]), device);
    values.iter().map(|(name, values)| (name.clone(), put(values))).collect()
}
