//! Cuts a file of source code into pieces.

use std::ops::Range;

use tree_sitter::{Node, Parser};

use super::CodeCut;
use super::language::{self, Language};

/// How deep definitions are looked for: nobody nests them deeper.
const DEPTH: usize = 24;

/// How files are cut.
pub(super) struct Cutter {
    pub cut: CodeCut,
    /// The longest piece, in characters.
    pub most: usize,
    /// Lines that a piece repeats of the one before it, where it is cut by lines.
    pub overlap: usize,
}

/// A piece of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub code: String,
    /// The line it begins with, counted from 1.
    pub line: u64,
    /// The name of the definition; empty for a piece that is cut by lines.
    pub name: String,
    pub language: String,
}

/// The pieces of a file.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    pub pieces: Vec<Piece>,
    /// Lines longer than a piece may be: no person wrote them, so they are left out.
    pub long_lines: u64,
}

impl Cutter {
    /// The pieces of a file, in its order.
    pub(super) fn pieces(&self, file: &str, text: &str) -> Pieces {
        let mut found = Found { cutter: self, text, language: language::name(file), pieces: Pieces::default() };
        if let (CodeCut::Definitions, Some(language)) = (self.cut, language::of(file)) {
            found.definitions(language);
        }
        if found.pieces.pieces.is_empty() {
            found.lines(0..text.len(), "");
        }
        found.pieces
    }
}

struct Found<'a> {
    cutter: &'a Cutter,
    text: &'a str,
    language: String,
    pieces: Pieces,
}

impl Found<'_> {
    fn definitions(&mut self, language: &Language) {
        let mut parser = Parser::new();
        if parser.set_language(&language.grammar.into()).is_err() {
            return;
        }
        if let Some(tree) = parser.parse(self.text, None) {
            self.inside(tree.root_node(), language, "", DEPTH);
        }
    }

    /// Takes the definitions among a node's children; whether there was one.
    fn inside(&mut self, node: Node<'_>, language: &Language, within: &str, depth: usize) -> bool {
        let mut any = false;
        let mut cursor = node.walk();
        for child in node.named_children(&mut cursor) {
            if depth == 0 {
                break;
            }
            if is_definition(child, language) {
                any = true;
                self.definition(child, language, within, depth - 1);
            } else if language.around.contains(&child.kind()) {
                any |= self.inside(child, language, within, depth - 1);
            }
        }
        any
    }

    fn definition(&mut self, node: Node<'_>, language: &Language, within: &str, depth: usize) {
        let own = name_of(node, self.text);
        let name = if within.is_empty() { own } else { format!("{within}{}{own}", language.separator) };
        let range = self.with_what_stands_before(node, language);
        if self.text[range.clone()].chars().count() <= self.cutter.most {
            self.take(range, &name);
            return;
        }
        // Of a class that is too long, its methods; of a function, its lines: what is inside it is no piece of its own.
        let members = self.pieces.pieces.len();
        let has_members = body_of(node).is_some_and(|body| self.inside(body, language, &name, depth));
        if !has_members || self.pieces.pieces.len() == members {
            self.lines(range, &name);
        }
    }

    /// A definition's place, from the beginning of its first line, with the comments and attributes that belong to it.
    fn with_what_stands_before(&self, node: Node<'_>, language: &Language) -> Range<usize> {
        let mut start = node.start_byte();
        let mut before = node.prev_sibling();
        while let Some(sibling) = before.filter(|sibling| language.before.contains(&sibling.kind())) {
            let between = self.text.get(sibling.end_byte()..start).unwrap_or_default();
            // Some grammars count a comment's line end to the comment.
            let ends = self.text[..sibling.end_byte()].ends_with('\n');
            let lines = between.matches('\n').count() + usize::from(ends);
            // What stands behind other code on its line belongs to that.
            let begins =
                self.text[..sibling.start_byte()].rsplit('\n').next().is_none_or(|line| line.trim().is_empty());
            if !between.trim().is_empty() || lines > 1 || !begins {
                break;
            }
            start = sibling.start_byte();
            before = sibling.prev_sibling();
        }
        let line = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        if self.text[line..start].trim().is_empty() {
            start = line;
        }
        start..node.end_byte().max(start)
    }

    fn take(&mut self, range: Range<usize>, name: &str) {
        let code = self.text[range.clone()].trim_end();
        if !code.is_empty() {
            let line = self.text[..range.start].matches('\n').count() as u64 + 1;
            let (name, language) = (name.to_owned(), self.language.clone());
            self.pieces.pieces.push(Piece { code: code.to_owned(), line, name, language });
        }
    }

    /// Cuts a part of the text by lines.
    fn lines(&mut self, range: Range<usize>, name: &str) {
        let mut lines: Vec<(Range<usize>, usize)> = Vec::new();
        let mut start = range.start;
        for line in self.text[range].split_inclusive('\n') {
            let characters = line.chars().count();
            if characters > self.cutter.most {
                self.pieces.long_lines += 1;
                self.whole_lines(&lines, name);
                lines.clear();
            } else {
                lines.push((start..start + line.len(), characters));
            }
            start += line.len();
        }
        self.whole_lines(&lines, name);
    }

    fn whole_lines(&mut self, lines: &[(Range<usize>, usize)], name: &str) {
        let mut first = 0;
        while first < lines.len() {
            let (mut end, mut characters) = (first, 0);
            while end < lines.len() && characters + lines[end].1 <= self.cutter.most {
                characters += lines[end].1;
                end += 1;
            }
            self.take(lines[first].0.start..lines[end - 1].0.end, name);
            if end == lines.len() {
                return;
            }
            // However large the overlap is, each piece begins behind the one before.
            first = end.saturating_sub(self.cutter.overlap).max(first + 1);
        }
    }
}

