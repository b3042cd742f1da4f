//! kill -9 at random moments: the store survives, and the results are those of a run that nobody disturbed.

mod support;

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use support::{Place, Ran, outputs};

const KILLS: u32 = 20;

/// The quickstart, every part of it, with less of everything.
const LESS: &[&str] = &[
    "--set",
    "answers.verse.samples=3",
    "--set",
    "answers.verse.sampling.max-tokens=24",
    "--set",
    "student.hard.steps=24",
    "--set",
    "student.soft.steps=24",
    "--set",
    "student.hard.schedule.cosine.warmup=4",
    "--set",
    "student.soft.schedule.cosine.warmup=4",
    "--set",
    "student.hard.checkpoint-every=4",
    "--set",
    "student.soft.checkpoint-every=4",
    "--set",
    "eval.hard.resamples=100",
    "--set",
    "eval.soft.resamples=100",
    "--set",
    "eval.teacher.resamples=100",
];

fn quickstart(place: &Place, cache: &str) -> std::process::Command {
    let experiment = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments/quickstart.toml");
    let mut command = place.command(&["run", "--format", "json", "--device", "cpu", "--cache", cache]);
    command.arg(experiment).args(LESS).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn the_quickstart_killed_at_twenty_random_moments_ends_with_the_digests_of_an_undisturbed_run() {
    let place = Place::new();
    let started = Instant::now();
    let undisturbed = Ran::of(quickstart(&place, "undisturbed").output().unwrap());
    let whole = started.elapsed();
    assert_eq!(undisturbed.code, Some(0), "{}", undisturbed.stderr);
    let expected = outputs(&undisturbed.json_lines());
    assert!(expected.len() >= 8, "{expected:?}");

    let mut random = 17u64;
    for _ in 0..KILLS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let share = (random >> 40) as f64 / (1u64 << 24) as f64;
        let mut run = quickstart(&place, "killed").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_secs_f64(whole.as_secs_f64() * 0.5 * share));
        // SIGKILL; a run that has ended already is as good.
        run.kill().unwrap();
        run.wait().unwrap();
        let verified = place.run(&["cache", "verify", "--cache", "killed"]);
        assert!(
            verified.code == Some(0)
                || verified.stderr.contains("not a store")
                || !place.join("killed/FORMAT").exists(),
            "{}{}",
            verified.stdout,
            verified.stderr
        );
    }
    let last = Ran::of(quickstart(&place, "killed").output().unwrap());
    assert_eq!(last.code, Some(0), "{}", last.stderr);
    assert_eq!(outputs(&last.json_lines()), expected);
    let again = Ran::of(quickstart(&place, "killed").output().unwrap());
    assert_eq!(again.json_lines().last().unwrap()["reused"], expected.len());
}
