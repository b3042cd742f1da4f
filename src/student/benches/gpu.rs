//! A GPU's kernels and its speed, in one command. Prints figures, asserts none but that the kernels agree.
//!
//! ```text
//! cargo bench -p stillhouse-student --bench gpu
//! cargo bench -p stillhouse-student --bench gpu -- --shape smollm2-135m --micro-rows 4 --steps 5 --peak-tflops 495
//! cargo bench -p stillhouse-student --bench gpu -- --precision f32
//! ```
//!
//! Steps are in bf16 with f32 master weights, unless `--precision` says otherwise. Where a CUDA device is found, every kernel
//! is compared with the processor's; then training steps are timed, and beside them the same in PyTorch, where `python3` (or
//! `PYTHON`) has it. Where there is none, that is said. For a machine without cargo, `cargo bench --no-run` says where the
//! program is that it built: it needs no other file.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark prints, and stops at a surprise"
)]

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    match stillhouse_student::device::cuda_status() {
        stillhouse_student::device::CudaStatus::Missing(why) => {
            println!("no CUDA device can be used: {why}; nothing measured")
        }
        #[cfg(feature = "cuda")]
        stillhouse_student::device::CudaStatus::Ready(_) => measured::run(),
        #[cfg(not(feature = "cuda"))]
        stillhouse_student::device::CudaStatus::Ready(_) => println!("built without CUDA; nothing measured"),
    }
}

#[cfg(feature = "cuda")]
mod measured {
    use std::io::Write;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use burn::backend::cuda::CudaDevice;
    use burn::tensor::FloatDType;
    use cubecl::Runtime;
    use cubecl::cuda::CudaRuntime;
    use stillhouse_data::batch::Batch;
    use stillhouse_student::backend::{Cuda, CudaTape};
    use stillhouse_student::init::fresh;
    use stillhouse_student::kernels::parity;
    use stillhouse_student::loss::cross_entropy::CrossEntropy;
    use stillhouse_student::loss::forward_kl::ForwardKl;
    use stillhouse_student::loss::{Loss, Tail, Teacher, Weight};
    use stillhouse_student::model::llama::LlamaShape;
    use stillhouse_student::model::{DecoderConfig, FreshShape, RotaryTable};
    use stillhouse_student::optimizer::AdamW;
    use stillhouse_student::precision::Precision;
    use stillhouse_student::throughput::gpu_peak;
    use stillhouse_student::trainer::{LiveTeacher, Losses, Method, State, StepBatch};
    use stillhouse_student::weights::LoadedModel;

    const ROWS: usize = 8;
    const LENGTH: usize = 1024;

    /// What the command line asks for.
    struct Wanted {
        shape: Option<String>,
        micro_rows: usize,
        steps: usize,
        peak: Option<f64>,
        precision: Precision,
    }

    impl Wanted {
        fn read() -> Self {
            let mut wanted = Self { shape: None, micro_rows: ROWS, steps: 8, peak: None, precision: Precision::Bf16 };
            let mut words = std::env::args().skip(1);
            while let Some(word) = words.next() {
                let mut value = || words.next().unwrap_or_else(|| panic!("{word} needs a value"));
                match word.as_str() {
                    "--shape" => wanted.shape = Some(value()),
                    "--micro-rows" => wanted.micro_rows = value().parse().unwrap(),
                    "--steps" => wanted.steps = value().parse().unwrap(),
                    "--peak-tflops" => wanted.peak = Some(value().parse().unwrap()),
                    "--precision" => wanted.precision = precision(&value()),
                    // What cargo itself adds.
                    "--bench" => {}
                    other => panic!("unknown option {other}"),
                }
            }
            wanted
        }
    }

    fn precision(name: &str) -> Precision {
        let known = [Precision::F32, Precision::Bf16];
        let found = known.into_iter().find(|precision| precision.name() == name);
        found.unwrap_or_else(|| panic!("there is no precision {name}"))
    }

