//! Numbers as a person reads them.

/// A count of things with a short scale: `950`, `1.2 k`, `135 M`, `1.1 B`.
pub fn count(value: u64) -> String {
    scaled(value, &["", "k", "M", "B", "T"])
}

/// Requests, planned or paid: `1 request`, `230 requests`; with the texts that they carry where those are counted beside them,
/// `2 requests (100 texts)`.
pub fn requests(requests: u64, texts: u64) -> String {
    let word = if requests == 1 { "request" } else { "requests" };
    format!("{} {word}{}", count(requests), in_brackets(texts))
}

/// ` (100 texts)`; nothing where none are counted.
pub(crate) fn in_brackets(texts: u64) -> String {
    match texts {
        0 => String::new(),
        1 => " (1 text)".to_owned(),
        texts => format!(" ({} texts)", count(texts)),
    }
}

/// A size in bytes with decimal prefixes, as disks and networks are sold: `812 B`, `3.9 MB`.
pub fn bytes(value: u64) -> String {
    scaled(value, &["B", "kB", "MB", "GB", "TB"])
}

/// Below 1,000 the number itself; then one decimal below 100 of a unit and none above.
fn scaled(value: u64, units: &[&str]) -> String {
    let mut scaled = value as f64;
    let mut unit = 0;
    // 999.5 would be printed as 1000 of the smaller unit.
    while scaled >= 999.5 && unit + 1 < units.len() {
        scaled /= 1_000.0;
        unit += 1;
    }
    let decimals = usize::from(unit > 0 && scaled < 99.95);
    format!("{scaled:.decimals$} {}", units[unit]).trim_end().to_owned()
}

/// A length of time: `3 ms`, `4.2s`, `1m 05s`, `2h 03m`, `3d 04h`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "?".to_owned();
    }
    if seconds < 0.9995 {
        return format!("{:.0} ms", seconds * 1_000.0);
    }
    if seconds < 59.95 {
        return format!("{seconds:.1}s");
    }
    let whole = seconds.round() as u64;
    // Minutes are rounded before they are split, so that 59m 59.9s becomes 1h 00m and not 60m 00s.
    let minutes = (whole + 30) / 60;
    match whole {
        0..3_600 => format!("{}m {:02}s", whole / 60, whole % 60),
        _ if minutes < 24 * 60 => format!("{}h {:02}m", minutes / 60, minutes % 60),
        _ => format!("{}d {:02}h", minutes / 1_440, minutes % 1_440 / 60),
    }
}

/// A value that comes without an interval: four significant digits, or an exponent where it is far from 1.
pub fn plain(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    let magnitude = magnitude_of(value);
    if (-4..7).contains(&magnitude) {
        format!("{value:.decimals$}", decimals = (3 - magnitude).max(0) as usize)
    } else {
        format!("{value:.3e}")
    }
}

/// How an interval is written beside its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntervalStyle {
    /// `12.35 ± 0.46`: half the interval's width.
    PlusMinus,
    /// `12.35 [11.97, 12.90]`: both bounds.
    Bounds,
}

impl IntervalStyle {
    /// Plus-minus where the two arms of every interval are alike, else the bounds: a half-width would hide
    /// that most of the uncertainty lies on one side.
    pub fn for_all(intervals: impl IntoIterator<Item = (f64, f64, f64)>) -> Self {
        let lopsided = |(value, low, high): (f64, f64, f64)| {
            let (below, above) = (value - low, high - value);
            (above - below).abs() > 0.3 * (high - low)
        };
        if intervals.into_iter().any(lopsided) { Self::Bounds } else { Self::PlusMinus }
    }
}

/// A value and its interval with as many digits as the interval's half-width supports: two significant ones
/// of the half-width.
pub fn with_interval(value: f64, low: f64, high: f64, style: IntervalStyle) -> String {
    let half = (high - low) / 2.0;
    // An interval without width supports no choice of digits.
    if half == 0.0 || !half.is_finite() {
        return match style {
            IntervalStyle::PlusMinus => format!("{} ± 0", plain(value)),
            IntervalStyle::Bounds => format!("{} [{}, {}]", plain(value), plain(low), plain(high)),
        };
    }
    let decimals = (1 - magnitude_of(half)).clamp(0, 12) as usize;
    match style {
        IntervalStyle::PlusMinus => format!("{value:.decimals$} ± {half:.decimals$}"),
        IntervalStyle::Bounds => format!("{value:.decimals$} [{low:.decimals$}, {high:.decimals$}]"),
    }
}

