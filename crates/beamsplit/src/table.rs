//! Tables for people.

use std::fmt::{self, Display};

/// Rows under a heading, columns as wide as they need to be.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with this heading and no row.
    pub fn new(heading: &[&str]) -> Self {
        Table { rows: vec![heading.iter().map(|&text| text.to_owned()).collect()] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        // What others chose, names above all, must not break the table, nor reach the terminal.
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width =
            |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// The text without what moves a terminal's cursor.
pub fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

/// Bytes in the largest unit that leaves little behind: `256M`, `1.5G`.
pub fn bytes(count: u64) -> String {
    for (shift, unit) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
        let one = 1u64 << shift;
        if count >= one {
            let tenths = (count as f64 / one as f64 * 10.0).round();
            return match tenths % 10.0 == 0.0 {
                true => format!("{}{unit}", tenths / 10.0),
                false => format!("{:.1}{unit}", tenths / 10.0),
            };
        }
    }
    count.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_trails() {
        let mut table = Table::new(&["UUID", "NAME", "STATE"]);
        table.row(["1".to_owned(), "desk".to_owned(), "running".to_owned()]);
        table.row(["22222".to_owned(), String::new(), "defined".to_owned()]);
        assert_eq!(table.to_string(), "UUID   NAME  STATE\n1      desk  running\n22222        defined\n");
    }

    #[test]
    fn a_name_cannot_write_to_the_terminal() {
        let mut table = Table::new(&["NAME"]);
        table.row(["\u{1b}[2Ja\nb".to_owned()]);
        assert_eq!(table.to_string(), "NAME\n?[2Ja?b\n");
    }

    #[test]
    fn bytes_are_said_in_few_letters() {
        let said = [0, 1023, 1 << 10, 256 << 20, 3 << 29, 1 << 40].map(bytes);
        assert_eq!(said, ["0", "1023", "1K", "256M", "1.5G", "1T"]);
    }
}
