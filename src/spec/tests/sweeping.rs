//! `[sweep]`: cells, and axes that are wrong.

#![allow(dead_code, clippy::unwrap_used, reason = "tests; not each needs all of the support")]

mod support;

use serde_json::json;
use stillhouse_spec::read::header;
use stillhouse_spec::{Cell, Diagnostics};
use support::{json, places, read_text};

const BASE: &str = "[student.small]\nsteps = 1\nlr = 0.5\n[student.small.init]\nwide = 2\n[sweep]\n";

/// The cells of the base with a grid, and all that was wrong; the grid stands on line 7.
fn cells(grid: &str) -> (Vec<Cell>, Diagnostics) {
    let (spec, mut report) = read_text(&format!("{BASE}{grid}\n"), &[]);
    assert!(!report.has_errors(), "{:?}", places(&report));
    let cells = spec.cells(&mut report);
    (cells, report)
}

#[test]
fn a_file_without_a_sweep_is_one_cell() {
    let (spec, mut report) = read_text("[a.b]\nc = 1\n", &[]);
    let cells = spec.cells(&mut report);
    assert_eq!((cells.len(), cells[0].values.len()), (1, 0));
}

#[test]
fn cells_are_every_combination_the_last_axis_fastest() {
    let (cells, report) = cells("grid = { \"student.small.steps\" = [10, 20], \"student.small.lr\" = [0.1, 0.2] }");
    assert_eq!(places(&report), Vec::<String>::new());
    let values: Vec<_> = cells
        .iter()
        .map(|cell| cell.values.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(values, ["10 0.1", "10 0.2", "20 0.1", "20 0.2"]);
    assert_eq!(json(&cells[2].tree, "student.small.steps"), json!(20));
    assert_eq!(json(&cells[2].tree, "student.small.lr"), json!(0.1));
    assert!(cells.iter().all(|cell| json(&cell.tree, "sweep").is_null()));
}

#[test]
fn paths_may_be_written_without_quotes() {
    let (cells, report) = cells("grid.student.small.steps = [10, 20]");
    assert_eq!(places(&report), Vec::<String>::new());
    assert_eq!(cells[1].values, [("student.small.steps".to_owned(), "20".to_owned())]);
}

#[test]
fn a_seed_is_swept_without_a_table_of_the_experiment() {
    let (cells, mut report) = cells("grid = { \"experiment.seed\" = [1, 2] }");
    let seeds: Vec<_> = cells.iter().map(|cell| header(&cell.tree, &mut report).seed).collect();
    assert_eq!((seeds, places(&report)), (vec![1, 2], vec![]));
}

#[test]
fn a_faulty_axis_is_left_out_and_the_others_make_cells() {
    let (cells, report) = cells(
        "grid = { \"student.smal.steps\" = [1, 2], \"student.small.lr\" = [0.1, 0.2, 0.3], \"a b\" = [1], \"student.small.x\" = [], \"sweep.grid\" = [1] }",
    );
    assert_eq!(cells.len(), 3);
    assert_eq!(cells[2].values, [("student.small.lr".to_owned(), "0.3".to_owned())]);
    assert_eq!(
        places(&report),
        [
            "7:10 the path names nothing: there is no `[student.smal]`",
            "7:79 not a path of keys",
            "7:112 an axis without values makes a grid without cells",
            "7:116 a sweep cannot sweep over itself",
        ]
    );
}

#[test]
fn without_a_sound_axis_the_file_itself_is_the_cell() {
    for (grid, error) in [
        ("grid = { \"student.smal.steps\" = [1, 2] }", "7:10 the path names nothing"),
        ("grid = { \"student.small.steps\" = 3 }", "7:34 expected a list of values, found an integer"),
        ("grid = { \"student.small.steps.x\" = [3] }", "7:10 the path names nothing: `student.small.steps` is not"),
        ("grid = [1]", "7:8 expected a table of paths and lists"),
        ("gird = {}", "7:1 unknown key `gird`"),
        ("", "6:1 missing `grid`"),
    ] {
        let (cells, report) = cells(grid);
        assert_eq!((cells.len(), cells[0].values.len()), (1, 0), "{grid}");
        assert_eq!(json(&cells[0].tree, "student.small.steps"), json!(1));
        assert!(places(&report)[0].starts_with(error), "{:?}", places(&report));
    }
}

#[test]
fn too_many_cells_are_an_error() {
    let axis = |name: &str| {
        format!("\"student.small.{name}\" = [{}]", (0..50).map(|n| n.to_string()).collect::<Vec<_>>().join(","))
    };
    let (cells, report) = cells(&format!("grid = {{ {}, {}, {} }}", axis("a"), axis("b"), axis("c")));
    assert_eq!(cells.len(), 1);
    assert!(places(&report)[0].ends_with("the grid has more than 100000 cells"));
}

#[test]
fn axes_that_set_the_same_are_refused() {
    let (met, report) = cells("grid = { \"student.small.steps\" = [1, 2], \"student . small.steps\" = [3, 4] }");
    assert_eq!(met.len(), 2);
    assert_eq!(places(&report), ["7:42 two axes set `student . small.steps`"]);

    for grid in [
        "grid = { \"student.small.init\" = [{ wide = 1 }, { wide = 2 }], \"student.small.init.wide\" = [3, 4] }",
        "grid = { \"student.small.init.wide\" = [3, 4], \"student.small.init\" = [{ wide = 1 }, { wide = 2 }] }",
    ] {
        let (met, report) = cells(grid);
        assert_eq!(met.len(), 2, "{grid}");
        assert!(places(&report).len() == 1 && places(&report)[0].ends_with("overlap"), "{:?}", places(&report));
        assert_eq!(report.sorted()[0].related.len(), 1);
    }
    let (met, report) = cells("grid = { \"student.small.in\" = [1, 2], \"student.small.init\" = [3, 4] }");
    assert_eq!((met.len(), places(&report)), (4, vec![]), "a common beginning of a name is no overlap");
}

#[test]
fn equal_values_of_an_axis_are_refused() {
    for (values, count) in [
        ("1, 2, 1", 2),
        ("1, 1.0", 1),
        ("0.0, -0.0, 0", 1),
        ("\"a\", \"b\", 'a'", 2),
        ("{ a = 1, b = 2 }, { b = 2.0, a = 1 }", 1),
        ("[1, 2], [2, 1], [1, 2]", 2),
    ] {
        let (cells, report) = cells(&format!("grid = {{ \"student.small.x\" = [{values}] }}"));
        assert_eq!(cells.len(), count, "{values}");
        assert!(report.has_errors(), "{values}");
        assert!(
            places(&report).iter().all(|place| place.ends_with("an axis has this value twice")),
            "{:?}",
            places(&report)
        );
    }
    let (cells, report) = cells(
        "grid = { \"student.small.x\" = [1, \"1\", true, 1.5, [1], { a = 1 }, 9007199254740993, 9007199254740992.0] }",
    );
    assert_eq!((cells.len(), places(&report)), (8, vec![]));
}

#[test]
fn long_and_strange_values_have_short_names_that_differ() {
    let (cells, report) = cells(
        "grid = { \"student.small.x\" = [\"the first line\\nand a second line of it\", \"the first line\\nand a second line of that\", { a = 1 }] }",
    );
    assert_eq!(places(&report), Vec::<String>::new());
    let names: Vec<_> = cells.iter().map(|cell| cell.values[0].1.as_str()).collect();
    assert_eq!(names, ["the first line\\nand a s…", "the first line\\nand a…#2", "{\"a\":1}"]);
}