/// The power of ten of the first significant digit, after rounding to four digits (so 0.99999 counts as 1).
fn magnitude_of(value: f64) -> i32 {
    let text = format!("{value:.3e}");
    text.rsplit('e').next().and_then(|exponent| exponent.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_get_a_short_scale() {
        let cases = [
            (0, "0"),
            (999, "999"),
            (1_000, "1.0 k"),
            (1_234_567, "1.2 M"),
            (99_960, "100 k"),
            (999_499, "999 k"),
            (999_500, "1.0 M"),
            (134_515_008, "135 M"),
            (1_100_048_384, "1.1 B"),
            (5_000_000_000_000_000, "5000 T"),
        ];
        for (value, expected) in cases {
            assert_eq!(count(value), expected);
        }
    }

    #[test]
    fn bytes_get_decimal_prefixes() {
        assert_eq!(bytes(812), "812 B");
        assert_eq!(bytes(3_945_123), "3.9 MB");
        assert_eq!(bytes(269_000_000), "269 MB");
    }

    #[test]
    fn durations_never_show_sixty_of_anything() {
        let cases = [
            (0.0, "0 ms"),
            (0.0034, "3 ms"),
            (0.9994, "999 ms"),
            (0.9996, "1.0s"),
            (59.94, "59.9s"),
            (59.96, "1m 00s"),
            (65.0, "1m 05s"),
            (3_599.6, "1h 00m"),
            (7_370.0, "2h 03m"),
            (86_399.0, "1d 00h"),
            (273_600.0, "3d 04h"),
            (f64::NAN, "?"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(duration(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn plain_values_get_four_significant_digits() {
        let cases = [
            (0.0, "0"),
            (12.345_67, "12.35"),
            (0.012_345, "0.01235"),
            (9.999_96, "10.00"),
            (123_456.7, "123457"),
            (-1.5, "-1.500"),
            (1.5e-6, "1.500e-6"),
            (2.5e9, "2.500e9"),
        ];
        for (value, expected) in cases {
            assert_eq!(plain(value), expected);
        }
    }

    #[test]
    fn digits_follow_the_width_of_the_interval() {
        use IntervalStyle::{Bounds, PlusMinus};
        assert_eq!(with_interval(12.345_6, 11.889, 12.801, PlusMinus), "12.35 ± 0.46");
        assert_eq!(with_interval(12.345_6, 11.889, 12.801, Bounds), "12.35 [11.89, 12.80]");
        assert_eq!(with_interval(0.712_34, 0.7121, 0.7126, PlusMinus), "0.71234 ± 0.00025");
        assert_eq!(with_interval(1_234.5, 1_000.0, 1_469.0, PlusMinus), "1234 ± 234");
        // 0.0996 rounds to 0.10: two digits of that.
        assert_eq!(with_interval(1.0, 0.900_4, 1.099_6, PlusMinus), "1.000 ± 0.100");
    }

    #[test]
    fn an_interval_without_width_is_said_to_be_none() {
        assert_eq!(with_interval(1.0, 1.0, 1.0, IntervalStyle::PlusMinus), "1.000 ± 0");
    }

    #[test]
    fn one_lopsided_interval_turns_its_column_to_bounds() {
        assert_eq!(IntervalStyle::for_all([(5.0, 4.0, 6.0), (5.0, 4.2, 6.0)]), IntervalStyle::PlusMinus);
        assert_eq!(IntervalStyle::for_all([(5.0, 4.0, 6.0), (5.0, 4.8, 9.0)]), IntervalStyle::Bounds);
        assert_eq!(IntervalStyle::for_all([]), IntervalStyle::PlusMinus);
    }
}
