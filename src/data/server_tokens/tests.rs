use super::*;
use crate::testing::tokenizers::{byte_level, sentence_piece, tokenizer};

const ENDS: &str = r#"{ "bos_token": "<s>", "eos_token": "</s>" }"#;

fn bytes(merges: &[&str]) -> Tokenizer {
    tokenizer(&byte_level(merges), &serde_json::from_str(ENDS).unwrap())
}

fn hello() -> Tokenizer {
    bytes(&["h e", "l l", "he ll", "hell o", "\u{120} w", "\u{120}w o"])
}

fn candidate(id: Option<u32>, bytes: &[u8], p: f32) -> Candidate {
    Candidate { id, bytes: bytes.to_vec(), log_prob: p.ln() }
}

/// A server that has `tokenizer` and is nearly certain of every token of a completion; its second thought is always `second`.
fn sure(
    tokenizer: &Tokenizer,
    completion: &[u32],
    second: u32,
    told: fn(u32, Vec<u8>) -> Candidate,
) -> Vec<TokenLogProbs> {
    let of = |id: u32, p: f32| {
        let told = told(id, tokenizer.token_bytes(id).unwrap());
        Candidate { log_prob: p.ln(), ..told }
    };
    let said = |id: &u32| TokenLogProbs { chosen: of(*id, 0.75), top: vec![of(*id, 0.75), of(second, 0.125)] };
    completion.iter().map(said).collect()
}

fn by_bytes(_: u32, bytes: Vec<u8>) -> Candidate {
    candidate(None, &bytes, 1.0)
}

fn by_both(id: u32, bytes: Vec<u8>) -> Candidate {
    candidate(Some(id), &bytes, 1.0)
}

fn by_ids(id: u32, _: Vec<u8>) -> Candidate {
    candidate(Some(id), b"", 1.0)
}

/// The tokens that a text and its end are.
fn with_end(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, false).unwrap().into_iter().chain(tokenizer.eos()).collect()
}

fn answered(ours: &Tokenizer, text: &str, said: &[TokenLogProbs]) -> Answered {
    ServerTokens::new(ours).unwrap().distributions(text, &with_end(ours, text), said).unwrap()
}

/// Which tokens have a distribution, as text.
fn places(ours: &Tokenizer, text: &str, answered: &Answered) -> Vec<String> {
    let tokens = with_end(ours, text).into_iter().zip(&answered.positions);
    tokens.filter(|(_, said)| !said.ids.is_empty()).map(|(id, _)| ours.token(id).unwrap()).collect()
}

#[test]
fn a_server_with_the_same_vocabulary_is_understood_whole_however_it_names_its_tokens() {
    let ours = hello();
    for text in ["hello world", "hi \u{1F600}, hello", "a</s>b"] {
        let plain = ours.clone().with_special_tokens_as_text();
        let completion: Vec<u32> = plain.encode(text, false).unwrap().into_iter().chain(ours.eos()).collect();
        for told in [by_bytes, by_both, by_ids] {
            let said = sure(&ours, &completion, 97, told);
            let found = ServerTokens::new(&ours).unwrap().distributions(text, &completion, &said).unwrap();
            let matched = found.matched;
            assert_eq!((matched.tokens, matched.left_out), (completion.len() as u64, 0), "{text}");
            assert_eq!((matched.share(), matched.mass_share()), (1.0, 1.0), "{text}");
            for (said, id) in found.positions.iter().zip(&completion) {
                assert_eq!(said.ids, if *id == 97 { vec![97] } else { vec![*id, 97] });
                assert_eq!(said.log_probs[0], 0.75f32.ln());
            }
        }
    }
}

#[test]
fn the_end_of_the_text_is_understood_as_servers_tell_it_and_missing_where_they_do_not() {
    let ours = hello();
    let completion = with_end(&ours, "hello");
    let eos = ours.eos().unwrap();
    let mut said = sure(&ours, &completion, 97, by_bytes);
    let end = |candidate: Candidate| TokenLogProbs { chosen: candidate.clone(), top: vec![candidate] };
    for (last, known) in [
        (candidate(Some(eos), b"", 0.5), false),
        (candidate(None, b"", 0.5), true),
        (candidate(None, b"</s>", 0.5), true),
        (candidate(None, b"<s>", 0.5), false),
        (candidate(None, b"h", 0.5), false),
    ] {
        // Ids are only taken where the answer's own show whose they are; here none does.
        said[1] = end(last.clone());
        let found = answered(&ours, "hello", &said);
        assert_eq!(found.positions[1].ids, if known || last.bytes.is_empty() { vec![eos] } else { vec![] }, "{last:?}");
    }
    let cut = answered(&ours, "hello", &said[..1]);
    assert_eq!(places(&ours, "hello", &cut), ["hello"]);
    // A server that goes on behind a stop text said nothing of the end.
    let more = sure(&ours, &with_end(&ours, "hello wo"), 97, by_bytes);
    assert_eq!(places(&ours, "hello", &answered(&ours, "hello", &more)), ["hello"]);
}

