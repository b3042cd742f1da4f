//! Text to tree: parsing, `include`, `--set`.

use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::{Config, Fields};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::node::{Node, Origin, Table, Value};
use crate::secrets;

/// Larger files are refused: an experiment is written by hand, data belongs into files that it names.
const LARGEST_FILE: u64 = 16 << 20;

/// One experiment file, read: `include` merged, `--set` applied, secrets refused.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The file, as given.
    pub path: PathBuf,
    /// The settings of the experiment itself.
    pub header: Header,
    /// Everything that was written.
    pub tree: Node,
}

/// `[experiment]`: the name and the seed of all that is random.
#[derive(Clone, Debug, stillhouse_spec_derive::Config)]
pub struct Header {
    /// The experiment's name, in listings and reports; in no key.
    #[config(default = crate::Execution(String::new()))]
    pub name: crate::Execution<String>,
    /// The seed of everything random, unless a stage has one of its own.
    #[config(default = 0)]
    pub seed: u64,
}

/// One `--set path=value`.
#[derive(Clone, Debug)]
pub struct SetArgument(pub String);

impl Spec {
    /// Reads a file and what it includes, then applies `--set` arguments in order. All that is wrong goes into
    /// `report`; the answer is whatever could be read.
    pub fn read(path: &Path, set: &[SetArgument], report: &mut Diagnostics) -> Self {
        let mut tree = Reader { report, open: Vec::new() }.file(path, None);
        for (index, argument) in set.iter().enumerate() {
            apply(index, argument, path, &mut tree, report);
        }
        secrets::report(&mut tree, report);
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut header = header(&tree, report);
        if header.name.is_empty() {
            header.name = crate::Execution(stem);
        }
        Self { path: path.to_owned(), header, tree }
    }
}

/// The settings of the experiment itself in a tree; those of a cell may differ from the file's. What was left out, or
/// is wrong and therefore in `report`, is as by default.
#[must_use]
pub fn header(tree: &Node, report: &mut Diagnostics) -> Header {
    let written = tree.as_table().and_then(|table| table.get("experiment"));
    let decoded = written.and_then(|node| Header::decode(node, report));
    decoded.unwrap_or(Header { name: crate::Execution(String::new()), seed: 0 })
}

struct Reader<'a> {
    report: &'a mut Diagnostics,
    /// The files being read, outermost first: an include that names one of them is a cycle.
    open: Vec<PathBuf>,
}

impl Reader<'_> {
    fn file(&mut self, path: &Path, named_at: Option<Origin>) -> Node {
        let nothing = Node::empty_table(named_at.unwrap_or(Origin::NOWHERE));
        let at_fault = |message: String, hint: String| match named_at {
            Some(at) => Diagnostic::error(at, message).hint(hint),
            None => Diagnostic::general(message).hint(hint),
        };
        let identity = fs_err::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if self.open.contains(&identity) {
            let cycle: Vec<_> = self.open.iter().chain([&identity]).map(|file| file.display().to_string()).collect();
            self.report
                .push(at_fault("a file includes itself".into(), format!("the way round: {}", cycle.join(" → "))));
            return nothing;
        }
        let text = match read_text(path) {
            Ok(text) => text,
            Err(problem) => {
                self.report.push(at_fault(format!("cannot read {}: {}", path.display(), problem.0), problem.1));
                return nothing;
            }
        };
        let folder = path.parent().unwrap_or_else(|| Path::new("")).to_owned();
        let source = self.report.sources.add(path.display().to_string(), folder.clone(), secrets::covered(&text));
        if text.trim().is_empty() {
            let place = Origin::new(source, 0..0);
            self.report.push(
                Diagnostic::error(place, "the file is empty").hint("`stillhouse init` writes an example to start from"),
            );
            return nothing;
        }
        let mut tree = parse(&text, source, self.report);
        let includes = match &mut tree.value {
            Value::Table(table) => table.entries.shift_remove("include"),
            _ => None,
        };
        let Some((_, includes)) = includes else { return tree };
        self.open.push(identity);
        let mut merged = nothing;
        for include in include_list(&includes, self.report) {
            let below = self.file(&folder.join(&include.0), Some(include.1));
            merged.merge(below);
        }
        self.open.pop();
        merged.merge(tree);
        merged
    }
}

fn include_list(node: &Node, report: &mut Diagnostics) -> Vec<(String, Origin)> {
    let items = match &node.value {
        Value::Array(items) => items.iter().collect(),
        _ => vec![node],
    };
    let mut files = Vec::new();
    for item in items {
        match item.as_str() {
            Some(path) => files.push((path.to_owned(), item.at)),
            None => report.push(crate::config::expected("a path or a list of paths", item)),
        }
    }
    files
}

