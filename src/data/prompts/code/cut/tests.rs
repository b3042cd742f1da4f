use super::*;

fn cut(file: &str, text: &str, most: usize) -> Vec<(u64, String, String)> {
    let cutter = Cutter { cut: CodeCut::Definitions, most, overlap: 0 };
    cutter.pieces(file, text).pieces.into_iter().map(|piece| (piece.line, piece.name, piece.code)).collect()
}

fn names(file: &str, text: &str, most: usize) -> Vec<String> {
    cut(file, text, most).into_iter().map(|(_, name, _)| name).collect()
}

const RUST: &str = "\
struct Point { x: i32 }

mod inner {
    /// In a module.
    pub fn deep() {}
}

impl fmt::Display for Point {
    // Writes it.
    fn fmt(&self) -> usize {
        let long = \"a line that makes the block longer than a piece may be\";
        long.len()
    }

    fn other(&self) {} // behind

    fn third(&self) {}
}
";

#[test]
fn rust_is_cut_at_items_and_long_blocks_at_their_functions() {
    assert_eq!(
        names("a.rs", RUST, 4000),
        ["Point", "deep", "fmt::Display for Point"].map(|name| name.replace("fmt::Display for ", ""))
    );
    let pieces = cut("a.rs", RUST, 200);
    let read: Vec<(u64, &str)> = pieces.iter().map(|(line, name, _)| (*line, name.as_str())).collect();
    assert_eq!(read, [(1, "Point"), (4, "deep"), (9, "Point::fmt"), (15, "Point::other"), (17, "Point::third")]);
    assert!(pieces[2].2.starts_with("    // Writes it.\n    fn fmt"), "{}", pieces[2].2);
    assert_eq!(pieces[4].2, "    fn third(&self) {}");
}

#[test]
fn the_other_languages_are_cut_at_theirs() {
    let python = "x = 1\n\nclass A:\n    def one(self):\n        pass\n\n    @property\n    def two(self):\n        pass\n\nif x:\n    def late():\n        pass\n";
    assert_eq!(names("a.py", python, 4000), ["A", "late"]);
    assert_eq!(names("a.py", python, 70), ["A.one", "A.two", "late"]);
    let script = "import a from 'a';\nexport default function main() {}\nexport const f = (x) => x;\nconst y = 3;\nclass B { go() { return 1; } }\nexport { y };\n";
    assert_eq!(names("a.js", script, 4000), ["main", "f", "B"]);
    let typed = "interface I { a: number }\nexport type T = string;\nexport abstract class C<X> { run(): void {} }\nnamespace N { export function g(): void {} }\n";
    assert_eq!(names("a.ts", typed, 4000), ["I", "T", "C", "g"]);
    assert_eq!(names("a.tsx", "export function View() { return <p>hi</p>; }\n", 4000), ["View"]);
    let go =
        "package a\n\n// Adds.\nfunc Add(a, b int) int { return a + b }\n\ntype T struct{}\n\nfunc (t T) Go() {}\n";
    assert_eq!(names("a.go", go, 4000), ["Add", "T", "Go"]);
    let c = "#include <a.h>\n#ifdef X\nstatic int *add(int a) { return 0; }\n#endif\nstruct point { int x; };\nstruct point origin;\ntypedef int number;\n";
    assert_eq!(names("a.c", c, 4000), ["add", "point", "number"]);
}

#[test]
fn a_long_function_and_a_file_without_definitions_are_cut_by_lines() {
    let body: String = (0..20).map(|number| format!("    print({number})\n")).collect();
    let pieces = cut("a.py", &format!("def f():\n{body}"), 100);
    assert!(pieces.len() > 2 && pieces.iter().all(|(_, name, code)| name == "f" && code.chars().count() <= 100));
    // 9 characters of the first line, and 13 of each of the seven below it.
    assert_eq!((pieces[0].0, pieces[1].0), (1, 9));
    let cutter = Cutter { cut: CodeCut::Definitions, most: 10, overlap: 1 };
    let text = "aaaa\nbbbb\ncccc\ndddd\nan endless line\neeee\n";
    let Pieces { pieces, long_lines } = cutter.pieces("a.unknown", text);
    let read: Vec<(u64, &str)> = pieces.iter().map(|piece| (piece.line, piece.code.as_str())).collect();
    assert_eq!(read, [(1, "aaaa\nbbbb"), (2, "bbbb\ncccc"), (3, "cccc\ndddd"), (6, "eeee")]);
    assert_eq!((long_lines, pieces[0].language.as_str(), pieces[0].name.as_str()), (1, "unknown", ""));
}

#[test]
fn an_overlap_larger_than_a_piece_still_comes_to_an_end() {
    let cutter = Cutter { cut: CodeCut::Lines, most: 10, overlap: 99 };
    let pieces = cutter.pieces("a.rs", "aaaa\nbbbb\ncccc\n").pieces;
    assert_eq!(pieces.iter().map(|piece| piece.line).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn code_that_does_not_parse_is_cut_all_the_same() {
    let pieces = cut("a.rs", "fn good() { 1 }\n\nfn bad( {{{ \n", 4000);
    assert!(!pieces.is_empty());
    assert!(cut("a.rs", "", 4000).is_empty());
}
