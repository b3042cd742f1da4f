//! Images that conversations name: addresses on the web stay what they are, files become part of the prompt.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::conversation::Fault;

/// The largest image in bytes: servers take less.
const MAX_IMAGE: u64 = 20 << 20;

/// The files that may be named, by their name within the folder of images.
pub(super) struct Images {
    files: Option<BTreeMap<String, PathBuf>>,
}

impl Images {
    /// `files` is `None` where no folder is given.
    pub(super) fn new(files: Option<Vec<(String, PathBuf)>>) -> Self {
        Self { files: files.map(|files| files.into_iter().collect()) }
    }

    /// The URL that is sent for an image.
    pub(super) fn resolve(&self, written: &str) -> Result<String, Fault> {
        if written.starts_with("https://") || written.starts_with("http://") {
            return Ok(written.to_owned());
        }
        if let Some(data) = written.strip_prefix("data:") {
            return match data.split_once(";base64,") {
                Some((kind, bytes)) if kind.starts_with("image/") && STANDARD.decode(bytes).is_ok() => {
                    Ok(written.to_owned())
                }
                _ => {
                    Err(Fault::new("a `data:` URI holds no image", "data:image/png;base64,… with base64 of the bytes"))
                }
            };
        }
        let name = written.strip_prefix("file://").unwrap_or(written);
        let name = name.strip_prefix("./").unwrap_or(name);
        let Some(files) = &self.files else {
            return Err(Fault::new(
                format!("it names the file {name}, but no folder of images is given"),
                "add `images = \"folder\"`: its content counts in the key, and names are relative to it",
            ));
        };
        let Some(path) = files.get(name) else {
            return Err(Fault::new(
                format!("the folder of images has no {name}"),
                "names are relative to `images`, and stay within it",
            ));
        };
        let read = fs_err::metadata(path)
            .and_then(|meta| if meta.len() > MAX_IMAGE { Ok(None) } else { fs_err::read(path).map(Some) });
        let bytes = match read {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                let message = format!("the image {name} is larger than {} MiB", MAX_IMAGE >> 20);
                return Err(Fault::new(message, "make it smaller: servers take no such image"));
            }
            Err(error) => return Err(Fault::new(error.to_string(), "check the file")),
        };
        let Some(kind) = kind_of(&bytes) else {
            return Err(Fault::new(format!("{name} is no image"), "PNG, JPEG, GIF and WebP are known"));
        };
        Ok(format!("data:{kind};base64,{}", STANDARD.encode(&bytes)))
    }
}

/// The media type, told by the first bytes.
fn kind_of(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}
