//! Amazon's secret access keys: 40 characters of base64 without a mark of their own, known by what stands before them.

use std::ops::Range;

use super::super::regex::compile;
use super::assignment::entropy;

/// The name as Amazon's tools and pages write it (`aws_secret_access_key = …`, `"SecretAccessKey": "…"`,
/// `<SecretAccessKey>…`, `AWS Secret Access Key [None]: …`), and a word of base64 behind it.
const NAMED: &str = r#"(?x)
    (?i: secret [_\ -]? (?: access [_\ -]? )? key ) ["']?
    (?: [\ \t]* \[ [^\]\n]{0,40} \] )?
    (?: [\ \t]* (?: := | => | = | : ) [\ \t]* | > | [\ \t]+ (?: is [\ \t]+ )? )
    ["'`]? (?P<key> [A-Za-z0-9/+]{40,} )"#;

/// Characters of a key.
const LENGTH: usize = 40;
/// Least entropy of its characters, in bits a character. Random ones have about 4.8, a path or a name of 40 characters hardly 4.
const LEAST_ENTROPY: f64 = 4.25;

/// Finds keys.
pub(super) struct AmazonKeys(regex::Regex);

impl AmazonKeys {
    pub(super) fn new() -> Result<Self, String> {
        Ok(Self(compile(NAMED)?))
    }

    /// The places of the keys.
    pub(super) fn find(&self, text: &str) -> Vec<Range<usize>> {
        let keys = self.0.captures_iter(text).filter_map(|captures| captures.name("key"));
        keys.filter(|key| is_key(key.as_str())).map(|key| key.range()).collect()
    }
}

fn is_key(word: &str) -> bool {
    let has = |kind: fn(&u8) -> bool| word.bytes().any(|byte| kind(&byte));
    let mixed = has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase) && has(u8::is_ascii_digit);
    word.len() == LENGTH && mixed && entropy(word) >= LEAST_ENTROPY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_that_amazon_documents_is_found_under_its_names_and_nothing_else_is() {
        let keys = AmazonKeys::new().unwrap();
        let found = |text: &str| keys.find(text).into_iter().map(|place| text[place].to_owned()).collect::<Vec<_>>();
        // Put together here so that no scanner takes this file for a leak.
        let key = ["wJalrXUtnFEMI", "K7MDENG", "bPxRfiCYEXAMPLEKEY"].join("/");
        for text in [
            format!("aws_secret_access_key = {key}\nregion = x"),
            format!("export AWS_SECRET_ACCESS_KEY={key}"),
            format!("AWS_SECRET_KEY='{key}'"),
            format!("\"SecretAccessKey\": \"{key}\","),
            format!("<SecretAccessKey>{key}</SecretAccessKey>"),
            format!("AWS Secret Access Key [None]: {key}"),
            format!("the secret access key is {key}."),
            format!("secretAccessKey: '{key}'"),
        ] {
            assert_eq!(found(&text), [key.as_str()], "{text}");
        }
        for text in [
            key.clone(),
            format!("image = {key}"),
            "secret_key = aaaaaaaaaabbbbbbbbbbccccccccccdddddddddd".into(),
            "the secret key is Users/Joe2/Documents/Projects/Important/".into(),
            format!("secret_key = {key}{key}"),
        ] {
            assert_eq!(found(&text), [""; 0], "{text}");
        }
    }
}
