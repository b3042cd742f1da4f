//! What secrets look like inside a text: keys of well-known services, `Bearer …`, `api_key=…`, `https://user:password@…`.

use std::ops::Range;

use super::{SHORTEST, could_be_a_secret, folded, is_certain, names_a_secret};

/// Prefixes that the keys of well-known services carry, and whether what follows may hold `-` and `_`.
const PREFIXES: &[(&str, bool)] = &[
    ("sk-", true),
    ("sk_", true),
    ("xai-", true),
    ("glpat-", true),
    ("github_pat_", true),
    ("AIza", true),
    ("hf_", false),
    ("ghp_", false),
    ("gsk_", false),
    ("AKIA", false),
];

/// Fewest characters of a key after its prefix.
const SHORTEST_KEY: usize = 16;

/// Words of a header before a key, in lower case.
const SCHEMES: &[&str] = &["bearer ", "authorization: basic ", "authorization: token "];

/// The parts of a text that look like secrets, in order and apart from each other.
pub(super) fn find(text: &str) -> Vec<Range<usize>> {
    let mut found: Vec<_> =
        keys(text).chain(credentials(text)).chain(assignments(text)).chain(passwords(text)).collect();
    found.sort_by_key(|range| (range.start, range.end));
    let mut apart: Vec<Range<usize>> = Vec::new();
    for range in found {
        match apart.last_mut() {
            Some(last) if range.start < last.end => last.end = last.end.max(range.end),
            _ => apart.push(range),
        }
    }
    apart
}

/// How many bytes from `start` on are ASCII that `accepts`.
fn run(text: &str, start: usize, accepts: impl Fn(u8) -> bool) -> usize {
    text.as_bytes()[start..].iter().take_while(|byte| byte.is_ascii() && accepts(**byte)).count()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

fn has_digit(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_digit())
}

/// Keys by their prefix, at the start of a word. A word with `/` or `.` in it is a path or a file's name.
fn keys(text: &str) -> impl Iterator<Item = Range<usize>> {
    let bytes = text.as_bytes();
    PREFIXES.iter().flat_map(move |(prefix, dashes)| {
        text.match_indices(prefix).filter_map(move |(start, _)| {
            let before = &bytes[..start];
            let starts_word = before.last().is_none_or(|byte| !is_word(*byte) && *byte != b'.' && *byte != b'/');
            if !starts_word && !before.ends_with(b"//") {
                return None;
            }
            let end = start + run(text, start, is_word);
            let goes_on = match bytes.get(end) {
                // A path, or a function of a program (`sk_X509_EXTENSION_num(…)` of OpenSSL).
                Some(b'/' | b'(') => true,
                Some(b'.') => bytes.get(end + 1).is_some_and(|byte| is_word(*byte)),
                _ => false,
            };
            let key = &text[(start + prefix.len()).min(end)..end];
            // A key of random characters has a long part with a digit, `sk-learn-models-2024` has not.
            let random = key.split(['-', '_']).any(|part| part.len() >= SHORTEST && has_digit(part));
            let shaped = key.len() >= SHORTEST_KEY && random && (*dashes || !key.contains(['-', '_']));
            (shaped && !goes_on).then_some(start..end)
        })
    })
}

/// `Bearer …` and other words of an authorization header.
fn credentials(text: &str) -> impl Iterator<Item = Range<usize>> {
    let lower = text.to_ascii_lowercase();
    SCHEMES.iter().flat_map(move |scheme| {
        let starts: Vec<usize> = lower.match_indices(scheme).map(|(start, _)| start + scheme.len()).collect();
        starts.into_iter().filter_map(|start| {
            let end = start + run(text, start, |byte| is_word(byte) || b".~+/=".contains(&byte));
            (end - start >= SHORTEST_KEY && has_digit(&text[start..end])).then_some(start..end)
        })
    })
}

/// `?api_key=…`, `OPENAI_API_KEY=…`, `x-api-key: …`, `api-key = "…"`: a name of a secret and a value.
fn assignments(text: &str) -> impl Iterator<Item = Range<usize>> {
    text.match_indices(['=', ':']).filter_map(|(at, separator)| {
        let name_end = text[..at].trim_end_matches([' ', '"', '\'']).len();
        let name_length = text.as_bytes()[..name_end].iter().rev().take_while(|byte| is_word(**byte)).count();
        let name_start = name_end - name_length;
        let name = folded(&text[name_start..name_end]);
        let in_query = separator == "=" && text[..name_start].ends_with(['?', '&', ';']);
        // Outside of a query, a word like "password" alone is prose.
        let named = if in_query { names_a_secret(&name) } else { is_certain(&name) && name.contains('-') };
        if !named {
            return None;
        }
        let rest = text[at + 1..].trim_start_matches([' ', '"', '\'']);
        let start = text.len() - rest.len();
        let end = start + run(text, start, |byte| is_word(byte) || b".~+/=%".contains(&byte));
        let value = &text[start..end];
        (could_be_a_secret(value) && (in_query || has_digit(value))).then_some(start..end)
    })
}

