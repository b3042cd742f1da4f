//! Telephone numbers, and what is written like one and is none: sizes in a row, parts of longer numbers.

use std::ops::Range;

use super::super::regex::compile;
use super::starts_afresh;

/// E.164 has at most 15 digits.
const INTERNATIONAL: &str = r"\+[1-9]\d{0,2}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d(?:[ ./-]?\d){5,13}\b";
const NORTH_AMERICAN: &str = r"(?:\([2-9]\d{2}\) ?|\b[2-9]\d{2}[-. ])[2-9]\d{2}[-. ]\d{4}\b";
/// A national number behind a word that says what it is.
const LABELLED: &str = r"(?i)\b(?:tel|telefon|telephone|phone|mobile|mobil|cell|fax|handy)(?:[ .-]?(?:no|nr|number|nummer))?[.:]{1,2}[ \t]*(?P<number>\(?0?\d[\d ()/.-]{4,18}\d)\b";
/// Country codes that E.164 does not assign (as of 2024), by their beginnings.
const UNASSIGNED: &[&str] = &[
    "210", "214", "215", "217", "219", "259", "28", "292", "293", "294", "295", "296", "384", "422", "424", "425",
    "426", "427", "428", "429", "671", "684", "693", "694", "695", "696", "697", "698", "699", "80", "83", "85", "87",
    "88", "89", "97", "99",
];
/// Parts that are all multiples of this are sizes (`256-512-1024`): of telephone numbers one in 32,768 is.
const SIZE: u32 = 32;

/// Finds numbers.
pub(super) struct Numbers {
    international: regex::Regex,
    labelled: regex::Regex,
    north_american: regex::Regex,
}

impl Numbers {
    pub(super) fn new() -> Result<Self, String> {
        Ok(Self {
            international: compile(INTERNATIONAL)?,
            labelled: compile(LABELLED)?,
            north_american: compile(NORTH_AMERICAN)?,
        })
    }

    /// The places of the numbers.
    pub(super) fn find(&self, text: &str) -> Vec<Range<usize>> {
        let international = self.international.find_iter(text).filter(|found| {
            let digits: String = found.as_str().chars().filter(char::is_ascii_digit).collect();
            (8..=15).contains(&digits.len())
                && starts_afresh(text, found.start())
                && !is_value(text, found.start(), found.as_str())
                && could_be_dialled(&digits)
        });
        let labelled = self
            .labelled
            .captures_iter(text)
            .filter_map(|captures| captures.name("number"))
            .filter(|found| (6..=13).contains(&found.as_str().bytes().filter(u8::is_ascii_digit).count()));
        let north_american = self
            .north_american
            .find_iter(text)
            .filter(|found| is_whole(text, &found.range()) && !are_sizes(found.as_str()));
        international.chain(labelled).chain(north_american).map(|found| found.range()).collect()
    }
}

/// Whether it is a number with its sign that something is set to: `a = +4912345678`.
fn is_value(text: &str, start: usize, number: &str) -> bool {
    text[..start].trim_end_matches([' ', '\t']).ends_with('=') && number[1..].bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether there is such a country, and no date (`+20240517103000` is a line that was added) or number of North America that is too short.
fn could_be_dialled(digits: &str) -> bool {
    let is_date = digits.len() == 14 && (digits.starts_with("19") || digits.starts_with("20"));
    let north_american = !digits.starts_with('1')
        || (digits.len() == 11 && [1, 4].iter().all(|place| digits.as_bytes()[*place] >= b'2'));
    !is_date && north_american && !UNASSIGNED.iter().any(|code| digits.starts_with(code))
}

/// Whether it is no part of a longer row of numbers: `2.718 281 8284`, `128-256-512-1024`. The country's own 1 may stand before it.
fn is_whole(text: &str, place: &Range<usize>) -> bool {
    let before = &text[..place.start];
    let joined = before.strip_suffix(['.', '-']).unwrap_or_default();
    let of_the_country =
        joined.strip_suffix('1').is_some_and(|rest| !rest.ends_with(|c: char| c.is_alphanumeric() || ".-".contains(c)));
    let goes_before = joined.ends_with(|c: char| c.is_ascii_digit()) && !of_the_country;
    let mut behind = text[place.end..].chars();
    let goes_on = behind.next().is_some_and(|c| ".-".contains(c)) && behind.next().is_some_and(|c| c.is_ascii_digit());
    !(goes_before || goes_on)
}

fn are_sizes(number: &str) -> bool {
    let mut parts = number.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse::<u32>().ok());
    !number.starts_with('(') && parts.all(|part| part.is_multiple_of(SIZE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_like_a_number_and_is_none_stays() {
        let numbers = Numbers::new().unwrap();
        for text in [
            "on 2024-10-05 at 12:30:00+02:00, 2024-10-05T12:30:00.123456789Z",
            "version 120.0.6099.109, 10.214.555.1234 and 1.214.555-1234.7",
            "sizes 256-512-1024, 256 512 1024 and 512.768.2048",
            "layers 784-300-256-1000",
            "e = 2.718 281 8284",
            "@@ -212,555 +212,555 @@",
            "sum: 1+1234, 12+3456789",
            "id 1234567890, 202-555-01234",
            "a = +4294967296; offset=+8613800138000",
            "+1234567891\n+20240517103000\n+4294967295",
            "in hotel:12345678 and tel: 123",
        ] {
            let found: Vec<&str> = numbers.find(text).into_iter().map(|place| &text[place]).collect();
            assert_eq!(found, [""; 0], "{text}");
        }
    }

    #[test]
    fn numbers_beside_such_things_are_found() {
        let numbers = Numbers::new().unwrap();
        for (text, expected) in [
            ("1-212-555-0123, 1.212.555.0123.", vec!["212-555-0123", "212.555.0123"]),
            ("call 212-555-0123.", vec!["212-555-0123"]),
            ("Tel: 030/1234567, Phone: 4158675309", vec!["030/1234567", "4158675309"]),
            ("Tel.: (030) 123 45 67\nFax-Nr.: 030-1234568", vec!["(030) 123 45 67", "030-1234568"]),
            ("+4915112345678 and +12125550123", vec!["+4915112345678", "+12125550123"]),
            ("(256) 512-1024 is one", vec!["(256) 512-1024"]),
            ("+1 212 555 0123; +49 30 123456", vec!["+1 212 555 0123", "+49 30 123456", "212 555 0123"]),
        ] {
            let found: Vec<&str> = numbers.find(text).into_iter().map(|place| &text[place]).collect();
            assert_eq!(found, expected, "{text}");
        }
    }
}
