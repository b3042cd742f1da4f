use serde_json::{Value, json};

use super::*;
use crate::testing::tokenizers::{byte_level, sentence_piece, tokenizer};

fn bytes(merges: &[&str]) -> Tokenizer {
    tokenizer(&byte_level(merges), &json!({ "bos_token": "<s>", "eos_token": "</s>" }))
}

fn pieces(words: &[&str]) -> Tokenizer {
    tokenizer(&sentence_piece(words), &json!({ "bos_token": "<s>", "eos_token": "</s>" }))
}

/// The tokens of both sides as text, in pairs: what a person can read.
fn pairs(retokeniser: &Retokeniser, tokens: &[u32], scored: &[bool]) -> Vec<(String, String)> {
    let rewritten = retokeniser.rewrite(tokens, scored).unwrap();
    assert_eq!(rewritten.partners.len(), tokens.len());
    let found = rewritten.partners.iter().enumerate();
    found
        .filter_map(|(place, partner)| {
            let partner = rewritten.tokens[(*partner)?];
            Some((retokeniser.from.token(tokens[place]).unwrap(), retokeniser.to.token(partner).unwrap()))
        })
        .collect()
}

fn all(tokens: &[u32]) -> Vec<bool> {
    (0..tokens.len()).map(|place| place > 0).collect()
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(left, right)| ((*left).to_owned(), (*right).to_owned())).collect()
}

/// What the other side reads, special tokens as they are spelled.
fn read(retokeniser: &Retokeniser, tokens: &[u32], scored: &[bool]) -> String {
    let rewritten = retokeniser.rewrite(tokens, scored).unwrap();
    rewritten.tokens.iter().map(|id| retokeniser.to.token(*id).unwrap()).collect::<Vec<_>>().join("|")
}

#[test]
fn a_text_in_bytes_is_read_in_pieces_and_met_where_both_begin_a_token() {
    let retokeniser = Retokeniser::new(bytes(&["a b"]), pieces(&["\u{2581}a", "\u{2581}ab"]), 100).unwrap();
    let from = retokeniser.from.clone();
    let mut tokens = vec![from.bos().unwrap()];
    tokens.extend(from.encode("ab a", false).unwrap());
    tokens.push(from.eos().unwrap());
    assert_eq!(read(&retokeniser, &tokens, &all(&tokens)), "<s>|\u{2581}ab|\u{2581}a|</s>");
    let expected = [("ab", "\u{2581}ab"), ("\u{120}", "\u{2581}a"), ("</s>", "</s>")];
    assert_eq!(pairs(&retokeniser, &tokens, &all(&tokens)), owned(&expected));
}

#[test]
fn a_text_in_pieces_is_read_in_bytes_without_the_space_that_only_marks_its_beginning() {
    let retokeniser =
        Retokeniser::new(pieces(&["\u{2581}a", "\u{2581}ab"]), bytes(&["a b", "\u{120} a"]), 100).unwrap();
    let from = retokeniser.from.clone();
    let mut tokens = vec![from.bos().unwrap()];
    tokens.extend(from.encode("ab ab", false).unwrap());
    assert_eq!(read(&retokeniser, &tokens, &all(&tokens)), "<s>|ab|\u{120}|ab");
    let expected = [("\u{2581}ab", "ab"), ("\u{2581}ab", "\u{120}")];
    assert_eq!(pairs(&retokeniser, &tokens, &all(&tokens)), owned(&expected));
}

#[test]
fn characters_that_are_several_tokens_meet_within_themselves() {
    // One side joins the first two bytes of 😀, the other spells it as four bytes; 中 is three on both.
    let joined = ["\u{F0} \u{141}"];
    let retokeniser = Retokeniser::new(bytes(&joined), pieces(&[]), 100).unwrap();
    let from = retokeniser.from.clone();
    let mut tokens = vec![from.bos().unwrap()];
    tokens.extend(from.encode("😀中é", false).unwrap());
    assert_eq!(tokens.len(), 9);
    let found = pairs(&retokeniser, &tokens, &all(&tokens));
    let theirs: Vec<&str> = found.iter().map(|(_, theirs)| theirs.as_str()).collect();
    assert_eq!(theirs, ["<0xF0>", "<0x98>", "<0x80>", "<0xE4>", "<0xB8>", "<0xAD>", "<0xC3>", "<0xA9>"]);
}

