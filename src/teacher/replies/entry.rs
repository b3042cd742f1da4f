//! One entry of a segment, byte by byte.
//!
//! All numbers are little-endian. The head is 72 bytes, the body follows it at once.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | magic `SHre` |
//! | 4 | 2 | body format; 1 = JSON of a [`Reply`] |
//! | 6 | 2 | flags: bit 0 = the body is compressed with zstd, bit 1 = the reply ended by itself |
//! | 8 | 4 | length of the body as stored |
//! | 12 | 4 | `max-tokens` of the request |
//! | 16 | 4 | tokens of the reply |
//! | 20 | 4 | zero, for later use |
//! | 24 | 32 | request key, without `max-tokens` |
//! | 56 | 8 | first 8 bytes of the body's blake3 |
//! | 64 | 8 | first 8 bytes of the blake3 of bytes 0 to 64 |

use std::fmt;

use stillhouse_data::answer::Outcome;

use crate::reply::Reply;

/// Bytes of an entry's head.
pub const HEAD_BYTES: usize = 72;
/// The first bytes of every entry; a reader that lost its place looks for them.
pub const MAGIC: [u8; 4] = *b"SHre";
const JSON_BODY: u16 = 1;
const COMPRESSED: u16 = 1;
const ENDED_BY_ITSELF: u16 = 2;
/// Shorter bodies are stored as they are: compressing them costs more time than it saves room.
const COMPRESS_FROM: usize = 1024;

/// What identifies a request: see [`crate::request`] for what is hashed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestKey(pub [u8; 32]);

impl RequestKey {
    /// The key that [`RequestKey`]'s display wrote: 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut key = [0; 32];
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != key.len() || !rest.is_empty() {
            return None;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).filter(|_| !byte.is_ascii_uppercase());
        for (byte, [high, low]) in key.iter_mut().zip(pairs) {
            *byte = (digit(*high)? * 16 + digit(*low)?) as u8;
        }
        Some(Self(key))
    }

    /// The part that the index keeps.
    pub(crate) fn prefix(&self) -> u128 {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.0[..16]);
        u128::from_be_bytes(bytes)
    }
}

impl fmt::Display for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestKey({self})")
    }
}

/// The limit a reply was asked with, and how far it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// `max-tokens` of the request.
    pub max_tokens: u32,
    /// Tokens of the reply.
    pub tokens: u32,
    /// Whether it ended by itself, before `max_tokens`.
    pub ended_by_itself: bool,
}

impl Limit {
    /// The limit of a reply that was asked with `max_tokens`.
    #[must_use]
    pub fn of(reply: &Reply, max_tokens: u32) -> Self {
        Self { max_tokens, tokens: reply.usage.completion, ended_by_itself: reply.outcome != Outcome::Cut }
    }

    /// Whether the reply answers a request with another limit: it was asked with the same one, or it ended by
    /// itself within the other. A server that does not count tokens (`tokens` is 0) says nothing about smaller limits.
    #[must_use]
    pub fn answers(self, max_tokens: u32) -> bool {
        let counted = self.tokens > 0 || max_tokens >= self.max_tokens;
        self.max_tokens == max_tokens || (self.ended_by_itself && counted && self.tokens <= max_tokens)
    }
}

/// An entry's head, decoded and checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The request's key.
    pub key: RequestKey,
    /// What the reply answers.
    pub limit: Limit,
    /// Bytes of the body as stored.
    pub body_bytes: u32,
    format: u16,
    compressed: bool,
    body_check: [u8; 8],
}

/// Why an entry's body cannot be used. The entry then counts as missing: its request is asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadBody {
    /// The checksum disagrees.
    Corrupt,
    /// The format is not known to this version.
    Unknown,
}

impl Head {
    /// Decodes a head; `None` if the bytes are not one.
    #[must_use]
    pub fn decode(bytes: &[u8; HEAD_BYTES]) -> Option<Self> {
        if bytes[..4] != MAGIC || bytes[64..] != checksum(&bytes[..64]) {
            return None;
        }
        let flags = u16::from_le_bytes([bytes[6], bytes[7]]);
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let mut key = [0; 32];
        key.copy_from_slice(&bytes[24..56]);
        let mut body_check = [0; 8];
        body_check.copy_from_slice(&bytes[56..64]);
        Some(Self {
            key: RequestKey(key),
            limit: Limit { max_tokens: number(12), tokens: number(16), ended_by_itself: flags & ENDED_BY_ITSELF != 0 },
            body_bytes: number(8),
            format: u16::from_le_bytes([bytes[4], bytes[5]]),
            compressed: flags & COMPRESSED != 0,
            body_check,
        })
    }

    fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut flags = 0;
        flags |= if self.compressed { COMPRESSED } else { 0 };
        flags |= if self.limit.ended_by_itself { ENDED_BY_ITSELF } else { 0 };
        let mut bytes = [0; HEAD_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&self.format.to_le_bytes());
        bytes[6..8].copy_from_slice(&flags.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.limit.max_tokens.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.limit.tokens.to_le_bytes());
        bytes[24..56].copy_from_slice(&self.key.0);
        bytes[56..64].copy_from_slice(&self.body_check);
        let check = checksum(&bytes[..64]);
        bytes[64..].copy_from_slice(&check);
        bytes
    }

    /// Bytes of head and body together.
    #[must_use]
    pub fn entry_bytes(&self) -> u64 {
        HEAD_BYTES as u64 + u64::from(self.body_bytes)
    }

    /// The reply in the entry's body.
    ///
    /// # Errors
    /// [`BadBody`], after which the request counts as not answered.
    pub fn reply(&self, body: &[u8]) -> Result<Reply, BadBody> {
        if checksum(body) != self.body_check {
            return Err(BadBody::Corrupt);
        }
        if self.format != JSON_BODY {
            return Err(BadBody::Unknown);
        }
        let parsed = if self.compressed {
            let text = zstd::decode_all(body).map_err(|_| BadBody::Corrupt)?;
            serde_json::from_slice(&text)
        } else {
            serde_json::from_slice(body)
        };
        // The bytes are those that were written, so what fails to parse is a newer idea of a reply.
        parsed.map_err(|_| BadBody::Unknown)
    }
}

/// The bytes of an entry, ready to append.
///
/// # Errors
/// A reply that JSON cannot hold or that is longer than 4 GiB.
pub fn encode(key: RequestKey, reply: &Reply, max_tokens: u32) -> std::io::Result<Vec<u8>> {
    let text = serde_json::to_vec(reply).map_err(std::io::Error::other)?;
    let compressed = text.len() >= COMPRESS_FROM;
    let body = if compressed { zstd::encode_all(text.as_slice(), 1)? } else { text };
    let body_bytes = u32::try_from(body.len()).map_err(|_| std::io::Error::other("a reply of more than 4 GiB"))?;
    let head = Head {
        key,
        limit: Limit::of(reply, max_tokens),
        body_bytes,
        format: JSON_BODY,
        compressed,
        body_check: checksum(&body),
    };
    let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
    bytes.extend_from_slice(&head.encode());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// The first 8 bytes of the blake3.
pub(super) fn checksum(bytes: &[u8]) -> [u8; 8] {
    let hash = blake3::hash(bytes);
    let mut check = [0; 8];
    check.copy_from_slice(&hash.as_bytes()[..8]);
    check
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::Usage;

    fn reply(text: &str, outcome: Outcome, tokens: u32) -> Reply {
        Reply {
            outcome,
            text: text.to_owned(),
            finish: "stop".to_owned(),
            model: "m".to_owned(),
            usage: Usage { prompt: 3, completion: tokens },
            token_ids: None,
            vector: None,
            tokens: None,
        }
    }

    fn head_of(bytes: &[u8]) -> Head {
        Head::decode(bytes[..HEAD_BYTES].try_into().unwrap()).unwrap()
    }

    #[test]
    fn an_entry_reads_back_short_and_compressed() {
        for text in ["short".to_owned(), "long ".repeat(4000)] {
            let reply = reply(&text, Outcome::Ok, 5);
            let bytes = encode(RequestKey([7; 32]), &reply, 64).unwrap();
            let head = head_of(&bytes);
            assert_eq!(head.key, RequestKey([7; 32]));
            assert_eq!(head.limit, Limit { max_tokens: 64, tokens: 5, ended_by_itself: true });
            assert_eq!(head.entry_bytes() as usize, bytes.len());
            assert_eq!(head.reply(&bytes[HEAD_BYTES..]), Ok(reply));
            assert!(bytes.len() < 1000);
        }
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let bytes = encode(RequestKey([1; 32]), &reply("text", Outcome::Cut, 9), 9).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let head = Head::decode(flipped[..HEAD_BYTES].try_into().unwrap());
            let intact = head.is_some_and(|head| head.reply(&flipped[HEAD_BYTES..]).is_ok());
            assert!(!intact, "bit {bit}");
        }
    }

    #[test]
    fn a_finished_reply_answers_every_limit_it_would_not_have_reached() {
        let finished = Limit { max_tokens: 256, tokens: 100, ended_by_itself: true };
        assert!(finished.answers(256) && finished.answers(1000) && finished.answers(100));
        assert!(!finished.answers(99));
    }

    #[test]
    fn a_cut_reply_answers_only_its_own_limit() {
        let cut = Limit { max_tokens: 256, tokens: 256, ended_by_itself: false };
        assert!(cut.answers(256));
        assert!(!cut.answers(257) && !cut.answers(255));
    }

    #[test]
    fn an_uncounted_reply_answers_no_smaller_limit() {
        let uncounted = Limit { max_tokens: 256, tokens: 0, ended_by_itself: true };
        assert!(uncounted.answers(256) && uncounted.answers(300));
        assert!(!uncounted.answers(255));
    }
}
