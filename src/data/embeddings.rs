//! Vectors of texts, as a server's embedding model makes them: which text of a row has one, and the file that keeps them.
//!
//! A vector is found by its text, never by its position, so rows find theirs whichever source they come from.

pub(crate) mod cosine;
mod file;
pub(crate) mod hyperplanes;
pub(crate) mod refused;

use stillhouse_stage::spec::{Config, Target};

pub use file::{EMBEDDINGS_FILE, EmbeddingReader, EmbeddingWriter};
pub use refused::{REFUSED_FILE, WithoutVector};

use crate::prompt::Message;

/// The stages that make vectors of texts.
#[derive(Clone, Copy, Debug)]
pub struct Embeddings;

impl Target for Embeddings {
    const KINDS: &'static [&'static str] = &["embeddings"];
}

/// Which texts of a row a vector stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
pub enum Embedded {
    /// The conversation before the answer, without `system` turns.
    Prompt,
    /// The answer.
    Answer,
    /// Both, with an empty line between them.
    Both,
}

impl Embedded {
    /// The text of a row, nothing where it is blank. A single turn is as it is; several have their roles before them. Turns of the
    /// system are the same in most rows and would make all of them alike.
    #[must_use]
    pub fn text(self, messages: &[Message], answer: &str) -> Option<String> {
        let prompt = if self == Self::Answer { String::new() } else { conversation(messages) };
        let answer = if self == Self::Prompt { "" } else { answer };
        let texts: Vec<&str> = [prompt.as_str(), answer].into_iter().filter(|text| !text.trim().is_empty()).collect();
        (!texts.is_empty()).then(|| texts.join("\n\n"))
    }

    fn number(self) -> u32 {
        match self {
            Self::Prompt => 0,
            Self::Answer => 1,
            Self::Both => 2,
        }
    }

    fn from_number(number: u32) -> Option<Self> {
        [Self::Prompt, Self::Answer, Self::Both].into_iter().find(|one| one.number() == number)
    }
}

fn conversation(messages: &[Message]) -> String {
    let turns: Vec<&Message> = messages.iter().filter(|turn| turn.role != "system").collect();
    match turns.as_slice() {
        [only] => only.content.clone(),
        several => {
            let turns: Vec<String> = several.iter().map(|turn| format!("{}: {}", turn.role, turn.content)).collect();
            turns.join("\n\n")
        }
    }
}

/// What a text is known by: the first 16 bytes of `blake3("stillhouse/embedded/1\0" ‖ text)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TextDigest(pub [u8; 16]);

impl TextDigest {
    /// The digest of a text.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"stillhouse/embedded/1\0");
        hasher.update(text.as_bytes());
        let mut digest = [0; 16];
        digest.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(digest)
    }

    /// In hexadecimal digits.
    #[must_use]
    pub fn in_digits(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_row_is_what_the_table_says_and_none_where_it_is_blank() {
        let one = [Message::system("Be short."), Message::user("two and two?")];
        assert_eq!(Embedded::Prompt.text(&one, "four").unwrap(), "two and two?");
        assert_eq!(Embedded::Answer.text(&one, "four").unwrap(), "four");
        assert_eq!(Embedded::Both.text(&one, "four").unwrap(), "two and two?\n\nfour");
        let several = [Message::user("a"), Message::assistant("b"), Message::user("c")];
        assert_eq!(Embedded::Prompt.text(&several, "").unwrap(), "user: a\n\nassistant: b\n\nuser: c");
        assert_eq!(Embedded::Answer.text(&one, " \n"), None);
        assert_eq!(Embedded::Both.text(&[], "plain").unwrap(), "plain");
        assert_eq!(Embedded::Prompt.text(&[Message::system("x")], "y"), None);
    }

    #[test]
    fn what_a_text_is_known_by_never_changes() {
        let digest = TextDigest::of("two and two?");
        assert_eq!(digest, TextDigest::of("two and two?"));
        assert_ne!(digest, TextDigest::of("two and two"));
        let hash = blake3::hash(b"stillhouse/embedded/1\0two and two?");
        assert_eq!(digest.0, hash.as_bytes()[..16]);
    }
}
