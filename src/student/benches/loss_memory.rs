//! Peak memory of output head and loss, forward and backward: in chunks, as training computes them, and in one piece.
//! Prints figures, asserts none.
//!
//! ```text
//! cargo bench -p stillhouse-student --bench loss_memory                  # 8,192 tokens × 49,152: up to 30 GB in one piece
//! cargo bench -p stillhouse-student --bench loss_memory -- 1024 49152    # another shape
//! ```

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark prints, and stops at a surprise"
)]

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use burn::tensor::{Distribution, Tensor};
use stillhouse_student::backend::{Cpu, CpuTape};
use stillhouse_student::kernels::Kernels;
use stillhouse_student::loss::cross_entropy::CrossEntropy;
use stillhouse_student::loss::forward_kl::ForwardKl;
use stillhouse_student::loss::jsd::Jsd;
use stillhouse_student::loss::{Comparison, Loss, Positions, Tail, TeacherPositions, Weight};
use stillhouse_student::trainer::{HeadInput, LiveHidden, Losses, head_gradients};

/// Hands out mimalloc's memory and counts it.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
const BELOW: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn more(bytes: usize) {
    PEAK.fetch_max(HELD.fetch_add(bytes, Ordering::Relaxed) + bytes, Ordering::Relaxed);
}

#[expect(unsafe_code, reason = "an allocator's interface is unsafe; every call goes on unchanged to the one below")]
// SAFETY: counting changes nothing about the memory that the allocator below hands out and takes back.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: the caller keeps this method's contract, which is the other's.
        unsafe { BELOW.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: as above.
        unsafe { BELOW.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { BELOW.dealloc(pointer, layout) }
    }
}

fn main() {
    stillhouse_student::cpu::prepare(0);
    let numbers: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let (tokens, vocabulary) = match numbers[..] {
        [tokens, vocabulary, ..] => (tokens, vocabulary),
        _ => (8_192, 49_152),
    };
    let weight = Weight::Constant(1.0);
    let (temperature, t_squared, tail) = (2.0, true, Tail::Bucket);
    let cross_entropy = CrossEntropy { weight };
    let comparison = Comparison { temperature, t_squared, tail };
    let forward_kl = ForwardKl { weight, temperature, t_squared, tail };
    let jsd = Jsd { weight, beta: 0.5, comparison };
    println!("{tokens} tokens × {vocabulary}, hidden 64, live teacher, f32: peak beyond what was there before");
    println!(
        "{:<16} {:>12} {:>12} {:>7} {:>10} {:>10}",
        "loss", "one piece", "in chunks", "ratio", "one piece", "in chunks"
    );
    let losses: [(&str, &dyn Loss); 3] =
        [("cross-entropy", &cross_entropy), ("forward-kl", &forward_kl), ("jsd", &jsd)];
    for (name, loss) in losses {
        let sides = Sides::new(tokens, vocabulary);
        let (chunks, chunks_seconds) = peak(|| sides.in_chunks(name, loss));
        let (piece, piece_seconds) = peak(|| sides.in_one_piece(loss));
        println!(
            "{name:<16} {:>9.0} MB {:>9.0} MB {:>7.3} {piece_seconds:>9.1}s {chunks_seconds:>9.1}s",
            piece as f64 / 1e6,
            chunks as f64 / 1e6,
            chunks as f64 / piece as f64
        );
    }
}

/// Hidden states and heads of student and teacher, and the labels.
struct Sides {
    hidden: Tensor<Cpu, 2>,
    head: Tensor<Cpu, 2>,
    teacher: LiveHidden<Cpu>,
    labels: Vec<u32>,
}

impl Sides {
    fn new(tokens: usize, vocabulary: usize) -> Self {
        let device = Default::default();
        let some = |rows| Tensor::<Cpu, 2>::random([rows, 64], Distribution::Normal(0.0, 0.3), &device);
        Self {
            hidden: some(tokens),
            head: some(vocabulary),
            teacher: LiveHidden::new(some(tokens), some(vocabulary), vocabulary),
            labels: (0..tokens).map(|place| (place * 7919 % vocabulary) as u32).collect(),
        }
    }

    fn in_chunks(&self, name: &str, loss: &dyn Loss) {
        let losses = Losses::new([(name, loss)]);
        let live = loss.reads().teacher().then_some(&self.teacher);
        let input = HeadInput::<CpuTape> {
            hidden: self.hidden.clone(),
            head: Tensor::from_inner(self.head.clone()).require_grad(),
            labels: &self.labels,
            teacher: TeacherPositions::none(),
            live,
            streams: None,
        };
        let made = head_gradients(input, &losses, self.labels.len() as f64);
        drop(made);
    }

    fn in_one_piece(&self, loss: &dyn Loss) {
        let hidden = Tensor::<CpuTape, 2>::from_inner(self.hidden.clone()).require_grad();
        let head = Tensor::<CpuTape, 2>::from_inner(self.head.clone()).require_grad();
        let logits = CpuTape::projection(hidden.clone(), head.clone());
        let live = if loss.reads().teacher() { self.teacher.logits(0..self.labels.len()) } else { None };
        let live = live.map(|live| stillhouse_student::loss::LiveLogits {
            logits: Tensor::from_inner(live.logits),
            ours: live.ours,
            theirs: live.theirs,
            places: live.places,
            same_tokens: live.same_tokens,
        });
        let positions = Positions::new(logits, &self.labels, TeacherPositions::none()).beside(live);
        let sum = loss.sum_on_cpu(&positions).sum.unwrap() / self.labels.len() as f64;
        let mut gradients = sum.backward();
        drop((hidden.grad_remove(&mut gradients), head.grad_remove(&mut gradients)));
    }
}

/// Most bytes held at once during some work, beyond those before it, and the seconds it took.
fn peak(work: impl FnOnce()) -> (usize, f64) {
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let started = Instant::now();
    work();
    (PEAK.load(Ordering::Relaxed) - before, started.elapsed().as_secs_f64())
}
