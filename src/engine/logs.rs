//! Where the logs of a run's stages lie.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use stillhouse_store::Digest;

/// The log of a stage in a run's folder. Names of stages may hold what a sweep put into them, so what a file name cannot
/// bear is replaced, and a digest keeps two of them apart.
#[must_use]
pub fn path(run: &Path, stage: &str) -> PathBuf {
    const LONGEST: usize = 100;
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-[]=,".contains(c);
    let mut name: String = stage.chars().take(LONGEST).map(|c| if plain(c) { c } else { '_' }).collect();
    if name != stage {
        name.push_str(&format!("#{}", Digest::of(stage.as_bytes()).short()));
    }
    run.join("logs").join(format!("{name}.log"))
}

/// Adds text to a log.
///
/// # Errors
/// A disk that does not take it.
pub fn append(path: &Path, text: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs_err::create_dir_all(folder)?;
    }
    fs_err::OpenOptions::new().create(true).append(true).open(path)?.write_all(text)
}

/// Adds a file to a log.
pub(crate) fn append_file(path: &Path, file: &Path) -> io::Result<()> {
    append(path, b"")?;
    let mut log = fs_err::OpenOptions::new().append(true).open(path)?;
    io::copy(&mut fs_err::File::open(file)?, &mut log).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_no_file_can_bear_is_replaced_and_stays_distinct() {
        let run = Path::new("r");
        assert_eq!(path(run, "student.s[lr=0.1]"), Path::new("r/logs/student.s[lr=0.1].log"));
        let (a, b) = (path(run, "student.s[path=a/b]"), path(run, "student.s[path=a_b]"));
        assert_ne!(a, b);
        assert!(a.file_name().is_some_and(|name| name.to_string_lossy().starts_with("student.s[path=a_b]#")));
        assert!(path(run, &"x".repeat(5000)).file_name().is_some_and(|name| name.len() < 200));
    }
}
