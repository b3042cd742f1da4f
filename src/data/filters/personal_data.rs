//! Takes personal data out of rows: e-mail addresses, telephone numbers, card numbers, bank accounts.

mod account;
mod card;
mod email;
mod phone;

use stillhouse_stage::Failure;
use stillhouse_stage::spec::{Config, Diagnostic, Diagnostics, Node};

use super::redaction::{Finding, judge};
use super::regex::compile;
use super::{Action, EachRow, Filter, Judged, Pass, Place};
use email::Addresses;
use phone::Numbers;

/// Finds e-mail addresses, telephone numbers, card numbers (by their checksum) and IBANs (by theirs). What has no shape of
/// its own (names, addresses) it does not find.
#[derive(Clone, Debug, Config)]
#[config(check = sound)]
pub struct PersonalData {
    /// What is looked for.
    #[config(default = vec![Kind::Email, Kind::Phone, Kind::Card, Kind::Iban])]
    pub kinds: Vec<Kind>,
    /// What becomes of a row with any.
    #[config(default = Action::Redact)]
    pub action: Action,
}

/// A kind of personal data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
pub enum Kind {
    /// E-mail addresses, but for those of domains that RFC 2606 reserves for examples, and for what is written like one: logins
    /// (`git@github.com`), versions of packages, files (`icon@2x.png`).
    Email,
    /// Telephone numbers: international ones with a plus, and those of North America that are no sizes in a row.
    Phone,
    /// Card numbers: a network's beginning and length, and Luhn's checksum; no bar codes.
    Card,
    /// International bank account numbers: a country's length, and the checksum modulo 97 (ISO 13616).
    Iban,
}

fn sound(config: &PersonalData, node: &Node, report: &mut Diagnostics) {
    if config.kinds.is_empty() {
        report.push(Diagnostic::error(node.at, "`kinds` is empty: nothing would be looked for"));
    }
}

struct Finder {
    kinds: Vec<Kind>,
    addresses: Addresses,
    numbers: Numbers,
    card: regex::Regex,
}

impl Finder {
    fn new(kinds: &[Kind]) -> Result<Self, String> {
        let (addresses, numbers) = (Addresses::new()?, Numbers::new()?);
        Ok(Self { kinds: kinds.to_vec(), addresses, numbers, card: compile(card::SHAPE)? })
    }

    fn find(&self, text: &str) -> Vec<Finding> {
        self.kinds.iter().flat_map(|kind| self.of_kind(*kind, text)).collect()
    }

    fn of_kind(&self, kind: Kind, text: &str) -> Vec<Finding> {
        let (places, what) = match kind {
            Kind::Email => (self.addresses.find(text), "email"),
            Kind::Phone => (self.numbers.find(text), "phone"),
            Kind::Card => {
                let real =
                    |found: &regex::Match<'_>| card::is_card(found.as_str()) && starts_afresh(text, found.start());
                (self.card.find_iter(text).filter(real).map(|found| found.range()).collect(), "card")
            }
            Kind::Iban => (account::find(text), "iban"),
        };
        places.into_iter().map(|place| (place, what)).collect()
    }
}

/// Whether what begins here goes on from nothing: no digit, letter or point before it.
fn starts_afresh(text: &str, start: usize) -> bool {
    !text[..start].ends_with(|character: char| character.is_alphanumeric() || character == '.')
}

impl Filter for PersonalData {
    fn start(&self, _place: &Place<'_>) -> Result<Box<dyn Pass>, Failure> {
        let (finder, action) = (Finder::new(&self.kinds).map_err(Failure::internal)?, self.action);
        Ok(Box::new(EachRow(move |row: &Judged<'_>| judge(row, action, |text| finder.find(text)))))
    }

    fn changes_texts(&self) -> bool {
        self.action == Action::Redact
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::testing::{judged, kept, reasons, verdicts};
    use crate::filters::{Texts, Verdict};
    use crate::prompt::Message;

    fn filter(action: Action) -> PersonalData {
        PersonalData { kinds: vec![Kind::Email, Kind::Phone, Kind::Card, Kind::Iban], action }
    }

    fn redacted(text: &str) -> String {
        match verdicts(&filter(Action::Redact), &[judged(text)]).remove(0) {
            Verdict::Change(texts) => texts.completion,
            _ => text.to_owned(),
        }
    }

    #[test]
    fn what_is_found_is_covered() {
        for (text, expected) in [
            ("Write to Ann.Lee+x@mail.uni-kiel.de, please.", "Write to [email], please."),
            ("joe@realexample.com, ann@notanexample.org; bob@mytest", "[email], [email]; bob@mytest"),
            (
                "j\u{f6}rg@web.de, o'brien@mail.ie and \u{438}\u{432}\u{430}\u{43d}@m\u{fc}ller.de",
                "[email], [email] and [email]",
            ),
            ("\u{5199}\u{4fe1}\u{5230}joe@web.de\u{8c22}\u{8c22}", "\u{5199}\u{4fe1}\u{5230}[email]\u{8c22}\u{8c22}"),
            ("Call +49 (0)30 1234-5678 or (212) 555-0123!", "Call [phone] or [phone]!"),
            ("tel. 212-555-0123, +14155550123", "tel. [phone], [phone]"),
            ("pay with 4111 1111 1111 1111 now", "pay with [card] now"),
            ("amex 3782-822463-10005.", "amex [card]."),
            ("IBAN DE89 3704 0044 0532 0130 00 AND GB82WEST12345698765432", "IBAN [iban] AND [iban]"),
        ] {
            assert_eq!(redacted(text), expected);
        }
    }

    #[test]
    fn what_only_looks_like_it_stays() {
        for text in [
            "user@example.com and me@host.test and a@b",
            "user@mail.example.com, ann@mail.example and x@y.localhost; pkg@1.0.beta2",
            "on 2024-10-05 at 12:30, 3.14159265358979 and 1+1234",
            "pay with 4111 1111 1111 1112 now",
            "ISBN 978-3-16-148410-0, 1234567890123456",
            "DE89 3704 0044 0532 0130 01",
            "123-456-7890 has no area of its own",
            "git@github.com:owner/repo, user@localhost, logo@2x.png, npm i pkg@1.2.3-rc.next",
            "app@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "v120.0.6099.109 of 2024-10-05T12:30:00.123456789Z, sizes 256-512-1024",
            "at 1700000000000 ms, 1700000000000000 us, id 1234567890123456789, GTIN 4006381333023",
        ] {
            assert_eq!(redacted(text), text);
        }
    }

    #[test]
    fn every_text_of_a_row_is_looked_at() {
        let messages = [Message::user("I am a@b.de")];
        let row = Judged { messages: &messages, reference: Some("c@d.fr"), ..judged("no one") };
        let expected = Texts {
            messages: vec![Message::user("I am [email]")],
            completion: "no one".into(),
            reference: Some("[email]".into()),
        };
        assert_eq!(verdicts(&filter(Action::Redact), &[row]), [Verdict::Change(Box::new(expected))]);
        assert_eq!(reasons(&filter(Action::Drop), &[row]), ["there is something of the kind `email` in it"]);
        let cards = PersonalData { kinds: vec![Kind::Card], action: Action::Drop };
        assert_eq!(kept(&cards, &[row]), [true]);
    }
}
