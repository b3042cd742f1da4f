//! A rate per minute, kept by whoever asks: first come, first served.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Sleeps are cut into pieces, because what is given back meanwhile shortens the wait.
const LONGEST_NAP: Duration = Duration::from_millis(250);

/// A bucket that fills evenly. It holds one second's worth, so that no minute sees more than the minute's worth and
/// that second's: a server that counts by the minute has nothing to complain about.
#[derive(Debug)]
pub struct Rate {
    per_second: f64,
    capacity: f64,
    level: Mutex<(f64, Instant)>,
    // Held while waiting, so that a large request is not overtaken for ever by small ones.
    turn: tokio::sync::Mutex<()>,
}

impl Rate {
    /// A rate of so much a minute.
    #[must_use]
    pub fn per_minute(amount: f64) -> Self {
        let capacity = (amount / 60.0).max(1.0);
        Self {
            per_second: amount / 60.0,
            capacity,
            level: Mutex::new((capacity, Instant::now())),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    /// Waits until `amount` may be taken. More than the bucket holds is taken from a full one, as a debt.
    pub async fn take(&self, amount: f64) {
        let _turn = self.turn.lock().await;
        while let Some(wait) = self.try_take(amount) {
            tokio::time::sleep(wait.min(LONGEST_NAP)).await;
        }
    }

    /// Gives back what turned out not to be needed.
    pub fn give_back(&self, amount: f64) {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        level.0 = (level.0 + amount).min(self.capacity);
    }

    fn try_take(&self, amount: f64) -> Option<Duration> {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let gained = now.duration_since(level.1).as_secs_f64() * self.per_second;
        *level = ((level.0 + gained).min(self.capacity), now);
        let needed = amount.min(self.capacity);
        // Timers are exact to the millisecond only: a billionth short is enough.
        if level.0 >= needed - 1e-9 {
            level.0 -= amount;
            return None;
        }
        Some(Duration::from_secs_f64((needed - level.0) / self.per_second).max(Duration::from_millis(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_of_600_a_minute_lets_about_600_through_in_a_minute() {
        let rate = Rate::per_minute(600.0);
        let start = Instant::now();
        let mut passed = 0;
        while start.elapsed() < Duration::from_secs(60) {
            rate.take(1.0).await;
            passed += 1;
        }
        assert!((600..=611).contains(&passed), "{passed}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_larger_than_the_bucket_passes_and_is_paid_for_afterwards() {
        let rate = Rate::per_minute(6000.0);
        let start = Instant::now();
        rate.take(1000.0).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        rate.take(100.0).await;
        assert!((9.9..10.1).contains(&start.elapsed().as_secs_f64()), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn giving_back_shortens_the_wait() {
        let rate = Rate::per_minute(6000.0);
        let start = Instant::now();
        rate.take(1000.0).await;
        rate.give_back(900.0);
        rate.take(100.0).await;
        assert!(start.elapsed().as_secs_f64() < 1.1, "{:?}", start.elapsed());
    }
}
