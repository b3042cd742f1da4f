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
                strsim::normalized_damerau_levenshtein(&wanted, &candidate_folded)
                    .max(strsim::jaro_winkler(&wanted, &candidate_folded) - 0.15)
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

/// Names as a message lists them: `` `a`, `b`, `c` ``.
#[must_use]
pub fn list(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
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
    fn a_short_candidate_does_not_beat_the_right_one() {
        assert_eq!(did_you_mean("temprature", ["t", "te", "temperature"]), Some("temperature"));
        assert_eq!(did_you_mean("temp", ["t", "temperature"]), Some("temperature"));
    }
}
