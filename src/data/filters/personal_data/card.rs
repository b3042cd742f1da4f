//! Numbers of payment cards.

/// Digits without a gap, or in the groups that are printed on cards.
pub(super) const SHAPE: &str = r"\b(?:\d{4}[ -]\d{4}[ -]\d{4}[ -]\d{4}|\d{4}[ -]\d{6}[ -]\d{4,5}|\d{13,19})\b";

/// Whether the digits begin and are as long as those of a large network's cards, and their checksum is right.
pub(super) fn is_card(text: &str) -> bool {
    let digits: Vec<u32> = text.chars().filter_map(|character| character.to_digit(10)).collect();
    let beginning = |length: usize| digits.iter().take(length).fold(0, |number, digit| number * 10 + digit);
    let network = match digits.len() {
        13 | 19 => beginning(1) == 4,
        14 => matches!(beginning(2), 36 | 38) || (300..=305).contains(&beginning(3)),
        15 => matches!(beginning(2), 34 | 37),
        16 => {
            beginning(1) == 4
                || (51..=55).contains(&beginning(2))
                || (2221..=2720).contains(&beginning(4))
                || (3528..=3589).contains(&beginning(4))
                || beginning(4) == 6011
                || matches!(beginning(2), 62 | 65)
        }
        _ => false,
    };
    network && luhn(&digits) && !is_bar_code(&digits)
}

/// Whether 13 digits are a bar code: GTIN-13's checksum (GS1 General Specifications, section 7.9), in which every second digit counts
/// three times. Germany's begin with 40 to 44, as cards of that length would, of which next to none is left.
fn is_bar_code(digits: &[u32]) -> bool {
    let weighted = digits.iter().enumerate().map(|(place, digit)| if place % 2 == 0 { *digit } else { 3 * digit });
    digits.len() == 13 && weighted.sum::<u32>().is_multiple_of(10)
}

/// The checksum of ISO/IEC 7812-1, annex B: from the right, every second digit is doubled and its digits are added.
fn luhn(digits: &[u32]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| match (place % 2, digit * 2) {
            (0, _) => *digit,
            (_, doubled) if doubled > 9 => doubled - 9,
            (_, doubled) => doubled,
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The networks publish these for tests.
    #[test]
    fn cards_of_the_networks_are_known_and_a_wrong_digit_is_none() {
        for card in [
            "4111111111111111",
            "5555 5555 5555 4444",
            "378282246310005",
            "6011111111111117",
            "30569309025904",
            "3530111333300000",
        ] {
            assert!(is_card(card), "{card}");
            for (place, digit) in card.char_indices().filter_map(|(place, digit)| Some((place, digit.to_digit(10)?))) {
                let mut wrong = card.to_owned();
                wrong.replace_range(place..=place, &((digit + 1) % 10).to_string());
                assert!(!is_card(&wrong), "{wrong}");
            }
        }
        assert!(!is_card("0000000000000000"));
        assert!(is_card("4222222222222"), "of 13 digits");
        assert!(!is_card("4006381333023"), "a bar code, though Luhn's checksum is right, too");
        assert!(!is_card("1111111111111117"), "no network begins with 1");
    }
}
