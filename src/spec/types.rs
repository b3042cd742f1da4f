//! The field types that tell identity, inputs, files and execution apart.

use std::marker::PhantomData;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use crate::config::{Bounds, Config, Described, Fields, expected};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::node::{Node, Origin};

/// A setting that says how to work, never what comes out: it is in no key. A name of another table is then a
/// [`Described::Mention`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Execution<T>(pub T);

impl<T> Deref for Execution<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Config> Config for Execution<T> {
    fn decode(node: &Node, report: &mut Diagnostics) -> Option<Self> {
        T::decode(node, report).map(Self)
    }

    fn schema() -> serde_json::Value {
        let mut schema = T::schema();
        if let Some(members) = schema.as_object_mut() {
            members.insert("x-execution".into(), true.into());
        }
        schema
    }

    fn describe(&self) -> Described {
        match self.0.describe() {
            Described::Reference(reference) => Described::Mention(reference),
            _ => Described::Nothing,
        }
    }

    fn shown(&self) -> Described {
        self.0.shown()
    }

    fn when_missing() -> Option<Self> {
        T::when_missing().map(Self)
    }
}

/// What a [`Ref`] may name: a marker type for each port.
pub trait Target {
    /// The kinds of table it accepts, stages or definitions; any stage when empty.
    const KINDS: &'static [&'static str];
}

/// A name of another table: plain (`"dolly"`), or `kind.name` where the port takes several kinds.
#[derive(Clone, Debug)]
pub struct Ref<T> {
    /// As written.
    pub name: String,
    /// Where.
    pub at: Origin,
    target: PhantomData<fn() -> T>,
}

/// A reference without its type, as the resolver sees it.
#[derive(Clone, Debug)]
pub struct Reference {
    /// As written.
    pub name: String,
    /// Where.
    pub at: Origin,
    /// The kinds it accepts; any stage when empty.
    pub kinds: &'static [&'static str],
    /// First path components of the artifact that are read; all of it when empty.
    pub parts: Vec<&'static str>,
}

impl PartialEq for Reference {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.kinds, &self.parts) == (&other.name, other.kinds, &other.parts)
    }
}

impl<T: Target> Config for Ref<T> {
    fn decode(node: &Node, report: &mut Diagnostics) -> Option<Self> {
        let Some(name) = node.as_str() else {
            report.push(expected(&format!("the name of {}", one_of(T::KINDS)), node));
            return None;
        };
        let decoded = Self { name: name.to_owned(), at: node.at, target: PhantomData };
        if let Described::Reference(reference) = decoded.describe() {
            report.note_reference(reference);
        }
        Some(decoded)
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "string", "description": format!("the name of {}", one_of(T::KINDS)), "x-names": T::KINDS })
    }

    fn describe(&self) -> Described {
        Described::Reference(Reference { name: self.name.clone(), at: self.at, kinds: T::KINDS, parts: Vec::new() })
    }
}

/// Kinds as a message lists them: ``a `[prompts.…]` or `[answers.…]` ``.
#[must_use]
pub fn one_of(kinds: &[&str]) -> String {
    if kinds.is_empty() {
        return "a stage".to_owned();
    }
    let tables: Vec<String> = kinds.iter().map(|kind| format!("`[{kind}.…]`")).collect();
    format!("a {}", tables.join(" or "))
}

/// Which files of a path count.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Select {
    /// The path is one file.
    File,
    /// The path is a folder: the files directly in it that match one of the patterns (`*` stands for anything).
    Folder(&'static [&'static str]),
    /// The path is such a folder, or one file whose name ends in `ending`.
    FolderOrFile {
        /// The ending of the file's name, with its dot.
        ending: &'static str,
        /// As for [`Select::Folder`].
        patterns: &'static [&'static str],
    },
    /// The path is a file or a folder, all of it.
    Everything,
    /// The path is a folder: the files below it that the globs choose.
    Tree(Arc<Globs>),
}

/// Which files of a tree count. Hidden files, and what a `.gitignore` in the tree or above it names, never do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Globs {
    /// Files that match one of these: `*` within a name, `**` over folders; a glob without `/` matches in every folder.
    pub include: Vec<String>,
    /// But none of these; one that ends with `/` names a folder.
    pub exclude: Vec<String>,
}

/// A path that a config names: its content is keyed, the path is not.
#[derive(Clone, Debug)]
pub struct FileUse {
    /// Resolved against the folder of the file that names it.
    pub path: PathBuf,
    /// Where it was written.
    pub at: Origin,
    /// Which files count.
    pub select: Select,
}

impl PartialEq for FileUse {
    fn eq(&self, other: &Self) -> bool {
        (&self.path, &self.select) == (&other.path, &other.select)
    }
}

