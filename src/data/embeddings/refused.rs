//! The texts that have no vector because the server refused them.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::TextDigest;
use crate::error::DataResult;
use crate::jsonl::JsonlReader;

/// The name of the file in a stage's output, one [`WithoutVector`] a line; only where there are any.
pub const REFUSED_FILE: &str = "dropped.jsonl";

/// A text without a vector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WithoutVector {
    /// The id of the prompt of the first row that has it.
    pub prompt: String,
    /// Which of the prompt's samples the row is.
    pub sample: u32,
    /// The server's words.
    pub why: String,
    /// What the text is known by, in hexadecimal digits; older files do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl WithoutVector {
    /// A text that the server refused in these words.
    #[must_use]
    pub fn new(text: TextDigest, prompt: String, sample: u32, why: String) -> Self {
        Self { prompt, sample, why, text: Some(text.in_digits()) }
    }

    /// Whether it is this text; where the file does not say it, whether it is this prompt's sample.
    fn is(&self, text: TextDigest, prompt: Option<&str>, sample: u32) -> bool {
        match &self.text {
            Some(digits) => *digits == text.in_digits(),
            None => prompt == Some(self.prompt.as_str()) && self.sample == sample,
        }
    }
}

/// The line of a file that is about a text, and how many lines there are.
///
/// # Errors
/// A file that cannot be read.
pub(crate) fn find(
    path: &Path,
    text: TextDigest,
    prompt: Option<&str>,
    sample: u32,
) -> DataResult<(Option<WithoutVector>, u64)> {
    let (mut found, mut lines) = (None, 0);
    for line in JsonlReader::<WithoutVector>::open(path)? {
        let line = line?;
        lines += 1;
        if found.is_none() && line.is(text, prompt, sample) {
            found = Some(line);
        }
    }
    Ok((found, lines))
}
