//! What each way to keep a teacher's distributions takes and costs, on a dump of a real teacher's output:
//!
//! ```text
//! cargo bench -p stillhouse-data --bench signals -- DUMP
//! ```
//!
//! A dump is little-endian: the vocabulary u32, then for each sequence the number of prompt tokens u32, that of positions
//! u32, the tokens of both u32, and natural-log probabilities f32 × positions × vocabulary.
//!
//! Beside our encodings stand DistillKit's two published schemes, computed by their description: bytes by its formula,
//! reconstruction by its mathematics (exact log-probabilities in bfloat16, then least squares of polynomial and square-root
//! terms over the rank).

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints a table")]
#![allow(clippy::unwrap_used, reason = "a dump that can't be read ends the program")]

use std::io::Read;
use std::time::{Duration, Instant};

use stillhouse_data::signals::{
    Exact, Form, Precision, Quality, SIGNALS_FILE, Selection, SequenceKey, SignalHeader, SignalReader, SignalWriter,
    TopK,
};

struct Dump {
    vocabulary: usize,
    sequences: Vec<Sequence>,
}

struct Sequence {
    key: SequenceKey,
    first: u32,
    rows: Vec<f32>,
}

fn read(path: &str) -> Dump {
    let mut file = std::io::BufReader::new(fs_err::File::open(path).unwrap());
    let mut number = || {
        let mut bytes = [0; 4];
        file.read_exact(&mut bytes).ok().map(|()| u32::from_le_bytes(bytes))
    };
    let vocabulary = number().unwrap() as usize;
    let mut sequences = Vec::new();
    while let Some(prompt) = number() {
        let positions = number().unwrap();
        let tokens: Vec<u32> = (0..prompt + positions).map(|_| number().unwrap()).collect();
        let rows = (0..positions as usize * vocabulary).map(|_| f32::from_bits(number().unwrap())).collect();
        sequences.push(Sequence { key: SequenceKey::of("teacher", &tokens), first: prompt, rows });
    }
    Dump { vocabulary, sequences }
}

/// Time that this thread spent on a processor where the system tells it, so that what else runs does not count; else time.
struct Clock {
    begun: Instant,
    spent: Option<u64>,
}

impl Clock {
    fn start() -> Self {
        Self { begun: Instant::now(), spent: spent() }
    }

    fn elapsed(&self) -> Duration {
        let spent = self.spent.zip(spent()).map(|(before, after)| Duration::from_nanos(after - before));
        spent.unwrap_or_else(|| self.begun.elapsed())
    }
}

fn spent() -> Option<u64> {
    fs_err::read_to_string("/proc/thread-self/schedstat").ok()?.split(' ').next()?.parse().ok()
}

/// One way to keep distributions.
struct Way {
    name: String,
    selection: Selection,
    form: Form,
    quality: Quality,
    kept: Vec<Vec<TopK>>,
}

/// DistillKit's scheme: so many exact values, then terms over the tail's ranks.
struct Foreign {
    name: &'static str,
    k: usize,
    exact: usize,
    terms: &'static [fn(f64) -> f64],
    /// Bytes of values a position: `exact` bfloat16 and the terms f32.
    value_bytes: f64,
    quality: Quality,
}

