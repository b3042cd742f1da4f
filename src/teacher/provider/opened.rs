//! What every reader of replies does first: the body of a successful answer is opened, and what comes out is a reply or a failure
//! that somebody passed on.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::api::Unusable;
use super::lenient;

/// A body as one API has it.
pub trait Body: DeserializeOwned {
    /// The failure that it holds in the place of a reply: some gateways pass one on with status 200.
    fn passed_on(&self) -> Option<&Value>;
}

/// What a body holds.
///
/// # Errors
/// [`Unusable::Broken`] if it is empty, not as the API has it, or a failure that is passed on.
pub fn opened<T: Body>(body: &[u8]) -> Result<T, Unusable> {
    let body = lenient::without_mark(body);
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Unusable::Broken("the reply is empty".to_owned()));
    }
    let opened: T = lenient::read(body).map_err(|error| Unusable::not_valid(body, &error))?;
    match opened.passed_on().filter(|error| !error.is_null()) {
        Some(error) => Err(Unusable::passed_on(error)),
        None => Ok(opened),
    }
}
