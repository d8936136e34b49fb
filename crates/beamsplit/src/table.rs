//! Tables for people.

use std::fmt::{self, Display};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Rows under a heading, columns as wide as they need to be.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
    /// Of each column, whether it ends where its heading ends: numbers do, so that larger ones look larger.
    right: Vec<bool>,
}

impl Table {
    /// A table with this heading and no row. A heading that begins with `>` is that of a column of numbers.
    pub fn new(heading: &[&str]) -> Self {
        let right = heading.iter().map(|text| text.starts_with('>')).collect();
        let heading = heading.iter().map(|text| text.trim_start_matches('>').to_owned()).collect();
        Table { rows: vec![heading], right }
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
        let width = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width()).max();
        let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let room = std::iter::repeat_n(' ', width - cell.width());
                match self.right.get(column) {
                    Some(true) => {
                        line.extend(room);
                        line.push_str(cell);
                    }
                    _ => {
                        line.push_str(cell);
                        line.extend(room);
                    }
                }
                line.push_str("  ");
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A line for each name and what belongs to it, the latter below each other.
pub fn aligned(rows: &[(String, String)]) -> String {
    // Others chose them, as a device the names of what it counts.
    let rows: Vec<_> = rows.iter().map(|(name, value)| (printable(name), printable(value))).collect();
    let width = rows.iter().map(|(name, _)| name.width()).max().unwrap_or(0);
    let room = |name: &str| " ".repeat(width - name.width() + 2);
    rows.iter().map(|(name, value)| format!("{name}{}{value}\n", room(name))).collect()
}

/// The text without what moves a terminal's cursor, or turns the direction of what is written after it.
pub fn printable(text: &str) -> String {
    let turns = |letter| matches!(letter, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let moves = |letter: char| letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}');
    text.chars().map(|letter| if moves(letter) || turns(letter) { '?' } else { letter }).collect()
}

/// As much of a line as `width` columns of a terminal show.
pub fn clipped(line: &str, width: usize) -> &str {
    let mut used = 0;
    let over = line.char_indices().find(|(_, letter)| {
        used += letter.width().unwrap_or(0);
        used > width
    });
    over.map_or(line, |(at, _)| &line[..at])
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
    fn numbers_end_where_their_heading_ends() {
        let mut table = Table::new(&["NAME", ">FREE", ">M"]);
        table.row(["a".to_owned(), "7".to_owned(), "128M".to_owned()]);
        table.row(["bb".to_owned(), "12345".to_owned(), "-".to_owned()]);
        assert_eq!(table.to_string(), "NAME   FREE     M\na         7  128M\nbb    12345     -\n");
    }

    #[test]
    fn letters_of_two_columns_count_as_two() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(["机器".to_owned(), "running".to_owned()]);
        table.row(["e\u{301}t".to_owned(), "defined".to_owned()]);
        assert_eq!(table.to_string(), "NAME  STATE\n机器  running\ne\u{301}t    defined\n");
    }

    #[test]
    fn a_name_cannot_write_to_the_terminal_nor_turn_it_around() {
        let mut table = Table::new(&["NAME"]);
        table.row(["\u{1b}[2Ja\nb".to_owned()]);
        table.row(["a\u{202e}b\u{2066}c\u{200f}d\u{2028}e\u{9b}f".to_owned()]);
        assert_eq!(table.to_string(), "NAME\n?[2Ja?b\na?b?c?d?e?f\n");
    }

    #[test]
    fn a_line_is_clipped_between_letters() {
        assert_eq!((clipped("desk", 3), clipped("desk", 4), clipped("", 0)), ("des", "desk", ""));
        // Half of a wide one is not shown.
        assert_eq!((clipped("a机b", 2), clipped("a机b", 3), clipped("e\u{301}t", 1)), ("a", "a机", "e\u{301}"));
    }

    #[test]
    fn bytes_are_said_in_few_letters() {
        let said = [0, 1023, 1 << 10, 256 << 20, 3 << 29, 1 << 40].map(bytes);
        assert_eq!(said, ["0", "1023", "1K", "256M", "1.5G", "1T"]);
    }
}
