//! Languages whose definitions are known: one entry each in [`LANGUAGES`].

use tree_sitter_language::LanguageFn;

/// What is known of a language. Kinds are those of its grammar's nodes.
pub(super) struct Language {
    /// As templates and fenced code name it.
    pub name: &'static str,
    pub extensions: &'static [&'static str],
    pub grammar: LanguageFn,
    /// What is a piece of its own; those with others inside are cut at these if they are too long.
    pub definitions: &'static [&'static str],
    /// What is never a piece of its own, and is looked into.
    pub around: &'static [&'static str],
    /// What belongs to the definition that follows.
    pub before: &'static [&'static str],
    /// What stands between the name of a type and that of its member.
    pub separator: &'static str,
}

const SCRIPT_DEFINITIONS: &[&str] = &[
    "function_declaration",
    "generator_function_declaration",
    "class_declaration",
    "abstract_class_declaration",
    "interface_declaration",
    "type_alias_declaration",
    "enum_declaration",
    "method_definition",
    "export_statement",
    "lexical_declaration",
];
const SCRIPT_AROUND: &[&str] =
    &["class_body", "statement_block", "internal_module", "expression_statement", "ambient_declaration"];
const C_AROUND: &[&str] =
    &["preproc_if", "preproc_ifdef", "preproc_else", "preproc_elif", "linkage_specification", "declaration_list"];

pub(super) static LANGUAGES: &[Language] = &[
    Language {
        name: "rust",
        extensions: &["rs"],
        grammar: tree_sitter_rust::LANGUAGE,
        definitions: &[
            "function_item",
            "struct_item",
            "enum_item",
            "union_item",
            "trait_item",
            "impl_item",
            "macro_definition",
        ],
        around: &["mod_item", "declaration_list", "foreign_mod_item"],
        before: &["line_comment", "block_comment", "attribute_item"],
        separator: "::",
    },
    Language {
        name: "python",
        extensions: &["py", "pyi"],
        grammar: tree_sitter_python::LANGUAGE,
        definitions: &["function_definition", "class_definition", "decorated_definition"],
        around: &["block", "if_statement", "else_clause", "try_statement", "except_clause"],
        before: &["comment"],
        separator: ".",
    },
    Language {
        name: "javascript",
        extensions: &["js", "jsx", "mjs", "cjs"],
        grammar: tree_sitter_javascript::LANGUAGE,
        definitions: SCRIPT_DEFINITIONS,
        around: SCRIPT_AROUND,
        before: &["comment", "decorator"],
        separator: ".",
    },
    Language {
        name: "typescript",
        extensions: &["ts", "mts", "cts"],
        grammar: tree_sitter_typescript::LANGUAGE_TYPESCRIPT,
        definitions: SCRIPT_DEFINITIONS,
        around: SCRIPT_AROUND,
        before: &["comment", "decorator"],
        separator: ".",
    },
    Language {
        name: "tsx",
        extensions: &["tsx"],
        grammar: tree_sitter_typescript::LANGUAGE_TSX,
        definitions: SCRIPT_DEFINITIONS,
        around: SCRIPT_AROUND,
        before: &["comment", "decorator"],
        separator: ".",
    },
    Language {
        name: "go",
        extensions: &["go"],
        grammar: tree_sitter_go::LANGUAGE,
        definitions: &["function_declaration", "method_declaration", "type_declaration"],
        around: &[],
        before: &["comment"],
        separator: ".",
    },
    Language {
        name: "c",
        extensions: &["c", "h"],
        grammar: tree_sitter_c::LANGUAGE,
        definitions: &[
            "function_definition",
            "struct_specifier",
            "union_specifier",
            "enum_specifier",
            "type_definition",
        ],
        around: C_AROUND,
        before: &["comment"],
        separator: ".",
    },
];

/// Languages that are cut by lines, by the ending of their files; whatever else there is has its ending for a name.
static OTHERS: &[(&str, &str)] = &[
    ("cc", "cpp"),
    ("cs", "csharp"),
    ("cxx", "cpp"),
    ("ex", "elixir"),
    ("hpp", "cpp"),
    ("hs", "haskell"),
    ("jl", "julia"),
    ("kt", "kotlin"),
    ("md", "markdown"),
    ("ml", "ocaml"),
    ("pl", "perl"),
    ("rb", "ruby"),
    ("sh", "bash"),
    ("yml", "yaml"),
];

/// The language of a file whose definitions are known.
pub(super) fn of(file: &str) -> Option<&'static Language> {
    let ending = ending(file)?;
    LANGUAGES.iter().find(|language| language.extensions.contains(&ending.as_str()))
}

/// The name of a file's language; empty where the file has no ending.
pub(super) fn name(file: &str) -> String {
    if let Some(language) = of(file) {
        return language.name.to_owned();
    }
    let ending = ending(file).unwrap_or_default();
    match OTHERS.iter().find(|(other, _)| *other == ending) {
        Some((_, name)) => (*name).to_owned(),
        None => ending,
    }
}

fn ending(file: &str) -> Option<String> {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase())
}