/// The password of `scheme://user:password@host`.
fn passwords(text: &str) -> impl Iterator<Item = Range<usize>> {
    text.match_indices("://").filter_map(|(at, mark)| {
        let start = at + mark.len();
        let stop = |c: char| {
            c.is_whitespace() || c.is_control() || matches!(c, '/' | '?' | '#' | '"' | '\'' | '<' | '>' | '`')
        };
        let authority = text[start..].split(stop).next().unwrap_or_default();
        let (user_information, _) = authority.rsplit_once('@')?;
        let (user, password) = user_information.split_once(':')?;
        let variable = password.is_empty() || password.starts_with(['$', '{']);
        let from = start + user.len() + 1;
        (!variable).then_some(from..from + password.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(text: &str) -> Vec<&str> {
        find(text).into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn keys_of_services_are_found_at_the_starts_of_words() {
        for key in [
            "sk-abcdefghijklmnop1234",
            "sk-proj-Ab1Cd2Ef3Gh4Ij5Kl6_Mn7-Op8",
            "hf_AbCdEfGhIjKlMnOpQrStUv0123",
            "ghp_0123456789abcdefABCDEF",
            "AKIAABCDEFGH12345678",
        ] {
            assert_eq!(hidden(key), [key]);
            assert_eq!(hidden(&format!("run --with {key}, please")), [key]);
            assert_eq!(hidden(&format!("it is {key}.")), [key]);
            assert_eq!(hidden(&format!("https://{key}@github.com/a/b")), [key]);
            assert_eq!(hidden(&format!("mid{key}")), Vec::<&str>::new());
        }
    }

    #[test]
    fn paths_and_words_are_no_keys() {
        for text in [
            "hf_models/SmolLM2-135M",
            "sk-learn-models/random-forest-0123456789",
            "models/hf_abcdefghijklmnop0123456789",
            "sk-learn-models-of-2024",
            "hf_SmolLM2-135M-Instruct",
            "sk-abcdefghijklmnop1234.safetensors",
            "sk-abcdefghijklmnopqrstuv",
            "sk-short1",
            "the bearer of bad news that internationalization",
            "the password: it was hunter2hunter2",
            "https://example.org/a:b@c",
            "http://127.0.0.1:8080/v1",
            "ssh://git@example.org/x",
            "curl -H \"Authorization: Bearer $TOKEN_OF_THE_TEACHER_1\"",
            "https://user:${PASSWORD}@example.org",
            "api_key=os.environ",
            "12:30 = 7 && a==b",
        ] {
            assert_eq!(hidden(text), Vec::<&str>::new(), "{text}");
        }
    }

    #[test]
    fn secrets_inside_commands_and_addresses_are_found() {
        assert_eq!(
            hidden("curl -H 'Authorization: Bearer eyJhbGci.eyJzdWIi.s1gnature'"),
            ["eyJhbGci.eyJzdWIi.s1gnature"]
        );
        assert_eq!(hidden("curl -H 'authorization: basic dXNlcjpwYXNzd29yZDE='"), ["dXNlcjpwYXNzd29yZDE="]);
        assert_eq!(hidden("https://user:pw@host/v1"), ["pw"]);
        assert_eq!(hidden("https://u:p@ss@host"), ["p@ss"]);
        assert_eq!(hidden("http://h/v1?model=m&api_key=abcdefgh&x=1"), ["abcdefgh"]);
        assert_eq!(hidden("OPENAI_API_KEY=abc12345 python ask.py"), ["abc12345"]);
        assert_eq!(hidden("curl -H 'x-api-key: abc12345'"), ["abc12345"]);
        assert_eq!(hidden("# api-key = \"abc12345"), ["abc12345"]);
        assert_eq!(hidden("é?api_key=äbcdefgh sk-abcdefghijklmnop1234é"), ["sk-abcdefghijklmnop1234"]);
    }
}
