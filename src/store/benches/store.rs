//! The store's figures on this machine: `cargo bench -p stillhouse-store`.
//!
//! Hashing is compared with `b3sum` where that is installed; the rest is beside its bar. Set
//! `STILLHOUSE_BENCH_DIR` to measure another disk than that of the temporary folder.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]
#![expect(clippy::unwrap_used, reason = "a bench that fails has nothing to clean up")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use stillhouse_store::{Digest, Key, Lookup, Published, RECORD_FORMAT, Record, Store};

const GIGABYTE: usize = 1 << 30;

fn main() {
    let base = std::env::var_os("STILLHOUSE_BENCH_DIR");
    let folder = tempfile::tempdir_in(base.map_or_else(std::env::temp_dir, Into::into)).unwrap();
    let store = Store::open(&folder.path().join("cache")).unwrap();
    // A word on the command line picks the benches that contain it.
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let run = |name: &str| wanted.as_ref().is_none_or(|wanted| name.contains(wanted.as_str()));
    if run("hashing") {
        hashing(folder.path());
    }
    if run("tiny-stages") {
        tiny_stages(&store, folder.path());
    }
    if run("many-records") {
        many_records(&folder.path().join("many"));
    }
    if run("unchanged-input") {
        unchanged_input(&store, folder.path());
    }
}

/// The best of three, since the first one may wait for the disk.
fn best(mut work: impl FnMut()) -> Duration {
    let once = |_| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    (0..3).map(once).min().unwrap()
}

fn hashing(folder: &Path) {
    let path = folder.join("big");
    let block: Vec<u8> = (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut file = fs_err::File::create(&path).unwrap();
    for _ in 0..GIGABYTE / block.len() {
        file.write_all(&block).unwrap();
    }
    drop(file);
    let rate = |time: Duration| GIGABYTE as f64 / 1e9 / time.as_secs_f64();
    let ours = || {
        Digest::of_file(&path).unwrap();
    };
    let b3sum = || Command::new("b3sum").arg(&path).stdout(Stdio::null()).status();
    if !b3sum().is_ok_and(|status| status.success()) {
        println!("hash 1 GiB            {:6.2} GB/s (b3sum is not installed)", rate(best(ours)));
    } else {
        // In turns, so that other work on the machine meets both alike.
        let (mut our_time, mut their_time) = (Duration::MAX, Duration::MAX);
        for _ in 0..5 {
            our_time = our_time.min(best(ours));
            their_time = their_time.min(best(|| {
                b3sum().unwrap();
            }));
        }
        let percent = 100.0 * their_time.as_secs_f64() / our_time.as_secs_f64();
        let (ours, theirs) = (rate(our_time), rate(their_time));
        println!("hash 1 GiB            {ours:6.2} GB/s, b3sum {theirs:.2}: {percent:.0} % (bar: 80 %)");
    }
    fs_err::remove_file(&path).unwrap();
}

fn record(store: &Store, folder: &Path, number: u32) -> Record {
    fs_err::create_dir_all(folder).unwrap();
    fs_err::write(folder.join("out.txt"), format!("output {number}")).unwrap();
    let (output, _) = store.put_tree(folder).unwrap();
    let recipe = format!(
        r#"{{"files":{{}},"identity":{{"number":{number},"padding":"{}"}},"inputs":{{}},"kind":"command","revision":1,"seed":17}}"#,
        "x".repeat(400)
    );
    Record {
        format: RECORD_FORMAT,
        key: Key::of("bench", recipe.as_bytes()),
        kind: "command".into(),
        revision: 1,
        stage: format!("command.c{number}"),
        recipe,
        output,
        metrics: serde_json::json!({ "rows": number, "loss": 0.5 }),
        provenance: serde_json::json!({ "program": "bench" }),
        created: "2026-11-22T15:23:30Z".into(),
        seconds: 0.1,
        run: "261122-152330".into(),
    }
}

fn tiny_stages(store: &Store, folder: &Path) {
    let start = Instant::now();
    for number in 0..100 {
        let record = record(store, &folder.join("attempt"), number);
        assert_eq!(store.publish(record).unwrap(), Published::Won);
    }
    let time = start.elapsed().as_secs_f64() * 1e3;
    // What the disk asks for one confirmation, now: a stage needs three of them.
    let start = Instant::now();
    for number in 0..100 {
        let mut file = fs_err::File::create(folder.join(format!("bare{number}"))).unwrap();
        file.write_all(b"output").unwrap();
        file.sync_all().unwrap();
    }
    let bare = start.elapsed().as_secs_f64() * 1e3;
    println!("100 tiny stages       {time:6.0} ms (bar: well under 1 s); 300 bare syncs {:.0} ms", 3.0 * bare);
}

fn many_records(root: &Path) {
    const RECORDS: u32 = 10_000;
    // Written the fast way round: what is measured is reading.
    let store = Store::open(root).unwrap();
    let keys: Vec<Key> = (0..RECORDS)
        .map(|number| {
            let record = record(&store, &root.join("attempts/x"), number);
            let key = record.key;
            store.publish(record).unwrap();
            key
        })
        .collect();
    let time = best(|| {
        let fresh = Store::open_existing(root).unwrap();
        for key in &keys {
            assert!(matches!(fresh.lookup(key).unwrap(), Lookup::Found(_)));
        }
    });
    let each = time.as_secs_f64() * 1e6 / f64::from(RECORDS);
    println!("look-up, warm         {each:6.1} µs (bar: 50 µs)");
    let missing: Vec<Key> = (0..RECORDS).map(|n| Key::of("no", &n.to_le_bytes())).collect();
    let time = best(|| {
        for key in &missing {
            assert_eq!(store.lookup(key).unwrap(), Lookup::Missing);
        }
    });
    println!("look-up of nothing    {:6.1} µs", time.as_secs_f64() * 1e6 / f64::from(RECORDS));
    let time = best(|| {
        let fresh = Store::open_existing(root).unwrap();
        assert_eq!(fresh.records().unwrap().len(), RECORDS as usize);
    });
    println!("index of 10,000       {:6.1} ms", time.as_secs_f64() * 1e3);
    let time = best(|| {
        for number in 0..RECORDS {
            let stage = format!("command.c{number}");
            assert!(store.history("command", &stage, 1).unwrap().len() == 1);
        }
    });
    println!("history, one entry    {:6.1} µs", time.as_secs_f64() * 1e6 / f64::from(RECORDS));
    let time = best(|| {
        assert!(store.verify().unwrap().is_sound());
    });
    println!("verify 20,000 blobs   {:6.0} ms", time.as_secs_f64() * 1e3);
    let time = best(|| {
        assert_eq!(store.gc(&Default::default()).unwrap().blobs, 0);
    });
    println!("gc of 10,000 records  {:6.0} ms", time.as_secs_f64() * 1e3);
}

fn unchanged_input(store: &Store, folder: &Path) {
    let path = folder.join("input");
    fs_err::write(&path, vec![7; 50_000_000]).unwrap();
    let first = Instant::now();
    store.digest_of(&path).unwrap();
    let first = first.elapsed();
    let again = best(|| {
        store.digest_of(&path).unwrap();
    });
    println!(
        "unchanged 50 MB input {:6.1} µs, after {:.0} ms the first time",
        again.as_secs_f64() * 1e6,
        first.as_secs_f64() * 1e3
    );
}