#[test]
fn where_scoring_begins_both_sides_have_a_border() {
    let retokeniser = Retokeniser::new(bytes(&[]), bytes(&["a b", "b c"]), 100).unwrap();
    let tokens = retokeniser.from.encode("abc", false).unwrap();
    assert_eq!(read(&retokeniser, &tokens, &[false, false, false]), "<s>|ab|c");
    // As a model that was asked to go on from `a` would have written it.
    assert_eq!(read(&retokeniser, &tokens, &[false, true, true]), "<s>|a|bc");
    assert_eq!(pairs(&retokeniser, &tokens, &[false, true, true]), owned(&[("a", "a"), ("b", "bc")]));
}

#[test]
fn what_is_no_whole_character_is_left_out_and_has_no_partner() {
    let retokeniser = Retokeniser::new(bytes(&[]), bytes(&["a b"]), 100).unwrap();
    let mut tokens = retokeniser.from.encode("éab😀", false).unwrap();
    // As in the second window of a text: its first token ends a character, its last begins one.
    tokens.remove(0);
    tokens.pop();
    assert_eq!(read(&retokeniser, &tokens, &all(&tokens)), "<s>|ab");
    assert_eq!(pairs(&retokeniser, &tokens, &all(&tokens)), owned(&[("a", "ab")]));
}

#[test]
fn special_tokens_become_their_like_or_nothing() {
    let mut to = byte_level(&[]);
    let names = |tokenizer: &mut Value, names: &[&str]| {
        let added = tokenizer["added_tokens"].as_array_mut().unwrap();
        for name in names {
            let id = 256 + added.len();
            added.push(json!({
                "id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                "special": true
            }));
        }
    };
    // This one puts nothing before a text by itself.
    to["post_processor"] = Value::Null;
    names(&mut to, &["<|turn|>", "<end>"]);
    let mut from = byte_level(&[]);
    names(&mut from, &["<|turn|>", "<|tool|>"]);
    let from = tokenizer(&from, &json!({ "bos_token": "<s>", "eos_token": "</s>" }));
    let to = tokenizer(&to, &json!({ "bos_token": "<s>", "eos_token": "<end>" }));
    let retokeniser = Retokeniser::new(from.clone(), to, 100).unwrap();
    let tokens = from.encode("<s><|turn|>a<|tool|>b</s>", false).unwrap();
    assert_eq!(tokens.len(), 6);
    // `</s>` is known to both, so it stays; `<|tool|>` is known to one.
    assert_eq!(read(&retokeniser, &tokens, &all(&tokens)), "<s>|<|turn|>|a|b|</s>");
    let expected = [("<|turn|>", "<|turn|>"), ("a", "a"), ("b", "b"), ("</s>", "</s>")];
    assert_eq!(pairs(&retokeniser, &tokens, &all(&tokens)), owned(&expected));
    // The end of a sequence has another name there.
    let mut ended = byte_level(&[]);
    names(&mut ended, &["<|stop|>"]);
    let from = tokenizer(&ended, &json!({ "eos_token": "<|stop|>" }));
    let retokeniser = Retokeniser::new(from.clone(), retokeniser.to, 100).unwrap();
    let tokens = from.encode("a<|stop|>", false).unwrap();
    assert_eq!(read(&retokeniser, &tokens, &all(&tokens)), "a|<end>");
    // Nothing predicts the first token of the other side.
    assert_eq!(pairs(&retokeniser, &tokens, &all(&tokens)), owned(&[("<|stop|>", "<end>")]));
}

