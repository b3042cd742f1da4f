//! International bank account numbers (ISO 13616).

use std::ops::Range;

/// The length of every country's numbers, as SWIFT's registry lists them.
const LENGTHS: &[(&str, usize)] = &[
    ("AD", 24),
    ("AE", 23),
    ("AL", 28),
    ("AT", 20),
    ("AZ", 28),
    ("BA", 20),
    ("BE", 16),
    ("BG", 22),
    ("BH", 22),
    ("BI", 27),
    ("BR", 29),
    ("BY", 28),
    ("CH", 21),
    ("CR", 22),
    ("CY", 28),
    ("CZ", 24),
    ("DE", 22),
    ("DJ", 27),
    ("DK", 18),
    ("DO", 28),
    ("EE", 20),
    ("EG", 29),
    ("ES", 24),
    ("FI", 18),
    ("FK", 18),
    ("FO", 18),
    ("FR", 27),
    ("GB", 22),
    ("GE", 22),
    ("GI", 23),
    ("GL", 18),
    ("GR", 27),
    ("GT", 28),
    ("HN", 28),
    ("HR", 21),
    ("HU", 28),
    ("IE", 22),
    ("IL", 23),
    ("IQ", 23),
    ("IS", 26),
    ("IT", 27),
    ("JO", 30),
    ("KW", 30),
    ("KZ", 20),
    ("LB", 28),
    ("LC", 32),
    ("LI", 21),
    ("LT", 20),
    ("LU", 20),
    ("LV", 21),
    ("LY", 25),
    ("MC", 27),
    ("MD", 24),
    ("ME", 22),
    ("MK", 19),
    ("MN", 20),
    ("MR", 27),
    ("MT", 31),
    ("MU", 30),
    ("NI", 28),
    ("NL", 18),
    ("NO", 15),
    ("OM", 23),
    ("PK", 24),
    ("PL", 28),
    ("PS", 29),
    ("PT", 25),
    ("QA", 29),
    ("RO", 24),
    ("RS", 22),
    ("RU", 33),
    ("SA", 24),
    ("SC", 31),
    ("SD", 18),
    ("SE", 24),
    ("SI", 19),
    ("SK", 24),
    ("SM", 27),
    ("SO", 23),
    ("ST", 25),
    ("SV", 28),
    ("TL", 23),
    ("TN", 24),
    ("TR", 26),
    ("UA", 29),
    ("VA", 22),
    ("VG", 24),
    ("XK", 20),
    ("YE", 30),
];

/// The numbers in a text, with or without spaces between groups.
pub(super) fn find(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let mut found: Vec<Range<usize>> = Vec::new();
    for start in 0..bytes.len().saturating_sub(3) {
        let begins = bytes[start].is_ascii_uppercase()
            && bytes[start + 1].is_ascii_uppercase()
            && bytes[start + 2].is_ascii_digit()
            && bytes[start + 3].is_ascii_digit();
        let inside = start > 0 && bytes[start - 1].is_ascii_alphanumeric();
        if begins
            && !inside
            && let Some(end) = end_of(bytes, start)
        {
            found.push(start..end);
        }
    }
    found
}

/// Where the number that begins at `start` ends, if it is one.
fn end_of(bytes: &[u8], start: usize) -> Option<usize> {
    let (_, length) = LENGTHS.iter().find(|(country, _)| country.as_bytes() == &bytes[start..start + 2])?;
    let mut characters = Vec::with_capacity(*length);
    let mut end = start;
    while characters.len() < *length {
        match bytes.get(end)? {
            byte if byte.is_ascii_digit() || byte.is_ascii_uppercase() => characters.push(*byte),
            b' ' if bytes[end - 1] != b' ' => {}
            _ => return None,
        }
        end += 1;
    }
    let goes_on = bytes.get(end).is_some_and(u8::is_ascii_alphanumeric);
    (!goes_on && remainder(&characters) == 1).then_some(end)
}

/// The number with its first four characters at the end and letters as 10 … 35, modulo 97.
fn remainder(characters: &[u8]) -> u32 {
    let turned = characters[4..].iter().chain(&characters[..4]);
    turned.fold(0, |rest, byte| match byte {
        b'0'..=b'9' => (rest * 10 + u32::from(byte - b'0')) % 97,
        _ => (rest * 100 + u32::from(byte - b'A') + 10) % 97,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<&str> {
        find(text).into_iter().map(|place| &text[place]).collect()
    }

    /// Examples of SWIFT's registry.
    #[test]
    fn numbers_of_countries_that_joined_late_are_found() {
        for number in [
            "BI4210000100010000332045181",
            "DJ2100010000000154000100186",
            "FK88SC123456789012",
            "HN88CABF00000000000250005469",
            "LY83002048000020100120361",
            "MN121234123456789123",
            "NI45BAPR00000013000003558124",
            "OM810180000001299123456",
            "RU0304452522540817810538091310419",
            "SD8811123456789012",
            "SO211000001001000100141",
            "YE15CBYE0001018861234567891234",
        ] {
            assert_eq!(texts(number), [number], "{number}");
        }
    }

    /// Examples of SWIFT's registry.
    #[test]
    fn numbers_of_several_countries_are_found_and_a_wrong_digit_is_none() {
        for number in
            ["GB82WEST12345698765432", "DE89370400440532013000", "NO9386011117947", "FR1420041010050500013M02606"]
        {
            assert_eq!(texts(number), [number], "{number}");
            assert!(find(&format!("{number}1")).is_empty(), "{number} goes on");
            assert!(find(&format!("X{number}")).is_empty(), "{number} has something before it");
            let wrong = number.replacen('1', "2", 1);
            assert!(find(&wrong).is_empty(), "{wrong}");
        }
        assert_eq!(texts("\u{e9} NO93 8601 1117 947."), ["NO93 8601 1117 947"]);
        assert!(find("XX12").is_empty());
        assert!(find("DE89 3704").is_empty());
    }
}