fn is_definition(node: Node<'_>, language: &Language) -> bool {
    if !language.definitions.contains(&node.kind()) {
        return false;
    }
    match node.kind() {
        // `export { a, b }` defines nothing, and of variables only functions are definitions.
        "export_statement" => node
            .child_by_field_name("declaration")
            .or(node.child_by_field_name("value"))
            .is_some_and(|inner| inner.kind() != "lexical_declaration" || is_definition(inner, language)),
        "lexical_declaration" => {
            let value = node.named_child(0).and_then(|declarator| declarator.child_by_field_name("value"));
            value.is_some_and(|value| matches!(value.kind(), "arrow_function" | "function_expression" | "class"))
        }
        // `struct point p;` names a type, `struct point { … };` defines it.
        "struct_specifier" | "union_specifier" | "enum_specifier" => node.child_by_field_name("body").is_some(),
        _ => true,
    }
}

/// What a definition may hold other definitions in.
fn body_of(node: Node<'_>) -> Option<Node<'_>> {
    let inner = |field: &str| node.child_by_field_name(field);
    match node.kind() {
        "impl_item" | "trait_item" | "class_definition" | "class_declaration" | "abstract_class_declaration" => {
            inner("body")
        }
        "decorated_definition" => inner("definition").and_then(body_of),
        "export_statement" => inner("declaration").and_then(body_of),
        _ => None,
    }
}

/// The name of a definition, or its first line where the grammar knows none.
fn name_of(node: Node<'_>, text: &str) -> String {
    let mut at = node;
    for _ in 0..DEPTH {
        let fields: &[&str] =
            if at.kind() == "impl_item" { &["type"] } else { &["name", "definition", "declaration", "declarator"] };
        let next = fields.iter().find_map(|field| at.child_by_field_name(field)).or_else(|| {
            let nested = matches!(at.kind(), "type_declaration" | "lexical_declaration");
            if nested { at.named_child(0) } else { None }
        });
        match next {
            Some(next) => at = next,
            None => break,
        }
    }
    let words = &text[at.byte_range()];
    words.lines().next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests;