#[test]
fn another_vocabulary_meets_where_both_have_the_same_token() {
    let (ours, theirs) = (hello(), bytes(&["h e", "l l", "o \u{120}", "r l", "rl d"]));
    let text = "hello world";
    for told in [by_bytes, by_both] {
        let found = answered(&ours, text, &sure(&theirs, &with_end(&theirs, text), 97, told));
        // Theirs: he ll o␣ w o rld. Ours: hello ␣wo r l d.
        assert_eq!(places(&ours, text, &found), ["</s>"]);
        assert!(found.matched.share() < 0.2, "{:?}", found.matched);
    }
    let (coarse, fine) = (bytes(&["a b"]), bytes(&[]));
    let found = answered(&fine, "xaby", &sure(&coarse, &with_end(&coarse, "xaby"), 256, by_bytes));
    assert_eq!(places(&fine, "xaby", &found), ["x", "y", "</s>"]);
    let matched = found.matched;
    assert_eq!((matched.matched, matched.left_out), (3, 3), "`ab` is no token here");
    assert!((matched.mass_share() - 0.75 / 0.875).abs() < 1e-6);
    assert_eq!(found.positions[0].ids, [u32::from(b'x') - 33], "what is left out is left in the mass outside");
}

#[test]
fn pieces_of_sentence_piece_are_told_from_bytes_and_the_first_space_is_the_tokenizers_own() {
    let words = ["\u{2581}hello", "hello"];
    let ours = tokenizer(&sentence_piece(&words), &serde_json::from_str(ENDS).unwrap());
    let said = |texts: &[&str]| -> Vec<TokenLogProbs> {
        let said = |text: &&str| {
            let chosen = candidate(None, text.as_bytes(), 0.5);
            TokenLogProbs { top: vec![chosen.clone()], chosen }
        };
        texts.iter().map(said).collect()
    };
    let text = "hello a\n";
    let found = answered(&ours, text, &said(&[" hello", " ", "a", "\n", "</s>"]));
    let ids = found.positions.iter().map(|said| ours.token(*said.ids.first()?)).collect::<Vec<_>>();
    let of = |token: &str| Some(token.to_owned());
    assert_eq!(ids, [of("\u{2581}hello"), of("\u{2581}"), of("a"), of("<0x0A>"), of("</s>")]);
    // Without its space it is another token.
    let other = answered(&ours, text, &said(&["hello", " ", "a", "\n", "</s>"]));
    assert_eq!((other.positions[0].ids.len(), other.matched.matched), (0, 4));
}

#[test]
fn what_is_no_distribution_or_no_token_is_left_out() {
    let ours = hello();
    let completion = with_end(&ours, "hello");
    let with = |top: Vec<Candidate>| {
        let mut said = sure(&ours, &completion, 97, by_bytes);
        said[0].top = top;
        answered(&ours, "hello", &said)
    };
    let hello = || candidate(None, b"hello", 0.75);
    for top in [
        vec![],
        vec![hello(), candidate(None, b"he", 0.5)],
        vec![Candidate { log_prob: f32::NAN, ..hello() }],
        vec![candidate(None, "\u{FFFD}".as_bytes(), 0.5), candidate(None, b"zzz", 0.25)],
    ] {
        assert_eq!(with(top.clone()).positions[0].ids.len(), 0, "{top:?}");
    }
    let impossible = Candidate { log_prob: f32::MIN, ..candidate(None, b"he", 0.5) };
    let found = with(vec![candidate(None, b"w", 0.125), hello(), impossible, candidate(None, b"zzz", 0.0625)]);
    assert_eq!(found.positions[0].ids[0], completion[0], "the likeliest comes first");
    assert_eq!((found.positions[0].ids.len(), found.matched.left_out), (2, 1));
    let none = answered(&ours, "hello", &[]);
    assert_eq!((none.positions.len(), none.matched.tokens, none.matched.share()), (2, 2, 0.0));
}

#[test]
fn bytes_that_two_tokens_write_are_neither_of_them() {
    let ours = tokenizer(&sentence_piece(&["\u{2581}q", " q"]), &serde_json::from_str(ENDS).unwrap());
    let tokens = ServerTokens::new(&ours).unwrap();
    assert_eq!(tokens.by_bytes[&b" q"[..]].1, None);
    assert_eq!(tokens.by_bytes[&b"</s>"[..]], (Kind::Special, ours.eos()));
    // A byte that is also a letter is meant as the letter.
    let letter = tokens.by_bytes[&b"a"[..]];
    assert_eq!((letter.0, letter.1.and_then(|id| ours.token(id))), (Kind::Ordinary, Some("a".to_owned())));
}

#[test]
fn an_end_that_is_told_by_nothing_does_not_make_ids_unknown() {
    let ours = hello();
    let completion = with_end(&ours, "hello world");
    let mut said = sure(&ours, &completion, 97, by_ids);
    let eos = ours.eos().unwrap();
    *said.last_mut().unwrap() = TokenLogProbs {
        chosen: candidate(None, b"", 0.0),
        top: vec![candidate(Some(98), b"", 0.5), candidate(Some(eos), b"", 0.25)],
    };
    let found = ServerTokens::new(&ours).unwrap().distributions("hello world", &completion, &said).unwrap();
    assert_eq!(found.matched.share(), 1.0);
    assert_eq!(found.positions.last().unwrap().ids, [98, eos]);
}
