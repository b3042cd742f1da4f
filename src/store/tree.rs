//! [`Tree`]: what a stage made, as a list of files.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::digest::Digest;
use crate::error::StoreError;

/// The first line of a tree's text. Another meaning of the lines gets another number.
const HEADER: &str = "stillhouse/tree/1";

/// Trees up to this many files are kept inside their record, so that a look-up reads one file.
const RECORD_FILES: usize = 64;

/// One file of a [`Tree`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TreeEntry {
    /// Relative, with `/` between the parts.
    pub path: String,
    /// The content.
    pub digest: Digest,
    /// Bytes of content.
    pub length: u64,
    /// Whether the file may be executed.
    pub executable: bool,
}

/// A set of files, sorted by path. Equal trees have equal text, hence equal digests.
///
/// The text that is hashed and stored:
///
/// ```text
/// stillhouse/tree/1
/// <64 hex digits> <length in bytes> <x if executable, else -> <path>
/// …
/// ```
///
/// Lines end with `\n`, the last too, and are sorted by the bytes of their path. Folders exist only as
/// part of a path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    entries: Vec<TreeEntry>,
}

impl Tree {
    /// Makes a tree of entries in any order.
    ///
    /// # Errors
    /// A path that is unfit, there twice, or both a file and a folder.
    pub fn new(mut entries: Vec<TreeEntry>) -> Result<Self, StoreError> {
        entries.sort();
        let invalid = |reason| Err(StoreError::Invalid { what: "a tree", reason });
        let mut folders = BTreeSet::new();
        for entry in &entries {
            if let Some(reason) = unfit(&entry.path) {
                return invalid(format!("the path {:?} {reason}", entry.path));
            }
            folders.extend(entry.path.match_indices('/').map(|(at, _)| &entry.path[..at]));
        }
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].path == pair[1].path) {
            return invalid(format!("the path {:?} is there twice", pair[0].path));
        }
        if let Some(entry) = entries.iter().find(|entry| folders.contains(entry.path.as_str())) {
            return invalid(format!("{:?} is both a file and a folder", entry.path));
        }
        Ok(Self { entries })
    }

    /// The files, sorted by path.
    pub fn entries(&self) -> &[TreeEntry] {
        &self.entries
    }

    /// The file at `path`.
    pub fn get(&self, path: &str) -> Option<&TreeEntry> {
        let found = self.entries.binary_search_by(|entry| entry.path.as_str().cmp(path));
        found.ok().map(|at| &self.entries[at])
    }

    /// Bytes of content in all files.
    pub fn length(&self) -> u64 {
        self.entries.iter().map(|entry| entry.length).sum()
    }

    /// The digest of the canonical text.
    pub fn digest(&self) -> Digest {
        Digest::of(self.to_text().as_bytes())
    }

    /// The files that are one of `tops` or lie under one, at their full paths. So a consumer of
    /// `model/` does not notice that `log.txt` changed.
    pub fn part(&self, tops: &[&str]) -> Self {
        let inside = |path: &str| {
            tops.iter().any(|top| path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
        };
        let kept = self.entries.iter().filter(|entry| inside(&entry.path));
        Self { entries: kept.cloned().collect() }
    }

    /// Whether a record carries a copy of this tree.
    pub(crate) fn fits_into_record(&self) -> bool {
        self.entries.len() <= RECORD_FILES
    }

    /// The canonical text.
    pub fn to_text(&self) -> String {
        let mut text = format!("{HEADER}\n");
        for TreeEntry { path, digest, length, executable } in &self.entries {
            let mark = if *executable { 'x' } else { '-' };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{digest} {length} {mark} {path}");
        }
        text
    }

    /// Reads the canonical text, and nothing else: what parses writes the same text again.
    ///
    /// # Errors
    /// Says which line is wrong and why.
    pub fn parse(text: &str) -> Result<Self, StoreError> {
        let wrong =
            |line: usize, why: &str| StoreError::Invalid { what: "a tree", reason: format!("line {line} {why}") };
        let Some(body) = text.strip_prefix(HEADER).and_then(|rest| rest.strip_prefix('\n')) else {
            return Err(wrong(1, "is not the header of a tree"));
        };
        let mut entries = Vec::new();
        for (at, line) in body.split_terminator('\n').enumerate() {
            let entry = parse_line(line).ok_or_else(|| wrong(at + 2, "is not an entry of a tree"))?;
            entries.push(entry);
        }
        let tree = Self::new(entries)?;
        if tree.to_text() != text {
            return Err(wrong(1, "and the following are not in canonical form"));
        }
        Ok(tree)
    }
}

