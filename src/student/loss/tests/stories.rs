//! A real model against a maimed copy of it, with values that PyTorch computed in f64.

use std::path::Path;

use burn::backend::Flex;
use stillhouse_data::model_folder::ModelFolder;

use super::*;
use crate::model::ModelInput;
use crate::weights::{load_into, read_model, take_values};

#[derive(Deserialize)]
struct Expected {
    ids: Vec<u32>,
    #[serde(rename = "tau=1.0")]
    at_one: std::collections::BTreeMap<String, f64>,
    #[serde(rename = "tau=2.0")]
    at_two: std::collections::BTreeMap<String, f64>,
    ce_teacher: f64,
    ce_student: f64,
}

/// In f32, logits included: a few units in the last place of a value between 1 and 2.
const TOLERANCE: f64 = 2e-6;

#[test]
fn losses_between_a_model_and_a_maimed_copy_are_those_of_pytorch() {
    crate::cpu::flush_subnormals();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let expected: Expected =
        serde_json::from_str(&fs_err::read_to_string(golden.join("kd_losses_stories260k.json")).unwrap()).unwrap();
    let model =
        read_model::<Flex>(&ModelFolder::open(&golden.join("stories260k")).unwrap(), &Default::default()).unwrap();
    let values = take_values(&model.decoder);
    let maimed = load_into(model.decoder.clone(), &Default::default(), |name, _| {
        let kept = if name.starts_with("model.layers.4.") { 0.0 } else { 1.0 };
        Ok(values[name].data.iter().map(|value| value * kept).collect())
    });
    let input = ModelInput::sequences(&[expected.ids[..expected.ids.len() - 1].to_vec()]);
    let logits = |decoder: &crate::model::Decoder<Flex>| -> Tensor<CpuTape, 2> {
        Tensor::from_inner(decoder.logits(decoder.hidden(&input, &model.rotary, None)))
    };
    let (teacher, student) = (logits(&model.decoder), logits(&maimed.unwrap()));
    let labels = &expected.ids[1..];
    let vocabulary = teacher.dims()[1];
    let rows: Vec<f32> = teacher.to_data().to_vec().unwrap();
    let stored = top_k(&rows.chunks(vocabulary).map(<[f32]>::to_vec).collect::<Vec<_>>(), vocabulary);
    let cross_entropy = CrossEntropy { weight: Weight::Constant(1.0) };
    for (logits, expected) in [(&teacher, expected.ce_teacher), (&student, expected.ce_student)] {
        let value = mean(&cross_entropy, logits.clone(), labels, &Teacher::default()).0;
        assert!((value - expected).abs() < TOLERANCE, "{value} is not {expected}");
    }
    for (temperature, expected) in [(1.0, &expected.at_one), (2.0, &expected.at_two)] {
        let (weight, t_squared, tail) = (Weight::Constant(1.0), false, Tail::Bucket);
        let comparison = Comparison { temperature, t_squared, tail };
        let losses: [(&str, Box<dyn Loss>); 7] = [
            ("forward_kl(T||S)", Box::new(ForwardKl { weight, temperature, t_squared, tail })),
            ("reverse_kl(S||T)", Box::new(ReverseKl { weight, comparison })),
            ("jsd_beta0.5", Box::new(Jsd { weight, beta: 0.5, comparison })),
            ("gjsd_beta0.1", Box::new(Jsd { weight, beta: 0.1, comparison })),
            ("skew_fkl_0.1 KL(T||0.1T+0.9S)", Box::new(SkewedKl { weight, alpha: 0.1, comparison })),
            ("skew_rkl_0.1 KL(S||0.9T+0.1S)", Box::new(ReverseSkewedKl { weight, alpha: 0.1, comparison })),
            ("tv", Box::new(TotalVariation { weight, comparison })),
        ];
        assert_eq!(losses.len(), expected.len());
        for (name, loss) in losses {
            let live = LiveLogits {
                logits: teacher.clone(),
                ours: vocabulary,
                theirs: vocabulary,
                places: None,
                same_tokens: true,
            };
            let positions = Positions::new(student.clone(), labels, TeacherPositions::none()).beside(Some(live));
            let values =
                [mean_of(loss.as_ref(), &positions).0, mean(loss.as_ref(), student.clone(), labels, &stored).0];
            let expected = expected[name];
            for value in values {
                assert!((value - expected).abs() < TOLERANCE, "{name} at {temperature}: {value} is not {expected}");
            }
        }
    }
}
