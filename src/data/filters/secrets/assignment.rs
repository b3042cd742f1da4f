//! A name of a secret and a value: `aws_secret_access_key = …`, `"password": "…"`, `token=…`.
//!
//! The names alone are prose and code as well (`token = tokenizer.next()`), so the value must look random: keys by their
//! entropy, digits and length, passwords in quotes by the kinds of their characters.

use std::collections::BTreeMap;
use std::ops::Range;

use super::super::regex::compile;

/// A name's end, what assigns, and a value in quotes or bare.
const ASSIGNMENT: &str = r#"(?x)
    (?P<name> (?i: (?:api|access|secret|account|private)[_-]?key | token | secret | password | passwd | passphrase | pwd ) )
    ["']? [\ \t]* (?: := | => | = | : ) [\ \t]*
    (?: "(?P<double>[^"\s]{8,200})" | '(?P<single>[^'\s]{8,200})' | (?P<bare>[A-Za-z0-9_/+~-]{16,200}=*) )"#;

/// A password as a file of settings or of logins has it, without quotes: `DB_PASSWORD=…` to the end of the line, and netrc's.
const BARE_PASSWORD: &str = r"(?mx)
    ^ [\ \t]* (?: export [\ \t]+ )? [A-Z0-9_]* (?: PASSWORD | PASSWD | PASSPHRASE | PWD ) [\ \t]* = [\ \t]*
        (?P<setting> [^\s\x22'`]{8,200} ) [\ \t\r]* $
    | \b machine \s+ \S+ \s+ login \s+ \S+ \s+ password \s+ (?P<netrc> \S{6,200} )";

/// Names whose value a person thought out.
const THOUGHT_OUT: &[&str] = &["pass", "pwd"];

/// Least entropy of a key's characters, in bits a character: that of 16 random hexadecimal digits is about 3.2, that of
/// words in a row hardly comes with digits.
const LEAST_ENTROPY: f64 = 3.0;

/// Finds assignments.
pub(super) struct Assignments {
    named: regex::Regex,
    bare_passwords: regex::Regex,
}

impl Assignments {
    pub(super) fn new() -> Result<Self, String> {
        Ok(Self { named: compile(ASSIGNMENT)?, bare_passwords: compile(BARE_PASSWORD)? })
    }

    /// The places of the values.
    pub(super) fn find(&self, text: &str) -> Vec<Range<usize>> {
        let found = self.named.captures_iter(text).filter_map(|captures| {
            let name = captures.name("name")?.as_str().to_lowercase();
            let quoted = captures.name("double").or_else(|| captures.name("single"));
            let value = quoted.or_else(|| captures.name("bare"))?;
            if is_placeholder(value.as_str()) {
                return None;
            }
            let thought_out = quoted.is_some() && THOUGHT_OUT.iter().any(|beginning| name.starts_with(beginning));
            // A bare word that goes on like this is a call or a field of a program.
            let mut behind = text[value.end()..].chars();
            let of_a_program = quoted.is_none()
                && match behind.next() {
                    Some('(' | '[') => true,
                    Some('.') => behind.next().is_some_and(char::is_alphanumeric),
                    _ => false,
                };
            let secret = is_random(value.as_str()) && !of_a_program || thought_out && is_mixed(value.as_str());
            secret.then(|| value.range())
        });
        let passwords = self.bare_passwords.captures_iter(text).filter_map(|captures| {
            let value = captures.name("setting").or_else(|| captures.name("netrc"))?;
            (!is_placeholder(value.as_str()) && is_mixed(value.as_str())).then(|| value.range())
        });
        found.chain(passwords).collect()
    }
}

fn is_placeholder(value: &str) -> bool {
    let is_pattern = ["[a-z", "[A-Z", "[0-9", "\\d"].iter().any(|class| value.contains(class));
    value.starts_with(['<', '[', '{', '$', '%']) || value.contains("...") || value.contains("${") || is_pattern
}

/// Two digits or more, a long part of letters and digits, and little that repeats.
fn is_random(value: &str) -> bool {
    let has = |part: &str, kind: fn(&u8) -> bool| part.bytes().filter(kind).count();
    let long =
        |part: &str| part.len() >= 10 && has(part, u8::is_ascii_digit) > 0 && has(part, u8::is_ascii_alphabetic) > 0;
    has(value, u8::is_ascii_digit) >= 2
        && value.split(|character: char| !character.is_ascii_alphanumeric()).any(long)
        && entropy(value) >= LEAST_ENTROPY
}

/// Three of the kinds lower case, upper case, digit and other.
fn is_mixed(value: &str) -> bool {
    let kinds: [fn(char) -> bool; 4] =
        [char::is_lowercase, char::is_uppercase, |c| c.is_ascii_digit(), |c| !c.is_alphanumeric()];
    kinds.iter().filter(|kind| value.chars().any(**kind)).count() >= 3
}

/// Shannon's entropy of a text's bytes, in bits a byte.
pub(super) fn entropy(text: &str) -> f64 {
    let mut counts: BTreeMap<u8, f64> = BTreeMap::new();
    text.bytes().for_each(|byte| *counts.entry(byte).or_default() += 1.0);
    let all = text.len() as f64;
    counts.values().map(|count| -(count / all) * (count / all).log2()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<&str> {
        Assignments::new().unwrap().find(text).into_iter().map(|place| &text[place]).collect()
    }

    #[test]
    fn values_that_look_random_are_found_under_names_of_secrets() {
        let key = ["sITvNsUHbDwxRV0Lic", "aqJDR6g4RImaBXZBMKST9O"].concat();
        for text in [
            format!("aws_secret_access_key = {key}"),
            format!("token={key}"),
            format!("\"clientSecret\": \"{key}\""),
            format!("AccountKey={key}=="),
            format!("auth_token := '{key}'"),
        ] {
            let value = found(&text);
            assert!(value.len() == 1 && value[0].trim_end_matches('=') == key, "{text}: {value:?}");
        }
        assert_eq!(
            found("{\"password\": \"S3cretPassw0rd!\", \"pwd\":'Tr0ub4dor&3'}"),
            ["S3cretPassw0rd!", "Tr0ub4dor&3"]
        );
        let password = ["xK9#mP2", "vL7q"].concat();
        for text in [
            format!("DB_PASSWORD={password}\nDB_HOST=x"),
            format!("export PGPASSWORD={password}"),
            format!("machine firma.de login joe password {password}"),
        ] {
            assert_eq!(found(&text), [password.as_str()], "{text}");
        }
    }

    #[test]
    fn prose_and_programs_are_none() {
        for text in [
            "the password: correct horse battery staple",
            "\"password\": \"password\"",
            "password = \"<your-Passw0rd>\"",
            "token = tokenizer_for_step_2024.next()",
            "token = special_tokens_of_the_model_2",
            "secret: internationalization1",
            "\"token\": \"aaaaaaaaaaaaaaaaaaaaaa11\"",
            "api_key = \"${OPENAI_API_KEY_2024}\"",
            "access_key: AccessKeyOfTheUser",
            "max_token = 1000000000000000000000",
            "\"password\": \"^[A-Za-z0-9]{8,}$\"",
            "PASSWORD=$(pass show Db1)",
            "PASSWORD=changeme",
            "every machine has a login and a password",
        ] {
            assert_eq!(found(text), Vec::<&str>::new(), "{text}");
        }
    }
}
