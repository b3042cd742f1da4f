//! The digests of the files and folders that stages name: each hashed once, checked for being there.

mod tree;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use stillhouse_spec::{Canonical, Diagnostic, Diagnostics, FileUse, Origin, Select};
use stillhouse_stage::FileInput;
use stillhouse_store::{Digest, Store};

use crate::experiment::Experiment;

/// Digests of a plan's files, remembered for the length of the plan.
#[derive(Default)]
pub struct Files {
    known: HashMap<(PathBuf, Select), FileInput>,
}

/// What is wrong with a path, and what to do.
#[derive(Clone, Debug)]
pub struct FileProblem {
    /// One line.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl FileProblem {
    /// The problem under the characters that name the path.
    #[must_use]
    pub fn at(self, at: Origin) -> Diagnostic {
        let error = Diagnostic::error(at, self.message);
        match self.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// Reports every path of an experiment that is not there or not what it should be. Hashes nothing.
pub fn check(experiment: &Experiment, report: &mut Diagnostics) {
    // Thousands of stages may name one folder: it is looked at once for each place that names it.
    let mut seen: HashSet<(&Path, Origin)> = HashSet::new();
    for (_, stage) in experiment.stages() {
        for file in stage.files.values().filter(|file| seen.insert((&file.path, file.at))) {
            if let Err(problem) = members(file) {
                report.push(problem.at(file.at));
            }
        }
    }
}

/// The files that count of a path: one with an empty name for a file, by name for a folder.
fn members(file: &FileUse) -> Result<Vec<(String, PathBuf)>, FileProblem> {
    let path = &file.path;
    let problem = |message: String, hint: Option<&str>| FileProblem { message, hint: hint.map(str::to_owned) };
    let meta = fs_err::metadata(path).map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            problem(
                format!("there is no {}", path.display()),
                Some("paths are relative to the file they are written in"),
            )
        } else {
            problem(format!("cannot read {}: {}", path.display(), error.kind()), Some("check its permissions"))
        }
    })?;
    if !meta.is_dir() && !meta.is_file() {
        // Opening a pipe would wait for whoever writes to it.
        let message = format!("{} is a pipe or a device, a plain file is needed", path.display());
        return Err(problem(message, Some("write its content to a file first: it counts in the key, so it must stay")));
    }
    match &file.select {
        Select::File if meta.is_dir() => {
            Err(problem(format!("{} is a folder, a file is needed", path.display()), None))
        }
        Select::File => Ok(vec![(String::new(), path.clone())]),
        Select::Everything if !meta.is_dir() => Ok(vec![(String::new(), path.clone())]),
        Select::Folder(_) | Select::Tree(_) if !meta.is_dir() => {
            Err(problem(format!("{} is a file, a folder is needed", path.display()), None))
        }
        Select::FolderOrFile { ending, .. } if !meta.is_dir() => {
            if path.to_str().is_some_and(|name| name.ends_with(*ending)) {
                return Ok(vec![(String::new(), path.clone())]);
            }
            Err(problem(format!("{} is neither a folder nor a {ending} file", path.display()), None))
        }
        Select::Everything => walk(path),
        Select::Tree(globs) => tree::files(path, globs),
        Select::Folder(patterns) | Select::FolderOrFile { patterns, .. } => {
            let found: Vec<_> = walk_one(path)?
                .into_iter()
                .filter(|(name, _)| patterns.iter().any(|pattern| matches(pattern, name)))
                .collect();
            if found.is_empty() {
                let file = match &file.select {
                    Select::FolderOrFile { ending, .. } => format!("; of a {ending} file, name the file itself"),
                    _ => String::new(),
                };
                let hint = format!("it should hold some of {}{file}", patterns.join(", "));
                return Err(problem(format!("{} holds nothing of use", path.display()), Some(&hint)));
            }
            Ok(found)
        }
    }
}

fn walk_one(folder: &Path) -> Result<Vec<(String, PathBuf)>, FileProblem> {
    let unreadable = |error: std::io::Error| FileProblem { message: error.to_string(), hint: None };
    let mut found = Vec::new();
    for entry in fs_err::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if let (Some(name), true) = (path.file_name().and_then(|name| name.to_str()), path.is_file()) {
            found.push((name.to_owned(), path));
        }
    }
    found.sort();
    Ok(found)
}

