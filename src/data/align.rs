//! Where two tokenisations of one text meet: what makes distributions over different vocabularies comparable.
//!
//! A model that has read the text up to a byte says what comes next. Another model with other tokens says the same where
//! one of its tokens begins at that very byte: both have then read the same text, no more and no less. So tokens are
//! paired by the byte at which they begin, and a position that predicts one of a pair is comparable with the position that
//! predicts the other. Nothing is merged and nothing estimated; tokens that begin inside one of the other side have no
//! partner.

/// For each token of `left` the token of `right` that begins at the same byte.
///
/// Both sides say at which byte of the text each of their tokens begins, in ascending order; none for a token that writes
/// nothing, or whose beginning is not known. Takes one pass over both.
pub fn align(left: &[Option<usize>], right: &[Option<usize>]) -> Vec<Option<usize>> {
    let mut candidates = right.iter().enumerate().filter_map(|(place, start)| Some((place, (*start)?))).peekable();
    let partner = |start: &Option<usize>| {
        let start = (*start)?;
        while candidates.next_if(|(_, other)| *other < start).is_some() {}
        candidates.next_if(|(_, other)| *other == start).map(|(place, _)| place)
    };
    left.iter().map(partner).collect()
}

/// Where tokens begin that write so many bytes each, one behind the other: what [`align`] takes. A token that writes
/// nothing begins nowhere.
pub fn starts(lengths: impl IntoIterator<Item = usize>) -> Vec<Option<usize>> {
    let mut at = 0;
    let start = |length: usize| {
        let start = (length > 0).then_some(at);
        at += length;
        start
    };
    lengths.into_iter().map(start).collect()
}

/// How many bytes two texts begin with together, and how many of the rest they end with.
pub(crate) fn common_ends(left: &[u8], right: &[u8]) -> (usize, usize) {
    let same = |(left, right): &(&u8, &u8)| left == right;
    let prefix = left.iter().zip(right).take_while(same).count();
    let most = left.len().min(right.len()) - prefix;
    let suffix = left.iter().rev().zip(right.iter().rev()).take(most).take_while(same).count();
    (prefix, suffix)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(tokens: &[&str]) -> Vec<Option<usize>> {
        starts(tokens.iter().map(|token| token.len()))
    }

    #[test]
    fn tokens_are_paired_where_both_begin() {
        let (ours, theirs) = (of(&["Hel", "lo", " wor", "ld"]), of(&["Hello", " ", "world"]));
        assert_eq!(align(&ours, &theirs), [Some(0), None, Some(1), None]);
        assert_eq!(align(&theirs, &ours), [Some(0), Some(2), None]);
    }

    #[test]
    fn tokens_that_write_nothing_have_no_partner() {
        let (ours, theirs) = (of(&["", "ab", "", "c"]), of(&["a", "b", "", "c"]));
        assert_eq!(ours, [None, Some(0), None, Some(2)]);
        assert_eq!(align(&ours, &theirs), [None, Some(0), None, Some(3)]);
    }

    #[test]
    fn parts_of_one_character_meet_as_well() {
        // 😀 is F0 9F 98 80: three tokens here, two there, and both begin one at its third byte.
        let (ours, theirs) = (starts([1, 1, 2, 1]), starts([2, 2, 1]));
        assert_eq!(align(&ours, &theirs), [Some(0), None, Some(1), Some(2)]);
    }

    #[test]
    fn nothing_meets_nothing() {
        assert_eq!(align(&[], &of(&["a"])), []);
        assert_eq!(align(&of(&["a"]), &[]), [None]);
        assert_eq!(align(&[Some(0), None, Some(3)], &[None, Some(3)]), [None, None, Some(1)]);
    }

    /// A text cut at some of its bytes; empty tokens among them.
    fn cut(text: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
        cuts.sort_unstable();
        let edges = [&[0], cuts.as_slice(), &[text.len()]].concat();
        edges.windows(2).map(|edge| text[edge[0]..edge[1]].to_vec()).collect()
    }

    proptest! {
        #[test]
        fn two_cuts_of_one_text_meet_exactly_where_the_same_bytes_were_read(
            text in prop::collection::vec(any::<u8>(), 0..60),
            ours in prop::collection::vec(any::<usize>(), 0..40),
            theirs in prop::collection::vec(any::<usize>(), 0..40),
        ) {
            let (ours, theirs) = (cut(&text, &ours), cut(&text, &theirs));
            let of = |tokens: &[Vec<u8>]| starts(tokens.iter().map(Vec::len));
            let found = align(&of(&ours), &of(&theirs));
            prop_assert_eq!(found.len(), ours.len());
            for (place, partner) in found.iter().enumerate() {
                let read = ours[..place].concat();
                let same: Vec<usize> = (0..theirs.len())
                    .filter(|other| !ours[place].is_empty() && !theirs[*other].is_empty())
                    .filter(|other| theirs[..*other].concat() == read)
                    .collect();
                // At most one token that writes something begins at a byte.
                prop_assert!(same.len() <= 1);
                prop_assert_eq!(partner.as_ref(), same.first());
            }
            let back = align(&of(&theirs), &of(&ours));
            for (place, partner) in found.iter().enumerate().filter_map(|(place, partner)| Some((place, (*partner)?))) {
                prop_assert_eq!(back[partner], Some(place));
            }
        }
    }
}