#[test]
fn special_tokens_written_in_a_text_are_text_to_the_other() {
    let retokeniser = Retokeniser::new(pieces(&[]), bytes(&[]), 100).unwrap();
    let from = retokeniser.from.clone().with_special_tokens_as_text();
    let tokens = from.encode("</s>", false).unwrap();
    assert_eq!(read(&retokeniser, &tokens, &all(&tokens)), "<s>|<|/|s|>");
}

#[test]
fn a_text_that_is_longer_than_the_other_may_read_has_no_partners_at_its_end() {
    let retokeniser = Retokeniser::new(bytes(&[]), bytes(&[]), 3).unwrap();
    let tokens = retokeniser.from.encode("<s>abcd", false).unwrap();
    let rewritten = retokeniser.rewrite(&tokens, &all(&tokens)).unwrap();
    assert_eq!(rewritten.partners, [None, Some(1), Some(2), None, None]);
    assert_eq!((rewritten.tokens.len(), rewritten.behind), (3, 2));
    let scored: Vec<bool> = (0..tokens.len()).map(|place| place != 4).collect();
    assert_eq!(retokeniser.rewrite(&tokens, &scored).unwrap().behind, 1, "of those that are scored");
}

#[test]
fn where_the_other_normalises_characters_the_rest_keeps_its_places() {
    let mut composing = byte_level(&[]);
    composing["normalizer"] = json!({ "type": "NFC" });
    let to = tokenizer(&composing, &json!({ "eos_token": "</s>" }));
    let retokeniser = Retokeniser::new(bytes(&[]), to, 100).unwrap();
    // e and a combining accent: one character of two bytes there, three bytes here.
    let tokens = retokeniser.from.encode("<s>xe\u{301}y", false).unwrap();
    let rewritten = retokeniser.rewrite(&tokens, &all(&tokens)).unwrap();
    assert_eq!(rewritten.tokens.len(), 5);
    assert_eq!(rewritten.partners, [None, Some(1), Some(2), None, None, Some(4)]);
}

#[test]
fn the_digest_knows_both_sides_and_what_special_tokens_become() {
    let of = |from: Tokenizer, to: Tokenizer, longest| Retokeniser::new(from, to, longest).unwrap().digest();
    let base = of(bytes(&[]), pieces(&[]), 10);
    assert_eq!(base, of(bytes(&[]), pieces(&[]), 10));
    let endless = tokenizer(&byte_level(&[]), &json!({ "bos_token": "<s>" }));
    for other in [
        of(bytes(&["a b"]), pieces(&[]), 10),
        of(bytes(&[]), pieces(&["ab"]), 10),
        of(bytes(&[]), pieces(&[]), 11),
        of(endless, pieces(&[]), 10),
    ] {
        assert_ne!(base, other);
    }
}

mod places {
    use super::*;

    fn starts(text: &str, tokens: &[&str]) -> Vec<Option<usize>> {
        let starts = crate::align::starts(tokens.iter().map(|token| token.len()));
        starts_in(text.as_bytes(), &Pieces { bytes: tokens.concat().into_bytes(), starts })
    }

    #[test]
    fn a_space_before_the_text_belongs_to_the_first_token() {
        assert_eq!(starts("Hello you", &[" Hello", " you"]), [Some(0), Some(5)]);
        assert_eq!(starts("Hello", &[" ", "Hello"]), [None, Some(0)]);
        assert_eq!(starts(" a", &["  a"]), [Some(0)]);
    }

    #[test]
    fn what_was_changed_has_no_place_and_the_rest_keeps_it() {
        assert_eq!(starts("one TWO three", &["one", " two", " three"]), [Some(0), Some(3), Some(7)]);
        assert_eq!(
            starts("abcXYef", &["ab", "c", "x", "y", "e", "f"]),
            [Some(0), Some(2), Some(3), None, Some(5), Some(6)]
        );
        assert_eq!(starts("", &[]), []);
        assert_eq!(starts("abc", &["q"]), [Some(0)]);
    }
}
