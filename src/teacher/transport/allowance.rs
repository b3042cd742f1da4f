//! What a server says it would still take (`x-ratelimit-…`, `anthropic-ratelimit-…`), so that a request can wait before it
//! is refused.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::HeaderMap;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Requests.
    Requests,
    /// Tokens of prompts and replies.
    Tokens,
    /// Tokens of prompts.
    InputTokens,
    /// Tokens of replies.
    OutputTokens,
}

/// One limit, as the headers of an answer tell it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Allowance {
    /// What it is a limit of.
    pub what: Allowed,
    /// The whole of it, where the server says so.
    pub limit: Option<f64>,
    /// What is left.
    pub remaining: f64,
    /// The time until the whole of it is there again.
    pub reset: Duration,
}

impl Allowance {
    /// How long to wait until so much is there. Servers fill such limits evenly, so where the whole of it is known
    /// only its share of the time is waited.
    #[must_use]
    pub fn wait(&self, needed: f64) -> Duration {
        let needed = self.limit.map_or(needed, |limit| needed.min(limit));
        if self.remaining >= needed {
            return Duration::ZERO;
        }
        match self.limit {
            Some(limit) if limit > self.remaining => {
                self.reset.mul_f64(((needed - self.remaining) / (limit - self.remaining)).clamp(0.0, 1.0))
            }
            _ => self.reset,
        }
    }
}

impl Allowance {
    /// How much of it comes back in a second, where the whole of it is known.
    #[must_use]
    pub fn refill(&self) -> Option<f64> {
        let missing = self.limit? - self.remaining;
        (missing > 0.0 && !self.reset.is_zero()).then(|| missing / self.reset.as_secs_f64())
    }

    /// `it has 0 of 60 requests left, all of them again in 30 s`
    #[must_use]
    pub fn words(&self) -> String {
        let what = match self.what {
            Allowed::Requests => "requests",
            Allowed::Tokens => "tokens",
            Allowed::InputTokens => "input tokens",
            Allowed::OutputTokens => "output tokens",
        };
        let of = self.limit.map_or_else(String::new, |limit| format!(" of {limit}"));
        let reset = self.reset.as_secs_f64().ceil();
        format!("the server says that it has {}{of} {what} left, all of them again in {reset} s", self.remaining)
    }
}

