//! The key of an API: read from the environment, sent in one header, shown nowhere.

use std::fmt;

use reqwest::header::{HeaderValue, InvalidHeaderValue};

use crate::reply::{Candidate, Reply, TokenLogProbs};

/// What stands where the key was.
const STARS: &str = "***";
/// A shorter key is no secret, and is left where it is: servers that want none are given `none`, `x` or `EMPTY`, and a teacher, or
/// an error, may use those words and letters.
const SECRET_FROM: usize = 6;

/// A key. Its `Debug` is a row of stars, it has no `Display`; [`ApiKey::scrub`] and [`ApiKey::mask`] take it out of
/// whatever a server sends back.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// A key from its text; white space around it (a line end from `$(cat key)`) is not part of it. `None` if nothing
    /// is left.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// `Authorization: Bearer …`, marked so that HTTP's own logging leaves it out.
    ///
    /// # Errors
    /// If the key holds characters that a header cannot carry.
    pub fn bearer(&self) -> Result<HeaderValue, InvalidHeaderValue> {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.0))?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// The key alone, for a header of its own, marked in the same way.
    ///
    /// # Errors
    /// If the key holds characters that a header cannot carry.
    pub fn alone(&self) -> Result<HeaderValue, InvalidHeaderValue> {
        let mut value = HeaderValue::from_str(&self.0)?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// The text without the key: servers repeat it in their error messages.
    #[must_use]
    pub fn scrub(&self, text: &str) -> String {
        if self.is_secret() { text.replace(&self.0, STARS) } else { text.to_owned() }
    }

    fn is_secret(&self) -> bool {
        self.0.len() >= SECRET_FROM
    }

    /// Takes the key out of a reply before it is stored, and tells whether it was there. A server, or whoever writes to its
    /// prompts, may repeat it in what it answers. Of a token that is a part of it nothing stays but its probability. Which of
    /// the tokens that are told by their ids alone are its parts nobody can say: where it is in the text, that holds for all of them.
    pub fn mask(&self, reply: &mut Reply) -> bool {
        if !self.is_secret() {
            return false;
        }
        let in_text = reply.text.contains(&self.0);
        let mut found = false;
        for text in [&mut reply.text, &mut reply.finish, &mut reply.model] {
            if text.contains(&self.0) {
                *text = self.scrub(text);
                found = true;
            }
        }
        let tokens = reply.tokens.as_deref_mut().unwrap_or_default();
        found |= self.mask_tokens(tokens);
        if in_text {
            mask_ids(tokens);
            reply.token_ids = None;
        }
        found
    }

    fn mask_tokens(&self, tokens: &mut [TokenLogProbs]) -> bool {
        let all: Vec<u8> = tokens.iter().flat_map(|token| token.chosen.bytes.iter().copied()).collect();
        let (key, length) = (self.0.as_bytes(), self.0.len());
        let places = places_of(key, &all);
        let (mut end, mut found) = (0, false);
        for token in tokens {
            let start = end;
            end += token.chosen.bytes.len();
            let part = places.iter().any(|place| *place < end && start < place + length);
            if part || token.top.iter().any(|candidate| !places_of(key, &candidate.bytes).is_empty()) {
                *token = only_its_probability(token);
                found = true;
            }
        }
        found
    }
}

/// Leaves nothing of tokens that are told by their ids alone.
fn mask_ids(tokens: &mut [TokenLogProbs]) {
    let is_id = |candidate: &Candidate| candidate.id.is_some() && candidate.bytes.is_empty();
    for token in tokens {
        token.top.retain(|candidate| !is_id(candidate));
        if is_id(&token.chosen) {
            *token = only_its_probability(token);
        }
    }
}

fn only_its_probability(token: &TokenLogProbs) -> TokenLogProbs {
    let chosen = Candidate { id: None, bytes: STARS.into(), log_prob: token.chosen.log_prob };
    TokenLogProbs { chosen, top: Vec::new() }
}

/// Where `key` begins in `bytes`.
fn places_of(key: &[u8], bytes: &[u8]) -> Vec<usize> {
    bytes.windows(key.len()).enumerate().filter(|(_, window)| *window == key).map(|(place, _)| place).collect()
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(***)")
    }
}

#[cfg(test)]
mod tests {
    use stillhouse_data::answer::Outcome;

    use super::*;
    use crate::reply::Usage;