fn walk(folder: &Path) -> Result<Vec<(String, PathBuf)>, FileProblem> {
    let unreadable = |error: std::io::Error| FileProblem { message: error.to_string(), hint: None };
    let mut found = Vec::new();
    let mut open = vec![(String::new(), folder.to_owned())];
    while let Some((prefix, folder)) = open.pop() {
        for entry in fs_err::read_dir(&folder).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                let message = format!("{} has a name that is not UTF-8", path.display());
                return Err(FileProblem { message, hint: Some("rename it".into()) });
            };
            let name = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
            if path.is_dir() {
                open.push((name, path));
            } else {
                found.push((name, path));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => {
            let Some(tail) = name.strip_prefix(start) else { return false };
            (0..=tail.len()).filter(|at| tail.is_char_boundary(*at)).any(|at| matches(rest, &tail[at..]))
        }
    }
}

impl Files {
    /// What a path holds now.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn digest(&mut self, file: &FileUse, store: &Store) -> Result<FileInput, FileProblem> {
        let known = (file.path.clone(), file.select.clone());
        if let Some(input) = self.known.get(&known) {
            return Ok(input.clone());
        }
        let mut digests: BTreeMap<String, Digest> = BTreeMap::new();
        for (name, path) in members(file)? {
            let (digest, _) = store
                .digest_of(&path)
                .map_err(|error| FileProblem { message: error.to_string(), hint: error.hint().map(str::to_owned) })?;
            digests.insert(name, digest);
        }
        let single = digests.get("").copied();
        let input = match single {
            Some(digest) => FileInput { path: absolute(&file.path), digest, members: None },
            None => {
                FileInput { path: absolute(&file.path), digest: digest_of_members(&digests), members: Some(digests) }
            }
        };
        self.known.insert(known, input.clone());
        Ok(input)
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The digest of a folder: names and digests of the files that count, as canonical JSON.
fn digest_of_members(members: &BTreeMap<String, Digest>) -> Digest {
    let listing = Canonical::object(members.iter().map(|(name, digest)| (name.clone(), digest.to_string().into())));
    Digest::of(format!("stillhouse/folder/1\0{listing}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        assert!(matches("*.safetensors", "model-00001-of-00002.safetensors"));
        assert!(matches("tokenizer*.json", "tokenizer_config.json"));
        assert!(!matches("*.safetensors", "model.safetensors.index.json"));
        assert!(!matches("config.json", "generation_config.json"));
        assert!(matches("*", ""));
    }

    #[test]
    fn a_folder_or_one_file_of_the_right_ending_counts() {
        let folder = tempfile::tempdir().unwrap();
        let select = Select::FolderOrFile { ending: ".gguf", patterns: &["config.json"] };
        let found = |name: &str| {
            members(&FileUse { path: folder.path().join(name), at: Origin::NOWHERE, select: select.clone() })
        };
        for name in ["model.gguf", "model.bin"] {
            fs_err::write(folder.path().join(name), name).unwrap();
        }
        let path = folder.path().join("model.gguf");
        assert_eq!(found("model.gguf").unwrap(), [(String::new(), path)]);
        let problem = found("model.bin").unwrap_err();
        assert!(problem.message.ends_with("model.bin is neither a folder nor a .gguf file"), "{}", problem.message);
        let problem = found("").unwrap_err();
        assert!(problem.hint.unwrap().ends_with("config.json; of a .gguf file, name the file itself"));
        fs_err::write(folder.path().join("config.json"), "{}").unwrap();
        assert_eq!(found("").unwrap()[0].0, "config.json");
    }

    #[test]
    fn a_pipe_is_refused_before_it_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        for select in [Select::File, Select::Everything] {
            let problem = members(&FileUse { path: path.clone(), at: Origin::NOWHERE, select }).unwrap_err();
            assert!(
                problem.message.ends_with("pipe is a pipe or a device, a plain file is needed"),
                "{}",
                problem.message
            );
            assert!(problem.hint.is_some());
        }
    }
}
