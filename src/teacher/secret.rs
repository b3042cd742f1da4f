//! The key of an API: read from the environment, sent in one header, shown nowhere.

use std::fmt;

use reqwest::header::{HeaderValue, InvalidHeaderValue};

/// A key. Its `Debug` is a row of stars, it has no `Display`, and [`ApiKey::scrub`] takes it out of whatever a
/// server sends back.
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

    /// The text without the key: servers repeat it in their error messages.
    #[must_use]
    pub fn scrub(&self, text: &str) -> String {
        text.replace(&self.0, "***")
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_shown() {
        let key = ApiKey::new("sk-secret\n").unwrap();
        assert_eq!(format!("{key:?}"), "ApiKey(***)");
        assert_eq!(format!("{:?}", key.bearer().unwrap()), "Sensitive");
        assert_eq!(key.scrub("Incorrect API key provided: sk-secret."), "Incorrect API key provided: ***.");
        assert_eq!(ApiKey::new(" \n"), None);
        assert!(ApiKey::new("a\nb").unwrap().bearer().is_err());
    }
}
