//! A table of cells, laid out as plain text or as Markdown.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// The width that plain text keeps to, in characters.
pub const TEXT_WIDTH: u16 = 100;

/// In what form something is rendered for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// For a terminal, at most [`TEXT_WIDTH`] wide where the words allow it; reads the same without colour.
    #[default]
    Text,
    /// For a document.
    Markdown,
}

/// A table of cells.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Grid {
    /// The heading of each column; none for a list of names and values.
    pub header: Vec<String>,
    /// Rows, all of one width: that of the header where there is one.
    pub rows: Vec<Vec<String>>,
    /// How many columns from the left hold words; the others hold numbers and are set to the right.
    pub words: usize,
}

impl Grid {
    /// A table whose first column holds words and whose others hold numbers.
    pub fn new<S: Into<String>>(header: impl IntoIterator<Item = S>) -> Self {
        Self { header: header.into_iter().map(Into::into).collect(), rows: Vec::new(), words: 1 }
    }

    /// A list of names and values, without a heading.
    pub fn pairs() -> Self {
        Self { words: 2, ..Self::default() }
    }

    /// Adds a row.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// The table as text, each line ended.
    pub fn render(&self, layout: Layout) -> String {
        let mut table = Table::new();
        match layout {
            Layout::Text => {
                table.load_preset("     ──            ").set_width(TEXT_WIDTH);
                table.set_content_arrangement(ContentArrangement::Dynamic);
                if !self.header.is_empty() {
                    table.set_header(&self.header);
                }
                table.add_rows(&self.rows);
            }
            Layout::Markdown => {
                let escaped = |row: &Vec<String>| row.iter().map(|cell| cell.replace('|', "\\|")).collect::<Vec<_>>();
                table.load_preset(presets::ASCII_MARKDOWN);
                // Markdown has no table without a heading, so a list gets an empty one.
                let header =
                    if self.header.is_empty() { vec![String::new(); self.words] } else { escaped(&self.header) };
                table.set_header(header).add_rows(self.rows.iter().map(escaped));
            }
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_cell_alignment(if index < self.words { CellAlignment::Left } else { CellAlignment::Right });
            if layout == Layout::Text {
                column.set_padding((0, 2));
            }
        }
        // A column set to the left ends in blanks.
        table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
    }

    /// The same rows in as many tables as it takes for each to be at most [`TEXT_WIDTH`] wide; the first column is
    /// repeated. A table is never narrower than its first two columns.
    pub fn split(&self) -> Vec<Self> {
        let mut parts: Vec<Vec<usize>> = Vec::new();
        let mut width = 0;
        for column in 1..self.header.len() {
            let more = self.width(column);
            match parts.last_mut() {
                Some(part) if width + more <= usize::from(TEXT_WIDTH) => {
                    part.push(column);
                    width += more;
                }
                _ => {
                    parts.push(vec![0, column]);
                    width = self.width(0) + more;
                }
            }
        }
        parts.iter().map(|columns| self.columns(columns)).collect()
    }

    fn columns(&self, columns: &[usize]) -> Self {
        let chosen = |row: &Vec<String>| columns.iter().map(|column| row[*column].clone()).collect();
        Self { header: chosen(&self.header), rows: self.rows.iter().map(chosen).collect(), words: self.words }
    }

    /// Width of a column with the two blanks after it.
    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().chain([&self.header]).map(|row| row[column].chars().count());
        cells.max().unwrap_or(0) + 2
    }
}

/// Breaks lines at spaces so that each is at most [`TEXT_WIDTH`] wide; a longer word stays whole.
pub fn wrap(line: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in line.split(' ') {
        match lines.last_mut() {
            Some(last) if last.chars().count() + 1 + word.chars().count() <= usize::from(TEXT_WIDTH) => {
                last.push(' ');
                last.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(columns: usize, cell: &str) -> Grid {
        let mut grid = Grid::new((0..columns).map(|column| format!("c{column}")));
        grid.row((0..columns).map(|_| cell.to_owned()));
        grid
    }

    #[test]
    fn a_wide_table_is_split_and_each_part_repeats_the_names() {
        let parts = grid(8, &"x".repeat(28)).split();
        let headers: Vec<Vec<String>> = parts.into_iter().map(|part| part.header).collect();
        assert_eq!(headers, [vec!["c0", "c1", "c2"], vec!["c0", "c3", "c4"], vec!["c0", "c5", "c6"], vec!["c0", "c7"]]);
    }

    #[test]
    fn a_table_that_fits_is_one() {
        assert_eq!(grid(3, "x").split(), [grid(3, "x")]);
    }

    #[test]
    fn a_pipe_in_a_cell_does_not_break_markdown() {
        assert!(grid(2, "a|b").render(Layout::Markdown).contains("a\\|b"));
    }

    #[test]
    fn lines_break_at_spaces_and_long_words_stay_whole() {
        let line = format!("{} {} b", "a".repeat(60), "c".repeat(120));
        let widths: Vec<usize> = wrap(&line).lines().map(str::len).collect();
        assert_eq!(widths, [60, 120, 1]);
        assert_eq!(wrap("short line"), "short line");
    }
}
