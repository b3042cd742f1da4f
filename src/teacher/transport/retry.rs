//! What an attempt came to, and when the next one is due.

use std::time::Duration;

use jiff::Timestamp;
use stillhouse_stage::Failure;

/// Why an attempt brought no reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// It may work the next time: too many requests, a server's error, a timeout, a broken body.
    Transient {
        /// One line.
        what: String,
        /// How long the server asks to be left alone.
        retry_after: Option<Duration>,
        /// How well the server seems.
        health: Health,
        /// Whether it refused the request because there are too many of them.
        busy: bool,
    },
    /// What came is no reply: the network broke it, or the address is not that of a teacher.
    Garbled {
        /// One line.
        what: String,
    },
    /// It will not work the next time either, whatever is asked.
    Permanent(Failure),
    /// The provider's content filter held the answer back before it was given.
    Filtered {
        /// The status and the server's words.
        words: String,
    },
    /// The server is well and refuses this one request.
    Rejected {
        /// As the user shall read it.
        failure: Failure,
        /// The status and the server's words, without its address: `400: the prompt is too long`.
        words: String,
    },
}

impl Fault {
    /// A server that does not answer as it should, and says nothing on when to come back.
    pub fn transient(what: impl Into<String>) -> Self {
        Self::Transient { what: what.into(), retry_after: None, health: Health::Unwell, busy: false }
    }
}

/// How well a server seems that did not answer as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It is only busy.
    Well,
    /// A timeout, an error of its own, a broken body: that may be this one request's fault.
    Unwell,
    /// No connection to it: that is no request's fault.
    Away,
}

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);

/// The longest wait before attempt `next` (the second attempt is 1): doubling from half a second up to half a minute.
#[must_use]
pub fn longest(next: u32) -> Duration {
    FIRST.saturating_mul(1 << (next.clamp(1, 16) - 1)).min(LONGEST)
}

/// The wait before attempt `next`: any part of [`longest`] ("full jitter"), so that requests that failed together do not
/// come back together. What the server asked for is the least; whoever waits has made sure that it is not too much.
#[must_use]
pub fn wait(next: u32, retry_after: Option<Duration>, random: f64) -> Duration {
    let jittered = longest(next).mul_f64(random.clamp(0.0, 1.0));
    match retry_after {
        // Those that were told the same moment spread over the time after it.
        Some(asked) => asked.saturating_add(FIRST.mul_f64(random.clamp(0.0, 1.0))).max(jittered),
        None => jittered,
    }
}

/// A `Retry-After` header: seconds (a fraction, too, as some servers send) or an HTTP date.
#[must_use]
pub fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
    Some(Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_half_a_minute() {
        let full: Vec<f64> = (1..=8).map(|next| wait(next, None, 1.0).as_secs_f64()).collect();
        assert_eq!(full, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]);
        assert_eq!(wait(3, None, 0.0), Duration::ZERO);
        assert_eq!(wait(3, None, 0.5), Duration::from_secs(1));
        assert_eq!(wait(u32::MAX, None, 1.0), Duration::from_secs(30));
    }

    #[test]
    fn the_server_is_taken_at_its_word() {
        assert_eq!(wait(1, Some(Duration::from_secs(7)), 0.0), Duration::from_secs(7));
        assert_eq!(wait(1, Some(Duration::from_secs(7)), 1.0), Duration::from_millis(7_500));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "2015-10-21T07:27:30Z".parse().unwrap();
        assert_eq!(retry_after("12", now), Some(Duration::from_secs(12)));
        assert_eq!(retry_after(" 0.5 ", now), Some(Duration::from_millis(500)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT", now), Some(Duration::from_secs(30)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:00:00 GMT", now), Some(Duration::ZERO), "in the past");
        assert_eq!(retry_after("soon", now), None);
        assert_eq!(retry_after("-3", now), None);
        assert_eq!(retry_after("inf", now), None);
    }
}