    fn reply(text: &str, tokens: &[&str]) -> Reply {
        let candidate = |text: &str| Candidate { id: Some(7), bytes: text.into(), log_prob: -0.5 };
        let position = |text: &&str| TokenLogProbs { chosen: candidate(text), top: vec![candidate(text)] };
        Reply {
            outcome: Outcome::Ok,
            text: text.to_owned(),
            finish: "stop".to_owned(),
            model: "m".to_owned(),
            usage: Usage::default(),
            token_ids: None,
            vector: None,
            tokens: Some(tokens.iter().map(position).collect()),
        }
    }

    #[test]
    fn a_reply_is_kept_without_the_key_whole_or_in_tokens() {
        let key = ApiKey::new("sk-secret").unwrap();
        let mut told = reply("My key is sk-secret, I think.", &["My key is", " sk", "-se", "cret, I", " think."]);
        assert!(key.mask(&mut told));
        assert_eq!(told.text, "My key is ***, I think.");
        let tokens = told.tokens.unwrap();
        let shown: Vec<_> = tokens.iter().map(|token| (token.chosen.bytes.as_slice(), token.top.len())).collect();
        let stars = (b"***".as_slice(), 0);
        assert_eq!(shown, [(b"My key is".as_slice(), 1), stars, stars, stars, (b" think.".as_slice(), 1)]);
        assert_eq!((tokens[1].chosen.id, tokens[1].chosen.log_prob), (None, -0.5));

        let mut model = Reply { model: "proxy-of-sk-secret".to_owned(), ..reply("x", &[]) };
        assert!(key.mask(&mut model) && model.model == "proxy-of-***");
        let mut alternative = reply("x", &["x"]);
        alternative.tokens.as_mut().unwrap()[0].top[0].bytes = b"sk-secret".to_vec();
        assert!(key.mask(&mut alternative) && alternative.tokens.unwrap()[0].top.is_empty());
    }

    #[test]
    fn a_key_in_a_text_whose_tokens_are_ids_is_not_left_in_them() {
        let key = ApiKey::new("sk-secret").unwrap();
        let mut told = Reply { token_ids: Some(vec![7]), ..reply("It is sk-secret.", &["", "", ""]) };
        // The end of a scored answer, which writes nothing and has no id.
        let end = TokenLogProbs {
            chosen: Candidate { id: None, bytes: Vec::new(), log_prob: f32::MIN },
            top: vec![Candidate { id: Some(7), bytes: Vec::new(), log_prob: -0.5 }],
        };
        told.tokens.as_mut().unwrap().push(end.clone());
        assert!(key.mask(&mut told));
        assert!(!serde_json::to_string(&told).unwrap().contains('7'), "{told:?}");
        let tokens = told.tokens.unwrap();
        assert_eq!((tokens[0].chosen.bytes.as_slice(), tokens[0].chosen.log_prob), (b"***".as_slice(), -0.5));
        assert_eq!(tokens[3], TokenLogProbs { top: Vec::new(), ..end });

        let innocent = reply("It is no secret.", &["", ""]);
        let mut masked = innocent.clone();
        assert!(!key.mask(&mut masked) && masked == innocent);
        let mut by_another_name = Reply { model: "proxy-of-sk-secret".to_owned(), ..innocent.clone() };
        assert!(key.mask(&mut by_another_name));
        assert_eq!(by_another_name.tokens, innocent.tokens, "the tokens are those of the text");
    }

    #[test]
    fn a_reply_without_the_key_stays_as_it_is_and_a_word_is_no_key() {
        let innocent = reply("none of sk or secret", &["none", " of", " sk", " or", " secret"]);
        for key in ["sk-secret", "none"] {
            let mut masked = innocent.clone();
            assert!(!ApiKey::new(key).unwrap().mask(&mut masked));
            assert_eq!(masked, innocent);
        }
    }

    #[test]
    fn a_key_is_never_shown() {
        let key = ApiKey::new("sk-secret\n").unwrap();
        assert_eq!(format!("{key:?}"), "ApiKey(***)");
        assert_eq!(format!("{:?}", key.bearer().unwrap()), "Sensitive");
        assert_eq!(key.scrub("Incorrect API key provided: sk-secret."), "Incorrect API key provided: ***.");
        assert_eq!(ApiKey::new("x").unwrap().scrub("exceeded"), "exceeded", "no key that anybody would hide");
        assert_eq!(ApiKey::new(" \n"), None);
        assert!(ApiKey::new("a\nb").unwrap().bearer().is_err());
    }
}
