//! The two names of the store: [`Digest`] ("what came out") and [`Key`] ("what was asked").
//!
//! Both are 32 bytes of BLAKE3, and nothing converts one into the other: a recipe's key in the place
//! of an output's digest does not compile.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::StoreError;
use crate::hash;

/// A text that should have been 64 hexadecimal digits and is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 lower-case hexadecimal digits, found {found:?}")]
pub struct ParseDigestError {
    found: String,
}

macro_rules! hex_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The 32 bytes themselves.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// Takes 32 bytes that were computed elsewhere.
            pub fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The first 8 hexadecimal digits: for people, never for look-ups.
            pub fn short(&self) -> String {
                self.to_string()[..8].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseDigestError;

            /// Accepts exactly what `Display` writes: equal names are equal texts.
            fn from_str(text: &str) -> Result<Self, ParseDigestError> {
                let error = || ParseDigestError { found: text.chars().take(80).collect() };
                if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
                    return Err(error());
                }
                blake3::Hash::from_hex(text).map(|hash| Self(*hash.as_bytes())).map_err(|_| error())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
    };
}

hex_newtype! {
    /// BLAKE3 of bytes: what came out.
    Digest
}

hex_newtype! {
    /// BLAKE3 of a recipe: what was asked.
    Key
}

impl Digest {
    /// The digest of bytes in memory.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of a file's content; large files are hashed on all cores.
    pub fn of_file(path: &Path) -> Result<Self, StoreError> {
        let file = fs_err::File::open(path).map_err(StoreError::io("read", path))?;
        let length = file.metadata().map_err(StoreError::io("read", path))?.len();
        hash::of_open_file(file.file(), length).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => StoreError::ChangedWhileRead { path: path.into() },
            _ => StoreError::io("read", path)(error),
        })
    }
}

impl Key {
    /// `blake3(domain ‖ "\0" ‖ bytes)`.
    ///
    /// The domain (such as `stillhouse/stage/1`) keeps recipes of different sorts apart; it must not
    /// contain a NUL byte, which would make the border between the two ambiguous.
    pub fn of(domain: &str, bytes: &[u8]) -> Self {
        debug_assert!(!domain.contains('\0'), "a key's domain must not contain NUL");
        let mut hasher = blake3::Hasher::new();
        hasher.update(domain.as_bytes()).update(b"\0").update(bytes);
        Self(*hasher.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pinned: a change here makes every store in the world unreadable.
    #[test]
    fn a_digest_is_plain_blake3_and_a_key_is_domain_separated() {
        assert_eq!(Digest::of(b"").to_string(), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
        assert_eq!(Key::of("a", b"b").as_bytes(), Digest::of(b"a\0b").as_bytes(), "the preimage is domain, NUL, bytes");
        assert_ne!(Key::of("a", b"b"), Key::of("ab", b""));
    }

    #[test]
    fn text_and_json_forms_return_to_the_same_value() {
        let digest = Digest::of(b"x");
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(json, format!("\"{digest}\""));
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        assert_eq!(digest.short(), digest.to_string()[..8]);
    }

    #[test]
    fn anything_but_64_lower_case_digits_is_refused() {
        let upper = Digest::of(b"x").to_string().to_uppercase();
        for text in ["", "abc", &"g".repeat(64), &"0".repeat(65), &upper] {
            assert!(text.parse::<Key>().is_err(), "{text}");
        }
    }
}
