//! The files of a tree that globs choose, as git would see them.

use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use ignore::WalkBuilder;
use stillhouse_spec::Globs;

use super::FileProblem;

/// The files by name, sorted. Symbolic links are not followed.
pub(super) fn files(folder: &Path, globs: &Globs) -> Result<Vec<(String, PathBuf)>, FileProblem> {
    let (include, exclude) = (set(&globs.include)?, set(&globs.exclude)?);
    let unreadable = |error: ignore::Error| FileProblem { message: error.to_string(), hint: None };
    // What a machine's owner ignores everywhere, or in this clone only, must not change what is chosen.
    let walk = WalkBuilder::new(folder).git_global(false).git_exclude(false).require_git(false).build();
    let mut found = Vec::new();
    for entry in walk {
        let entry = entry.map_err(unreadable)?;
        if !entry.file_type().is_some_and(|kind| kind.is_file()) {
            continue;
        }
        let path = entry.into_path();
        let name = path.strip_prefix(folder).unwrap_or(&path);
        if !include.is_match(name) || exclude.is_match(name) {
            continue;
        }
        let Some(name) = name.to_str() else {
            let message = format!("{} has a name that is not UTF-8", path.display());
            return Err(FileProblem { message, hint: Some("rename it, or list it in `exclude`".into()) });
        };
        found.push((name.to_owned(), path.clone()));
    }
    if found.is_empty() {
        return Err(FileProblem {
            message: format!("{} has no file that matches {}", folder.display(), globs.include.join(", ")),
            hint: Some("hidden files and what a `.gitignore` names do not count".into()),
        });
    }
    found.sort();
    Ok(found)
}

fn set(globs: &[String]) -> Result<GlobSet, FileProblem> {
    let wrong = |error: globset::Error| FileProblem {
        message: format!("the glob {error}"),
        hint: Some("`*` stands for any characters of a name, `**` for any folders: \"**/*.rs\"".into()),
    };
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        let glob = glob.strip_prefix("./").unwrap_or(glob);
        let folder = glob.ends_with('/');
        let glob = glob.trim_end_matches('/');
        let anywhere = if glob.contains('/') { glob.trim_start_matches('/').to_owned() } else { format!("**/{glob}") };
        let whole = if folder { format!("{anywhere}/**") } else { anywhere };
        set.add(GlobBuilder::new(&whole).literal_separator(true).build().map_err(wrong)?);
    }
    set.build().map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(include: &[&str], exclude: &[&str]) -> Result<Vec<String>, FileProblem> {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.rs", "src/b.rs", "src/deep/c.py", "tests/d.rs", "target/e.rs", ".hidden/f.rs", "src/notes.txt"]
        {
            let path = folder.path().join(name);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, name).unwrap();
        }
        fs_err::write(folder.path().join(".gitignore"), "target/\n").unwrap();
        let owned = |globs: &[&str]| globs.iter().map(|glob| (*glob).to_owned()).collect();
        let globs = Globs { include: owned(include), exclude: owned(exclude) };
        Ok(files(folder.path(), &globs)?.into_iter().map(|(name, _)| name).collect())
    }

    #[test]
    fn globs_choose_and_what_git_ignores_is_not_there() {
        assert_eq!(chosen(&["*.rs"], &[]).unwrap(), ["a.rs", "src/b.rs", "tests/d.rs"]);
        assert_eq!(chosen(&["*.rs", "*.py"], &["tests/"]).unwrap(), ["a.rs", "src/b.rs", "src/deep/c.py"]);
        assert_eq!(chosen(&["src/*.rs"], &[]).unwrap(), ["src/b.rs"]);
        assert_eq!(chosen(&["src/**"], &["*.txt"]).unwrap(), ["src/b.rs", "src/deep/c.py"]);
    }

    #[test]
    fn globs_that_choose_nothing_or_are_none_are_told() {
        let problem = chosen(&["*.go"], &[]).unwrap_err();
        assert!(problem.message.ends_with(" has no file that matches *.go"), "{}", problem.message);
        let problem = chosen(&["[a"], &[]).unwrap_err();
        assert!(problem.message.starts_with("the glob ") && problem.hint.is_some(), "{}", problem.message);
    }
}