fn parse_line(line: &str) -> Option<TreeEntry> {
    let mut parts = line.splitn(4, ' ');
    let digest = parts.next()?.parse().ok()?;
    let length = parts.next()?.parse().ok()?;
    let executable = match parts.next()? {
        "x" => true,
        "-" => false,
        _ => return None,
    };
    Some(TreeEntry { path: parts.next()?.to_owned(), digest, length, executable })
}

/// Why a path cannot be in a tree, if it cannot.
///
/// What passes is one line of text and stays inside the folder it is joined to.
pub(crate) fn unfit(path: &str) -> Option<&'static str> {
    if path.chars().any(char::is_control) {
        return Some("contains a control character");
    }
    let odd = |part: &str| matches!(part, "" | "." | "..");
    path.split('/').any(odd).then_some("is not a plain relative path")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str) -> TreeEntry {
        TreeEntry { path: path.into(), digest: Digest::of(path.as_bytes()), length: 3, executable: false }
    }

    fn tree(paths: &[&str]) -> Tree {
        Tree::new(paths.iter().map(|path| entry(path)).collect()).unwrap()
    }

    /// Pinned: every record in the world names trees by this digest.
    #[test]
    fn the_text_of_a_tree_is_as_documented() {
        let mut run = entry("b/run");
        run.executable = true;
        let tree = Tree::new(vec![run, entry("a file")]).unwrap();
        let (a, b) = (Digest::of(b"a file"), Digest::of(b"b/run"));
        assert_eq!(tree.to_text(), format!("stillhouse/tree/1\n{a} 3 - a file\n{b} 3 x b/run\n"));
        assert_eq!(tree.digest(), Digest::of(tree.to_text().as_bytes()));
    }

    #[test]
    fn a_part_is_cut_at_whole_names() {
        let whole = tree(&["model", "model.txt", "models/x", "other/model/x"]);
        assert_eq!(whole.part(&["model"]), tree(&["model"]));
        assert_eq!(whole.part(&["models", "other"]), tree(&["models/x", "other/model/x"]));
        assert_eq!(whole.part(&[]), tree(&[]));
    }

    #[test]
    fn unfit_paths_are_refused_with_their_name() {
        for path in ["", "/a", "a//b", "a/", ".", "a/../b", "line\nbreak", "tab\t"] {
            let error = Tree::new(vec![entry(path)]).unwrap_err().to_string();
            assert!(error.contains(&format!("{path:?}")), "{error}");
        }
    }

    #[test]
    fn a_path_is_there_once_and_is_a_file_or_a_folder() {
        let twice = Tree::new(vec![entry("a"), entry("a")]).unwrap_err().to_string();
        assert!(twice.contains("there twice"), "{twice}");
        let both = Tree::new(vec![entry("a"), entry("a-b"), entry("a/b")]).unwrap_err().to_string();
        assert!(both.contains("both a file and a folder"), "{both}");
    }

    #[test]
    fn only_canonical_text_parses() {
        let good = tree(&["a", "b"]).to_text();
        assert!(Tree::parse(&good).is_ok());
        let mut lines: Vec<&str> = good.lines().collect();
        lines.swap(1, 2);
        let swapped = lines.join("\n") + "\n";
        for bad in [
            swapped.as_str(),
            good.trim_end(),
            &good.replace(" 3 ", " 03 "),
            &good.replace(" - ", " ? "),
            &good.replace("tree/1", "tree/2"),
            &format!("{good}\n"),
            "",
        ] {
            assert!(Tree::parse(bad).is_err(), "{bad}");
        }
    }
}
