//! Opening a file that must be one.

use std::path::Path;

use fs_err::File;

use crate::error::{DataError, DataResult};

/// Opens a file whose content can be read to an end, and more than once.
///
/// # Errors
/// When it is a folder, or a pipe or device: merely opening a pipe would wait for whoever writes to it.
pub fn open_plain_file(path: &Path) -> DataResult<File> {
    let meta = fs_err::metadata(path).map_err(DataError::io(path))?;
    if meta.is_file() {
        return File::open(path).map_err(DataError::io(path));
    }
    let (message, hint) = if meta.is_dir() {
        ("this is a folder, a file is needed", "name a file in it")
    } else {
        (
            "this is a pipe or a device, a plain file is needed",
            "write its content to a file first: what is read counts in the key, so it must stay",
        )
    };
    Err(DataError::File { path: path.to_path_buf(), message: message.into(), hint: Some(hint.into()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_and_a_folder_are_refused_and_a_pipe_does_not_hang() {
        let fault = |path: &Path| open_plain_file(path).err().unwrap().to_string();
        assert_eq!(fault(Path::new("/dev/null")), "/dev/null: this is a pipe or a device, a plain file is needed");
        let folder = tempfile::tempdir().unwrap();
        assert!(fault(folder.path()).ends_with(": this is a folder, a file is needed"));
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(fault(&pipe).ends_with("pipe: this is a pipe or a device, a plain file is needed"));
    }
}
