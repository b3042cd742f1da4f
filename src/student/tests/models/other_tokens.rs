//! Learning from a teacher with a tokenizer of its own: a trained SentencePiece model beside a student that reads bytes.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value, json};
use stillhouse_data::batch::{Batch, BatchPlan};
use stillhouse_data::example::Example;
use stillhouse_data::retokenise::Retokeniser;
use stillhouse_data::tokenizer::Tokenizer;
use stillhouse_student::backend::{Cpu, CpuTape};
use stillhouse_student::error::{Result, StudentError};
use stillhouse_student::init::fresh;
use stillhouse_student::loss::uld::Uld;
use stillhouse_student::loss::{Loss, Teacher, Weight};
use stillhouse_student::model::{DecoderConfig, RotaryTable};
use stillhouse_student::optimizer::Optimizer;
use stillhouse_student::schedule::constant::Constant;
use stillhouse_student::trainer::{
    BatchSource, LiveTeacher, Losses, Method, OnPolicy, OnPolicySampler, Options, Trained, Training,
};
use stillhouse_student::weights::LoadedModel;

use crate::support::training::{InMemory, Watcher, adamw, tiny};
use crate::support::{flat, folder, load, logits};

const TEACHER: &str = "stories260k";

/// Prompts and what follows them; one with characters of several bytes.
const TEXTS: [(&str, &str); 5] = [
    ("Once upon a time, ", "there was a little girl named Lily."),
    ("She loved to ", "play outside in the park with her ball."),
    ("One day, ", "she saw a big 😀 dog."),
    ("", "Tom said, \"Let's go to the café.\""),
    ("They were ", "happy."),
];

/// A tokenizer of bytes with a few words, `<|end|>` before and after every text.
fn bytes() -> Tokenizer {
    let letter = |byte: u32| match byte {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => byte,
        0..=0x20 => 0x100 + byte,
        0x7F..=0xA0 => 0x121 + byte - 0x7F,
        _ => 0x143,
    };
    let letters = (0..=0xFF).map(|byte| char::from_u32(letter(byte)).unwrap().to_string());
    let merges = ["t h", "th e", "\u{120} the", "\u{120} a", "e r"];
    let tokens = letters.chain(merges.iter().map(|merge| merge.replace(' ', "")));
    let vocabulary: Map<String, Value> = tokens.zip(0..).map(|(token, id)| (token, json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [{
            "id": 261, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true
        }],
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "post_processor": null,
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "vocab": vocabulary, "merges": merges },
    });
    let folder = tempfile::tempdir().unwrap();
    fs_err::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let config = json!({ "bos_token": "<|end|>", "eos_token": "<|end|>" });
    fs_err::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    Tokenizer::open(folder.path()).unwrap()
}

/// The student's text in the teacher's tokens.
fn retokeniser() -> Arc<Retokeniser> {
    static MADE: OnceLock<Arc<Retokeniser>> = OnceLock::new();
    let make = || Arc::new(Retokeniser::new(bytes(), Tokenizer::load(&folder(TEACHER)).unwrap(), 513).unwrap());
    MADE.get_or_init(make).clone()
}

fn teacher() -> LiveTeacher<Cpu> {
    LiveTeacher::with_other_tokens(load(TEACHER), retokeniser())
}

fn student() -> DecoderConfig {
    DecoderConfig { vocabulary: 262, ..tiny() }
}

fn examples() -> Vec<Example> {
    let tokenizer = bytes();
    let end = tokenizer.eos().unwrap();
    let example = |(prompt, completion): &(&str, &str)| {
        let prompt = [vec![end], tokenizer.encode(prompt, false).unwrap()].concat();
        let mut tokens = [prompt.clone(), tokenizer.encode(completion, false).unwrap()].concat();
        tokens.push(end);
        let scored = (0..tokens.len()).map(|place| place >= prompt.len()).collect();
        Example { tokens, scored, bytes: completion.len() as u64, source: 0 }
    };
    TEXTS.iter().map(example).collect()
}

/// The texts, packed into rows.
struct Texts {
    examples: Vec<Example>,
    plan: BatchPlan,
}

impl Texts {
    fn new(pack: bool) -> Self {
        let examples = examples();
        let lengths: Vec<u32> = examples.iter().map(|example| example.tokens.len() as u32).collect();
        Self { examples, plan: BatchPlan::new(&lengths, 4, 64, 3, pack).unwrap() }
    }
}

impl BatchSource for Texts {
    fn batch(&mut self, step: u64) -> Result<Batch> {
        let placements = self.plan.placements(step);
        Ok(Batch::build(4, 64, &placements, |place| Ok(Cow::Borrowed(&self.examples[place])))?)
    }

    fn teacher(&mut self, _: &Batch) -> Result<Teacher> {
        Ok(Teacher::default())
    }
}

/// A training of so many steps, so many rows at once.
struct Setup<'a> {
    steps: u64,
    micro_rows: usize,
    pack: bool,
    options: Options<'a>,
}

impl Setup<'_> {
    fn of(steps: u64) -> Self {
        Self { steps, micro_rows: 4, pack: true, options: Options::default() }
    }

    fn train(self, checkpoints: &InMemory, watcher: &mut Watcher) -> Result<Trained> {
        stillhouse_student::cpu::flush_subnormals();
        let uld = Uld { weight: Weight::Constant(1.0), temperature: 1.0 };
        let losses: [(&str, &dyn Loss); 1] = [("uld", &uld)];
        let (config, optimizer, device) = (student(), Optimizer::Adamw(adamw(3e-3)), Default::default());
        let training = Training {
            description: "{}",
            config: &config,
            losses: Losses::new(losses),
            optimizer: &optimizer,
            schedule: &Constant { warmup: 0 },
            steps: self.steps,
            clip: Some(1.0),
            micro_rows: self.micro_rows,
            checkpoint_every: 0,
            options: self.options,
        };
        let mut source = Texts::new(self.pack);
        training.run_beside::<CpuTape>(Some(teacher()), &mut source, checkpoints, watcher, &device, || {
            fresh(&config, 3, &device)
        })
    }

    fn watched(self) -> (Trained, Watcher) {
        let mut watcher = Watcher::default();
        (self.train(&InMemory::default(), &mut watcher).unwrap(), watcher)
    }
}

