//! What each token writes, in bytes: a token may be part of a character, and a text's first token may write less than it
//! spells.

use serde_json::Value;

use super::Tokenizer;
use crate::align::starts;
use crate::error::DataResult;

/// The text of some tokens, and where in it each of them begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pieces {
    /// What they write together. Not always whole characters.
    pub bytes: Vec<u8>,
    /// The byte at which each begins; none for one that writes nothing, or whose beginning is not known.
    pub starts: Vec<Option<usize>>,
}

/// How a vocabulary spells bytes, as its decoder says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// A character stands for each byte (GPT-2).
    Bytes,
    /// A mark stands for a space (SentencePiece).
    Marked {
        /// `<0xE2>` is the byte E2.
        bytes: bool,
        /// A space at the very beginning is the tokenizer's own.
        strip: bool,
    },
    /// Anything else: only decoding tells.
    Decoded,
}

/// Tokens that are decoded again, at least, to see what a token behind them writes: enough for a decoder that looks at
/// a token's neighbours.
const WINDOW: usize = 16;

/// SentencePiece's mark of a space.
const MARK: char = '\u{2581}';

impl Spelling {
    pub(super) fn of(inner: &tokenizers::Tokenizer) -> Self {
        let decoder = inner.get_decoder().and_then(|decoder| serde_json::to_value(decoder).ok()).unwrap_or(Value::Null);
        let parts = match decoder.get("decoders").and_then(Value::as_array) {
            Some(parts) => parts.clone(),
            None => vec![decoder],
        };
        let kind = |part: &Value| part.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let text = |part: &Value, key: &str| part.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (mut marked, mut bytes, mut strip) = (false, false, false);
        for part in &parts {
            match kind(part).as_str() {
                "ByteLevel" if parts.len() == 1 => return Self::Bytes,
                "Metaspace" if text(part, "replacement") == MARK.to_string() => {
                    (marked, strip) = (true, strip || text(part, "prepend_scheme") != "never");
                }
                "Replace" if part["pattern"]["String"] == MARK.to_string() && text(part, "content") == " " => {
                    marked = true
                }
                "ByteFallback" => bytes = true,
                "Strip" if text(part, "content") == " " && part["start"] == 1 && part["stop"] == 0 => strip = true,
                "Fuse" => {}
                _ => return Self::Decoded,
            }
        }
        if marked { Self::Marked { bytes, strip } } else { Self::Decoded }
    }
}

impl Tokenizer {
    /// What tokens write, byte by byte. `begins`: they begin a text, whose first space may be the tokenizer's own.
    ///
    /// The tokens of byte-level and SentencePiece vocabularies are spelled out one by one, so that parts of a character have
    /// their own places. Of others the text of each beginning is looked at, and a token that begins inside a character has
    /// no known place.
    ///
    /// # Errors
    /// Tokens that can't be decoded.
    pub fn pieces(&self, ids: &[u32], begins: bool) -> DataResult<Pieces> {
        let spell: fn(&str) -> Vec<u8> = match self.spelling {
            Spelling::Decoded => return self.decoded(ids),
            Spelling::Bytes => letters_as_bytes,
            Spelling::Marked { bytes: true, .. } => byte_or_unmarked,
            Spelling::Marked { bytes: false, .. } => unmarked,
        };
        let mut spelled: Vec<Vec<u8>> = ids.iter().map(|id| self.spelled(*id, spell)).collect();
        let strips = begins && matches!(self.spelling, Spelling::Marked { strip: true, .. });
        if let (true, Some(first)) = (strips, spelled.first_mut())
            && first.first() == Some(&b' ')
        {
            first.remove(0);
        }
        Ok(Pieces { starts: starts(spelled.iter().map(Vec::len)), bytes: spelled.concat() })
    }

    /// What one token writes by itself: nothing where the id means nothing.
    ///
    /// # Errors
    /// A token that can't be decoded.
    pub fn token_bytes(&self, id: u32) -> DataResult<Vec<u8>> {
        Ok(self.pieces(&[id], false)?.bytes)
    }

    /// Whether a token stands for a byte that no other token writes: `<0x0A>` of SentencePiece.
    pub fn is_byte(&self, id: u32) -> bool {
        matches!(self.spelling, Spelling::Marked { bytes: true, .. })
            && !self.added.contains_key(&id)
            && self.inner.id_to_token(id).is_some_and(|token| byte_of(&token).is_some())
    }

    /// The bytes of one token. Tokens that were added are written as they are; ids that mean nothing write nothing.
    fn spelled(&self, id: u32, spell: fn(&str) -> Vec<u8>) -> Vec<u8> {
        let token = self.inner.id_to_token(id).unwrap_or_default();
        if self.added.contains_key(&id) { token.into_bytes() } else { spell(&token) }
    }

    /// [`Tokenizer::pieces`] of a vocabulary that spells in a way of its own.
    fn decoded(&self, ids: &[u32]) -> DataResult<Pieces> {
        let whole = self.decode(ids, true)?;
        let mut starts = Vec::with_capacity(ids.len());
        let mut before = Some(0);
        // Only the last tokens are decoded again, from one on before which a beginning of the text ends. The text of those
        // before the last such place, and where in the whole text that place is:
        let (mut window, mut next, mut known, mut written) = (0, 0, String::new(), 0);
        for end in 1..=ids.len() {
            let read = self.decode(&ids[window..end], true)?;
            // A character that is not whole yet reads as another, so this is no beginning of the text.
            let after = match read.strip_prefix(known.as_str()) {
                Some(new) => whole[written..].starts_with(new).then_some(written + new.len()),
                // A token that changes what was read before it: only the whole beginning tells.
                None => {
                    let beginning = self.decode(&ids[..end], true)?;
                    whole.starts_with(&beginning).then_some(beginning.len())
                }
            };
            starts.push(before.filter(|before| after.is_none_or(|after| after > *before)));
            before = after;
            let Some(after) = after else { continue };
            (known, written) = (read, after);
            if end - next >= WINDOW {
                (window, next) = (next, end);
                known = self.decode(&ids[window..end], true)?;
            }
        }
        Ok(Pieces { bytes: whole.into_bytes(), starts })
    }
}

