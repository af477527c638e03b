//! Tables whose columns are as wide as their data.

use std::io;

use unicode_width::UnicodeWidthStr as _;

use super::terminal::{Output, printable};

/// A table. Cells are escaped when they are added.
#[derive(Debug)]
pub(in crate::cli::client) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(in crate::cli::client) fn new(titles: &[&str]) -> Self {
        Self { rows: vec![titles.iter().map(ToString::to_string).collect()] }
    }

    /// Adds a row. An empty cell is shown as `-`, so that scripts can split lines at spaces.
    pub(in crate::cli::client) fn row(&mut self, cells: impl IntoIterator<Item = impl AsRef<str>>) {
        let cell = |cell: &str| if cell.is_empty() { "-".to_owned() } else { printable(cell).into_owned() };
        self.rows.push(cells.into_iter().map(|text| cell(text.as_ref())).collect());
    }

    /// Writes the table.
    pub(in crate::cli::client) fn write(&self, output: &mut Output) -> io::Result<()> {
        self.lines().iter().try_for_each(|line| output.line(line))
    }

    fn lines(&self) -> Vec<String> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let mut widths = vec![0; columns];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.width().max(*width);
            }
        }
        let line = |row: &Vec<String>| {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.width()) + 2));
            }
            line.trim_end().to_owned()
        };
        self.rows.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_data() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(["李", "open"]);
        table.row(["a long name", ""]);
        table.row(["x\ty", "\x1b[31mred"]);
        assert_eq!(
            table.lines(),
            ["NAME         STATE", "李           open", "a long name  -", "x\\ty         \\u{1b}[31mred"]
        );
    }
}
