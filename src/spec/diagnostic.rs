//! What is wrong with a file: data only; the command line renders it.

use crate::node::{Origin, Sources};
use crate::types::Reference;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The experiment cannot run.
    Error,
    /// It can run, but the user should know.
    Warning,
}

/// One thing that is wrong: a line, the characters it is about, and what to do.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The characters it is about; none for a thing of the whole file.
    pub at: Option<Origin>,
    /// One line, without a full stop.
    pub message: String,
    /// What to do, on a line of its own.
    pub hint: Option<String>,
    /// Other places that explain it, each with its words.
    pub related: Vec<(Origin, String)>,
}

impl Diagnostic {
    /// An error at a place.
    pub fn error(at: Origin, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, at: Some(at), message: message.into(), hint: None, related: Vec::new() }
    }

    /// A warning at a place.
    pub fn warning(at: Origin, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(at, message) }
    }

    /// An error of the whole file.
    pub fn general(message: impl Into<String>) -> Self {
        Self { at: None, ..Self::error(Origin::NOWHERE, message) }
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds "did you mean" when a candidate is close, else lists the candidates.
    #[must_use]
    pub fn suggest<'a>(self, written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Self {
        let candidates: Vec<&str> = candidates.into_iter().collect();
        if candidates.is_empty() { self } else { self.hint(crate::suggest::hint(written, candidates)) }
    }

    /// Adds another place that explains it.
    #[must_use]
    pub fn related(mut self, at: Origin, words: impl Into<String>) -> Self {
        self.related.push((at, words.into()));
        self
    }
}

/// All that is wrong with an experiment, and the texts it stands in.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    /// The texts.
    pub sources: Sources,
    list: Vec<Diagnostic>,
    references: Vec<Reference>,
}

impl Diagnostics {
    /// Nothing wrong yet.
    #[must_use]
    pub fn new(sources: Sources) -> Self {
        Self { sources, ..Self::default() }
    }

    /// Adds one; the same message at the same place (a fault seen in several cells of a sweep) counts once.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        let known = |seen: &Diagnostic| seen.at == diagnostic.at && seen.message == diagnostic.message;
        if !self.list.iter().any(known) {
            self.list.push(diagnostic);
        }
    }

    /// Notes a name that was read, so that it can be checked even if the table around it is faulty.
    pub fn note_reference(&mut self, reference: Reference) {
        self.references.push(reference);
    }

    /// The names read since the last call.
    pub fn take_references(&mut self) -> Vec<Reference> {
        std::mem::take(&mut self.references)
    }

    /// Whether anything is an error.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// How many are errors.
    #[must_use]
    pub fn error_count(&self) -> usize {
        self.list.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count()
    }

    /// All of them in the order of the text.
    #[must_use]
    pub fn sorted(&self) -> Vec<&Diagnostic> {
        let mut all: Vec<_> = self.list.iter().collect();
        all.sort_by_key(|diagnostic| diagnostic.at);
        all
    }
}