/// The bytes for which the characters of a byte-level token stand. One that is none of them makes the token plain text.
fn letters_as_bytes(token: &str) -> Vec<u8> {
    let bytes: Option<Vec<u8>> = token.chars().map(byte_of_letter).collect();
    bytes.unwrap_or_else(|| token.as_bytes().to_vec())
}

/// GPT-2's alphabet: printable bytes are their own Latin-1 characters, the others in order those from U+0100.
fn byte_of_letter(letter: char) -> Option<u8> {
    let code = u32::from(letter);
    let byte = match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7F,
        0x143 => 0xAD,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// `<0xE2>` is the byte E2.
fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

fn byte_or_unmarked(token: &str) -> Vec<u8> {
    byte_of(token).map_or_else(|| unmarked(token), |byte| vec![byte])
}

fn unmarked(token: &str) -> Vec<u8> {
    token.replace(MARK, " ").into_bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    use super::*;
    use crate::testing::tokenizers::{byte_level, sentence_piece, tokenizer};

    /// What [`Tokenizer::decoded`] gives, by decoding every beginning of the text.
    fn one_by_one(tokenizer: &Tokenizer, ids: &[u32]) -> Pieces {
        let whole = tokenizer.decode(ids, true).unwrap();
        let mut before = Some(0);
        let starts = (1..=ids.len()).map(|end| {
            let read = tokenizer.decode(&ids[..end], true).unwrap();
            let after = whole.starts_with(&read).then_some(read.len());
            let start = before.filter(|before| after.is_none_or(|after| after > *before));
            before = after;
            start
        });
        Pieces { starts: starts.collect(), bytes: whole.into_bytes() }
    }

    #[test]
    fn decoding_the_last_tokens_alone_finds_the_places_that_decoding_all_of_them_does() {
        let with = |file: &Value, decoder: Value| {
            let mut file = file.clone();
            file["decoder"] = decoder;
            tokenizer(&file, &json!({}))
        };
        let bytes = byte_level(&["a b", "\u{120} a"]);
        let level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
        let sentence = sentence_piece(&["\u{2581}a", "ab"]);
        let mut steps = sentence["decoder"]["decoders"].as_array().unwrap().clone();
        steps.insert(0, json!({ "type": "Replace", "pattern": { "String": "q" }, "content": "Q" }));
        let decoders = [
            ("bytes", with(&bytes, json!({ "type": "Sequence", "decoders": [level, { "type": "Fuse" }] }))),
            ("pieces", with(&sentence, json!({ "type": "Sequence", "decoders": steps }))),
            ("words", with(&bytes, json!({ "type": "WordPiece", "prefix": "a", "cleanup": true }))),
            ("suffix", with(&bytes, json!({ "type": "BPEDecoder", "suffix": "b" }))),
            (
                "doubles",
                with(&bytes, json!({ "type": "CTC", "pad_token": "c", "word_delimiter_token": "d", "cleanup": true })),
            ),
        ];
        let text = "ab ab caf\u{E9} \u{4E2D}\u{6587} \u{1F600}\u{1F600} bad cab, q a. ".repeat(6);
        for (name, tokenizer) in decoders {
            assert_eq!(tokenizer.spelling, Spelling::Decoded, "{name}");
            let ids = tokenizer.encode(&text, false).unwrap();
            assert!(ids.len() > 8 * WINDOW);
            // Whole, cut inside a character, and with tokens that no text has in this order.
            let mut mixed = ids.clone();
            (0..mixed.len()).for_each(|place| mixed.swap(place, place * 7919 % ids.len()));
            for ids in [&ids[..], &ids[11..], &ids[..ids.len() - 3], &mixed] {
                assert_eq!(tokenizer.decoded(ids).unwrap(), one_by_one(&tokenizer, ids), "{name}");
            }
        }
    }

    #[test]
    fn every_letter_of_the_alphabet_is_another_byte() {
        let bytes: BTreeSet<u8> =
            ByteLevel::alphabet().into_iter().map(|letter| byte_of_letter(letter).unwrap()).collect();
        assert_eq!(bytes.len(), 256);
        assert_eq!(
            (byte_of_letter('\u{120}'), byte_of_letter('\u{10A}'), byte_of_letter('A')),
            (Some(b' '), Some(b'\n'), Some(b'A'))
        );
        assert_eq!(letters_as_bytes("\u{120}a"), b" a");
        assert_eq!(letters_as_bytes("\u{120}\u{4E2D}"), "\u{120}\u{4E2D}".as_bytes());
    }

    #[test]
    fn bytes_in_angle_brackets_are_bytes_and_nothing_else_is() {
        assert_eq!(
            (byte_of("<0xE2>"), byte_of("<0x0A>"), byte_of("<0xZZ>"), byte_of("<0x123>")),
            (Some(0xE2), Some(10), None, None)
        );
    }
}
