//! The pace against servers that take only so many requests, and against some that refuse by chance.

use std::sync::Arc;

use super::*;

/// A server that takes `rate` requests a second and `burst` at once; says when to come again if `asks`.
struct Bucket {
    rate: f64,
    burst: f64,
    asks: Option<Duration>,
    /// One request of so many is refused whatever the rate; none with 0.
    by_chance: u64,
    /// From when to when it refuses all, in seconds since it was started.
    away: std::ops::Range<f64>,
    started: Instant,
    seen: std::sync::atomic::AtomicU64,
    level: Mutex<(f64, Instant, u64)>,
}

impl Bucket {
    fn new(rate: f64, burst: f64, asks: Option<Duration>) -> Arc<Self> {
        Self::by_chance(rate, burst, asks, 0)
    }

    fn by_chance(rate: f64, burst: f64, asks: Option<Duration>, by_chance: u64) -> Arc<Self> {
        let level = Mutex::new((burst, Instant::now(), 0));
        let (away, started) = (0.0..0.0, Instant::now());
        Arc::new(Self { rate, burst, asks, by_chance, away, started, seen: Default::default(), level })
    }

    fn away(away: std::ops::Range<f64>, asks: Option<Duration>) -> Arc<Self> {
        let mut this = Arc::into_inner(Self::new(1e6, 1e6, asks)).unwrap();
        this.away = away;
        Arc::new(this)
    }