fn descending(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logits.iter().map(|logit| f64::from(logit - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mut sorted: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
    sorted.sort_by(|left, right| right.total_cmp(left));
    sorted
}

#[test]
fn packed_rows_give_what_each_text_gives_by_itself() {
    let (theirs, config) = (load::<Cpu>(TEACHER), student());
    let decoder = fresh::<Cpu>(&config, 3, &Default::default()).unwrap();
    let ours = LoadedModel { decoder, rotary: RotaryTable::new(&config), config };
    let examples = examples();
    let mut source = Texts::new(true);
    let placed = source.plan.placements(0);
    assert!(placed.iter().any(|placement| placement.offset > 0), "{placed:?}");
    let (mut sum, mut positions, mut scored) = (0.0, 0, 0);
    for placement in &placed {
        let example = &examples[placement.example];
        let rewritten = retokeniser().rewrite(&example.tokens, &example.scored).unwrap();
        let q = flat(logits(&ours, std::slice::from_ref(&example.tokens)));
        let p = flat(logits(&theirs, std::slice::from_ref(&rewritten.tokens)));
        scored += example.scored_tokens();
        for (token, partner) in rewritten.partners.iter().enumerate().filter(|(token, _)| example.scored[*token]) {
            let Some(partner) = partner else { continue };
            // The position before a token predicts it.
            let q = descending(&q[(token - 1) * 262..token * 262]);
            let p = descending(&p[(partner - 1) * 512..partner * 512]);
            sum += (0..512).map(|rank| (p[rank] - q.get(rank).copied().unwrap_or(0.0)).abs()).sum::<f64>();
            positions += 1;
        }
    }
    let (_, watcher) = Setup::of(1).watched();
    let part = &watcher.reports[0].parts[0];
    assert_eq!(part.positions, positions);
    let mean = part.mean.unwrap();
    assert!(0 < positions && positions < scored, "{positions} of {scored}");
    assert!((mean - sum / positions as f64).abs() < 1e-5, "{mean} is not {}", sum / positions as f64);
    // What is made small is the sum over all counted positions, as for any loss.
    assert!((watcher.reports[0].loss - sum / scored as f64).abs() < 1e-5);
}

#[test]
fn the_loss_falls() {
    let (_, watcher) = Setup::of(60).watched();
    let (first, last) = (watcher.reports[0].loss, watcher.reports[59].loss);
    assert!(last < 0.5 * first, "{first} → {last}");
}

#[test]
fn parts_of_a_step_change_nothing_but_rounding() {
    let (_, whole) = Setup::of(4).watched();
    for micro_rows in [1, 3] {
        let (_, parts) = Setup { micro_rows, ..Setup::of(4) }.watched();
        for (one, other) in whole.reports.iter().zip(&parts.reports) {
            assert!((one.loss - other.loss).abs() < 2e-5, "{} {}", one.loss, other.loss);
            assert_eq!(one.parts[0].positions, other.parts[0].positions);
        }
    }
}

#[test]
fn a_stopped_training_ends_with_the_bits_of_an_undisturbed_one_on_any_number_of_threads() {
    let (undisturbed, _) = Setup::of(6).watched();
    let checkpoints = InMemory::default();
    let mut watcher = Watcher { stop_after: Some(2), ..Watcher::default() };
    assert!(matches!(Setup::of(6).train(&checkpoints, &mut watcher), Err(StudentError::Cancelled)));
    let resumed = Setup::of(6).train(&checkpoints, &mut Watcher::default()).unwrap();
    assert_eq!(resumed.resumed_from, 2);
    assert!(resumed.checkpoint == undisturbed.checkpoint);
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert!(pool.install(|| Setup::of(6).watched().0.checkpoint) == undisturbed.checkpoint, "{threads} threads");
    }
}

#[test]
fn computing_layers_again_gives_the_same_bits() {
    let method = Method { gradient_checkpointing: true, ..Method::default() };
    let again = Setup { options: Options { method, ..Options::default() }, ..Setup::of(3) };
    assert!(again.watched().0.checkpoint == Setup::of(3).watched().0.checkpoint);
}

#[test]
fn the_students_own_text_is_read_by_the_teacher_in_its_tokens() {
    // What a fresh student writes is mostly no text at all: bytes that are no characters have no partner.
    let rule = OnPolicy { share: 1.0, temperature: 1.0, max_tokens: Some(12) };
    let on_policy = Some(OnPolicySampler { rule: &rule, stop_ids: &[261], vocabulary: 262 });
    let options = Options { on_policy, ..Options::default() };
    let (trained, watcher) = Setup { pack: false, options, ..Setup::of(3) }.watched();
    assert_eq!(trained.rollouts.len(), 3 * 4);
    for report in &watcher.reports {
        let written: usize = trained
            .rollouts
            .iter()
            .filter(|rollout| rollout.step == report.step)
            .map(|rollout| rollout.completion.len())
            .sum();
        assert!((1..=written).contains(&report.parts[0].positions), "{} of {written}", report.parts[0].positions);
        assert!(report.loss.is_finite());
    }
}
