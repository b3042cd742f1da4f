//! Text from tokens as they are made: whole characters only, and nothing of what a stop string cuts off.

use crate::error::DataResult;
use crate::tokenizer::Tokenizer;

/// Puts tokens together to text, piece by piece.
///
/// A token can end in the middle of a character, and what a token reads as can depend on the one before (a word's
/// leading space). So a piece is what the text of the last tokens gained, and it is held back while it ends in half a
/// character or in what may become a stop string.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    stops: Vec<String>,
    ids: Vec<u32>,
    /// First token whose text is decoded with the new ones.
    context: usize,
    /// Tokens whose text is in `text` already.
    read: usize,
    text: String,
    /// Bytes of `text` that were handed out.
    told: usize,
    stopped: bool,
}

impl<'a> TextStream<'a> {
    /// An empty text that ends before the first of `stops`; empty ones are left aside.
    pub fn new(tokenizer: &'a Tokenizer, stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        Self { tokenizer, stops, ids: Vec::new(), context: 0, read: 0, text: String::new(), told: 0, stopped: false }
    }

    /// Takes the next token; gives the text that is certain now and was not handed out before.
    ///
    /// # Errors
    /// An id that the tokenizer does not know.
    pub fn push(&mut self, id: u32) -> DataResult<String> {
        self.ids.push(id);
        self.read_on(false)?;
        Ok(self.hand_out(false))
    }

    /// What was held back, now that no token follows.
    ///
    /// # Errors
    /// As [`TextStream::push`].
    pub fn finish(&mut self) -> DataResult<String> {
        self.read_on(true)?;
        Ok(self.hand_out(true))
    }