/// The text of a file, or what is wrong with it and what to do.
fn read_text(path: &Path) -> Result<String, (String, String)> {
    let meta = fs_err::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            ("there is no such file".to_owned(), "give the path of an experiment file".to_owned())
        }
        kind => (kind.to_string(), "check the file's permissions".to_owned()),
    })?;
    if meta.is_dir() {
        return Err(("it is a folder".into(), "give the path of a TOML file in it".into()));
    }
    // What is no plain file (`/dev/stdin`, a pipe) has no length before it is read.
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        fs_err::File::open(path)?.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| (error.kind().to_string(), "check the file's permissions".to_owned()))?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err((
            format!("it is larger than the {} MiB an experiment file may have", LARGEST_FILE >> 20),
            "put data into files of their own and name them, e.g. `jsonl = { path = \"…\" }`".into(),
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        (format!("it is not UTF-8 (line {line}, byte {at})"), "TOML files are UTF-8: save it as such".into())
    })
}

/// Parses a text of TOML; every syntax error is reported under its characters.
fn parse(text: &str, source: u32, report: &mut Diagnostics) -> Node {
    let (document, errors) = DeTable::parse_recoverable(text);
    let text = Text { text, source, offset: 0 };
    for error in errors {
        let at = text.place(error.span().unwrap_or(0..0));
        let found = Diagnostic::error(at, format!("not TOML: {}", error.message()));
        let number = error.span().and_then(|span| number_with_a_letter(text.text, span.start));
        report.push(match number {
            Some((written, meant)) => {
                found.hint(format!("a number has digits alone: is `{written}` meant to be {meant}?"))
            }
            None => found,
        });
    }
    Node { value: Value::Table(text.table(document.get_ref(), false, report)), at: text.place(0..0) }
}

/// The number that is meant where letters that look like digits stand in one: `4OO`. Short ones only, so that no message repeats a key.
fn number_with_a_letter(text: &str, at: usize) -> Option<(&str, String)> {
    const LONGEST: usize = 12;
    let ends = |letter: char| !letter.is_ascii_alphanumeric() && letter != '_' && letter != '.';
    let (before, behind) = text.split_at_checked(at)?;
    let start = before.rfind(ends).map_or(0, |end| end + before[end..].chars().next().map_or(1, char::len_utf8));
    let end = at + behind.find(ends).unwrap_or(behind.len());
    let written = &text[start..end];
    let meant: String = written
        .chars()
        .map(|letter| match letter {
            'O' | 'o' => '0',
            'l' | 'I' => '1',
            other => other,
        })
        .collect();
    let is_number = meant.parse::<f64>().is_ok() && written.starts_with(|digit: char| digit.is_ascii_digit());
    (written.len() <= LONGEST && is_number && meant != written).then_some((written, meant))
}

/// A text of TOML, whole or a part of a source.
struct Text<'a> {
    text: &'a str,
    source: u32,
    /// Where in the source it begins.
    offset: usize,
}

impl Text<'_> {
    fn place(&self, span: Range<usize>) -> Origin {
        Origin::new(self.source, self.offset + span.start..self.offset + span.end)
    }

    fn table(&self, read: &DeTable<'_>, inline: bool, report: &mut Diagnostics) -> Table {
        let entries = read
            .iter()
            .map(|(name, node)| (name.get_ref().to_string(), (self.place(name.span()), self.value(node, report))))
            .collect();
        Table { entries, inline }
    }

    fn value(&self, read: &Spanned<DeValue<'_>>, report: &mut Diagnostics) -> Node {
        let at = self.place(read.span());
        let value = match read.get_ref() {
            // A checkout with Windows' line ends means the same text: a script in it must neither break nor run again.
            DeValue::String(text) if self.text.get(read.span()).is_some_and(|written| written.contains("\r\n")) => {
                Value::String(text.replace("\r\n", "\n"))
            }
            DeValue::String(text) => Value::String(text.to_string()),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::Integer(number),
                Err(_) => {
                    report.push(Diagnostic::error(at, "the integer does not fit into 64 bits"));
                    Value::Integer(0)
                }
            },
            DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(value) => Value::Boolean(*value),
            DeValue::Datetime(time) => Value::Datetime(time.to_string()),
            DeValue::Array(items) => Value::Array(items.iter().map(|item| self.value(item, report)).collect()),
            DeValue::Table(members) => {
                let inline = self.text.as_bytes().get(read.span().start) == Some(&b'{');
                Value::Table(self.table(members, inline, report))
            }
        };
        Node { value, at }
    }
}