    fn takes(&self) -> bool {
        let mut level = self.level.lock().unwrap();
        let now = Instant::now();
        level.0 = (level.0 + (now - level.1).as_secs_f64() * self.rate).min(self.burst);
        level.1 = now;
        // Numbers as if by chance: refusals come in groups, too.
        let seen = self.seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let drawn = (seen.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 32;
        let chance = self.by_chance > 0 && drawn.is_multiple_of(self.by_chance);
        let away = self.away.contains(&self.started.elapsed().as_secs_f64());
        let takes = level.0 >= 1.0 && !chance && !away;
        if takes {
            level.0 -= 1.0;
        } else {
            level.2 += 1;
        }
        takes
    }
}

/// Sends until `wanted` are answered; seconds that it took, and refusals.
async fn send(bucket: Arc<Bucket>, at_once: usize, wanted: usize) -> (f64, u64) {
    send_by(Pace::default(), bucket, at_once, wanted).await
}

async fn send_by(pace: Pace, bucket: Arc<Bucket>, at_once: usize, wanted: usize) -> (f64, u64) {
    let (pace, permits) = (Arc::new(pace), Arc::new(tokio::sync::Semaphore::new(at_once)));
    let start = Instant::now();
    let tasks: Vec<_> = (0..wanted)
        .map(|number| {
            let (pace, permits, bucket) = (Arc::clone(&pace), Arc::clone(&permits), Arc::clone(&bucket));
            tokio::spawn(async move {
                let (mut times, mut sent) = (0_u32, None);
                loop {
                    let permit = permits.acquire().await.unwrap();
                    pace.take().await;
                    let (went, now) = (pace.sent(), Instant::now());
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    if bucket.takes() {
                        return pace.answered();
                    }
                    let others = pace.last_answer().is_some_and(|at| at >= sent.unwrap_or(now));
                    pace.refused(went, bucket.asks, !others && times > 0, "429");
                    (times, sent) = (times + 1, Some(now));
                    drop(permit);
                    if bucket.asks.is_none_or(|asks| asks.is_zero()) {
                        let random = (number as u64 + u64::from(times)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56;
                        tokio::time::sleep(longest(1).mul_f64(random as f64 / 255.0)).await;
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    (start.elapsed().as_secs_f64(), bucket.level.lock().unwrap().2)
}

#[tokio::test(start_paused = true)]
async fn the_rate_of_a_server_is_found_with_a_handful_of_refusals() {
    let second = Some(Duration::from_secs(1));
    // Rate, burst, wait, at once, wanted; seconds at the most, refusals at the most.
    let cases = [
        (1.0, 1.0, second, 16, 40, 60.0, 24),
        (5.0, 5.0, second, 64, 120, 40.0, 80),
        (5.0, 5.0, None, 64, 120, 40.0, 80),
        (1.0, 60.0, Some(Duration::from_secs(30)), 16, 120, 130.0, 40),
        (50.0, 50.0, None, 64, 3000, 90.0, 192),
    ];
    for (rate, burst, asks, at_once, wanted, most_seconds, most_refused) in cases {
        let (seconds, refused) = send(Bucket::new(rate, burst, asks), at_once, wanted).await;
        assert!(seconds <= most_seconds && refused <= most_refused, "{rate}/s: {seconds} s, {refused} refused");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_by_nobody_waits_for_nobody() {
    let (seconds, refused) = send(Bucket::new(1e6, 1e6, None), 64, 640).await;
    assert!(seconds < 0.3 && refused == 0, "{seconds} s");
}

#[tokio::test(start_paused = true)]
async fn refusals_by_chance_are_no_limit() {
    for asks in [None, Some(Duration::ZERO)] {
        for (one_of, most) in [(43, 1.1), (10, 1.3), (5, 1.6)] {
            for at_once in [16, 128, 500] {
                let (seconds, refused) = send(Bucket::by_chance(1e6, 1e6, asks, one_of), at_once, 20_000).await;
                assert!(refused > 20_000 / one_of, "{refused} refused");
                let unhindered = 20_000.0 * 0.02 / at_once as f64;
                // Each that was refused waits a little, and the last ones in vain.
                assert!(
                    seconds < most * unhindered + 1.5,
                    "1 of {one_of}, {at_once} at once: {seconds} s, not {unhindered}"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_is_found_among_refusals_by_chance() {
    for (rate, one_of, most_seconds, most_refused) in
        [(5.0, 43, 100.0, 0.3), (50.0, 10, 100.0, 0.25), (500.0, 43, 65.0, 0.2)]
    {
        let wanted = rate * 60.0;
        let (seconds, refused) = send(Bucket::by_chance(rate, rate, None, one_of), 64, wanted as usize).await;
        let share = refused as f64 / (wanted + refused as f64);
        assert!(seconds < most_seconds && share < most_refused, "{rate}/s: {seconds} s, {share} refused");
    }
}

#[tokio::test(start_paused = true)]
async fn any_limit_is_kept_to_whatever_is_saved_up() {
    for rate in [2.0, 20.0, 200.0_f64] {
        for at_once in [16, 256] {
            for burst in [1.0, (0.2 * rate).max(1.0), rate, 10.0 * rate] {
                let wanted = rate * 60.0 + burst;
                let (seconds, refused) = send(Bucket::new(rate, burst, None), at_once, wanted as usize).await;
                let (case, refused) = (format!("{rate}/s, {burst} saved up, {at_once} at once"), refused as f64);
                // A minute would be best. Where nothing is saved up, the first guess is far too low.
                let most = if burst == 1.0 { 125.0 } else { 85.0 };
                assert!(seconds < most, "{case}: {seconds} s");
                // Those that were on their way when the first was refused, and a few in a hundred later.
                assert!(refused < at_once as f64 + 0.12 * wanted + 8.0, "{case}: {refused} of {wanted} refused");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_believed_in_a_limit_by_mistake_finds_out() {
    for (one_of, most) in [(43, 30.0), (25, 30.0), (10, 120.0)] {
        let pace = Pace::default();
        pace.at_most(12.0);
        let (seconds, _) = send_by(pace, Bucket::by_chance(1e6, 1e6, None, one_of), 128, 20_000).await;
        // At 12 a second it would be half an hour.
        assert!(seconds < most, "1 of {one_of}: {seconds} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_gone_is_forgotten() {
    let pace = Pace::default();
    pace.refused(pace.sent(), Some(Duration::from_secs(1)), false, "429");
    let start = Instant::now();
    for _ in 0..600 {
        pace.take().await;
        pace.sent();
        pace.answered();
    }
    assert!(start.elapsed().as_secs_f64() < 200.0, "{:?}", start.elapsed());
    let before = start.elapsed();
    for _ in 0..100 {
        pace.take().await;
        pace.answered();
    }
    assert!((start.elapsed() - before).as_secs_f64() < 1.0, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_one_that_is_refused_again_and_again_closes_the_gate() {
    let pace = Pace::default();
    for (times, waits) in [(1, 0.5), (2, 1.0), (3, 2.0)] {
        let went = pace.sent();
        pace.refused(went, None, true, "429");
        let (until, why) = pace.held().unwrap();
        let wait = (until - Instant::now()).as_secs_f64();
        assert!((wait - waits).abs() < 1e-6 && why == "429", "{times}: {wait} s");
        pace.take().await;
    }
    assert_eq!(pace.rate(), Some(0.75), "an outage makes nothing slower");
    pace.answered();
    pace.refused(pace.sent(), None, false, "429");
    assert_eq!(pace.held(), None, "one alone may be chance");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refused_all_for_a_while_is_soon_asked_as_before() {
    let seconds = Duration::from_secs;
    for asks in [None, Some(seconds(1)), Some(seconds(10))] {
        for (away, at_once, wanted) in
            [(0.0..20.0, 32, 500), (3.0..8.0, 4, 3000), (3.0..13.0, 4, 3000), (1.0..40.0, 32, 9000)]
        {
            let (unhindered, lasted) = (wanted as f64 * 0.02 / f64::from(at_once), away.end - away.start);
            let (seconds, _) = send(Bucket::away(away, asks), at_once as usize, wanted).await;
            // Pauses double, so the last one may be as long as all before.
            let most = unhindered + 2.0 * lasted + 12.0;
            assert!(seconds < most, "{lasted} s, {asks:?}, {at_once} at once: {seconds} s, not {most}");
        }
    }
}