fn main() {
    let Some(path) = std::env::args().skip(1).find(|argument| !argument.starts_with("--")) else {
        eprintln!("which dump? `cargo bench -p stillhouse-data --bench signals -- DUMP`");
        return;
    };
    let dump = read(&path);
    let positions: usize = dump.sequences.iter().map(|sequence| sequence.rows.len() / dump.vocabulary).sum();
    println!("{} sequences, {positions} positions, vocabulary {}\n", dump.sequences.len(), dump.vocabulary);
    let mut ways = ways();
    let mut foreign = foreign();
    for sequence in &dump.sequences {
        ways.iter_mut().for_each(|way| way.kept.push(Vec::new()));
        for (place, row) in sequence.rows.chunks(dump.vocabulary).enumerate() {
            let exact = Exact::new(row);
            let mut order = Vec::new();
            let most = Selection::MostLikely(128).of(row, &sequence.key, 0, &mut order);
            for way in &mut ways {
                let predicted = sequence.first + place as u32;
                let kept = match way.selection {
                    Selection::Drawn { .. } => way.selection.of(row, &sequence.key, predicted, &mut order),
                    _ => way.selection.of_kept(&most, &sequence.key, predicted, &mut order).unwrap(),
                };
                if !matches!(way.selection, Selection::Drawn { .. }) {
                    way.quality.count(&exact, &way.form.reconstructed(&kept, dump.vocabulary as u32));
                }
                if let Some(last) = way.kept.last_mut() {
                    last.push(kept);
                }
            }
            foreign.iter_mut().for_each(|scheme| scheme.quality.count(&exact, &scheme.reconstructed(&most)));
        }
    }
    println!("| encoding | k | bytes/token | KL mean | KL max | rounding KL mean | rounding KL max | mass outside |");
    println!("|---|---|---|---|---|---|---|---|");
    for way in &ways {
        let (bytes, tokens, ..) = write(way, &dump);
        line(&way.name, tokens / positions as f64, bytes as f64 / positions as f64, &way.quality);
    }
    let bits = (dump.vocabulary as f64 + 1.0).log2().ceil();
    for scheme in &foreign {
        let bytes = scheme.value_bytes + (scheme.k as f64 * bits / 8.0).ceil();
        line(scheme.name, scheme.k as f64, bytes, &scheme.quality);
    }
    for k in [50, 128] {
        let way = ways.iter().find(|way| way.selection == Selection::MostLikely(k) && way.name == "plain f16");
        line("plain columns, zstd 19", k as f64, columns(way.unwrap()) / positions as f64, &way.unwrap().quality);
    }
    println!();
    for way in ways.iter().filter(|way| matches!(way.form, Form::Compact { .. })) {
        let (_, tokens, encoding, decoding) = write(way, &dump);
        let million = |time: Duration| tokens / time.as_secs_f64() / 1e6;
        println!(
            "{}, k {:.0}: {:.1} M tokens/s written, {:.1} M read",
            way.name,
            tokens / positions as f64,
            million(encoding),
            million(decoding)
        );
    }
}

fn line(name: &str, k: f64, bytes: f64, quality: &Quality) {
    let Quality { kl_mean, kl_max, kept_kl_mean, kept_kl_max, outside_mean, measured } = quality;
    if *measured == 0 {
        println!("| {name} | {k:.1} | {bytes:.1} | – | – | – | – | – |");
        return;
    }
    println!(
        "| {name} | {k:.1} | {bytes:.1} | {kl_mean:.4} | {kl_max:.3} | {kept_kl_mean:.6} | {kept_kl_max:.5} | {outside_mean:.4} |"
    );
}

fn ways() -> Vec<Way> {
    let plain = Form::Plain(Precision::F16);
    let compact = |kl: f64| Form::Compact { kl };
    let k = Selection::MostLikely;
    let top_p = |mass: f64| Selection::TopP { mass, bounds: [1, 128] };
    let drawn = |samples: u32| Selection::Drawn { samples, seed: 17 };
    let chosen = [
        (k(16), plain),
        (k(50), plain),
        (k(128), plain),
        (k(16), compact(1e-2)),
        (k(16), compact(1e-3)),
        (k(50), compact(0.1)),
        (k(50), compact(1e-2)),
        (k(50), compact(1e-3)),
        (k(50), compact(1e-4)),
        (k(128), compact(0.1)),
        (k(128), compact(1e-2)),
        (k(128), compact(1e-3)),
        (k(128), compact(4e-4)),
        (k(128), compact(1e-4)),
        (top_p(0.8), compact(1e-3)),
        (top_p(0.95), compact(1e-3)),
        (drawn(12), plain),
        (drawn(64), plain),
    ];
    let way = |(selection, form): (Selection, Form)| {
        let name = match selection {
            Selection::TopP { mass, .. } => format!("top-p {mass}, {form}"),
            Selection::Drawn { samples, .. } => format!("{samples} draws"),
            _ => form.to_string(),
        };
        Way { name, selection, form, quality: Quality::default(), kept: Vec::new() }
    };
    chosen.into_iter().map(way).collect()
}

