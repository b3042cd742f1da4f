//! "Did you mean": the nearest of a few names.

/// The candidate nearest to what was written, if it is near enough to be a slip.
#[must_use]
pub fn did_you_mean<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = |name: &str| name.to_lowercase().replace('_', "-");
    let wanted = folded(written);
    candidates
        .into_iter()
        .map(|candidate| {
            let candidate_folded = folded(candidate);
            let score = if candidate_folded == wanted {
                1.0
            } else if is_prefix(&wanted, &candidate_folded) || is_prefix(&candidate_folded, &wanted) {
                0.9
            } else {
                let alike = strsim::normalized_damerau_levenshtein(&wanted, &candidate_folded)
                    .max(strsim::jaro_winkler(&wanted, &candidate_folded) - 0.15);
                // One that only begins with the same word comes behind all that are near enough.
                if begins_alike(&wanted, &candidate_folded) { alike.max(0.6 + 0.01 * alike) } else { alike }
            };
            (score, candidate)
        })
        .filter(|(score, _)| *score > 0.6)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

/// Whether a name begins another. One or two letters begin too many to mean anything.
fn is_prefix(short: &str, long: &str) -> bool {
    short.len() >= 3 && long.starts_with(short)
}

/// Whether both begin with the same word, of three letters or more: `max400` and `max-tokens`.
fn begins_alike(wanted: &str, candidate: &str) -> bool {
    let word = |name: &str| name.find(|letter: char| !letter.is_alphabetic()).unwrap_or(name.len());
    let (one, other) = (&wanted[..word(wanted)], &candidate[..word(candidate)]);
    one.chars().count() >= 3 && one == other
}

/// Names as a message lists them: `` `a`, `b`, `c` ``; of very many only the first.
#[must_use]
pub fn list(names: &[&str]) -> String {
    const MOST: usize = 30;
    let shown: Vec<String> = names.iter().take(MOST).map(|name| format!("`{name}`")).collect();
    let shown = shown.join(", ");
    if names.len() > MOST { format!("{shown} and {} more", names.len() - MOST) } else { shown }
}

/// What to do about a name that is none of these: the one that was meant, or all there are.
#[must_use]
pub fn hint<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    match did_you_mean(written, names.iter().copied()) {
        Some(close) => format!("did you mean `{close}`?"),
        None => format!("one of {}", list(&names)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_name_and_a_stranger_finds_none() {
        let names = ["temperature", "top-p", "max-tokens", "seed"];
        assert_eq!(did_you_mean("temprature", names), Some("temperature"));
        assert_eq!(did_you_mean("max_tokens", names), Some("max-tokens"));
        assert_eq!(did_you_mean("Seed", names), Some("seed"));
        assert_eq!(did_you_mean("banana", names), None);
    }

    #[test]
    fn a_number_run_into_a_name_still_finds_the_one_that_begins_like_it() {
        let names = ["temperature", "top-p", "top-k", "max-tokens", "stop", "seed"];
        for (written, meant) in
            [("max400", "max-tokens"), ("max_len", "max-tokens"), ("seed7", "seed"), ("top2", "top-p")]
        {
            assert!(
                did_you_mean(written, names).is_some_and(|found| found == meant || meant.starts_with("top")),
                "{written}"
            );
        }
        assert_eq!(did_you_mean("min400", names), None);
        // A nearer name goes before one that only begins alike.
        assert_eq!(did_you_mean("max-wait-secs", ["max-tokens", "max-wait-seconds"]), Some("max-wait-seconds"));
        assert_eq!(did_you_mean("mix-tokens", ["mix", "max-tokens"]), Some("max-tokens"));
    }

    #[test]
    fn very_many_names_are_not_all_listed() {
        let names: Vec<String> = (0..1000).map(|index| format!("n{index}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert!(list(&names).ends_with("`n29` and 970 more"));
        assert_eq!(hint("n17x", ["n1", "n17"]), "did you mean `n17`?");
        assert_eq!(hint("x", ["a", "b"]), "one of `a`, `b`");
    }

    #[test]
    fn a_short_candidate_does_not_beat_the_right_one() {
        assert_eq!(did_you_mean("temprature", ["t", "te", "temperature"]), Some("temperature"));
        assert_eq!(did_you_mean("temp", ["t", "temperature"]), Some("temperature"));
    }
}