/// The dotted path of a key as TOML writes it, with quoted parts: `student.small."odd name"`.
#[must_use]
pub fn key_path(written: &str) -> Option<Vec<String>> {
    let text = format!("{written} = 0");
    if written.contains(['\n', '=', '#']) {
        return None;
    }
    let document = DeTable::parse(&text).ok()?;
    let mut path = Vec::new();
    let mut table = document.get_ref();
    loop {
        let (name, node) = table.iter().next()?;
        path.push(name.get_ref().to_string());
        match node.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => return Some(path),
        }
    }
}

fn apply(index: usize, argument: &SetArgument, file: &Path, tree: &mut Node, report: &mut Diagnostics) {
    let text = &argument.0;
    let folder = file.parent().unwrap_or_else(|| Path::new("")).to_owned();
    // Covered before anything else: a value whose path names nothing never enters the tree, but its error shows it.
    let source = report.sources.add(format!("--set #{}", index + 1), folder, secrets::covered_argument(text));
    let whole = Origin::new(source, 0..text.len());
    let Some((path_text, value_text)) = text.split_once('=') else {
        report.push(
            Diagnostic::error(whole, "expected `path=value`").hint("for example `--set student.small.steps=200`"),
        );
        return;
    };
    let path_at = Origin::new(source, 0..path_text.len());
    let Some(path) = key_path(path_text.trim()) else {
        report.push(Diagnostic::error(path_at, "not a path of keys").hint("for example `student.small.steps`"));
        return;
    };
    let at = Origin::new(source, path_text.len() + 1..text.len());
    let trimmed = value_text.trim_start();
    let offset = text.len() - trimmed.len();
    // What is not TOML is a plain string, so that shells need no second pair of quotes.
    let new = match DeValue::parse(trimmed.trim_end()) {
        Ok(read) => Text { text: trimmed, source, offset }.value(&read, report),
        Err(_) => Node { value: Value::String(value_text.to_owned()), at },
    };
    let mut new = at_everywhere(new, at);
    secrets::report_under(path.last().map(String::as_str), &mut new, report);
    set_existing(tree, &path, path_at, new, report);
}

/// Values given on the command line or by a sweep carry one place: the whole value.
pub(crate) fn at_everywhere(mut node: Node, at: Origin) -> Node {
    node.at = at;
    match &mut node.value {
        Value::Array(items) => {
            for item in items {
                *item = at_everywhere(item.clone(), at);
            }
        }
        Value::Table(table) => {
            for (name_at, child) in table.entries.values_mut() {
                *name_at = at;
                *child = at_everywhere(child.clone(), at);
            }
        }
        _ => {}
    }
    node
}

/// Sets a value at a path whose table exists in the tree, else reports that the path names nothing. `[experiment]`
/// need not be there: every experiment has its settings, written or not.
pub(crate) fn set_existing(
    tree: &mut Node,
    path: &[String],
    path_at: Origin,
    new: Node,
    report: &mut Diagnostics,
) -> bool {
    let depth = match path.first().map(String::as_str) {
        Some("experiment") => 0,
        Some("sweep") => 1,
        _ => 2,
    };
    let mut node = &*tree;
    for (index, name) in path.iter().enumerate().take(depth) {
        let table = node.as_table();
        match table.and_then(|table| table.get(name)) {
            Some(child) => node = child,
            None => {
                let known: Vec<&str> =
                    table.map_or(Vec::new(), |table| table.entries.keys().map(String::as_str).collect());
                let prefix = path[..=index].join(".");
                report.push(
                    Diagnostic::error(path_at, format!("the path names nothing: there is no `[{prefix}]`"))
                        .suggest(name, known),
                );
                return false;
            }
        }
    }
    if path.len() < 2 {
        let hint = "name a key of a table, for example `student.small.steps`";
        report.push(Diagnostic::error(path_at, "the path is too short").hint(hint));
        return false;
    }
    if let Err((_, at_depth)) = tree.set_path(path, path_at, new) {
        let prefix = path[..at_depth].join(".");
        report.push(Diagnostic::error(path_at, format!("the path names nothing: `{prefix}` is not a table")));
        return false;
    }
    true
}

/// Reads a table with the given keys, for the parts of a file that are no kind.
pub(crate) fn only_keys(node: &Node, known: &[&str], report: &mut Diagnostics) -> Option<()> {
    Fields::open(node, known, report)?.whole()
}