fn decode_path(node: &Node, report: &mut Diagnostics) -> Option<PathBuf> {
    let Some(written) = node.as_str() else {
        report.push(expected("a path", node));
        return None;
    };
    if written.is_empty() {
        report.push(Diagnostic::error(node.at, "the path is empty"));
        return None;
    }
    Some(report.sources.resolve(node.at, written))
}

/// A file whose content the stage reads.
#[derive(Clone, Debug)]
pub struct FilePath {
    /// Resolved against the folder of the file that names it.
    pub path: PathBuf,
    /// Where it was written.
    pub at: Origin,
}

impl Config for FilePath {
    fn decode(node: &Node, report: &mut Diagnostics) -> Option<Self> {
        Some(Self { path: decode_path(node, report)?, at: node.at })
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "string", "description": "a path, relative to this file", "x-path": "file" })
    }

    fn describe(&self) -> Described {
        Described::File(FileUse { path: self.path.clone(), at: self.at, select: Select::File })
    }
}

/// Which files of a path count: a marker type for each kind of folder.
pub trait Selection {
    /// See [`Select`].
    const SELECT: Select;
}

/// A folder, or what may stand for one, whose content the stage reads.
#[derive(Clone, Debug)]
pub struct DirectoryPath<S> {
    /// Resolved against the folder of the file that names it.
    pub path: PathBuf,
    /// Where it was written.
    pub at: Origin,
    selection: PhantomData<fn() -> S>,
}

impl<S: Selection> Config for DirectoryPath<S> {
    fn decode(node: &Node, report: &mut Diagnostics) -> Option<Self> {
        Some(Self { path: decode_path(node, report)?, at: node.at, selection: PhantomData })
    }

    fn schema() -> serde_json::Value {
        let path = match S::SELECT {
            Select::File => "file",
            Select::Folder(_) => "folder",
            Select::FolderOrFile { .. } => "folder or file",
            Select::Everything => "file or folder",
            Select::Tree(_) => "folder",
        };
        json!({ "type": "string", "description": "a path, relative to this file", "x-path": path })
    }

    fn describe(&self) -> Described {
        Described::File(FileUse { path: self.path.clone(), at: self.at, select: S::SELECT })
    }
}

/// A tree of files, chosen by globs: `{ path = "src", include = ["*.rs"], exclude = ["tests/"] }`. What counts is the names and
/// the contents of the files that are chosen, not the globs.
#[derive(Clone, Debug)]
pub struct FileTree {
    /// Resolved against the folder of the file that names it.
    pub path: PathBuf,
    /// Where it was written.
    pub at: Origin,
    /// Which files.
    pub globs: Arc<Globs>,
}

impl FileTree {
    const KEYS: &[&str] = &["path", "include", "exclude"];
}

impl Config for FileTree {
    fn decode(node: &Node, report: &mut Diagnostics) -> Option<Self> {
        let mut fields = Fields::open(node, Self::KEYS, report)?;
        let path = fields.field::<DirectoryPath<AnyFiles>>("path", &Bounds::default(), None, report);
        let include = fields.field::<Vec<String>>("include", &Bounds::default(), None, report);
        let exclude = fields.field::<Vec<String>>("exclude", &Bounds::default(), Some(Vec::new()), report);
        fields.whole()?;
        let (DirectoryPath { path, at, .. }, include, exclude) = (path?, include?, exclude?);
        if include.is_empty() {
            report.push(
                Diagnostic::error(node.at, "`include` is empty: no file is chosen")
                    .hint("include = [\"*.rs\", \"*.py\"]"),
            );
            return None;
        }
        Some(Self { path, at, globs: Arc::new(Globs { include, exclude }) })
    }

    fn schema() -> serde_json::Value {
        let globs = |about: &str| {
            let mut schema = Vec::<String>::schema();
            schema["description"] = about.into();
            schema
        };
        json!({
            "type": "object",
            "properties": {
                "path": { "type": "string", "description": "The folder.", "x-path": "folder" },
                "include": globs(
                    "Files that match one of these: `*` within a name, `**` over folders; one without `/` matches in every folder."
                ),
                "exclude": globs("But none of these; one that ends with `/` names a folder."),
            },
            "required": ["path", "include"],
            "additionalProperties": false,
        })
    }

    fn describe(&self) -> Described {
        let select = Select::Tree(Arc::clone(&self.globs));
        Described::File(FileUse { path: self.path.clone(), at: self.at, select })
    }
}

/// What a tree's path is decoded as.
#[derive(Clone, Debug)]
struct AnyFiles;

impl Selection for AnyFiles {
    const SELECT: Select = Select::Everything;
}