/// Writes a way's file and reads it; gives its bytes, the tokens in it, and the times of both.
fn write(way: &Way, dump: &Dump) -> (u64, f64, Duration, Duration) {
    let folder = std::env::temp_dir().join(format!("signals-bench-{}", std::process::id()));
    let path = folder.join(SIGNALS_FILE);
    let header = SignalHeader { teachers: vec!["t".into()], tokenizer: "t".into(), vocabulary: dump.vocabulary as u32 };
    let begun = Clock::start();
    let mut writer = SignalWriter::with_form(&path, header, way.form).unwrap();
    for (sequence, kept) in dump.sequences.iter().zip(&way.kept) {
        match way.selection {
            Selection::Drawn { samples, .. } => writer.add_drawn(sequence.key, sequence.first, samples, kept).unwrap(),
            _ => writer.add(sequence.key, sequence.first, kept).unwrap(),
        }
    }
    let size = writer.finish().unwrap();
    let encoding = begun.elapsed();
    let begun = Clock::start();
    let reader = SignalReader::open(&path).unwrap();
    let (mut tokens, mut out) = (0, TopK::default());
    for sequence in &dump.sequences {
        let signal = reader.get(&sequence.key).unwrap().unwrap();
        for place in 0..signal.len() {
            signal.read(place, &mut out);
            tokens += out.ids.len();
        }
    }
    let decoding = begun.elapsed();
    fs_err::remove_dir_all(&folder).unwrap();
    (size.bytes, tokens as f64, encoding, decoding)
}

/// Bytes of zstd over columns of a whole file: gaps of sorted ids and f16 log-probabilities, low and high bytes apart.
fn columns(way: &Way) -> f64 {
    let mut columns = [const { Vec::new() }; 4];
    for position in way.kept.iter().flatten() {
        let mut pairs: Vec<_> = position.ids.iter().zip(&position.log_probs).collect();
        pairs.sort_unstable_by_key(|(id, _)| **id);
        let mut last = 0;
        for (id, log_prob) in pairs {
            let [gap, value] = [((id - last) as u16).to_le_bytes(), half::f16::from_f32(*log_prob).to_le_bytes()];
            last = *id;
            columns.iter_mut().zip([gap[0], gap[1], value[0], value[1]]).for_each(|(column, byte)| column.push(byte));
        }
    }
    columns.iter().map(|column| zstd::encode_all(column.as_slice(), 19).unwrap().len() as f64).sum()
}

fn foreign() -> Vec<Foreign> {
    let quality = Quality::default();
    vec![
        Foreign {
            name: "DistillKit, budget",
            k: 50,
            exact: 1,
            terms: &[|_| 1.0, |t| t, f64::sqrt],
            value_bytes: 14.0,
            quality,
        },
        Foreign {
            name: "DistillKit, recommended",
            k: 128,
            exact: 16,
            terms: &[|_| 1.0, |t| t, |t| t * t, |t| t.powi(3), |t| t.powi(4), f64::sqrt],
            value_bytes: 56.0,
            quality,
        },
    ]
}

impl Foreign {
    fn reconstructed(&self, most: &TopK) -> TopK {
        let log_probs: Vec<f64> = most.log_probs[..self.k].iter().map(|x| f64::from(*x)).collect();
        let (head, tail) = log_probs.split_at(self.exact);
        let rows: Vec<Vec<f64>> = (0..tail.len())
            .map(|rank| self.terms.iter().map(|term| term(rank as f64 / (tail.len() - 1) as f64)).collect())
            .collect();
        let factors = least_squares(&rows, tail);
        let fitted = rows
            .iter()
            .map(|row| row.iter().zip(&factors).map(|(x, factor)| x * f64::from(*factor as f32)).sum::<f64>());
        let head = head.iter().map(|x| half::bf16::from_f64(*x).to_f32());
        TopK { ids: most.ids[..self.k].to_vec(), log_probs: head.chain(fitted.map(|x| x as f32)).collect() }
    }
}

/// Least squares by orthogonalising the columns (modified Gram–Schmidt, twice), then back substitution.
fn least_squares(rows: &[Vec<f64>], values: &[f64]) -> Vec<f64> {
    let terms = rows[0].len();
    let mut columns: Vec<Vec<f64>> = (0..terms).map(|term| rows.iter().map(|row| row[term]).collect()).collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut upper = vec![vec![0.0; terms]; terms];
    for column in 0..terms {
        for _ in 0..2 {
            for before in 0..column {
                let (left, right) = columns.split_at_mut(column);
                let share = dot(&left[before], &right[0]);
                upper[before][column] += share;
                right[0].iter_mut().zip(&left[before]).for_each(|(x, y)| *x -= share * y);
            }
        }
        let length = dot(&columns[column], &columns[column]).sqrt();
        upper[column][column] = length;
        columns[column].iter_mut().for_each(|x| *x /= length);
    }
    let mut factors = vec![0.0; terms];
    for column in (0..terms).rev() {
        let later: f64 = (column + 1..terms).map(|later| upper[column][later] * factors[later]).sum();
        factors[column] = (dot(&columns[column], values) - later) / upper[column][column];
    }
    factors
}
