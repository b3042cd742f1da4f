//! The GPU's kernels compute what the processor's compute. Runs on any Vulkan device, Mesa's software one included:
//!
//! ```text
//! cargo test -p stillhouse-student --no-default-features --features vulkan --test gpu_kernels
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops at the first surprise, and says what it measured"
)]

mod support;

use burn::backend::Autodiff;
use burn::tensor::backend::Backend;
use burn::tensor::{FloatDType, Tensor, TensorData};
use stillhouse_student::backend::{Cpu, CpuTape, Device, Inner, TrainBackend, Vulkan, VulkanTape};
use stillhouse_student::kernels::parity;
use stillhouse_student::kernels::{FusedKernels, Kernels};
use stillhouse_student::loss::cross_entropy::CrossEntropy;
use stillhouse_student::loss::{Loss, Teacher, Weight};
use stillhouse_student::trainer::{Checkpoint, Losses, State, StepBatch, StepReport};
use stillhouse_student::weights::read_model;
use support::training::{adamw, batch_of};
use support::{MODELS, expected, folder, largest_difference};

#[test]
fn every_kernel_agrees_with_the_processor() {
    let differences = parity::compare::<Vulkan>(&Default::default());
    for difference in &differences {
        println!("{:9.1e} {:6.2}s  {}", difference.largest, difference.took.as_secs_f64(), difference.what);
    }
    let wrong: Vec<_> = differences.iter().filter(|difference| !difference.is_fine()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(differences.len() > 30);
}

/// In bf16 and f16, where the device has them. Says where it does not.
#[test]
fn kernels_on_short_numbers_agree_with_the_processor() {
    let device = Default::default();
    for stored in [FloatDType::BF16, FloatDType::F16] {
        let itself = parity::compare_in::<Cpu>(stored, &Default::default());
        assert!(itself.len() > 20 && itself.iter().all(|difference| difference.largest == 0.0), "{itself:#?}");
        if !Vulkan::supports_dtype(&device, stored.into()) {
            println!("this device has no {stored:?}");
            continue;
        }
        let differences = parity::compare_in::<Vulkan>(stored, &device);
        for difference in &differences {
            println!("{:9.1e} of {:.0e}  {}", difference.largest, difference.allowed, difference.what);
        }
        let wrong: Vec<_> = differences.iter().filter(|difference| !difference.is_fine()).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

#[test]
fn training_steps_are_the_processor_s() {
    for name in MODELS {
        let (ours, our_report) = steps::<CpuTape>(name);
        let (theirs, their_report) = steps::<VulkanTape>(name);
        for (ours, theirs) in our_report.iter().zip(&their_report) {
            let apart = |ours: f64, theirs: f64| (ours - theirs).abs() / ours.abs();
            println!("{name}: {ours:?}\n{theirs:?}");
            assert!(apart(ours.loss, theirs.loss) < 1e-5, "{name}: {ours:?} {theirs:?}");
            assert!(apart(ours.gradient_norm, theirs.gradient_norm) < 1e-4, "{name}: {ours:?} {theirs:?}");
        }
        assert_eq!(ours.weights.len(), theirs.weights.len());
        for (tensor, ours) in &ours.weights {
            let apart = largest_difference(&ours.data, &theirs.weights[tensor].data);
            assert!(apart < 2e-5, "{name} {tensor}: {apart}");
        }
    }

    /// Two steps, so that the second begins with the first's weights and moments.
    fn steps<B: TrainBackend>(name: &str) -> (Checkpoint, Vec<StepReport>) {
        let device = Device::<B>::default();
        let model = read_model::<Inner<B>>(&folder(name), &device).unwrap();
        let batch = StepBatch { batch: batch_of(&expected(name).ids), teacher: Teacher::default() };
        let cross_entropy = CrossEntropy { weight: Weight::Constant(1.0) };
        let losses = Losses::new([("cross-entropy", &cross_entropy as &dyn Loss)]);
        let mut state = State::<B>::new(model.decoder, &model.config);
        let mut reports = Vec::new();
        for _ in 0..2 {
            // An epsilon that outweighs rounding: Adam's first steps otherwise take the sign of a gradient that is all noise.
            let optimizer = stillhouse_student::optimizer::AdamW { epsilon: 1e-4, ..adamw(1e-3) };
            let (next, report) = state.advance(&batch, &losses, &optimizer, 1e-3, Some(1.0), 1).unwrap();
            state = next;
            reports.push(report);
        }
        (state.checkpoint(), reports)
    }
}

#[test]
fn equal_inputs_give_equal_bits() {
    let first = gradient::<Vulkan>(&Default::default());
    assert!(first.iter().any(|number| *number != 0.0) && first.iter().all(|number| number.is_finite()));
    assert_eq!(first, gradient::<Vulkan>(&Default::default()));

    /// A sum over rows that many cubes take part in.
    fn gradient<B: FusedKernels>(device: &Device<B>) -> Vec<f32> {
        let numbers: Vec<f32> = (0..300 * 48).map(|at| ((at * 7919) % 1013) as f32 / 500.0 - 1.0).collect();
        let input = Tensor::<Autodiff<B>, 2>::from_data(TensorData::new(numbers, [300, 48]), device);
        let weight = Tensor::<Autodiff<B>, 1>::ones([48], device).require_grad();
        let output = <Autodiff<B> as Kernels>::rms_norm(input, weight.clone(), 1e-5);
        let gradients = output.square().sum().backward();
        weight.grad(&gradients).unwrap().into_data().to_vec().unwrap()
    }
}

#[test]
fn a_device_says_how_much_of_its_memory_is_taken() {
    let device = Device::<Vulkan>::default();
    let before = VulkanTape::device_memory(&device).unwrap();
    let held = Tensor::<Vulkan, 1>::from_data(TensorData::new(vec![1.0f32; 1 << 20], [1 << 20]), &device) + 1.0;
    let after = VulkanTape::device_memory(&device).unwrap();
    assert!(after.in_use >= before.in_use + (4 << 20), "{before:?} {after:?}");
    assert!(after.reserved >= after.in_use, "{after:?}");
    assert_eq!(held.into_data().to_vec::<f32>().unwrap()[7], 2.0);
    assert_eq!(CpuTape::device_memory(&Default::default()), None);
}

/// The processor's own kernels pass the same comparison exactly: the cases say what they mean.
#[test]
fn the_processor_agrees_with_itself() {
    for difference in parity::compare::<Cpu>(&Default::default()) {
        assert_eq!(difference.largest, 0.0, "{}", difference.what);
    }
}