    /// Brings the new tokens' text in, unless it may be half a character that others make whole.
    fn read_on(&mut self, last: bool) -> DataResult<()> {
        let decode = |from: usize, to: usize| self.tokenizer.decode(&self.ids[from..to], false);
        let (before, after) = (decode(self.context, self.read)?, decode(self.context, self.ids.len())?);
        if !last && after.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(());
        }
        let gained = match after.strip_prefix(&before) {
            Some(gained) => gained.to_owned(),
            // Bytes that were a character by themselves are none beside those that followed, as some tokenizers read. What was
            // handed out stays, and the others are read by themselves.
            None => decode(self.read, self.ids.len())?,
        };
        // A token without text, such as a mark in the middle, leaves the one before to be what the next is read with.
        if !gained.is_empty() {
            self.context = self.read;
        }
        self.read = self.ids.len();
        self.text.push_str(&gained);
        Ok(())
    }

    /// Whether a stop string was met.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// All text that was handed out.
    pub fn text(&self) -> &str {
        &self.text[..self.told]
    }

    fn hand_out(&mut self, last: bool) -> String {
        if self.stopped {
            return String::new();
        }
        let found = self.stops.iter().filter_map(|stop| self.text[self.told..].find(stop.as_str())).min();
        let end = match found {
            Some(at) => {
                self.stopped = true;
                self.told + at
            }
            None if last => self.text.len(),
            None => self.text.len() - self.half_a_stop(),
        };
        let piece = self.text[self.told..end].to_owned();
        self.told = end;
        piece
    }

    /// Bytes at the end that are the beginning of a stop string.
    fn half_a_stop(&self) -> usize {
        let open = &self.text[self.told..];
        let starts = open.char_indices().map(|(at, _)| &open[at..]);
        starts.filter(|end| self.stops.iter().any(|stop| stop.starts_with(end))).map(str::len).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Bench;
    use crate::tokenizer_kind::TokenizerTraining;

    /// A byte-level tokenizer without merges: every token is one byte.
    fn bytes() -> Tokenizer {
        let bench = Bench::new();
        let text = bench.file("text.txt", "a b\n");
        let config = serde_json::json!({ "from": [{ "text": text }], "vocab-size": 257 });
        Tokenizer::open(&bench.run(&TokenizerTraining, config).unwrap().out).unwrap()
    }

    fn pieces(tokenizer: &Tokenizer, text: &str, stops: &[&str]) -> (Vec<String>, bool) {
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut stream = TextStream::new(tokenizer, &stops);
        let mut pieces = Vec::new();
        for id in tokenizer.encode(text, false).unwrap() {
            pieces.push(stream.push(id).unwrap());
            if stream.is_stopped() {
                break;
            }
        }
        pieces.push(stream.finish().unwrap());
        assert_eq!(pieces.concat(), stream.text());
        pieces.retain(|piece| !piece.is_empty());
        (pieces, stream.is_stopped())
    }

    #[test]
    fn characters_come_whole() {
        let tokenizer = bytes();
        let (pieces, stopped) = pieces(&tokenizer, "né→😀.", &[]);
        assert_eq!((pieces.concat().as_str(), stopped), ("né→😀.", false));
        assert!(pieces.iter().all(|piece| !piece.contains(char::REPLACEMENT_CHARACTER)), "{pieces:?}");
    }

    #[test]
    fn the_text_ends_before_a_stop_string_and_shows_nothing_of_it() {
        let tokenizer = bytes();
        assert_eq!(
            pieces(&tokenizer, "one\nUser: two", &["\nUser:"]),
            (vec!["o".into(), "n".into(), "e".into()], true)
        );
        // What only began like one is text after all.
        let (kept, stopped) = pieces(&tokenizer, "a\nUsed", &["\nUser:", ""]);
        assert_eq!((kept.concat().as_str(), stopped), ("a\nUsed", false));
        let (kept, _) = pieces(&tokenizer, "a\nUs", &["\nUser:"]);
        assert_eq!(kept.concat(), "a\nUs");
    }

    #[test]
    fn half_a_character_at_the_end_is_shown_as_such() {
        let tokenizer = bytes();
        let mut ids = tokenizer.encode("é", false).unwrap();
        if ids.len() > 1 {
            ids.pop();
            let mut stream = TextStream::new(&tokenizer, &[]);
            ids.iter().for_each(|id| assert_eq!(stream.push(*id).unwrap(), ""));
            assert_eq!(stream.finish().unwrap(), "\u{FFFD}");
        }
    }

    /// A tokenizer of words with a mark for the space before them, of marks without text, and of single bytes, such as Llama's.
    fn with_bytes() -> Tokenizer {
        let mut vocabulary: serde_json::Map<String, serde_json::Value> =
            (0..256).map(|byte| (format!("<0x{byte:02X}>"), serde_json::json!(byte))).collect();
        for (id, word) in ["<s>", "▁dog", "▁Once", "."].into_iter().enumerate() {
            vocabulary.insert(word.to_owned(), serde_json::json!(256 + id));
        }
        let replace = serde_json::json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " });
        let strip = serde_json::json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 });
        let text = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
            "post_processor": null,
            "added_tokens": [{
                "id": 256, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                "special": true,
            }],
            "decoder": { "type": "Sequence", "decoders": [replace, { "type": "ByteFallback" }, { "type": "Fuse" }, strip] },
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": true, "vocab": vocabulary, "merges": [],
            },
        });
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("tokenizer.json"), text.to_string()).unwrap();
        Tokenizer::open(folder.path()).unwrap()
    }

    #[test]
    fn bytes_that_make_no_character_lose_none_of_the_text_behind_them() {
        let (tokenizer, dog, once, period) = (with_bytes(), 257, 258, 259);
        // A no-break space, which a stray byte behind it makes three that are nothing.
        for (ids, text) in [
            (vec![dog, 0xC2, 0xA0, 0xFF, once, period], " dog\u{A0}\u{FFFD} Once."),
            (vec![dog, 0xC2, 0xA0, 0xFF], " dog\u{A0}\u{FFFD}"),
            (vec![dog, period, 256, once], " dog. Once"),
        ] {
            let mut stream = TextStream::new(&tokenizer, &[]);
            let mut said: String = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
            said.push_str(&stream.finish().unwrap());
            assert_eq!(said.trim_start(), text.trim_start());
        }
        let mut stream = TextStream::new(&tokenizer, &[".".to_owned()]);
        [dog, 0xC2, 0xA0, 0xFF, once, period].iter().for_each(|id| _ = stream.push(*id).unwrap());
        assert!(stream.is_stopped(), "a stop string behind them is met");
    }
}
