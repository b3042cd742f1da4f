//! Takes keys and passwords out of rows.

mod amazon;
mod assignment;

use stillhouse_stage::Failure;
use stillhouse_stage::spec::{Config, find_secrets};

use super::redaction::{Finding, judge};
use super::regex::compile;
use super::{Action, EachRow, Filter, Judged, Pass, Place};
use amazon::AmazonKeys;
use assignment::Assignments;

/// Finds what is shaped like a secret: keys of well-known services, `Bearer …`, `api_key=…`, `"password": "…"`, passwords in
/// addresses, JSON web tokens, private keys.
#[derive(Clone, Copy, Debug, Config)]
pub struct Secrets {
    /// What becomes of a row with one.
    #[config(default = Action::Redact)]
    pub action: Action,
}

/// Shapes beside those that an experiment file is searched for.
const SHAPES: &[&str] = &[
    r"(?s)-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|\z)",
    // PuTTY's private keys, and age's.
    r"\bPrivate-Lines: \d+\r?\n(?:[A-Za-z0-9+/=]{8,}\r?\n?)+",
    r"\bAGE-SECRET-KEY-1[A-Z0-9]{58}\b",
    r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",
    // Slack.
    r"\bxox[abeprs]-[A-Za-z0-9-]{10,}",
    r"\bxapp-\d-[A-Za-z0-9]+-\d+-[A-Za-z0-9]{20,}",
    r"https://hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9/_-]{20,}",
    // Discord, Telegram.
    r"https://(?:[a-z]+\.)?discord(?:app)?\.com/api/webhooks/\d+/[A-Za-z0-9_-]{40,}",
    r"\b\d{8,10}:AA[A-Za-z0-9_-]{33}\b",
    // GitHub's and GitLab's that an experiment file is not searched for.
    r"\bgh[opusr]_[A-Za-z0-9]{30,}\b",
    r"\bgl(?:agent|cbt|dt|ft|oas|ptt|rt|soat)-[A-Za-z0-9_-]{20,}",
    // npm, PyPI (a macaroon, whose first bytes are always the same).
    r"\bnpm_[A-Za-z0-9]{36}\b",
    r"\bpypi-AgE[A-Za-z0-9_-]{40,}",
    // Amazon's temporary keys, Google's client secrets and access tokens, DigitalOcean, SendGrid, Replicate.
    r"\bASIA[A-Z0-9]{16}\b",
    r"\bGOCSPX-[A-Za-z0-9_-]{28}",
    r"\bya29\.[A-Za-z0-9_-]{30,}",
    r"\bdo[opr]_v1_[a-f0-9]{64}\b",
    r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",
    r"\br8_[A-Za-z0-9]{30,45}\b",
    // Stripe's restricted keys (an experiment file is searched for its secret ones), Shopify, HashiCorp's Vault, Perplexity, Linear.
    r"\brk_(?:live|test)_[A-Za-z0-9]{16,}",
    r"\bshp(?:at|ca|pa|ss)_[A-Fa-f0-9]{32}\b",
    r"\bhv[sbr]\.[A-Za-z0-9_-]{24,}",
    r"\bpplx-[A-Za-z0-9]{40,}",
    r"\blin_api_[A-Za-z0-9]{32,}\b",
];

impl Filter for Secrets {
    fn start(&self, _place: &Place<'_>) -> Result<Box<dyn Pass>, Failure> {
        let shapes: Vec<regex::Regex> =
            SHAPES.iter().map(|shape| compile(shape)).collect::<Result<_, _>>().map_err(Failure::internal)?;
        let assignments = Assignments::new().map_err(Failure::internal)?;
        let amazon = AmazonKeys::new().map_err(Failure::internal)?;
        let action = self.action;
        let find = move |text: &str| -> Vec<Finding> {
            let shaped = shapes.iter().flat_map(|shape| shape.find_iter(text)).map(|found| found.range());
            let assigned = assignments.find(text).into_iter().chain(amazon.find(text));
            find_secrets(text).into_iter().chain(shaped).chain(assigned).map(|place| (place, "secret")).collect()
        };
        Ok(Box::new(EachRow(move |row: &Judged<'_>| judge(row, action, &find))))
    }

    fn changes_texts(&self) -> bool {
        self.action == Action::Redact
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
        let pgp =
            ["-----BEGIN PGP PRIVATE", "KEY BLOCK-----\n\nlQOYBF\n-----END PGP PRIVATE", "KEY BLOCK-----"].join(" ");
        assert_eq!(redacted(&format!("a\n{pgp}\nb")), "a\n[secret]\nb");
        let putty = format!("Private-Lines: 2\n{}\nAAAAgQ==\nPrivate-MAC: 1", "AAAAgQDMq8".repeat(6));
        assert_eq!(redacted(&putty), "[secret]Private-MAC: 1");
        assert_eq!(redacted("n = sk_X509_EXTENSION_2048NAMES_num(sk);"), "Keep");
        let token = ["eyJhbGciOiJIUzI1NiJ9", "eyJzdWIiOiIxMjM0In0", "dozjgNryP4J3jVmNHl0w5N"].join(".");
        assert_eq!(redacted(&format!("t: {token}.")), "t: [secret].");
        assert_eq!(redacted("a password is a secret"), "Keep");
        let key = ["wJalrXUtnFEMI", "K7MDENG", "bPxRfiCYEXAMPLEKEY"].join("/");
        assert_eq!(redacted(&format!("AWS_SECRET_ACCESS_KEY={key}\nx")), "AWS_SECRET_ACCESS_KEY=[secret]\nx");
    }

    /// The shapes that services document, put together here so that no scanner takes this file for a leak.
    #[test]
    fn keys_of_many_services_are_covered() {
        let random = |length: usize| "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7".chars().cycle().take(length).collect::<String>();
        let hex: String = "0123456789abcdef".chars().cycle().take(64).collect();
        for (prefix, rest) in [
            ("gho_", random(36)),
            ("ghu_", random(36)),
            ("ghs_", random(36)),
            ("ghr_", random(36)),
            ("npm_", random(36)),
            ("SG.", format!("{}.{}", random(22), random(43))),
            ("pypi-AgE", random(80)),
            ("dop_v1_", hex),
            ("xapp-", format!("1-A{}-1234567890123-{}", random(10), random(64))),
            ("r8_", random(37)),
            ("hf_", random(34)),
            ("https://hooks.slack.com/services/", format!("T{}/B{}/{}", random(8), random(8), random(24))),
            ("https://discord.com/api/webhooks/", format!("123456789012345678/{}", random(68))),
            ("ASIA", "ABCDEFGH12345678".to_owned()),
            ("GOCSPX-", random(28)),
            ("123456789:AA", random(33)),
            ("rk_live_", random(24)),
            ("shpat_", "0a1b2c3d4e5f6a7b8c9d0e1f2a3b4c5d".to_owned()),
            ("hvs.", random(40)),
            ("pplx-", random(48)),
            ("lin_api_", random(40)),
            ("AGE-SECRET-KEY-1", random(58).to_uppercase()),
        ] {
            assert_eq!(redacted(&format!("use {prefix}{rest} now")), "use [secret] now", "{prefix}");
        }
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
