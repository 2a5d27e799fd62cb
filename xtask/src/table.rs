//! Plain text tables: columns as wide as their widest cell.

/// On which side of its column a cell stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// The lines of a table under `header`, without trailing blanks; cells that a row lacks stay empty.
pub(crate) fn render(header: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
    let titles: Vec<String> = header.iter().map(|(title, _)| (*title).to_owned()).collect();
    let widths: Vec<usize> = (0..header.len())
        .map(|column| {
            let cells = std::iter::once(&titles).chain(rows);
            cells.map(|row| cell(row, column).chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut lines = String::new();
    for row in std::iter::once(&titles).chain(rows) {
        let cells: Vec<String> = header
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, ((_, align), width))| match align {
                Align::Left => format!("{:<width$}", cell(row, column)),
                Align::Right => format!("{:>width$}", cell(row, column)),
            })
            .collect();
        lines.push_str(cells.join("  ").trim_end());
        lines.push('\n');
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows =
            vec![vec!["unit".to_owned(), "1204".to_owned()], vec!["e2e-long".to_owned(), "3".to_owned()]];
        let expected = "suite     passed\nunit        1204\ne2e-long       3\n";
        assert_eq!(render(&[("suite", Align::Left), ("passed", Align::Right)], &rows), expected);
    }

    #[test]
    fn missing_cells_stay_empty_and_leave_no_trailing_blanks() {
        let rows = vec![vec!["a".to_owned()]];
        let expected = "metric  goal\na\n";
        assert_eq!(render(&[("metric", Align::Left), ("goal", Align::Left)], &rows), expected);
    }
}
