//! Aligned tables, with colour where a person looks at them.

use crate::human;
use std::io::{self, IsTerminal, Write};

/// How a cell stands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Plain,
    Good,
    Warning,
    Bad,
}

impl Mood {
    fn escape(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Good => "\x1b[32m",
            Self::Warning => "\x1b[33m",
            Self::Bad => "\x1b[31m",
        }
    }
}

#[derive(Debug, Clone)]
pub struct Cell {
    text: String,
    mood: Mood,
}

impl Cell {
    /// A cell is one line, whoever its text is from.
    pub fn new(text: impl Into<String>, mood: Mood) -> Self {
        Self { text: human::printable(&text.into()), mood }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Mood::Plain)
    }
}

/// Rows of cells under headings; columns are as wide as their widest cell.
#[derive(Debug)]
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table; without headings only its rows are printed.
    pub fn new<const N: usize>(headings: [&'static str; N]) -> Self {
        Self { headings: headings.to_vec(), rows: Vec::new() }
    }

    pub fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        self.rows.push(cells.to_vec());
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// # Errors
    /// The output is closed.
    pub fn print(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let in_colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
        self.write(&mut out, in_colour)
    }

    fn write(&self, out: &mut dyn Write, in_colour: bool) -> io::Result<()> {
        let headings: Vec<Cell> = self.headings.iter().map(|&heading| heading.into()).collect();
        let lines: Vec<&Vec<Cell>> =
            std::iter::once(&headings).filter(|cells| !cells.is_empty()).chain(&self.rows).collect();
        let columns = lines.iter().map(|cells| cells.len()).max().unwrap_or(0);
        let width =
            |column: usize| lines.iter().filter_map(|cells| Some(cells.get(column)?.text.chars().count())).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        for cells in lines {
            writeln!(out, "{}", line(cells, &widths, in_colour))?;
        }
        Ok(())
    }
}

fn line(cells: &[Cell], widths: &[usize], in_colour: bool) -> String {
    let mut line = String::new();
    for (index, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let is_last = cells[index + 1..].iter().all(|rest| rest.text.is_empty());
        let gap = if is_last { 0 } else { width + 2 - cell.text.chars().count() };
        let (colour, plain) = match in_colour && cell.mood != Mood::Plain {
            true => (cell.mood.escape(), "\x1b[0m"),
            false => ("", ""),
        };
        // What is empty up to the end of the line takes no room.
        if cells[index..].iter().any(|rest| !rest.text.is_empty()) {
            line += &format!("{colour}{}{plain}{:gap$}", cell.text, "");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_with_and_without_colour() {
        let mut table = Table::new(["name", "state"]);
        table.row(["x01/writer".into(), Cell::new("ready", Mood::Good)]);
        table.row(["ü".into(), "gone".into()]);
        let print = |in_colour| {
            let mut out = Vec::new();
            table.write(&mut out, in_colour).expect("writes to memory");
            String::from_utf8(out).expect("text")
        };
        assert_eq!(print(false), "name        state\nx01/writer  ready\nü           gone\n");
        assert_eq!(print(true), print(false).replace("ready", "\x1b[32mready\x1b[0m"));
    }

    #[test]
    fn text_of_others_stays_in_its_cell() {
        let mut table = Table::new([]);
        table.row(["x01/pump".into(), "hot\nx01/laser  off\x1b[2J".into()]);
        let mut out = Vec::new();
        table.write(&mut out, true).expect("writes to memory");
        assert_eq!(String::from_utf8(out).expect("text"), "x01/pump  hot\\nx01/laser  off\\u{1b}[2J\n");
    }

    #[test]
    fn lines_end_with_their_last_word() {
        let mut table = Table::new(["name", "", ""]);
        table.row(["a".into(), "".into(), "help".into()]);
        table.row(["b".into(), "".into(), "".into()]);
        let mut out = Vec::new();
        table.write(&mut out, false).expect("writes to memory");
        assert_eq!(String::from_utf8(out).expect("text"), "name\na       help\nb\n");
    }
}