    pub(super) fn run() {
        let wanted = Wanted::read();
        let device = CudaDevice::new(0);
        let name = device_name();
        println!("device: {name}\n");
        compare_kernels(&device);

        let peak = wanted.peak.map(|tera| tera * 1e12).or_else(|| gpu_peak(&name, wanted.precision));
        match peak {
            Some(peak) => println!("MFU against {:.0} TFLOP/s ({} on matrix units)", peak / 1e12, on_units(&wanted)),
            None => println!("no MFU: this device's peak is not known here, give it with --peak-tflops"),
        }
        println!(
            "\n{:<14} {:<26} {:<9} {:>10} {:>10} {:>10} {:>10} {:>6}",
            "shape", "work", "precision", "parameters", "step", "tokens/s", "memory", "MFU"
        );
        for (name, config) in shapes() {
            if wanted.shape.as_ref().is_none_or(|wanted| wanted == name) {
                for work in WORKS {
                    measure(name, work, &config, &wanted, peak, &device);
                }
            }
        }
        beside_pytorch(&wanted);
    }

    /// What matrix units compute in.
    fn on_units(wanted: &Wanted) -> &'static str {
        match wanted.precision {
            Precision::F32 => "tf32",
            Precision::Bf16 => "bf16",
        }
    }

    fn compare_kernels(device: &CudaDevice) {
        stillhouse_student::cpu::prepare(0);
        let mut differences = parity::compare::<Cuda>(device);
        differences.extend(parity::compare_in::<Cuda>(FloatDType::BF16, device));
        for difference in &differences {
            let verdict = if difference.is_fine() { "" } else { "   WRONG" };
            println!("{:9.1e} of {:.0e}  {}{verdict}", difference.largest, difference.allowed, difference.what);
        }
        let wrong = differences.iter().filter(|difference| !difference.is_fine()).count();
        assert_eq!(wrong, 0, "{wrong} kernels differ from the processor's: their speed means nothing");
        println!("all {} comparisons with the processor are fine\n", differences.len());
    }

    fn shapes() -> [(&'static str, DecoderConfig); 2] {
        let shape = |layers, hidden, heads, kv_heads, intermediate, tied| LlamaShape {
            layers,
            hidden,
            heads,
            head_width: None,
            kv_heads: Some(kv_heads),
            intermediate: Some(intermediate),
            context: None,
            tied,
            rope_theta: 1e4,
            norm_epsilon: 1e-5,
        };
        [
            ("smollm2-135m", shape(30, 576, 9, 3, 1536, true).config(49_152, LENGTH)),
            ("llama-1.1b", shape(22, 2048, 32, 4, 5632, false).config(32_000, LENGTH)),
        ]
    }

    type NamedLoss = (&'static str, Box<dyn Loss>);

    /// What a step trains on. A new kind of work is a line here.
    struct Work {
        name: &'static str,
        losses: fn() -> Vec<NamedLoss>,
        /// Whether a frozen teacher of the student's shape runs beside it.
        teacher: bool,
    }

    const WORKS: &[Work] = &[
        Work {
            name: "SFT",
            losses: || vec![("cross-entropy", Box::new(CrossEntropy { weight: Weight::Constant(1.0) }))],
            teacher: false,
        },
        Work {
            name: "forward KL, frozen teacher",
            losses: || {
                let weight = Weight::Constant(1.0);
                let loss = ForwardKl { weight, temperature: 1.0, t_squared: true, tail: Tail::Bucket };
                vec![("forward-kl", Box::new(loss))]
            },
            teacher: true,
        },
    ];

    fn measure(
        shape: &str,
        work: &Work,
        config: &DecoderConfig,
        wanted: &Wanted,
        peak: Option<f64>,
        device: &CudaDevice,
    ) {
        let step = StepBatch { batch: batch(config.vocabulary as u32), teacher: Teacher::default() };
        let losses = (work.losses)();
        let losses = Losses::new(losses.iter().map(|(name, loss)| (*name, loss.as_ref())));
        let optimizer =
            AdamW { lr: 1e-4, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, decay_norms: false };
        let method = Method { precision: wanted.precision, ..Method::default() };
        let teacher = work.teacher.then(|| teacher(config, wanted.precision, device));
        let student = State::<CudaTape>::begin(fresh::<Cuda>(config, 1, device).unwrap(), config, &method).unwrap();
        let mut state = Some(student.beside(teacher));
        // A step ends with a read of the loss and the gradient's norm; the update after it is waited for by the next.
        let mut times: Vec<Duration> = (0..wanted.steps + 3)
            .map(|_| {
                let started = Instant::now();
                let taken = state.take().unwrap();
                let (next, _) = taken.advance(&step, &losses, &optimizer, 1e-4, Some(1.0), wanted.micro_rows).unwrap();
                state = Some(next);
                started.elapsed()
            })
            .skip(3) // compile and tune
            .collect();
        times.sort();
        let median = times[times.len() / 2].as_secs_f64();
        let tokens = (ROWS * LENGTH) as f64;
        let reserved = CudaRuntime::client(device).memory_usage().map_or(0, |usage| usage.bytes_reserved);
        let utilisation = peak.map_or_else(
            || "-".into(),
            |peak| format!("{:.1} %", 100.0 * operations(config, work) * tokens / median / peak),
        );
        println!(
            "{shape:<14} {:<26} {:<9} {:>8.0} M {:>7.0} ms {:>10.0} {:>6.1} GiB {utilisation:>6}",
            work.name,
            wanted.precision.name(),
            config.parameters() as f64 / 1e6,
            median * 1e3,
            tokens / median,
            reserved as f64 / (1u64 << 30) as f64,
        );
        drop(state);
        CudaRuntime::client(device).memory_cleanup();
    }

    /// A teacher of the student's shape, frozen, in the student's precision.
    fn teacher(config: &DecoderConfig, precision: Precision, device: &CudaDevice) -> LiveTeacher<Cuda> {
        let decoder = fresh::<Cuda>(config, 2, device).unwrap();
        let model = LoadedModel { decoder, rotary: RotaryTable::new(config), config: config.clone() };
        LiveTeacher::new(model, config.vocabulary).in_precision(precision)
    }

    /// Operations a token: six a weight that is multiplied with, and the causal half of attention's products (Chowdhery et
    /// al., 2022, appendix B, which counts the whole square). A teacher of the same shape runs forward only: a third more.
    fn operations(config: &DecoderConfig, work: &Work) -> f64 {
        let embedding = if config.tied { 0 } else { config.vocabulary * config.hidden };
        let multiplied = (config.parameters() - embedding) as f64;
        let student = 6.0 * multiplied + 6.0 * (config.layers * config.heads * config.head_width * LENGTH) as f64;
        if work.teacher { student * 4.0 / 3.0 } else { student }
    }

    fn batch(vocabulary: u32) -> Batch {
        let token = |place: usize| (((place as u64 * 2_654_435_761) >> 7) % u64::from(vocabulary)) as u32;
        let places = ROWS * LENGTH;
        Batch {
            rows: ROWS,
            length: LENGTH,
            inputs: (0..places).map(token).collect(),
            targets: (1..=places).map(token).collect(),
            scored: vec![true; places],
            segments: vec![1; places],
            positions: (0..ROWS).flat_map(|_| 0..LENGTH as u32).collect(),
            placements: Vec::new(),
        }
    }

    fn device_name() -> String {
        let asked = Command::new("nvidia-smi").args(["--query-gpu=name", "--format=csv,noheader", "--id=0"]).output();
        let told = asked.ok().filter(|output| output.status.success());
        let name = told.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        name.filter(|name| !name.is_empty())
            .unwrap_or_else(|| "CUDA device 0 (nvidia-smi does not tell its name)".into())
    }

    fn beside_pytorch(wanted: &Wanted) {
        let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
        println!("\nPyTorch ({python}):");
        let mut command = Command::new(&python);
        command.arg("-").args(["--micro-rows", &wanted.micro_rows.to_string(), "--steps", &wanted.steps.to_string()]);
        command.args(["--precision", wanted.precision.name()]);
        if let Some(shape) = &wanted.shape {
            command.args(["--shape", shape]);
        }
        let started = command.stdin(Stdio::piped()).spawn();
        let mut child = match started {
            Ok(child) => child,
            Err(error) => return println!("not measured: {python} does not start ({error})"),
        };
        // The program travels inside this one, so that this file is all a machine needs.
        child.stdin.take().unwrap().write_all(include_bytes!("gpu.py")).unwrap();
        if !child.wait().unwrap().success() {
            println!("not measured: the program above says why");
        }
    }
}