type Names = (Allowed, [&'static str; 3]);

/// Limit, what remains, and when it is whole again.
static HEADERS: &[Names] = &[
    (Allowed::Requests, ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"]),
    (Allowed::Tokens, ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"]),
    (
        Allowed::Requests,
        [
            "anthropic-ratelimit-requests-limit",
            "anthropic-ratelimit-requests-remaining",
            "anthropic-ratelimit-requests-reset",
        ],
    ),
    (
        Allowed::Tokens,
        [
            "anthropic-ratelimit-tokens-limit",
            "anthropic-ratelimit-tokens-remaining",
            "anthropic-ratelimit-tokens-reset",
        ],
    ),
    (
        Allowed::InputTokens,
        [
            "anthropic-ratelimit-input-tokens-limit",
            "anthropic-ratelimit-input-tokens-remaining",
            "anthropic-ratelimit-input-tokens-reset",
        ],
    ),
    (
        Allowed::OutputTokens,
        [
            "anthropic-ratelimit-output-tokens-limit",
            "anthropic-ratelimit-output-tokens-remaining",
            "anthropic-ratelimit-output-tokens-reset",
        ],
    ),
];

/// Every limit that an answer's headers tell. One that is not whole, or not understood, is left out.
#[must_use]
pub fn all(headers: &HeaderMap, now: Timestamp) -> Vec<Allowance> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let number = |name: &str| text(name)?.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    HEADERS
        .iter()
        .filter_map(|(what, [limit, remaining, reset])| {
            Some(Allowance {
                what: *what,
                limit: number(limit),
                remaining: number(remaining)?,
                reset: duration(text(reset)?, now)?,
            })
        })
        .collect()
}

/// From so many seconds on a number is a time since 1970, and from so many on one in milliseconds.
const SINCE_1970: f64 = 1e9;
const IN_MILLISECONDS: f64 = 1e12;
/// What is longer is no time that a limit needs, but something misunderstood.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long it is to a time that a server names; nothing where that makes no sense.
fn duration(text: &str, now: Timestamp) -> Option<Duration> {
    read(text, now).filter(|duration| *duration <= LONGEST)
}

/// `6m0s`, `120ms`, seconds, or the time of a clock.
fn read(text: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(number) = text.parse::<f64>() {
        let since_1970 = now.as_millisecond() as f64 / 1000.0;
        let seconds = match number {
            IN_MILLISECONDS.. => (number / 1000.0 - since_1970).max(0.0),
            SINCE_1970.. => (number - since_1970).max(0.0),
            seconds => seconds,
        };
        return Duration::try_from_secs_f64(seconds).ok();
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO));
    }
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|character: char| character != '.' && !character.is_ascii_digit())?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|character: char| !character.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let unit = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * unit;
        rest = after;
    }
    Duration::try_from_secs_f64(seconds).ok().filter(|_| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (reqwest::header::HeaderName::from_static(name), reqwest::header::HeaderValue::from_static(value))
            })
            .collect()
    }

    #[test]
    fn both_families_of_headers_are_read_and_what_is_not_whole_is_left_out() {
        let now: Timestamp = "2026-11-25T12:00:00Z".parse().unwrap();
        let read = all(
            &headers(&[
                ("x-ratelimit-limit-requests", "60"),
                ("x-ratelimit-remaining-requests", "59"),
                ("x-ratelimit-reset-requests", "1s"),
                ("x-ratelimit-remaining-tokens", "149984"),
                ("x-ratelimit-reset-tokens", "6m0.5s"),
                ("anthropic-ratelimit-output-tokens-limit", "8000"),
                ("anthropic-ratelimit-output-tokens-remaining", "0"),
                ("anthropic-ratelimit-output-tokens-reset", "2026-11-25T12:00:30Z"),
                ("anthropic-ratelimit-requests-remaining", "many"),
                ("anthropic-ratelimit-requests-reset", "2026-11-25T12:00:30Z"),
            ]),
            now,
        );
        let of =
            |what, limit, remaining, millis| Allowance { what, limit, remaining, reset: Duration::from_millis(millis) };
        assert_eq!(
            read,
            [
                of(Allowed::Requests, Some(60.0), 59.0, 1_000),
                of(Allowed::Tokens, None, 149_984.0, 360_500),
                of(Allowed::OutputTokens, Some(8000.0), 0.0, 30_000),
            ]
        );
    }

    #[test]
    fn times_are_read_as_servers_write_them() {
        let now: Timestamp = "2026-11-25T12:00:00Z".parse().unwrap();
        let millis = |text: &str| duration(text, now).map(|duration| duration.as_millis());
        assert_eq!(millis("120ms"), Some(120));
        assert_eq!(millis("1h2m3s"), Some(3_723_000));
        assert_eq!(millis("7.66s"), Some(7_660));
        assert_eq!(millis("12"), Some(12_000));
        assert_eq!(millis("2026-11-25T11:00:00Z"), Some(0), "in the past");
        assert_eq!((millis("soon"), millis(""), millis("3d")), (None, None, None));
        // 2026-11-25T12:00:00Z is 1,795,608,000 seconds after 1970 began.
        assert_eq!((millis("1795608030"), millis("1795608030000")), (Some(30_000), Some(30_000)));
        assert_eq!(millis("1795607000"), Some(0), "in the past");
        assert_eq!((millis("2000000000"), millis("9000h"), millis("700000")), (None, None, None), "absurd");
    }

    #[test]
    fn only_the_share_that_is_missing_is_waited_for() {
        let of =
            |limit, remaining| Allowance { what: Allowed::Tokens, limit, remaining, reset: Duration::from_secs(60) };
        assert_eq!(of(Some(600.0), 100.0).wait(100.0), Duration::ZERO);
        assert_eq!(of(Some(600.0), 0.0).wait(100.0), Duration::from_secs(10));
        assert_eq!(of(Some(600.0), 0.0).wait(9999.0), Duration::from_secs(60), "never more than the whole");
        assert_eq!(of(None, 0.0).wait(1.0), Duration::from_secs(60));
    }
}
