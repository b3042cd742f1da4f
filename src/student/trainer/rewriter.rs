//! What a teacher with other tokens reads of the data's examples, kept from one pass over the data to the next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stillhouse_data::error::DataResult;
use stillhouse_data::retokenise::{Retokenised, Retokeniser};

/// Tokens of the kept examples, of both sides together: about 100 MB.
const KEPT_TOKENS: usize = 1 << 22;

/// A retokeniser that remembers. What it gives depends on nothing that it remembers.
pub(super) struct Rewriter {
    retokeniser: Arc<Retokeniser>,
    known: Mutex<Known>,
    /// How many tokens it keeps.
    limit: usize,
}

#[derive(Default)]
struct Known {
    /// By the digest of what was rewritten.
    examples: HashMap<[u8; 32], Arc<Retokenised>>,
    tokens: usize,
}

impl Rewriter {
    pub(super) fn new(retokeniser: Arc<Retokeniser>) -> Self {
        Self { retokeniser, known: Mutex::default(), limit: KEPT_TOKENS }
    }

    pub(super) fn retokeniser(&self) -> &Retokeniser {
        &self.retokeniser
    }

    /// [`Retokeniser::rewrite`], remembered where the sequence `comes_again` and there is room. Nothing makes room for
    /// another: passes over the data come by in circles, so what was seen longest ago is what comes next.
    ///
    /// # Errors
    /// Text that the other tokenizer has no tokens for.
    pub(super) fn rewrite(&self, tokens: &[u32], scored: &[bool], comes_again: bool) -> DataResult<Arc<Retokenised>> {
        if !comes_again {
            return Ok(Arc::new(self.retokeniser.rewrite(tokens, scored)?));
        }
        let digest = digest(tokens, scored);
        if let Some(known) = self.known().examples.get(&digest) {
            return Ok(known.clone());
        }
        let rewritten = Arc::new(self.retokeniser.rewrite(tokens, scored)?);
        let size = rewritten.tokens.len() + rewritten.partners.len();
        let mut known = self.known();
        if known.tokens + size <= self.limit && known.examples.insert(digest, rewritten.clone()).is_none() {
            known.tokens += size;
        }
        Ok(rewritten)
    }

    /// A thread that panicked left it whole: every change is one insertion.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn digest(tokens: &[u32], scored: &[bool]) -> [u8; 32] {
    let mut bytes = Vec::with_capacity(tokens.len() * 5);
    tokens.iter().for_each(|token| bytes.extend_from_slice(&token.to_le_bytes()));
    // One mark a token, so the length says where the marks begin.
    bytes.extend(scored.iter().map(|scored| u8::from(*scored)));
    *blake3::hash(&bytes).as_bytes()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use stillhouse_data::tokenizer::Tokenizer;

    use super::*;

    fn rewriter(limit: usize) -> (Rewriter, Vec<u32>) {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/stories260k");
        let tokenizer = Tokenizer::open(&folder).unwrap();
        let tokens = tokenizer.encode("Once upon a time", true).unwrap();
        let retokeniser = Arc::new(Retokeniser::new(tokenizer.clone(), tokenizer, 100).unwrap());
        (Rewriter { limit, ..Rewriter::new(retokeniser) }, tokens)
    }

    #[test]
    fn what_comes_again_is_rewritten_once_and_the_same() {
        let (rewriter, tokens) = rewriter(1_000);
        let scored = vec![true; tokens.len()];
        let fresh = rewriter.retokeniser.rewrite(&tokens, &scored).unwrap();
        let one = rewriter.rewrite(&tokens, &scored, true).unwrap();
        let two = rewriter.rewrite(&tokens, &scored, true).unwrap();
        assert!(Arc::ptr_eq(&one, &two) && *one == fresh);
        // Other tokens and other borders are another sequence.
        let mut first_not = scored.clone();
        first_not[0] = false;
        assert!(!Arc::ptr_eq(&one, &rewriter.rewrite(&tokens, &first_not, true).unwrap()));
        assert!(!Arc::ptr_eq(&one, &rewriter.rewrite(&tokens[1..], &scored[1..], true).unwrap()));
        assert_eq!(rewriter.known().examples.len(), 3);
    }

    #[test]
    fn what_does_not_come_again_or_has_no_room_is_not_kept() {
        let (roomy, tokens) = rewriter(1_000);
        let scored = vec![true; tokens.len()];
        let one = roomy.rewrite(&tokens, &scored, false).unwrap();
        assert_eq!((one.partners.len(), roomy.known().examples.len()), (tokens.len(), 0));
        let (full, _) = rewriter(2 * tokens.len() + 1);
        full.rewrite(&tokens, &scored, true).unwrap();
        full.rewrite(&tokens[1..], &scored[1..], true).unwrap();
        let known = full.known();
        assert!(known.examples.len() == 1 && known.tokens <= full.limit, "{}", known.tokens);
    }
}
