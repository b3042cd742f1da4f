//! Takes keys and passwords out of rows.

use stillhouse_stage::Failure;
use stillhouse_stage::spec::{Config, find_secrets};

use super::redaction::{Finding, judge};
use super::regex::compile;
use super::{Action, EachRow, Filter, Judged, Pass, Place};

/// Finds what is shaped like a secret: keys of well-known services, `Bearer …`, `api_key=…`, passwords in addresses, JSON web
/// tokens, private keys.
#[derive(Clone, Copy, Debug, Config)]
pub struct Secrets {
    /// What becomes of a row with one.
    #[config(default = Action::Redact)]
    pub action: Action,
}

/// Shapes beside those that an experiment file is searched for.
const SHAPES: &[&str] = &[
    r"(?s)-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----.*?(?:-----END (?:[A-Z0-9]+ )*PRIVATE KEY-----|\z)",
    r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",
    r"\bxox[abeprs]-[A-Za-z0-9-]{10,}",
];

impl Filter for Secrets {
    fn start(&self, _place: &Place<'_>) -> Result<Box<dyn Pass>, Failure> {
        let shapes: Vec<regex::Regex> =
            SHAPES.iter().map(|shape| compile(shape)).collect::<Result<_, _>>().map_err(Failure::internal)?;
        let action = self.action;
        let find = move |text: &str| -> Vec<Finding> {
            let shaped = shapes.iter().flat_map(|shape| shape.find_iter(text)).map(|found| found.range());
            find_secrets(text).into_iter().chain(shaped).map(|place| (place, "secret")).collect()
        };
        Ok(Box::new(EachRow(move |row: &Judged<'_>| judge(row, action, &find))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::Verdict;
    use crate::filters::testing::{judged, reasons, verdicts};

    fn redacted(text: &str) -> String {
        match verdicts(&Secrets { action: Action::Redact }, &[judged(text)]).remove(0) {
            Verdict::Change(texts) => texts.completion,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn secrets_are_covered_and_the_rest_stays() {
        let key = format!("sk-{}", "abcdefghijklmnop1234");
        assert_eq!(redacted(&format!("export KEY={key}\nls")), "export KEY=[secret]\nls");
        let pem = |middle: &str| format!("a\n-----BEGIN RSA PRIVATE KEY-----\nMIIE{middle}");
        assert_eq!(redacted(&pem("\n-----END RSA PRIVATE KEY-----\nb")), "a\n[secret]\nb");
        assert_eq!(redacted(&pem(" cut off")), "a\n[secret]");
        let token = ["eyJhbGciOiJIUzI1NiJ9", "eyJzdWIiOiIxMjM0In0", "dozjgNryP4J3jVmNHl0w5N"].join(".");
        assert_eq!(redacted(&format!("t: {token}.")), "t: [secret].");
        assert_eq!(redacted("a password is a secret"), "Keep");
    }

    #[test]
    fn a_row_may_go_and_the_reason_does_not_repeat_the_secret() {
        let text = format!("it is ghp_{}", "0123456789abcdefABCDEF");
        assert_eq!(
            reasons(&Secrets { action: Action::Drop }, &[judged(&text)]),
            ["there is something of the kind `secret` in it"]
        );
    }
}
